//! What a stream socket has besides its rings, and how a listener hands out connections.
//!
//! A stream socket uses the page and the rings of every socket, with other contents: the transmit ring and receive ring 0
//! hold bytes without records, and their words count bytes of the stream ([`crate::socket`]; `freena_shm_ring::stream`).
//!
//! | word | for a stream |
//! |---|---|
//! | `tx_tail` | end of what the program has written |
//! | `tx_head` | end of what the peer has acknowledged; the bytes before it are gone |
//! | `rx[0].tail` | end of what has arrived in order |
//! | `rx[0].head` | end of what the program has read |
//!
//! A byte's place in its ring is `(position - base) % size`. A base may be changed by the ring's producer, and only
//! while the ring is empty (head equals tail), before the tail that covers the next bytes is published: so a program that
//! asks and answers always touches the same few cache lines, and an idle connection keeps few pages.

use crate::Endpoint;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The stream part of a socket's page.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct StreamArea {
    /// What the server tells.
    pub told: Told,
    /// What the program asks for.
    pub asked: Asked,
}

const _: () = assert!(size_of::<StreamArea>() == 256);

/// Written by the server.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Told {
    /// One of [`state`].
    pub state: AtomicU32,
    /// 1: the program's next read makes room that the peer waits for; whoever swaps it to 0 kicks. As `tx_kick`.
    pub rx_kick: AtomicU32,
    /// Offset base of the receive ring.
    pub rx_base: AtomicU64,
    /// Position of the last byte of urgent data plus one, 0 while there has been none (RFC 9293 section 3.8.5, in the
    /// interpretation of RFC 6093: the byte before the urgent pointer).
    pub rx_urgent: AtomicU64,
    /// End of what has been sent at least once (`SIOCOUTQNSD`).
    pub sent: AtomicU64,
    /// Joined sockets: 1 once the peer is closed, so that what is sent is answered by a reset.
    pub gone: AtomicU32,
    /// Always 0.
    pub pad: AtomicU32,
    /// What `TCP_INFO` and `freena status` show. Each word may be from another moment.
    pub info: Info,
    /// IP protocol number that carries the connection; of a listener the preferred one (`SO_PROTOCOL`).
    pub protocol: AtomicU32,
}

/// Written by the program; the server bounds each value where it uses it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Asked {
    /// Bits of [`shut`].
    pub shut: AtomicU32,
    /// Bits of [`ask`].
    pub flags: AtomicU32,
    /// Offset base of the transmit ring.
    pub tx_base: AtomicU64,
    /// Position of the last byte sent with `MSG_OOB` plus one, 0 for none.
    pub tx_urgent: AtomicU64,
    /// `SO_LINGER`: -1 off, else seconds. 0 resets the connection on close.
    pub linger: AtomicI32,
    /// `TCP_KEEPIDLE` in seconds, 0 for the default of 7200.
    pub keep_idle: AtomicU32,
    /// `TCP_KEEPINTVL` in seconds, 0 for the default of 75.
    pub keep_interval: AtomicU32,
    /// `TCP_KEEPCNT`, 0 for the default of 9.
    pub keep_count: AtomicU32,
    /// `TCP_USER_TIMEOUT` in milliseconds, 0 for the default.
    pub user_timeout: AtomicU32,
    /// `TCP_MAXSEG`, 0 for none.
    pub max_segment: AtomicU32,
    /// `SO_RCVBUF` as set: the receive window is kept within it; 0 for the whole ring.
    pub receive_buffer: AtomicU32,
    /// `IP_TOS` or `IPV6_TCLASS` in bits 0-7, `IP_TTL` or `IPV6_UNICAST_HOPS` in bits 8-15 (0 for the default).
    pub header_fields: AtomicU32,
    /// One of [`congestion`].
    pub congestion: AtomicU32,
    /// `TCP_SYNCNT`, 0 for the default of 6.
    pub syn_count: AtomicU32,
}

/// Figures of a connection, as `struct tcp_info` of linux/tcp.h has them. Times in microseconds.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Info {
    /// Smoothed round-trip time (RFC 6298).
    pub srtt: AtomicU32,
    /// Its variation.
    pub rttvar: AtomicU32,
    /// Retransmission time-out.
    pub rto: AtomicU32,
    /// Congestion window in segments.
    pub cwnd: AtomicU32,
    /// Slow start threshold in segments, `u32::MAX` while unset.
    pub ssthresh: AtomicU32,
    /// Largest segment sent.
    pub send_mss: AtomicU32,
    /// Largest segment received.
    pub receive_mss: AtomicU32,
    /// Path MTU.
    pub path_mtu: AtomicU32,
    /// Segments sent and not acknowledged.
    pub in_flight: AtomicU32,
    /// Of these, taken for lost.
    pub lost: AtomicU32,
    /// Of these, acknowledged selectively.
    pub sacked: AtomicU32,
    /// Segments retransmitted since the connection was opened.
    pub retransmitted: AtomicU32,
    /// Consecutive time-outs without an acknowledgement.
    pub backoff: AtomicU32,
    /// Peer's receive window in bytes.
    pub send_window: AtomicU32,
    /// Own receive window in bytes.
    pub receive_window: AtomicU32,
    /// `TCPI_OPT_*` of linux/tcp.h: 1 timestamps, 2 SACK, 4 window scaling, 8 ECN.
    pub options: AtomicU32,
    /// Window scales: ours (to apply to what we send) in bits 0-3, the peer's in bits 4-7.
    pub scales: AtomicU32,
    /// SCTP: streams that the program may send on in bits 0-15, those of the peer in bits 16-31.
    pub streams: AtomicU32,
    /// Bytes acknowledged by the peer.
    pub bytes_acked: AtomicU64,
    /// Bytes received in order.
    pub bytes_received: AtomicU64,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: AtomicU64,
    /// Bytes retransmitted.
    pub bytes_retransmitted: AtomicU64,
    /// Segments sent.
    pub segments_out: AtomicU64,
    /// Segments received.
    pub segments_in: AtomicU64,
}

