//! The boundary above: an engine of a transport protocol that carries streams of bytes, sans-IO.
//!
//! A stream's bytes have *positions*, counted from 0 in each direction, that never wrap. What the program has written and
//! the peer has not acknowledged stays in the program's transmit ring, and a packet to send names its payload by position;
//! what arrives is stored at its position in the receive ring by [`Driver::store`]. So an engine counts, and others keep
//! the bytes.

use crate::RxChecksum;
use freena_wire::Packet;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The engine's name for a connection. Reused after [`Event::Released`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

/// The driver's name for a listener.
pub type ListenerKey = u32;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Own address; of the same IP version as the peer's (IPv4-mapped addresses as IPv4).
    pub local: IpAddr,
    /// Own port.
    pub local_port: u16,
    /// Peer's address.
    pub peer: IpAddr,
    /// Peer's port.
    pub peer_port: u16,
}

impl Flow {
    /// Whether both ends may be those of a connection: no broadcast, multicast or unspecified address (RFC 1122 section
    /// 4.2.3.10, RFC 9260 section 8.4), and a peer's port.
    pub fn is_unicast(&self) -> bool {
        let bad = |address: IpAddr| match address {
            IpAddr::V4(address) => {
                address.is_broadcast() || address.is_multicast() || address.is_unspecified()
            }
            IpAddr::V6(address) => address.is_multicast() || address.is_unspecified(),
        };
        !bad(self.local) && !bad(self.peer) && self.peer_port != 0
    }
}

/// Where a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Own address; unspecified for any.
    pub local: IpAddr,
    /// Own port.
    pub port: u16,
    /// Whether an IPv6 wildcard listener hears IPv4 too (RFC 3493 section 5.3).
    pub dual: bool,
    /// Whether it shares its port with others by flow hash (`SO_REUSEPORT`).
    pub share: bool,
    /// The only interface to hear (`SO_BINDTODEVICE`), or 0.
    pub ifindex: u32,
    /// What its connections start with.
    pub options: Options,
}

/// What the way to a peer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Most payload bytes in one [`Transmit`]; the segment size where the link cannot cut super-packets.
    pub max_burst: u32,
    /// Most segments in one [`Transmit`].
    pub max_segments: u32,
}

/// Congestion control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681, 6582.
    NewReno,
    /// draft-ietf-ccwg-bbr.
    Bbr,
}

/// Socket options, which an engine heeds as far as they mean something to it. Names and defaults are those of tcp(7) and
/// socket(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `TCP_NODELAY`. Default: false, Nagle's algorithm (RFC 9293 section 3.7.4).
    pub no_delay: bool,
    /// `TCP_CORK`, or the last write had `MSG_MORE`: partial segments wait, for 200 ms at most.
    pub cork: bool,
    /// `TCP_QUICKACK`.
    pub quick_ack: bool,
    /// `SO_KEEPALIVE`.
    pub keep_alive: bool,
    /// `TCP_KEEPIDLE`. Default 2 h.
    pub keep_idle: Duration,
    /// `TCP_KEEPINTVL`. Default 75 s.
    pub keep_interval: Duration,
    /// `TCP_KEEPCNT`. Default 9.
    pub keep_count: u32,
    /// `TCP_USER_TIMEOUT`; zero for the default of 15 retransmissions (`tcp_retries2`).
    pub user_timeout: Duration,
    /// `TCP_SYNCNT`. Default 6.
    pub syn_count: u32,
    /// `TCP_MAXSEG`, 0 for none.
    pub max_segment: u16,
    /// The receive window is kept within it (`SO_RCVBUF`); 0 for all that there is room for.
    pub window_clamp: u32,
    /// TTL or hop limit. Default 64.
    pub ttl: u8,
    /// TOS or traffic class, without the ECN bits.
    pub tos: u8,
    /// Congestion control.
    pub congestion: Congestion,
    /// The rings hold messages, each behind a head (`freena_shm_abi::message`), as they were when the connection was opened: of
    /// SCTP alone. Default: false.
    pub messages: bool,
    /// `TCP_DEFER_ACCEPT` of a listener, in the kernel's own unit: a connection whose peer has sent no data is not there
    /// until so many waits for the handshake's end have passed. Default 0.
    pub defer_accept: u8,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            no_delay: false,
            cork: false,
            quick_ack: false,
            keep_alive: false,
            keep_idle: Duration::from_secs(7200),
            keep_interval: Duration::from_secs(75),
            keep_count: 9,
            user_timeout: Duration::ZERO,
            syn_count: 6,
            max_segment: 0,
            window_clamp: 0,
            ttl: 64,
            tos: 0,
            congestion: Congestion::Cubic,
            messages: false,
            defer_accept: 0,
        }
    }
}

