//! What the processes that share one socket (after `fork`, `SCM_RIGHTS`, `exec`) keep among themselves.
//!
//! The server neither reads nor writes it: whatever a program does here, it does to itself.

use crate::socket::MAX_RX_RINGS;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// State shared by all holders of the socket.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct AppArea {
    /// Lock of the transmit ring's producer side: 0, or the thread id of its owner, bit 31 set when somebody waits.
    pub tx_lock: AtomicU32,
    /// Lock of the receive rings' consumer side, likewise.
    pub rx_lock: AtomicU32,
    /// The transmit ring's head as last seen.
    pub tx_cached_head: AtomicU64,
    /// Bits of [`status`].
    pub status: AtomicU32,
    /// 1 once the socket has been given to an epoll instance: the readiness token must then be exact at every moment.
    pub polled: AtomicU32,
    /// Threads that sleep until something can be read.
    pub rx_waiters: AtomicU32,
    /// Receive ring to look at first.
    pub rx_next: AtomicU32,
    /// Bits of [`options`].
    pub options: AtomicU32,
    /// `UDP_SEGMENT`.
    pub segment: AtomicU32,
    /// For IPv6 destinations: `IPV6_UNICAST_HOPS` in bits 0-7, `IPV6_TCLASS` in bits 8-15, `IPV6_MTU_DISCOVER` in bits
    /// 16-23.
    pub header_fields: AtomicU32,
    /// `SHUT_RD` bit 0, `SHUT_WR` bit 1.
    pub shutdown: AtomicU32,
    /// Sequence lock over `local` and `peer`: odd while they change.
    pub names_seq: AtomicU32,
    /// For IPv4 destinations: `IP_TTL`, `IP_TOS`, `IP_MTU_DISCOVER`, placed as in `header_fields`.
    pub header_fields_v4: AtomicU32,
    /// Own address as three words of [`crate::Endpoint`].
    pub local: [AtomicU64; 3],
    /// Peer's address as three words of [`crate::Endpoint`]; all zeros when not connected.
    pub peer: [AtomicU64; 3],
    /// For each receive ring, how much of a record with several datagrams has been taken: the record's position in the
    /// upper 48 bits, payload bytes in the lower 16. It says nothing about a record at another position.
    pub rx_taken: [AtomicU64; MAX_RX_RINGS],
    /// What only streams have.
    pub stream: StreamApp,
}

/// What the processes that share a stream keep among themselves.
#[derive(Debug, Default)]
#[repr(C)]
pub struct StreamApp {
    /// Value of [`crate::stream::Told::rx_urgent`] whose byte has been taken with `MSG_OOB`.
    pub urgent_taken: AtomicU64,
    /// `SO_RCVLOWAT`, 0 for the default of 1.
    pub low_water: AtomicU32,
    /// `SO_SNDBUF` as getsockopt(2) tells it, 0 where it was not set.
    pub send_buffer: AtomicU32,
    /// `SO_RCVBUF` likewise.
    pub receive_buffer: AtomicU32,
    /// Of a socket with messages ([`crate::message`]): bits of [`told`], what a program is told beside each.
    pub told: AtomicU32,
    /// Likewise: how many bytes of the piece at the head of the receive ring have been read.
    pub taken: AtomicU32,
    /// Always 0.
    pub pad: AtomicU32,
}

/// Bits of [`StreamApp::told`].
pub mod told {
    /// `SCTP_SNDRCV` (RFC 6458 section 5.3.2): `sctp_data_io_event` of `SCTP_EVENTS`.
    pub const SNDRCV: u32 = 1 << 0;
    /// `SCTP_RCVINFO` (section 5.3.5): `SCTP_RECVRCVINFO`.
    pub const RCVINFO: u32 = 1 << 1;
}

const _: () = assert!(size_of::<AppArea>() <= 1280);

/// Bits of [`AppArea::status`].
pub mod status {
    /// `O_NONBLOCK` of the open file description.
    pub const NONBLOCK: u32 = 1 << 0;
    /// A datagram is being put together in the kernel (`MSG_MORE`, `UDP_CORK`): sends go there until it is complete.
    pub const CORKED: u32 = 1 << 1;
    /// The server is gone.
    pub const DEAD: u32 = 1 << 2;
    /// One more token has been asked for, for another thread that waits, and nobody has woken up since.
    pub const NOTIFIED: u32 = 1 << 3;
    /// Such a token was asked for at some time: there may be more of them than the token's state tells.
    pub const EXTRA: u32 = 1 << 4;
    /// Stream: connect(2) was called, and no later call has told how it ended.
    pub const CONNECTING: u32 = 1 << 5;
    /// Stream: connect(2) has failed; the next one starts anew.
    pub const FAILED: u32 = 1 << 6;
    /// Stream: `SO_RCVTIMEO` or `SO_SNDTIMEO` was set, which accepted connections inherit.
    pub const TIMED: u32 = 1 << 7;
}

/// Bits of [`AppArea::options`].
pub mod options {
    /// The socket is of family `AF_INET6`.
    pub const FAMILY6: u32 = 1 << 0;
    /// `IPV6_V6ONLY`.
    pub const V6ONLY: u32 = 1 << 1;
    /// `IP_PKTINFO`.
    pub const PKTINFO: u32 = 1 << 2;
    /// `IPV6_RECVPKTINFO`.
    pub const PKTINFO6: u32 = 1 << 3;
    /// `IP_RECVTTL`.
    pub const TTL: u32 = 1 << 4;
    /// `IPV6_RECVHOPLIMIT`.
    pub const HOPLIMIT: u32 = 1 << 5;
    /// `IP_RECVTOS`.
    pub const TOS: u32 = 1 << 6;
    /// `IPV6_RECVTCLASS`.
    pub const TCLASS: u32 = 1 << 7;
    /// `IP_RECVORIGDSTADDR`.
    pub const ORIGDSTADDR: u32 = 1 << 8;
    /// `IPV6_RECVORIGDSTADDR`.
    pub const ORIGDSTADDR6: u32 = 1 << 9;
    /// `SO_TIMESTAMP`.
    pub const TIMESTAMP: u32 = 1 << 10;
    /// `SO_TIMESTAMPNS`.
    pub const TIMESTAMPNS: u32 = 1 << 11;
    /// `SO_TIMESTAMPING` with software receive timestamps reported.
    pub const TIMESTAMPING: u32 = 1 << 12;
    /// `UDP_GRO`.
    pub const GRO: u32 = 1 << 13;
    /// `SO_NO_CHECK`.
    pub const NO_CHECK: u32 = 1 << 14;
    /// `SO_OOBINLINE`.
    pub const OOB_INLINE: u32 = 1 << 15;
    /// `SO_SELECT_ERR_QUEUE`.
    pub const SELECT_ERR_QUEUE: u32 = 1 << 16;
    /// Any ancillary data at all is asked for.
    pub const ANCILLARY: u32 = PKTINFO
        | PKTINFO6
        | TTL
        | HOPLIMIT
        | TOS
        | TCLASS
        | ORIGDSTADDR
        | ORIGDSTADDR6
        | TIMESTAMP
        | TIMESTAMPNS
        | TIMESTAMPING
        | GRO;
}
