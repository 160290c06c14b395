//! One message in a ring: a header of one cache line, the payload behind it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Records start at multiples of this many bytes, and so are never split by a header at the end of the ring.
pub const ALIGN: usize = 64;

/// The most payload bytes in one record: the largest UDP payload over IPv6 (65,535 - 8; RFC 8200 counts the IPv6 header apart).
pub const MAX_PAYLOAD: usize = 65_527;

/// Header of a record. The payload of `len` bytes follows at once; the next record starts at the next multiple of
/// [`ALIGN`]. A record is never wrapped around the end of the ring: a record with [`flags::PAD`] fills the rest instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// Payload bytes.
    pub len: u32,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Payload bytes per datagram where the record holds several: `UDP_SEGMENT` on the way out, `UDP_GRO` on the way
    /// in. 0 otherwise.
    pub segment: u16,
    /// Peer: destination on the way out, source on the way in. IPv4-mapped for IPv4.
    pub peer: [u8; 16],
    /// Own address: source asked for (`IP_PKTINFO`) or all zeros on the way out, destination on the way in.
    pub local: [u8; 16],
    /// Port of the peer, host byte order.
    pub peer_port: u16,
    /// TTL or hop limit; on the way out 0 asks for the default.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Interface: asked for on the way out (0: none), arrived on on the way in.
    pub ifindex: u32,
    /// Scope of a link-local `peer`.
    pub scope: u32,
    /// IPv6 flow label on the way out; on the way in unused.
    pub flow: u32,
    /// On the way in, the time of arrival in nanoseconds of `CLOCK_REALTIME`.
    pub timestamp: u64,
}

const _: () = assert!(size_of::<Record>() == ALIGN);

impl Record {
    /// Bytes that a record with `len` payload bytes takes in a ring.
    pub const fn footprint(len: usize) -> usize {
        size_of::<Record>() + len.next_multiple_of(ALIGN)
    }
}

/// Bits of [`Record::flags`].
pub mod flags {
    /// No message: skip `len` bytes of padding.
    pub const PAD: u16 = 1 << 0;
    /// Way out: forbid fragmentation (`IP_PMTUDISC_DO`, `IP_PMTUDISC_PROBE`).
    pub const DONT_FRAGMENT: u16 = 1 << 1;
    /// Way in: it came through the kernel's companion socket, not the fast path.
    pub const KERNEL: u16 = 1 << 2;
    /// Way out: send no UDP checksum (`SO_NO_CHECK`, RFC 768; IPv4 only).
    pub const NO_CHECKSUM: u16 = 1 << 3;
    /// Way in: the payload is shorter than the datagram was (it did not fit the ring).
    pub const TRUNCATED: u16 = 1 << 4;
    /// Way out: routers may fragment it (`IP_PMTUDISC_DONT`, `_INTERFACE`, `_OMIT`; IPv4 only).
    pub const MAY_FRAGMENT: u16 = 1 << 5;
}
