//! The packets on the wire: checked views over received bytes, plain representations to send, the Internet checksum, and
//! segmentation in software.
//!
//! Reading takes two steps. A *view* (`ipv4::Header`, `udp::Header`, ...) checks lengths once and then lends fields out
//! of the bytes; a *representation* (`ipv4::Repr`, ...) is a plain value from which headers are written in place.
//! [`parse_frame`] does the whole of the first step for a received frame. Nothing here allocates, and no input makes it
//! panic; what is refused is refused with a [`Malformed`] that says why.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod checksum;
mod error;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod packet;
pub mod segment;
pub mod tcp;
pub mod udp;

pub use checksum::Sum;
pub use error::{Header, Malformed};
pub use ethernet::Mac;
pub use packet::{Fragment, Packet, parse_frame};

/// IP protocol numbers used by the stack (IANA, Assigned Internet Protocol Numbers).
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// The two bytes at `at`, in network order. The caller has checked that they are there.
#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The four bytes at `at`, in network order. The caller has checked that they are there.
#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
