//! The C ABI of a transport protocol. `include/freena_protocol.h` is made from this file by `cargo xtask header`.
//!
//! The comments here are those of the header: they are written for whoever writes a protocol in C.

use std::ffi::{c_char, c_void};

/// Version of this interface. A library with another one is refused.
pub const FREENA_PROTOCOL_ABI: u32 = 1;
/// No connection, no listener, no deadline: the largest number of its type.
pub const FREENA_NONE: u32 = u32::MAX;
/// No deadline.
pub const FREENA_NEVER: u64 = u64::MAX;
/// `checksum_offset` of a protocol that does not use the Internet checksum.
pub const FREENA_NO_CHECKSUM: u16 = u16::MAX;
/// Most bytes of a protocol's header, options included.
pub const FREENA_MAX_HEADER: usize = 60;

/// The two ends of a connection, as this host sees them. Addresses are IPv6; IPv4 ones are mapped (::ffff:a.b.c.d). Ports
/// are in the host's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreenaFlow {
    /// Own address.
    pub local: [u8; 16],
    /// Peer's address.
    pub peer: [u8; 16],
    /// Own port.
    pub local_port: u16,
    /// Peer's port.
    pub peer_port: u16,
}

/// What the way to a peer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreenaPath {
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// What of it is left behind the IP header: protocol header and payload of a packet must fit in.
    pub room: u32,
}

/// Socket options. A protocol heeds those that mean something to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreenaOptions {
    /// TCP_NODELAY: 1 to send small writes at once.
    pub no_delay: u8,
    /// TCP_CORK or MSG_MORE: 1 to hold partial packets back, for 200 ms at most.
    pub cork: u8,
    /// SO_KEEPALIVE.
    pub keep_alive: u8,
    /// TTL or hop limit to send with.
    pub ttl: u8,
    /// TOS or traffic class to send with, without the ECN bits.
    pub tos: u8,
    /// Always 0.
    pub pad: [u8; 3],
    /// TCP_KEEPIDLE in seconds.
    pub keep_idle: u32,
    /// TCP_KEEPINTVL in seconds.
    pub keep_interval: u32,
    /// TCP_KEEPCNT.
    pub keep_count: u32,
    /// TCP_USER_TIMEOUT in milliseconds, 0 for the protocol's default.
    pub user_timeout: u32,
    /// TCP_MAXSEG, 0 for none.
    pub max_segment: u32,
    /// SO_RCVBUF: no more than this many bytes may be on their way to the program; 0 for the whole buffer.
    pub receive_buffer: u32,
}

/// What an engine is made with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaConfig {
    /// Size of this structure.
    pub size: u32,
    /// Connections are numbered from 0 to this, exclusively: the number may be an index into a table.
    pub max_connections: u32,
    /// Random bytes, for initial numbers that nobody else can guess.
    pub secret: [u8; 32],
}

/// A packet of the protocol that has arrived whole and, where the protocol uses the Internet checksum, undamaged.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaPacket {
    /// From the protocol's header on. Not aligned. Valid during the call.
    pub data: *const u8,
    /// Bytes of it.
    pub length: u32,
    /// Interface that it came by.
    pub interface: u32,
    /// Its source address.
    pub source: [u8; 16],
    /// Its destination address, which is one of this host.
    pub destination: [u8; 16],
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class, ECN bits included.
    pub tos: u8,
    /// Always 0.
    pub pad: [u8; 6],
}

/// A packet to send.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaTransmit {
    /// Whose payload it carries. FREENA_NONE for an answer that belongs to no connection, which carries none.
    pub connection: u32,
    /// Bytes used of `header`.
    pub header_length: u8,
    /// TTL or hop limit, 0 for 64.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Always 0.
    pub pad: u8,
    /// From and to. Read for FREENA_NONE only; a connection has the flow that it began with.
    pub flow: FreenaFlow,
    /// Bytes of payload, 0 for none.
    pub length: u32,
    /// Position of the payload in what the program has written.
    pub position: u64,
    /// The protocol's header. Where the protocol uses the Internet checksum, its field is filled in later.
    pub header: [u8; FREENA_MAX_HEADER],
}

