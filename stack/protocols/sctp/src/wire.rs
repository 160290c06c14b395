//! Packets, chunks and parameters as they are on the wire: RFC 9260 section 3.

use std::ops::Range;

/// Bytes of the common header: section 3.1.
pub(crate) const HEADER: usize = 12;
/// Bytes of a DATA chunk's header: section 3.3.1.
pub(crate) const DATA_HEADER: usize = 16;

/// Chunk types: section 3.2, table 1.
pub(crate) mod chunk {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const INIT: u8 = 1;
    pub(crate) const INIT_ACK: u8 = 2;
    pub(crate) const SACK: u8 = 3;
    pub(crate) const HEARTBEAT: u8 = 4;
    pub(crate) const HEARTBEAT_ACK: u8 = 5;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN: u8 = 7;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const ERROR: u8 = 9;
    pub(crate) const COOKIE_ECHO: u8 = 10;
    pub(crate) const COOKIE_ACK: u8 = 11;
    pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Flags of a DATA chunk: section 3.3.1.
pub(crate) mod data {
    pub(crate) const END: u8 = 1;
    pub(crate) const BEGIN: u8 = 2;
    pub(crate) const UNORDERED: u8 = 4;
    /// The sender wants to be answered at once.
    pub(crate) const IMMEDIATE: u8 = 8;
}

/// The T bit of ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, reflected.
pub(crate) const REFLECTED: u8 = 1;

/// Parameter types: section 3.3.2.1 and 3.3.3.1.
pub(crate) mod parameter {
    pub(crate) const IPV4: u16 = 5;
    pub(crate) const IPV6: u16 = 6;
    pub(crate) const COOKIE: u16 = 7;
    pub(crate) const UNRECOGNISED: u16 = 8;
    pub(crate) const COOKIE_PRESERVATIVE: u16 = 9;
    pub(crate) const ADDRESS_TYPES: u16 = 12;
}

/// Error causes: section 3.3.10.
pub(crate) mod cause {
    pub(crate) const INVALID_STREAM: u16 = 1;
    pub(crate) const STALE_COOKIE: u16 = 3;
    pub(crate) const UNRECOGNISED_CHUNK: u16 = 6;
    pub(crate) const UNRECOGNISED_PARAMETERS: u16 = 8;
    pub(crate) const NO_USER_DATA: u16 = 9;
    pub(crate) const USER_INITIATED: u16 = 12;
    pub(crate) const PROTOCOL_VIOLATION: u16 = 13;
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A packet whose common header is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) tag: u32,
    /// What follows the common header.
    pub(crate) chunks: Chunks<'a>,
}

impl<'a> Packet<'a> {
    /// `None`: too short.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Packet {
            source: u16_at(bytes, 0)?,
            destination: u16_at(bytes, 2)?,
            tag: u32_at(bytes, 4)?,
            chunks: Chunks(bytes.get(HEADER..)?),
        })
    }
}

/// Whether the checksum of a packet is right: section 6.8 and appendix A.
pub(crate) fn is_intact(bytes: &[u8]) -> bool {
    let Some(found) = bytes.get(8..12) else { return false };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &[0; 4]);
    crc32c::crc32c_append(sum, &bytes[12..]).to_le_bytes() == found
}

/// One chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// Its value.
    pub(crate) value: &'a [u8],
    /// All of it, without padding.
    pub(crate) whole: &'a [u8],
}

/// The chunks of a packet. It ends before one that cannot be: shorter than its header, or longer than the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let length = usize::from(u16_at(self.0, 2)?);
        let whole = self.0.get(..length).filter(|_| length >= 4)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Chunk { kind: whole[0], flags: whole[1], value: &whole[4..], whole })
    }
}

/// Parameters or error causes, which look the same: type and value, and all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = (u16, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, length) = (u16_at(self.0, 0)?, usize::from(u16_at(self.0, 2)?));
        let whole = self.0.get(..length).filter(|_| length >= 4)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, &whole[4..], whole))
    }
}

/// INIT and INIT ACK: sections 3.3.2 and 3.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) tag: u32,
    pub(crate) window: u32,
    pub(crate) outbound: u16,
    pub(crate) inbound: u16,
    pub(crate) sequence: u32,
}

impl Init {
    /// `None`: too short, or with a zero that must not be.
    pub(crate) fn parse(value: &[u8]) -> Option<(Init, Parameters<'_>)> {
        let init = Init {
            tag: u32_at(value, 0)?,
            window: u32_at(value, 4)?,
            outbound: u16_at(value, 8)?,
            inbound: u16_at(value, 10)?,
            sequence: u32_at(value, 12)?,
        };
        let is_right = init.tag != 0 && init.outbound != 0 && init.inbound != 0;
        is_right.then_some((init, Parameters(&value[16..])))
    }

    pub(crate) fn emit(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.tag.to_be_bytes());
        to.extend_from_slice(&self.window.to_be_bytes());
        to.extend_from_slice(&self.outbound.to_be_bytes());
        to.extend_from_slice(&self.inbound.to_be_bytes());
        to.extend_from_slice(&self.sequence.to_be_bytes());
    }
}