/// Most bytes of a transport header: what the longest TCP header has.
pub const MAX_HEADER: usize = 60;

/// What an engine needs from its driver in the middle of a packet.
pub trait Driver {
    /// The way to a peer, `None` where there is none by this stack: the packet is dropped then.
    fn path(&mut self, flow: &Flow) -> Option<Path>;

    /// Whether a listener may get one connection more. While not, SYNs are not answered: the peer will try again.
    fn has_room(&mut self, listener: ListenerKey) -> bool;

    /// A peer's handshake is complete: makes the buffers of the connection and returns the size of the receive buffer in
    /// bytes. `None`: not now (the listener's queue is full); the peer will try again.
    fn accept(&mut self, listener: ListenerKey, connection: Handle, flow: &Flow) -> Option<u64>;

    /// Keeps bytes that arrived at `position`, which may lie ahead of what has arrived in order, and never beyond the
    /// window: position + length <= bytes read + size of the receive buffer. Bytes may come again with the same content.
    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]);
}

/// Where an engine reads what programs have written, if it has to (for a checksum of its own, say).
pub trait Source {
    /// Copies the bytes from `position` on, which the program has written and the peer has not acknowledged. `false`: they
    /// are not there.
    fn load(&mut self, connection: Handle, position: u64, to: &mut [u8]) -> bool;
}

/// What has become of a connection: [`Protocol::poll_event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake that [`Protocol::connect`] began is complete.
    Connected(Handle),
    /// Bytes before `position` have arrived in order.
    Received {
        /// Whose.
        connection: Handle,
        /// End of what can be read.
        position: u64,
    },
    /// The peer has acknowledged the bytes before `position`: their room can be given back.
    Acknowledged {
        /// Whose.
        connection: Handle,
        /// End of what is acknowledged.
        position: u64,
    },
    /// The peer has ended its direction; nothing follows what was received.
    PeerClosed(Handle),
    /// Urgent data: the position of its last byte, plus one.
    Urgent {
        /// Whose.
        connection: Handle,
        /// Behind the urgent byte.
        position: u64,
    },
    /// Both directions have ended, ours acknowledged: the state is `TIME_WAIT` or `CLOSED`.
    Closed(Handle),
    /// The connection is over by an error; nothing more can be sent or received.
    Failed(Handle, Failure),
    /// A soft error (RFC 1122 section 4.2.3.9), for `SO_ERROR`; the connection goes on.
    SoftError(Handle, IcmpError),
    /// The engine has forgotten the connection: its buffers are not needed any more, the handle may be reused. Comes after
    /// [`Protocol::close`] or [`Protocol::abort`] only.
    Released(Handle),
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A reset in answer to our SYN: `ECONNREFUSED`.
    Refused,
    /// A reset of an established connection: `ECONNRESET`.
    Reset,
    /// Too many retransmissions, or no answer to keep-alive probes: `ETIMEDOUT`.
    TimedOut,
    /// An ICMP error while connecting, or that was the last word before a time-out.
    Unreachable(IcmpError),
    /// The peer has not proved to be who it should be: `EKEYREJECTED`.
    Untrusted,
}

/// ICMP errors, as Linux's `icmp_err_convert` sorts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// `ENETUNREACH`.
    Network,
    /// `EHOSTUNREACH`.
    Host,
    /// `ECONNREFUSED`.
    Port,
    /// `ENOPROTOOPT`.
    Protocol,
    /// `EACCES`.
    Prohibited,
}

/// Why [`Protocol::connect`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// There is a connection with these addresses and ports: `EADDRNOTAVAIL`.
    InUse,
    /// The table is full: `ENOBUFS`.
    Full,
}

