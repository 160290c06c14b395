//! TCP (RFC 9293), with the options of RFC 2018 and RFC 7323.

use crate::{Header as Layer, Malformed, Sum, be16, be32, checksum, protocol, put16, put32};
use core::net::IpAddr;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Length of the longest header, in bytes.
pub const MAX_HEADER_LEN: usize = 60;
/// Offset of the checksum field in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// Most blocks that fit into a SACK option.
pub const MAX_SACK_BLOCKS: usize = 4;

/// The control bits.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Option kinds (IANA, TCP Option Kind Numbers).
mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const MSS: u8 = 2;
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const SACK: u8 = 5;
    pub const TIMESTAMPS: u8 = 8;
}

/// A segment whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    bytes: &'a [u8],
    len: usize,
}

/// What a segment's checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// The field holds the sum of the pseudo-header only: the sender left the rest to an offload. Right only on a link
    /// where frames never leave the host.
    Partial,
}

impl<'a> Header<'a> {
    /// Checks the length of the header; `payload` is that of the IP packet.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::ShortLength`], [`Malformed::LongLength`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        if payload.len() < HEADER_LEN {
            return Err(Malformed::Truncated {
                header: Layer::Tcp,
                expected: HEADER_LEN,
                got: payload.len(),
            });
        }
        let len = usize::from(payload[12] >> 4) * 4;
        if len < HEADER_LEN {
            return Err(Malformed::ShortLength { header: Layer::Tcp, least: HEADER_LEN, got: len });
        }
        if len > payload.len() {
            return Err(Malformed::LongLength { header: Layer::Tcp, claimed: len, available: payload.len() });
        }
        Ok(Header { bytes: payload, len })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// Sequence number of the first byte, or of the SYN.
    #[inline]
    pub fn sequence(&self) -> u32 {
        be32(self.bytes, 4)
    }

    /// Acknowledgement number.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        be32(self.bytes, 8)
    }

    /// Control bits: [`flag`].
    #[inline]
    pub fn flags(&self) -> u8 {
        self.bytes[13]
    }

    /// The window field, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        be16(self.bytes, 14)
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes, CHECKSUM_OFFSET)
    }

    /// The urgent pointer.
    #[inline]
    pub fn urgent(&self) -> u16 {
        be16(self.bytes, 18)
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.len..]
    }

    /// The options that are understood. One that is cut off, or of a length that is not its kind's, ends the list (RFC
    /// 9293 section 3.1: MUST-6, MUST-7).
    #[inline]
    pub fn options(&self) -> Options {
        let options = &self.bytes[HEADER_LEN..self.len];
        // What nearly every segment has (RFC 7323 appendix A): NOP, NOP, timestamps.
        if options.len() == 12 && options[..4] == [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10] {
            return Options { timestamps: Some((be32(options, 4), be32(options, 8))), ..Options::default() };
        }
        Options::parse(options)
    }

    /// Judges the checksum; a partial sum is recognised without reading the payload.
    ///
    /// # Errors
    /// [`Malformed::Checksum`]. Addresses of two versions are [`Malformed::Version`].
    #[inline]
    pub fn verify(&self, src: IpAddr, dst: IpAddr) -> Result<Verdict, Malformed> {
        let Some(pseudo) = self.pseudo(src, dst) else {
            let version = |address: IpAddr| if address.is_ipv4() { 4 } else { 6 };
            return Err(Malformed::Version { expected: version(dst), got: version(src) });
        };
        if pseudo.bytes(self.bytes).checksum() == 0 {
            return Ok(Verdict::Right);
        }
        let field = self.checksum();
        if field == pseudo.partial() {
            return Ok(Verdict::Partial);
        }
        let without = pseudo.bytes(&self.bytes[..CHECKSUM_OFFSET]).bytes(&self.bytes[CHECKSUM_OFFSET + 2..]);
        Err(Malformed::Checksum { header: Layer::Tcp, got: field, expected: without.checksum() })
    }

    /// Whether the field holds the sum of the pseudo-header only: all that a receiver has to look at where such sums
    /// are to be accepted.
    #[inline]
    pub fn is_partial(&self, src: IpAddr, dst: IpAddr) -> bool {
        self.pseudo(src, dst).is_some_and(|pseudo| pseudo.partial() == self.checksum())
    }

    #[inline]
    fn pseudo(&self, src: IpAddr, dst: IpAddr) -> Option<Sum> {
        checksum::pseudo(src, dst, protocol::TCP, self.bytes.len() as u16)
    }
}

/// A list of SACK blocks: sequence numbers of the first byte and behind the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(u32, u32); MAX_SACK_BLOCKS],
    len: u8,
}

impl SackBlocks {
    /// Adds a block; one too many is left out.
    #[inline]
    pub fn push(&mut self, block: (u32, u32)) {
        if let Some(slot) = self.blocks.get_mut(usize::from(self.len)) {
            *slot = block;
            self.len += 1;
        }
    }