/// What has happened to a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaEvent {
    /// One of FREENA_EVENT_*.
    pub kind: u32,
    /// To which.
    pub connection: u32,
    /// FREENA_EVENT_RECEIVED, FREENA_EVENT_ACKNOWLEDGED: the position behind the last byte. Must grow.
    pub position: u64,
    /// FREENA_EVENT_FAILED: one of FREENA_FAILURE_*.
    pub failure: u32,
    /// Always 0.
    pub pad: u32,
}

/// The handshake that `connect` began is complete.
pub const FREENA_EVENT_CONNECTED: u32 = 1;
/// The bytes before `position` have arrived in order and have been stored.
pub const FREENA_EVENT_RECEIVED: u32 = 2;
/// The peer has the bytes before `position`: they are not needed any more, and their room is given back.
pub const FREENA_EVENT_ACKNOWLEDGED: u32 = 3;
/// The peer has ended its direction; nothing follows what was received.
pub const FREENA_EVENT_PEER_CLOSED: u32 = 4;
/// Both directions have ended, and the peer has all that the program had written.
pub const FREENA_EVENT_CLOSED: u32 = 5;
/// The connection is over by an error.
pub const FREENA_EVENT_FAILED: u32 = 6;
/// The protocol has forgotten the connection: the number may be given to another one. Must come after `close` or `abort`,
/// and never before.
pub const FREENA_EVENT_RELEASED: u32 = 7;

/// The peer refuses the connection: ECONNREFUSED.
pub const FREENA_FAILURE_REFUSED: u32 = 1;
/// The peer has reset the connection: ECONNRESET.
pub const FREENA_FAILURE_RESET: u32 = 2;
/// The peer does not answer: ETIMEDOUT.
pub const FREENA_FAILURE_TIMED_OUT: u32 = 3;
/// The peer cannot be reached: EHOSTUNREACH.
pub const FREENA_FAILURE_UNREACHABLE: u32 = 4;

/// The packet was taken: what `handle_packet` returns.
pub const FREENA_TAKEN: u32 = 0;
/// It was dropped: the header cannot be right.
pub const FREENA_DROP_MALFORMED: u32 = 1;
/// It was dropped: a checksum of the protocol's own is wrong.
pub const FREENA_DROP_CHECKSUM: u32 = 2;
/// It was dropped: there is neither connection nor listener.
pub const FREENA_DROP_NO_SOCKET: u32 = 3;
/// It was dropped: outside the window, or an old duplicate.
pub const FREENA_DROP_UNACCEPTABLE: u32 = 4;
/// It was dropped: a queue is full.
pub const FREENA_DROP_BACKLOG: u32 = 5;
/// It was dropped: there is no way back to the peer.
pub const FREENA_DROP_NO_PATH: u32 = 6;

/// The connection has begun: what `connect` returns.
pub const FREENA_CONNECTING: u32 = 0;
/// There is a connection with these addresses and ports: EADDRNOTAVAIL.
pub const FREENA_CONNECT_IN_USE: u32 = 1;
/// No room: ENOBUFS.
pub const FREENA_CONNECT_FULL: u32 = 2;

/// ICMP: the network cannot be reached.
pub const FREENA_ICMP_NETWORK: u32 = 1;
/// ICMP: the host cannot be reached.
pub const FREENA_ICMP_HOST: u32 = 2;
/// ICMP: nobody listens at the port.
pub const FREENA_ICMP_PORT: u32 = 3;
/// ICMP: the host does not speak the protocol.
pub const FREENA_ICMP_PROTOCOL: u32 = 4;
/// ICMP: the way is barred.
pub const FREENA_ICMP_PROHIBITED: u32 = 5;

