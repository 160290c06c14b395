//! The service that compresses. Each message has a byte before it: stored, or compressed.

mod codec;

use codec::Codec;
use freena_service_api::abi::{FREENA_SERVICE_DATA, FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Agreement, Figures, Info, Kind, Message, Mode, Passed, Promise, Refusal, Service, Setup, Trouble,
    Verdict, parameter,
};
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// The message is as it was.
const STORED: u8 = 0;
/// The message is compressed.
const COMPRESSED: u8 = 1;
/// Most bytes that a message becomes larger by: the byte before it, and what zstd adds to what cannot be compressed
/// (`ZSTD_compressBound`, and its header) in a chunk of a stream.
const TAIL: u32 = 256;
/// Most bytes that a compressed message is made of: a datagram, or a chunk of a stream.
const INFLATED: u32 = 64 * 1024;
/// Most bytes of a dictionary.
const MAX_DICTIONARY: u64 = 1024 * 1024;
/// Messages that cannot be compressed in a row, after which the next ones are not tried.
const PATIENCE: u32 = 4;
/// Most messages that are not tried.
const MAX_SKIP: u32 = 256;

/// What is in a dictionary's file. Where it cannot be read any more, as after chroot(2), it is what was in it last.
fn dictionary(path: &str) -> Result<Vec<u8>, String> {
    static READ: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let found = match fs::metadata(path) {
        Ok(seen) if seen.len() > MAX_DICTIONARY => {
            return Err(format!("found {} bytes, expected at most {MAX_DICTIONARY}", seen.len()));
        }
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    match (found, read.get(path)) {
        (Ok(bytes), _) => {
            read.insert(path.to_owned(), bytes.clone());
            Ok(bytes)
        }
        (Err(_), Some(bytes)) => Ok(bytes.clone()),
        (Err(error), None) => Err(error.to_string()),
    }
}

struct Compression {
    codec: Codec,
    /// Shorter ones are left as they are.
    least: usize,
    /// Of the dictionary: both ends must have the same.
    digest: [u8; 8],
    /// Messages in a row that could not be compressed, and how many are not to be tried now.
    misses: u32,
    skip: u32,
    before: u64,
    after: u64,
    stored: u64,
}

impl Compression {
    fn write(&mut self, input: &[u8], out: &mut [u8], data: bool) -> Option<usize> {
        let (flag, room) = out.split_first_mut()?;
        if data && input.len() >= self.least && self.tried() {
            // Worth it only if it is smaller; where the next ones build on it, it goes as it is.
            let most = if self.codec.remembers() { room.len() } else { room.len().min(most_of(input.len())) };
            let length = self.codec.compress(input, &mut room[..most]);
            let good = length.is_some_and(|it| it < input.len() - input.len() / 16);
            self.learn(good);
            match length {
                Some(length) if length < input.len() || self.codec.remembers() => {
                    *flag = COMPRESSED;
                    return Some(1 + length);
                }
                // Half of it has gone into what the next ones build on.
                None if self.codec.remembers() => return None,
                _ => {}
            }
        }
        self.stored += u64::from(data);
        *flag = STORED;
        room.get_mut(..input.len())?.copy_from_slice(input);
        Some(1 + input.len())
    }

    /// Whether the next message is to be tried: not for a while after several that could not be compressed.
    fn tried(&mut self) -> bool {
        let skipped = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        !skipped
    }

    fn learn(&mut self, good: bool) {
        self.misses = if good { 0 } else { self.misses + 1 };
        if self.misses >= PATIENCE {
            self.skip = (8 * self.misses).min(MAX_SKIP);
        }
    }
}

/// Room that a compressor may use, if the result is to be worth it; LZ4 wants room for the worst case.
fn most_of(length: usize) -> usize {
    length + length / 255 + 32
}

impl Service for Compression {
    const INFO: Info = Info {
        name: c"compression",
        about: c"Compresses what the program sends, and leaves alone what cannot be compressed.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::agreed(parameter::choice(
                c"algorithm",
                c"zstd|lz4",
                c"zstd",
                c"zstd compresses better, and streams with what was before; lz4 is faster.",
            )),
            parameter::number(
                c"level",
                c"",
                1,
                19,
                c"3",
                c"Level of zstd: higher ones compress better, more slowly, and with more memory.",
            ),
            parameter::file(
                c"dictionary",
                Some(c"/dev/null"),
                c"File with what messages usually hold, the same at both ends, up to 1 MiB: it helps short ones. `zstd --train` makes one. /dev/null for none.",
            ),
            parameter::number(
                c"least",
                c"bytes",
                0,
                65_536,
                c"64",
                c"Messages shorter than this are left as they are.",
            ),
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let wrong = |why: String| Refusal::new(Trouble::Parameter, why);
        let path = setup.value("dictionary").unwrap_or("/dev/null");
        let dictionary = dictionary(path).map_err(|why| wrong(format!("dictionary {path}: {why}")))?;
        let digest = fnv(&dictionary).to_be_bytes();
        let stream = setup.flow().kind() == Kind::Stream;
        let level = i32::try_from(setup.number("level")?).unwrap_or(3);
        let codec = match setup.value("algorithm") {
            Some("lz4") => Codec::Lz4 { dictionary },
            _ => Codec::zstd(stream, level, &dictionary).map_err(|error| wrong(format!("zstd: {error}")))?,
        };
        let least = setup.number("least")? as usize;
        let promise = Promise {
            outbound: Mode::Rewrite,
            inbound: Mode::Rewrite,
            tail: TAIL,
            inflated: INFLATED,
            ..Promise::LOOK
        };
        let it = Compression { codec, least, digest, misses: 0, skip: 0, before: 0, after: 0, stored: 0 };
        Ok((it, promise))
    }

    fn announce(&mut self, out: &mut [u8]) -> usize {
        out[..self.digest.len()].copy_from_slice(&self.digest);
        self.digest.len()
    }

    fn agree(&mut self, agreement: &Agreement<'_>) -> Result<(), Refusal> {
        if agreement.announcement == self.digest {
            return Ok(());
        }
        Err(Refusal::new(Trouble::Mismatch, "the peer has another dictionary"))
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let data = message.kind() == FREENA_SERVICE_DATA;
        let (mut before, mut after) = (0, 0);
        message.rewrite(|input, out| {
            before = input.len();
            after = self.write(input, out, data).ok_or(Trouble::Fault)?;
            Ok(after)
        })?;
        if data {
            self.before += before as u64;
            self.after += after as u64;
        }
        Ok(Passed::On)
    }

    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        message.rewrite(|input, out| {
            let (flag, rest) = input.split_first().ok_or(Trouble::Malformed)?;
            let length = match *flag {
                STORED => {
                    out.get_mut(..rest.len()).ok_or(Trouble::Malformed)?.copy_from_slice(rest);
                    Some(rest.len())
                }
                COMPRESSED => {
                    let most = out.len().min(INFLATED as usize);
                    self.codec.decompress(rest, &mut out[..most])
                }
                _ => None,
            };
            length.ok_or(Trouble::Malformed)
        })?;
        Ok(Passed::On)
    }

    fn statistics(&self, figure: Figures<'_>) {
        figure(c"bytes before", self.before);
        figure(c"bytes after", self.after);
        figure(c"messages left alone", self.stored);
    }
}

/// FNV-1a, which tells dictionaries apart; it need not hold against anybody.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, it| (hash ^ u64::from(*it)).wrapping_mul(0x100_0000_01b3))
}

freena_service_api::export_service!(Compression);