    /// The blocks.
    #[inline]
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.blocks[..usize::from(self.len)]
    }
}

/// The options of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Window scale (RFC 7323 section 2.2), as it is in the segment: more than 14 counts as 14.
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// SACK (RFC 2018 section 3).
    pub sack: SackBlocks,
    /// Timestamps (RFC 7323 section 3.2): value and echo reply.
    pub timestamps: Option<(u32, u32)>,
}

impl Options {
    /// Reads the options behind a header.
    pub fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                kind::END => break,
                kind::NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(len) = rest.first().map(|len| usize::from(*len)) else { break };
            if len < 2 || len > bytes.len() {
                break;
            }
            let body = &bytes[2..len];
            match (*kind, body.len()) {
                (kind::MSS, 2) => options.mss = Some(be16(body, 0)),
                (kind::WINDOW_SCALE, 1) => options.window_scale = Some(body[0]),
                (kind::SACK_PERMITTED, 0) => options.sack_permitted = true,
                (kind::TIMESTAMPS, 8) => options.timestamps = Some((be32(body, 0), be32(body, 4))),
                (kind::SACK, len) if len % 8 == 0 => {
                    for block in body.as_chunks::<8>().0 {
                        options.sack.push((be32(block, 0), be32(block, 4)));
                    }
                }
                _ => {}
            }
            bytes = &bytes[len..];
        }
        options
    }

    /// Bytes that they take in a header, padding included; as many SACK blocks as fit are counted.
    #[inline]
    pub fn len(&self) -> usize {
        let fixed = usize::from(self.mss.is_some()) * 4
            + usize::from(self.window_scale.is_some()) * 4
            + usize::from(self.sack_permitted) * 4
            + usize::from(self.timestamps.is_some()) * 12;
        match self.blocks_that_fit(fixed) {
            0 => fixed,
            blocks => fixed + 4 + blocks * 8,
        }
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn blocks_that_fit(&self, fixed: usize) -> usize {
        let room = (MAX_HEADER_LEN - HEADER_LEN).saturating_sub(fixed + 4);
        (room / 8).min(self.sack.as_slice().len())
    }

    /// Writes them, each aligned to 32 bits by NOPs in front (RFC 7323 appendix A).
    fn emit(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        if let Some(mss) = self.mss {
            out[at..at + 2].copy_from_slice(&[kind::MSS, 4]);
            put16(out, at + 2, mss);
            at += 4;
        }
        if let Some(scale) = self.window_scale {
            out[at..at + 4].copy_from_slice(&[kind::NOP, kind::WINDOW_SCALE, 3, scale]);
            at += 4;
        }
        if self.sack_permitted {
            out[at..at + 4].copy_from_slice(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
            at += 4;
        }
        if let Some((value, echo)) = self.timestamps {
            out[at..at + 4].copy_from_slice(&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            put32(out, at + 4, value);
            put32(out, at + 8, echo);
            at += 12;
        }
        let blocks = self.blocks_that_fit(at);
        if blocks > 0 {
            out[at..at + 4].copy_from_slice(&[kind::NOP, kind::NOP, kind::SACK, 2 + blocks as u8 * 8]);
            at += 4;
            for (left, right) in &self.sack.as_slice()[..blocks] {
                put32(out, at, *left);
                put32(out, at + 4, *right);
                at += 8;
            }
        }
        at
    }
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Control bits: [`flag`].
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The options.
    pub options: Options,
}

impl Repr {
    /// The fields of a view.
    pub fn parse(view: &Header<'_>) -> Repr {
        Repr {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            sequence: view.sequence(),
            acknowledgement: view.acknowledgement(),
            flags: view.flags(),
            window: view.window(),
            urgent: view.urgent(),
            options: view.options(),
        }
    }

    /// Length of the header with its options, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Writes the header to the first bytes of `out`, with `checksum` as it is, and returns its length: a full checksum,
    /// or a pseudo-header's [`Sum::partial`] for an offload to complete.
    ///
    /// # Panics
    /// If `out` is shorter than [`Repr::header_len`].
    #[inline]
    pub fn emit(&self, checksum: u16, out: &mut [u8]) -> usize {
        let (header, options) = out.split_at_mut(HEADER_LEN);
        let len = HEADER_LEN + self.options.emit(options);
        put16(header, 0, self.src_port);
        put16(header, 2, self.dst_port);
        put32(header, 4, self.sequence);
        put32(header, 8, self.acknowledgement);
        header[12] = (len as u8 / 4) << 4;
        header[13] = self.flags;
        put16(header, 14, self.window);
        put16(header, CHECKSUM_OFFSET, checksum);
        put16(header, 18, self.urgent);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::finish_checksum;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn options() -> impl Strategy<Value = Options> {
        let blocks = proptest::collection::vec(any::<(u32, u32)>(), 0..4);
        let timestamps = proptest::option::of(any::<(u32, u32)>());
        (any::<Option<u16>>(), any::<Option<u8>>(), any::<bool>(), blocks, timestamps).prop_map(
            |(mss, window_scale, sack_permitted, blocks, timestamps)| {
                let mut sack = SackBlocks::default();
                blocks.into_iter().for_each(|block| sack.push(block));
                Options { mss, window_scale, sack_permitted, sack, timestamps }
            },
        )
    }

    fn repr(options: Options) -> Repr {
        Repr {
            src_port: 1,
            dst_port: 2,
            sequence: 0xdead_beef,
            acknowledgement: 7,
            flags: flag::ACK | flag::PSH,
            window: 1000,
            urgent: 3,
            options,
        }
    }

    #[test]
    fn lengths_are_bounded_by_the_packet() {
        let mut bytes = [0u8; 24];
        assert_eq!(
            Header::parse(&bytes[..19]).unwrap_err(),
            Malformed::Truncated { header: Layer::Tcp, expected: 20, got: 19 }
        );
        bytes[12] = 4 << 4;
        assert_eq!(
            Header::parse(&bytes).unwrap_err(),
            Malformed::ShortLength { header: Layer::Tcp, least: 20, got: 16 }
        );
        bytes[12] = 7 << 4;
        assert_eq!(
            Header::parse(&bytes).unwrap_err(),
            Malformed::LongLength { header: Layer::Tcp, claimed: 28, available: 24 }
        );
        bytes[12] = 6 << 4;
        assert!(Header::parse(&bytes).unwrap().payload().is_empty());
    }

    #[test]
    fn options_that_are_cut_off_or_odd_end_the_list_or_are_skipped() {
        let parse = Options::parse;
        assert_eq!(parse(&[2, 4, 5, 0xb4, 9, 3, 0, 4, 2]).mss, Some(1460));
        assert!(parse(&[2, 4, 5, 0xb4, 9, 3, 0, 4, 2]).sack_permitted, "an unknown option is skipped");
        assert!(!parse(&[9, 1, 4, 2]).sack_permitted, "a length below 2 ends the list");
        assert!(!parse(&[9, 9, 4, 2]).sack_permitted, "a length beyond the header ends the list");
        assert!(!parse(&[0, 4, 2]).sack_permitted, "nothing follows the end");
        assert_eq!(parse(&[2, 3, 5, 4, 2]), Options { sack_permitted: true, ..Options::default() });
        assert_eq!(parse(&[8]), Options::default());
    }

    #[test]
    fn three_blocks_fit_beside_timestamps_and_four_without() {
        let mut sack = SackBlocks::default();
        (0..5).for_each(|i| sack.push((i, i + 1)));
        assert_eq!(Options { sack, ..Options::default() }.len(), 36);
        assert_eq!(Options { sack, timestamps: Some((1, 2)), ..Options::default() }.len(), 40);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(options in options()) {
            let repr = repr(options);
            let mut bytes = [0u8; 60];
            let len = repr.emit(9, &mut bytes);
            prop_assert_eq!(len, repr.header_len());
            let view = Header::parse(&bytes[..len]).unwrap();
            let mut again = Repr::parse(&view);
            prop_assert!(options.sack.as_slice().starts_with(again.options.sack.as_slice()));
            again.options.sack = options.sack;
            prop_assert_eq!(again, repr);
            prop_assert_eq!(view.checksum(), 9);
        }

        #[test]
        fn right_partial_and_wrong_are_told_apart(v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..200),
                                                  flip in 1u16..0xffff) {
            let (src, dst): (IpAddr, IpAddr) = match v6 {
                false => ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()),
                true => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
            };
            let mut bytes = vec![0; HEADER_LEN];
            let pseudo = checksum::pseudo(src, dst, protocol::TCP, (payload.len() + HEADER_LEN) as u16).unwrap();
            repr(Options::default()).emit(pseudo.partial(), &mut bytes);
            bytes.extend(&payload);
            let view = Header::parse(&bytes).unwrap();
            prop_assert!(view.is_partial(src, dst));
            prop_assert!(matches!(view.verify(src, dst), Ok(Verdict::Partial | Verdict::Right)));
            finish_checksum(&mut bytes, 0, CHECKSUM_OFFSET);
            let view = Header::parse(&bytes).unwrap();
            prop_assert_eq!(view.verify(src, dst), Ok(Verdict::Right));
            let right = view.checksum();
            put16(&mut bytes, CHECKSUM_OFFSET, right ^ flip);
            let view = Header::parse(&bytes).unwrap();
            match view.verify(src, dst) {
                Err(Malformed::Checksum { got, .. }) => prop_assert_eq!(got, right ^ flip),
                other => prop_assert!(other == Ok(Verdict::Partial) && view.is_partial(src, dst), "{other:?}"),
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes: Vec<u8> = bytes;
            if let Ok(view) = Header::parse(&bytes) {
                let _ = (view.options(), view.payload());
            }
            let _ = Options::parse(&bytes);
        }
    }
}
