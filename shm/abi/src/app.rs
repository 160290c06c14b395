//! What the processes that share one socket (after `fork`, `SCM_RIGHTS`, `exec`) keep among themselves.
//!
//! The server neither reads nor writes it: whatever a program does here, it does to itself.

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
    /// `O_NONBLOCK` of the open file description, and other bits of the interface layer.
    pub status: AtomicU32,
    /// 1 once the socket has been given to an epoll instance: the readiness token must then be exact at every moment.
    pub polled: AtomicU32,
    /// Threads that sleep until something can be read.
    pub rx_waiters: AtomicU32,
    /// Receive ring to look at first.
    pub rx_next: AtomicU32,
    /// Bits: ancillary data asked for, and options that shape what is sent.
    pub options: AtomicU32,
    /// `UDP_SEGMENT`.
    pub segment: AtomicU32,
    /// `IP_TTL`/`IPV6_UNICAST_HOPS` in bits 0-7, `IP_TOS`/`IPV6_TCLASS` in bits 8-15, `IP_MTU_DISCOVER` in bits 16-23.
    pub header_fields: AtomicU32,
    /// `SHUT_RD` bit 0, `SHUT_WR` bit 1.
    pub shutdown: AtomicU32,
    /// Sequence lock over `local` and `peer`: odd while they change.
    pub names_seq: AtomicU32,
    /// Reserved.
    pub pad: AtomicU32,
    /// Own address as three words of [`crate::Endpoint`].
    pub local: [AtomicU64; 3],
    /// Peer's address as three words of [`crate::Endpoint`]; all zeros when not connected.
    pub peer: [AtomicU64; 3],
}

const _: () = assert!(size_of::<AppArea>() <= 1664);