/// Figures of a connection, for TCP_INFO and `freena status`. Zero where there is none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FreenaInfo {
    /// Smoothed round-trip time in nanoseconds.
    pub round_trip: u64,
    /// Its variation in nanoseconds.
    pub variation: u64,
    /// Retransmission time-out in nanoseconds.
    pub timeout: u64,
    /// Bytes that may be on their way.
    pub congestion_window: u64,
    /// Bytes that the peer has room for.
    pub send_window: u64,
    /// Bytes on their way.
    pub in_flight: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Largest payload of a packet.
    pub segment: u64,
}

/// What the stack does for a protocol in the middle of `handle_packet` and `poll_transmit`. Valid during the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaHost {
    /// Size of this structure.
    pub size: u32,
    /// Always 0.
    pub pad: u32,
    /// To be handed to each of the functions.
    pub context: *mut c_void,
    /// Who listens where `flow` arrives: a number for `accept`, or FREENA_NONE.
    pub listener: Option<unsafe extern "C" fn(context: *mut c_void, flow: *const FreenaFlow) -> u32>,
    /// The way to the peer. Returns 0, and leaves `path` alone, where there is none.
    pub path: Option<
        unsafe extern "C" fn(context: *mut c_void, flow: *const FreenaFlow, path: *mut FreenaPath) -> u32,
    >,
    /// A peer's handshake is complete: gives the new connection its number and tells the size of its receive buffer.
    /// FREENA_NONE: not now, for the program's queue is full; the peer may try again. `options` may be null.
    pub accept: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            listener: u32,
            flow: *const FreenaFlow,
            receive_buffer: *mut u64,
            options: *mut FreenaOptions,
        ) -> u32,
    >,
    /// Keeps bytes that arrived at a position, in order or ahead of it, but not beyond the receive buffer: position plus
    /// length is at most what the program has read plus the buffer's size. Returns 0 where they do.
    pub store: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            connection: u32,
            position: u64,
            bytes: *const u8,
            length: u32,
        ) -> u32,
    >,
    /// Copies bytes that the program has written and the peer has not acknowledged. Returns 0 where they are not there.
    pub load: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            connection: u32,
            position: u64,
            bytes: *mut u8,
            length: u32,
        ) -> u32,
    >,
}