/// SACK: section 3.3.4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sack<'a> {
    pub(crate) cumulative: u32,
    pub(crate) window: u32,
    blocks: &'a [u8],
}

impl<'a> Sack<'a> {
    /// `None`: shorter than it says.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let count = usize::from(u16_at(value, 8)?);
        Some(Sack {
            cumulative: u32_at(value, 0)?,
            window: u32_at(value, 4)?,
            blocks: value.get(12..12 + 4 * count)?,
        })
    }

    /// What has arrived ahead of a gap, as distances from the cumulative sequence number, ends included.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u16, u16)> + 'a {
        self.blocks
            .chunks_exact(4)
            .map(|block| (u16::from_be_bytes([block[0], block[1]]), u16::from_be_bytes([block[2], block[3]])))
    }
}

/// A DATA chunk: section 3.3.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data<'a> {
    pub(crate) sequence: u32,
    pub(crate) stream: u16,
    pub(crate) number: u16,
    /// Payload protocol identifier, in the order in which it stands there.
    pub(crate) protocol: [u8; 4],
    pub(crate) flags: u8,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Data<'a> {
    pub(crate) fn parse(chunk: &Chunk<'a>) -> Option<Self> {
        Some(Data {
            sequence: u32_at(chunk.value, 0)?,
            stream: u16_at(chunk.value, 4)?,
            number: u16_at(chunk.value, 6)?,
            protocol: chunk.value.get(8..12)?.try_into().ok()?,
            flags: chunk.flags,
            bytes: chunk.value.get(12..)?,
        })
    }
}

/// The first 32 bits of a chunk's value.
pub(crate) fn first_word(value: &[u8]) -> Option<u32> {
    u32_at(value, 0)
}

/// Adds a parameter or a cause. The padding of the last one is the chunk's, and not counted in its length: section 3.2.1.
pub(crate) fn put_parameter(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.resize(to.len().next_multiple_of(4), 0);
    to.extend_from_slice(&kind.to_be_bytes());
    to.extend_from_slice(&(value.len() as u16 + 4).to_be_bytes());
    to.extend_from_slice(value);
}

/// Adds a chunk whose value `fill` writes.
pub(crate) fn put_chunk(to: &mut Vec<u8>, kind: u8, flags: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend_from_slice(&[kind, flags, 0, 0]);
    fill(to);
    let length = (to.len() - start) as u16;
    to[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Adds a SACK: what has arrived up to `cumulative`, and the ranges beyond it (sequence numbers, ends not included).
pub(crate) fn put_sack(
    to: &mut Vec<u8>,
    cumulative: u64,
    window: u32,
    ranges: &[Range<u64>],
    duplicates: &[u32],
) {
    put_chunk(to, chunk::SACK, 0, |to| {
        to.extend_from_slice(&(cumulative as u32).to_be_bytes());
        to.extend_from_slice(&window.to_be_bytes());
        to.extend_from_slice(&(ranges.len() as u16).to_be_bytes());
        to.extend_from_slice(&(duplicates.len() as u16).to_be_bytes());
        for range in ranges {
            to.extend_from_slice(&((range.start - cumulative) as u16).to_be_bytes());
            to.extend_from_slice(&((range.end - 1 - cumulative) as u16).to_be_bytes());
        }
        duplicates.iter().for_each(|sequence| to.extend_from_slice(&sequence.to_be_bytes()));
    });
}

/// The common header of a packet with these chunks, checksum included.
pub(crate) fn header(source: u16, destination: u16, tag: u32, chunks: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[4..8].copy_from_slice(&tag.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header), chunks);
    header[8..].copy_from_slice(&sum.to_le_bytes());
    header
}

#[cfg(test)]
// A list of one range is what is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let init = Init { tag: 7, window: 1500, outbound: 10, inbound: 2048, sequence: 9 };
        let mut chunks = Vec::new();
        put_chunk(&mut chunks, chunk::INIT, 0, |to| {
            init.emit(to);
            put_parameter(to, 0x8008, &[1, 2, 3]);
        });
        put_sack(&mut chunks, (1 << 32) + 5, 1000, &[(1 << 32) + 7..(1 << 32) + 9], &[3]);
        let mut packet = header(1, 2, 3, &chunks).to_vec();
        packet.extend_from_slice(&chunks);
        assert!(is_intact(&packet));
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!((parsed.source, parsed.destination, parsed.tag), (1, 2, 3));
        let all: Vec<Chunk<'_>> = parsed.chunks.collect();
        let (found, mut parameters) = Init::parse(all[0].value).unwrap();
        assert_eq!(found, init);
        assert_eq!(parameters.next().unwrap(), (0x8008, &[1, 2, 3][..], &[0x80, 8, 0, 7, 1, 2, 3][..]));
        let sack = Sack::parse(all[1].value).unwrap();
        assert_eq!((sack.cumulative, sack.window), (5, 1000));
        assert_eq!(sack.blocks().collect::<Vec<_>>(), [(2, 3)]);
        packet[13] ^= 1;
        assert!(!is_intact(&packet));
    }

    /// RFC 3720 appendix B.4 has this value for 32 zeros.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