/// Where a connection is: [`Told::state`]. The numbers are those of linux/tcp_states.h.
pub mod state {
    /// No stream socket.
    pub const NONE: u32 = 0;
    /// Open.
    pub const ESTABLISHED: u32 = 1;
    /// Connecting.
    pub const SYN_SENT: u32 = 2;
    /// Connecting, the peer does too.
    pub const SYN_RECEIVED: u32 = 3;
    /// Own end sent, not acknowledged.
    pub const FIN_WAIT_1: u32 = 4;
    /// Own end acknowledged.
    pub const FIN_WAIT_2: u32 = 5;
    /// Both ends sent, the old duplicates are waited for.
    pub const TIME_WAIT: u32 = 6;
    /// Over. `error` says whether by an error.
    pub const CLOSED: u32 = 7;
    /// The peer has ended its direction: end of file behind `rx[0].tail`.
    pub const CLOSE_WAIT: u32 = 8;
    /// As `CLOSE_WAIT`, own end sent too.
    pub const LAST_ACK: u32 = 9;
    /// A listener.
    pub const LISTEN: u32 = 10;
    /// Both ends sent at once.
    pub const CLOSING: u32 = 11;

    /// Whether the peer has ended its direction (or everything is over): behind `rx[0].tail` nothing will come.
    pub const fn is_end_of_file(state: u32) -> bool {
        matches!(state, TIME_WAIT | CLOSED | CLOSE_WAIT | LAST_ACK | CLOSING)
    }

    /// Whether the handshake is still under way.
    pub const fn is_connecting(state: u32) -> bool {
        matches!(state, SYN_SENT | SYN_RECEIVED)
    }
}

/// Bits of [`Asked::shut`].
pub mod shut {
    /// `SHUT_RD`.
    pub const READ: u32 = 1 << 0;
    /// `SHUT_WR`: nothing follows `tx_tail`.
    pub const WRITE: u32 = 1 << 1;
}

/// Bits of [`Asked::flags`].
pub mod ask {
    /// `TCP_NODELAY`.
    pub const NO_DELAY: u32 = 1 << 0;
    /// `TCP_CORK`.
    pub const CORK: u32 = 1 << 1;
    /// The last write had `MSG_MORE`.
    pub const MORE: u32 = 1 << 2;
    /// `SO_KEEPALIVE`.
    pub const KEEP_ALIVE: u32 = 1 << 3;
    /// `TCP_QUICKACK`: acknowledge at once, for now.
    pub const QUICK_ACK: u32 = 1 << 4;
    /// The rings hold messages ([`crate::message`]): set by the server, and not changed afterwards.
    pub const MESSAGES: u32 = 1 << 6;
    /// Joined sockets: the connection was accepted. One that is closed without is reset, as the kernel does it.
    pub const TAKEN: u32 = 1 << 5;
}

/// Congestion control: [`Asked::congestion`].
pub mod congestion {
    /// CUBIC (RFC 9438), the default.
    pub const CUBIC: u32 = 0;
    /// NewReno (RFC 6582).
    pub const RENO: u32 = 1;
    /// BBR (draft-ietf-ccwg-bbr).
    pub const BBR: u32 = 2;
}

/// What lies in the receive queue of a listener's application end for each connection: one message, with the descriptors
/// beside it (`SCM_RIGHTS`). A listener's queue holds nothing else, so that it is readable exactly while there is
/// something to accept, and accept(2) is one recvmsg(2), whoever of those who share the listener calls it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Accepted {
    /// One of [`accepted`].
    pub kind: u32,
    /// Always 0.
    pub pad: u32,
    /// The server's name for the connection; 0 for a kernel socket.
    pub socket_id: u64,
    /// Own address.
    pub local: Endpoint,
    /// Peer's address.
    pub peer: Endpoint,
}

const _: () = assert!(size_of::<Accepted>() == 64);

/// Kinds of [`Accepted`].
pub mod accepted {
    /// A framework connection. Descriptors: `[application end, memory]`, and of a joined one [`crate::joint`] also
    /// `[joint memory, server's end of its peer]`.
    pub const FRAMEWORK: u32 = 1;
    /// A connection that came by the kernel's listener. Descriptor: `[kernel socket]`.
    pub const KERNEL: u32 = 2;
}