/// Why [`Protocol::written`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such connection, or it is over.
    Over,
    /// The position is behind one told before.
    Backwards,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The header cannot be right.
    Malformed,
    /// The checksum is wrong.
    Checksum,
    /// Neither connection nor listener; a reset was queued unless the packet was one.
    NoSocket,
    /// Outside the window, an old duplicate, or a forged reset (RFC 5961).
    Unacceptable,
    /// A SYN while the listener's queue, or the table of half-open connections, is full and cookies do not apply.
    Backlog,
    /// There is no way back to the peer.
    NoPath,
}

/// States, by the names of RFC 9293 figure 5. An engine whose protocol has others shows those that mean the same to a
/// program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    Closing,
    TimeWait,
    CloseWait,
    LastAck,
    Closed,
}

/// A packet to send, or several that share a header: [`Protocol::poll_transmit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose payload it carries, `None` for answers that belong to no connection.
    pub connection: Option<Handle>,
    /// From and to.
    pub flow: Flow,
    /// The transport header with its options, Internet checksum zero; `header_len` bytes of it.
    pub header: [u8; MAX_HEADER],
    /// Its length.
    pub header_len: u8,
    /// Positions of the payload in the transmit ring; empty for none.
    pub payload: Range<u64>,
    /// Payload that is not what the program has written (encrypted, say), in place of positions; empty for none. It is what
    /// `segment` cuts.
    pub body: Vec<u8>,
    /// Payload bytes per segment where it is to be cut, 0 for a single segment.
    pub segment: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class, ECN bits included.
    pub tos: u8,
}

/// Figures of one connection. Times are zero while unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Smoothed round-trip time (RFC 6298).
    pub srtt: Duration,
    /// Its variation.
    pub rttvar: Duration,
    /// Retransmission time-out.
    pub rto: Duration,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Slow start threshold in bytes, `u64::MAX` while unset.
    pub ssthresh: u64,
    /// Largest segment sent, payload bytes.
    pub send_mss: u16,
    /// Largest segment received, payload bytes.
    pub receive_mss: u16,
    /// Path MTU.
    pub path_mtu: u32,
    /// Bytes sent and not acknowledged.
    pub in_flight: u64,
    /// Segments taken for lost.
    pub lost: u32,
    /// Segments acknowledged selectively.
    pub sacked: u32,
    /// Segments retransmitted.
    pub retransmitted: u32,
    /// Consecutive time-outs.
    pub backoff: u32,
    /// Peer's receive window in bytes.
    pub send_window: u64,
    /// Own receive window in bytes.
    pub receive_window: u64,
    /// Timestamps (RFC 7323) are in use.
    pub timestamps: bool,
    /// Selective acknowledgements (RFC 2018) are in use.
    pub sack: bool,
    /// Window scales: ours and the peer's, where in use.
    pub scales: Option<(u8, u8)>,
    /// Streams of SCTP, ours and the peer's; 0 elsewhere.
    pub streams: (u16, u16),
    /// Bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes retransmitted.
    pub bytes_retransmitted: u64,
    /// Segments sent.
    pub segments_out: u64,
    /// Segments received.
    pub segments_in: u64,
}

/// Counters of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that exist, half-open and `TIME_WAIT` ones not counted.
    pub connections: u64,
    /// Half-open ones.
    pub half_open: u64,
    /// Those in `TIME_WAIT`.
    pub time_wait: u64,
    /// Opened by us.
    pub active_opens: u64,
    /// Opened by peers.
    pub passive_opens: u64,
    /// That failed before they were established.
    pub failed_opens: u64,
    /// Reset after they were established.
    pub resets: u64,
    /// Segments received.
    pub segments_in: u64,
    /// Segments sent.
    pub segments_out: u64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Resets sent.
    pub resets_out: u64,
    /// Dropped: malformed.
    pub malformed: u64,
    /// Dropped: wrong checksum.
    pub checksum: u64,
    /// Dropped: no socket.
    pub no_socket: u64,
    /// Dropped: not acceptable.
    pub unacceptable: u64,
    /// Dropped: queue or table full.
    pub backlog: u64,
    /// SYN cookies sent.
    pub cookies_sent: u64,
    /// SYN cookies accepted.
    pub cookies_accepted: u64,
    /// Challenge acknowledgements sent (RFC 5961).
    pub challenges: u64,
}