/// A protocol. The library exports one as `freena_protocol`:
///
/// ```c
/// const FreenaProtocol freena_protocol = {
///     .abi = FREENA_PROTOCOL_ABI, .size = sizeof(FreenaProtocol), .name = "example", ...
/// };
/// ```
///
/// Each polling thread has an engine of its own, and calls it from that thread only (it may be made and destroyed by
/// another). No function may wait, sleep, read a clock, or start a thread: `now` is the time in nanoseconds from a
/// beginning that the engine need not know. Functions marked "may be null" may be left out.
///
/// The order of calls: whatever has happened is told (packets, time, what programs have written, read, closed); then
/// `poll_events` and `poll_transmit` are called until they return less than there was room for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FreenaProtocol {
    /// FREENA_PROTOCOL_ABI.
    pub abi: u32,
    /// sizeof(FreenaProtocol).
    pub size: u32,
    /// What it is called, in `freena status` and configurations: at most 31 letters, digits, '-' and '_'.
    pub name: *const c_char,
    /// IP protocol number. Those that the stack or the kernel needs are refused (ICMP, IGMP, TCP, UDP, ICMPv6, ...); 253
    /// and 254 are for experiments (RFC 3692).
    pub ip_protocol: u32,
    /// Offset in the header of the Internet checksum over pseudo-header, header and payload (RFC 9293 section 3.1), which
    /// the stack then verifies and fills in; FREENA_NO_CHECKSUM if the protocol does without, or does it itself.
    pub checksum_offset: u16,
    /// Always 0.
    pub pad: u16,
    /// Makes an engine; null where there is no memory.
    pub create: Option<unsafe extern "C" fn(config: *const FreenaConfig) -> *mut c_void>,
    /// Frees an engine and all its connections.
    pub destroy: Option<unsafe extern "C" fn(engine: *mut c_void)>,
    /// A program listens. May be null: the listener of a flow is told by the host in any case.
    pub listen: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            listener: u32,
            local: *const u8,
            port: u16,
            options: *const FreenaOptions,
        ),
    >,
    /// A program does not listen any more. Half-open connections are forgotten, others live on. May be null.
    pub unlisten: Option<unsafe extern "C" fn(engine: *mut c_void, listener: u32)>,
    /// A program connects. Returns FREENA_CONNECTING or one of FREENA_CONNECT_*.
    pub connect: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            now: u64,
            connection: u32,
            flow: *const FreenaFlow,
            path: *const FreenaPath,
            receive_buffer: u64,
            options: *const FreenaOptions,
        ) -> u32,
    >,
    /// A packet has arrived. Returns FREENA_TAKEN or one of FREENA_DROP_*.
    pub handle_packet: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            now: u64,
            packet: *const FreenaPacket,
            host: *const FreenaHost,
        ) -> u32,
    >,
    /// The deadline that `poll_timeout` told has come.
    pub handle_timeout: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64)>,
    /// An ICMP error (FREENA_ICMP_*) quotes a packet of ours; its header began with these 8 bytes. May be null.
    pub handle_icmp: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            now: u64,
            flow: *const FreenaFlow,
            quoted: *const u8,
            error: u32,
        ),
    >,
    /// The way to the peer has changed. May be null.
    pub set_path:
        Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32, path: *const FreenaPath)>,
    /// Socket options have changed. May be null.
    pub set_options: Option<
        unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32, options: *const FreenaOptions),
    >,
    /// The program has written the bytes before `position`.
    pub written: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32, position: u64)>,
    /// The program has read the bytes before `position`: there is room for more.
    pub read: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32, position: u64)>,
    /// Nothing will follow what the program has written.
    pub shutdown: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32)>,
    /// The program has closed the connection: what was written is still sent; nothing can be read any more. `unread`: 1
    /// where received bytes were not read.
    pub close: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32, unread: u32)>,
    /// The connection ends at once, and the peer is told. As `close`, followed by FREENA_EVENT_RELEASED.
    pub abort: Option<unsafe extern "C" fn(engine: *mut c_void, now: u64, connection: u32)>,
    /// Writes up to `room` events to `events`; returns how many.
    pub poll_events:
        Option<unsafe extern "C" fn(engine: *mut c_void, events: *mut FreenaEvent, room: u32) -> u32>,
    /// Writes up to `room` packets to `packets`; returns how many.
    pub poll_transmit: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            now: u64,
            packets: *mut FreenaTransmit,
            room: u32,
            host: *const FreenaHost,
        ) -> u32,
    >,
    /// When `handle_timeout` is to be called, or FREENA_NEVER.
    pub poll_timeout: Option<unsafe extern "C" fn(engine: *mut c_void) -> u64>,
    /// Fills in what is known of a connection. May be null.
    pub info: Option<unsafe extern "C" fn(engine: *mut c_void, connection: u32, info: *mut FreenaInfo)>,
}

const _: () = assert!(size_of::<FreenaFlow>() == 36);
const _: () = assert!(size_of::<FreenaPath>() == 8);
const _: () = assert!(size_of::<FreenaOptions>() == 32);
const _: () = assert!(size_of::<FreenaConfig>() == 40);
const _: () = assert!(size_of::<FreenaTransmit>() == 120);
const _: () = assert!(size_of::<FreenaEvent>() == 24);
const _: () = assert!(size_of::<FreenaInfo>() == 64);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<FreenaPacket>() == 56);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<FreenaHost>() == 56);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<FreenaProtocol>() == 24 + 19 * 8);
