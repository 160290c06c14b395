//! What a trace hands out: copies of the packets that the links carry.
//!
//! `TRACE` gives an *end* of a pair of Unix sockets and a memory like a socket's, with one receive ring for each worker.
//! Its records are [`Captured`], in the layout of a [`Record`]; wakes follow `freena_shm_ring::wake`, with tokens on the
//! end. A message of any content on the end, or shutting down its sending side, ends the trace: the server answers with
//! one message of [`Seen`] for each link, and closes its end. What was published before can still be read.

use crate::Record;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first bytes of a packet are in the record's header, since a super-packet with its headers is longer than the
/// payload of a record may be.
pub const HEAD: usize = 32;

/// The longest packet: Ethernet header and the largest IPv4 packet, or the largest IPv6 payload with its header.
pub const MAX_PACKET: usize = 14 + 40 + 65_535;

/// Header of a captured packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Captured {
    /// Bytes that follow this header: those from [`HEAD`] on.
    pub len: u32,
    /// Always 0, but for padding ([`crate::record::flags`]).
    pub flags: u16,
    /// Payload bytes per segment of a super-packet, else 0.
    pub segment: u16,
    /// The first bytes, from the Ethernet destination on; unused where the packet is shorter.
    pub head: [u8; HEAD],
    /// Queue of the interface.
    pub queue: u16,
    /// 1 for a packet that was sent, 0 for one that arrived.
    pub outbound: u16,
    /// Interface.
    pub ifindex: u32,
    /// Bytes that the packet had, of which not all may be here.
    pub original: u32,
    /// Always 0.
    pub pad: u32,
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub timestamp: u64,
}

const _: () = assert!(size_of::<Captured>() == size_of::<Record>());
const _: () = assert!(core::mem::offset_of!(Captured, len) == core::mem::offset_of!(Record, len));
const _: () = assert!(core::mem::offset_of!(Captured, flags) == core::mem::offset_of!(Record, flags));

impl From<Captured> for Record {
    fn from(captured: Captured) -> Record {
        zerocopy::transmute!(captured)
    }
}

impl From<Record> for Captured {
    fn from(record: Record) -> Captured {
        zerocopy::transmute!(record)
    }
}

/// What a trace saw on one link, told at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Seen {
    /// Packets that the filter let through.
    pub matched: u64,
    /// Those of them that did not fit the ring, because it was not read in time.
    pub lost: u64,
    /// Interface.
    pub ifindex: u32,
    /// Queue of the interface.
    pub queue: u32,
}

const _: () = assert!(size_of::<Seen>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_and_back() {
        let captured = Captured {
            len: 7,
            segment: 1448,
            head: [9; HEAD],
            ifindex: 3,
            timestamp: 1,
            ..Captured::default()
        };
        let record = Record::from(captured);
        assert_eq!((record.len, record.segment, record.timestamp), (7, 1448, 1));
        assert_eq!(Captured::from(record), captured);
    }
}
