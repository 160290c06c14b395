//! Messages in the rings of a stream: of sockets that a program has opened as SCTP.
//!
//! Each message is a [`Head`] and its bytes. The program writes whole messages. What has arrived may lie there in several pieces,
//! each behind a head of its own: [`flag::END`] marks the last one. Only messages that are complete are published, unless one of them
//! is too large to wait for its end in the ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What stands before the bytes of a message, or of a piece of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// Bytes that follow.
    pub length: u32,
    /// Payload protocol identifier, as the program gives and gets it (RFC 9260 section 3.3.1: no byte order).
    pub payload_protocol: u32,
    /// Transmission sequence number; of what is sent 0.
    pub sequence: u32,
    /// Stream.
    pub stream: u16,
    /// Number of the message in its stream; of what is sent 0.
    pub number: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Always 0.
    pub pad: u16,
}

/// Bytes of a [`Head`].
pub const HEAD: usize = size_of::<Head>();

const _: () = assert!(HEAD == 20);

/// Bits of [`Head::flags`], as in a DATA chunk (RFC 9260 section 3.3.1).
pub mod flag {
    /// The message ends with these bytes.
    pub const END: u16 = 1;
    /// It begins with them.
    pub const BEGIN: u16 = 2;
    /// It may overtake others of its stream.
    pub const UNORDERED: u16 = 4;
}