impl Stats {
    /// Counts why a packet was dropped.
    pub fn count(&mut self, drop: Drop) {
        match drop {
            Drop::Malformed => self.malformed += 1,
            Drop::Checksum => self.checksum += 1,
            Drop::NoSocket => self.no_socket += 1,
            Drop::Unacceptable => self.unacceptable += 1,
            Drop::Backlog => self.backlog += 1,
            Drop::NoPath => {}
        }
    }
}

/// An engine of a transport protocol: all connections and listeners of one worker.
///
/// How it is driven, in this order, whenever something has happened:
/// - *told*: [`handle_packet`](Protocol::handle_packet), [`handle_timeout`](Protocol::handle_timeout),
///   [`handle_icmp`](Protocol::handle_icmp); [`written`](Protocol::written), [`read`](Protocol::read),
///   [`close`](Protocol::close) and the like; then [`deliver`](Protocol::deliver);
/// - *asked*: [`poll_event`](Protocol::poll_event) until `None`, [`poll_transmit`](Protocol::poll_transmit) until `None` or
///   the link is full, [`poll_timeout`](Protocol::poll_timeout).
pub trait Protocol: Send {
    /// Starts listening, or changes how a listener listens.
    fn listen(&mut self, key: ListenerKey, listening: Listening);

    /// Stops listening: half-open connections of the listener are forgotten, established ones live on.
    fn unlisten(&mut self, key: ListenerKey);

    /// Begins a handshake. `receive_buffer`: size of the receive buffer in bytes.
    ///
    /// # Errors
    /// By variant.
    fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError>;

    /// A packet of this protocol that is no fragment. `segment`: payload bytes per segment of a super-packet, or 0.
    ///
    /// # Errors
    /// Why it was dropped; the engine has counted it.
    fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop>;

    /// Whether the flow still means something to the engine, though its connection is released (`TIME_WAIT`): its port must
    /// stay held.
    fn knows(&self, flow: &Flow) -> bool;

    /// Time has passed: to be called when [`Protocol::poll_timeout`] is due.
    fn handle_timeout(&mut self, now: Instant);

    /// Stores what has waited for room in a receive buffer, and hands out connections that have waited for a place in a
    /// listener's queue: the rest of what [`Protocol::read`] and [`Protocol::handle_timeout`] have made possible, to be
    /// called after them. Default: an engine that keeps neither waiting has nothing to do.
    fn deliver(&mut self, _now: Instant, _driver: &mut dyn Driver) {}

    /// An ICMP error that quotes a packet of ours, whose transport header began with these bytes (RFC 792 lets routers
    /// quote no more).
    fn handle_icmp(&mut self, now: Instant, flow: &Flow, quoted: [u8; 8], error: IcmpError);

    /// The way to a peer has changed (a route, or a path MTU that a router told).
    fn set_path(&mut self, now: Instant, connection: Handle, path: Path);

    /// The program has written the bytes before `position`.
    ///
    /// # Errors
    /// By variant.
    fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused>;

    /// The byte before `position` is urgent.
    fn urgent(&mut self, now: Instant, connection: Handle, position: u64);

    /// The program has read the bytes before `position`: the window may open.
    fn read(&mut self, now: Instant, connection: Handle, position: u64);

    /// Whether reading would open a window that the peer waits for (or will soon): then [`Protocol::read`] must be called
    /// promptly, otherwise with the next occasion.
    fn wants_read(&self, connection: Handle) -> bool;

    /// Ends the own direction behind what was written (`SHUT_WR`).
    fn shutdown(&mut self, now: Instant, connection: Handle);

    /// The program has closed its last descriptor. What was written is still sent. `unread`: received bytes were not read.
    fn close(&mut self, now: Instant, connection: Handle, unread: bool);

    /// Resets the connection.
    fn abort(&mut self, now: Instant, connection: Handle);

    /// Applies socket options.
    fn set_options(&mut self, now: Instant, connection: Handle, options: &Options);

    /// What has happened.
    fn poll_event(&mut self) -> Option<Event>;

    /// What is to be sent now. An engine that has to see the payload gets it from `source`.
    fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit>;

    /// When [`Protocol::handle_timeout`] is to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The state of a connection.
    fn state(&self, connection: Handle) -> Option<State>;

    /// End of what was sent at least once.
    fn sent(&self, connection: Handle) -> u64;

    /// Figures of a connection.
    fn info(&self, connection: Handle) -> Option<Info>;

    /// Counters.
    fn stats(&self) -> Stats;
}
