//! The compressors, each with the same face: a message is compressed into room that may be too small, and back.

use std::io;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

/// Base 2 logarithm of the bytes that zstd looks back in a stream: it bounds the memory of a flow, here and at the peer.
const WINDOW: u32 = 18;

/// What a flow compresses with.
pub(crate) enum Codec {
    /// zstd over the whole stream: each chunk is compressed with what was before it.
    Stream(Box<(CCtx<'static>, DCtx<'static>)>),
    /// zstd, each message for itself.
    Message(Box<(CCtx<'static>, DCtx<'static>)>),
    /// LZ4, each message for itself.
    Lz4 { dictionary: Vec<u8> },
}

impl Codec {
    /// zstd with a level and a dictionary, which may be empty.
    pub(crate) fn zstd(stream: bool, level: i32, dictionary: &[u8]) -> io::Result<Self> {
        let failed = |code| io::Error::other(zstd_safe::get_error_name(code));
        let mut compressor = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        let mut decompressor = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        compressor.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW)).map_err(failed)?;
        decompressor.set_parameter(DParameter::WindowLogMax(WINDOW)).map_err(failed)?;
        if !dictionary.is_empty() {
            compressor.load_dictionary(dictionary).map_err(failed)?;
            decompressor.load_dictionary(dictionary).map_err(failed)?;
        }
        let both = Box::new((compressor, decompressor));
        Ok(if stream { Self::Stream(both) } else { Self::Message(both) })
    }

    /// Whether a message that was compressed must be sent so, since the next ones build on it.
    pub(crate) fn remembers(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Compresses `input`; `None` if that does not fit.
    pub(crate) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Stream(both) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(out));
                let flush = zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush;
                let left = both.0.compress_stream2(&mut to, &mut from, flush).ok()?;
                (left == 0 && from.pos() == input.len()).then_some(to.pos())
            }
            Self::Message(both) => both.0.compress2(out, input).ok(),
            Self::Lz4 { dictionary } => {
                // Room that may be too small is an error, not a panic.
                let most = lz4_flex::block::get_maximum_output_size(input.len());
                if out.len() < most {
                    return None;
                }
                if dictionary.is_empty() {
                    lz4_flex::block::compress_into(input, out).ok()
                } else {
                    lz4_flex::block::compress_into_with_dict(input, out, dictionary).ok()
                }
            }
        }
    }

    /// Decompresses `input`; `None` if it is not what the peer's compressor makes, or more than there is room for.
    pub(crate) fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Stream(both) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(out));
                loop {
                    let before = (from.pos(), to.pos());
                    both.1.decompress_stream(&mut to, &mut from).ok()?;
                    if (from.pos(), to.pos()) == before
                        || (from.pos() == input.len() && to.pos() < to.capacity())
                    {
                        break;
                    }
                }
                (from.pos() == input.len()).then_some(to.pos())
            }
            Self::Message(both) => {
                both.1.reset(ResetDirective::SessionOnly).ok()?;
                both.1.decompress(out, input).ok()
            }
            Self::Lz4 { dictionary } => {
                if dictionary.is_empty() {
                    lz4_flex::block::decompress_into(input, out).ok()
                } else {
                    lz4_flex::block::decompress_into_with_dict(input, out, dictionary).ok()
                }
            }
        }
    }
}
