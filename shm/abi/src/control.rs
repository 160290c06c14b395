//! Messages on the control socket, a Unix socket of type `SOCK_SEQPACKET`: one request, one response, in order.
//!
//! Fixed sizes, so that a short or long message is recognised at once. Descriptors travel beside them (`SCM_RIGHTS`).
//!
//! A socket is named by a descriptor of its application end, never by a number: whoever can show the descriptor may use
//! the socket, as with the kernel's own. What is owned (protocol, address, port) is proved by the *companion*, a real kernel socket
//! bound to it with the program's own rights.

use crate::Endpoint;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is asked for: [`Request::op`].
pub mod op {
    /// First message of a process. Sends nothing, gets the server page. Descriptors back: `[server page]`.
    pub const ATTACH: u16 = 1;
    /// Asks the server to carry a kernel socket: a datagram socket that is bound, or a stream socket that listens
    /// ([`super::Request::protocols`] says which). Sends `[companion]`; gets `[application end, memory]` and
    /// [`super::Response::socket_id`], or the verdict that it stays with the kernel.
    pub const TAKEOVER: u16 = 2;
    /// Finds a socket again after `exec` or `SCM_RIGHTS`. Sends `[application end]`, gets `[memory]`, and where it is joined
    /// ([`crate::joint`]) `[memory, joint memory, server's end of its peer]`.
    pub const ADOPT: u16 = 3;
    /// Borrows the companion for a call that the kernel must answer. Sends `[application end]`, gets `[companion]`.
    pub const COMPANION: u16 = 4;
    /// Tells that the companion's state (name, peer, options) changed. Sends `[application end]`.
    pub const REFRESH: u16 = 5;
    /// Asks which way datagrams to [`super::Request::peer`] go.
    pub const ROUTE: u16 = 6;
    /// Asks to finish what closed descriptors have left to do (so that their ports are free again).
    pub const SYNC: u16 = 7;
    /// Asks for the status document. Gets `[memfd with JSON]`.
    pub const STATUS: u16 = 8;
    /// Asks the server to connect a stream socket, bound or not, to [`super::Request::peer`]. Sends `[companion]`; gets
    /// `[application end, memory]`, the names, and [`super::Response::socket_id`], and the handshake is under way; or, where
    /// the peer is a program on this host, `[application end, memory, joint memory, server's end of its peer]`, connected
    /// ([`crate::joint`]); or the verdict that it stays with the kernel, whose connect(2) is then to be called.
    pub const CONNECT: u16 = 9;
    /// Asks for a copy of what the links carry; from root and the server's own user only. Sends `[memfd with a filter in
    /// words]` or nothing for all; gets `[end, memory]`: see [`crate::trace`].
    pub const TRACE: u16 = 10;
    /// Asks for the counters. Gets `[memfd with text in Prometheus' exposition format]`.
    pub const METRICS: u16 = 11;
}

/// Which way data goes: [`Response::verdict`].
pub mod verdict {
    /// Through the server.
    pub const FAST: u16 = 1;
    /// Through the kernel; the reason is in words.
    pub const KERNEL: u16 = 2;
    /// `ROUTE`: the destination is this host. Through the server to ports in `ServerPage::udp_ports`, which hands
    /// datagrams over from ring to ring, and through the kernel to all others.
    pub const LOCAL: u16 = 3;
}

/// Bits of [`Request::flags`].
pub mod flag {
    /// `TAKEOVER`, `CONNECT`: the program's socket is an SCTP one, its rings hold messages ([`crate::message`]).
    pub const MESSAGES: u16 = 1 << 0;
}

/// The most protocols that a socket may use.
pub const MAX_PROTOCOLS: usize = 8;

/// A request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// [`crate::ABI_VERSION`].
    pub version: u32,
    /// One of [`op`].
    pub op: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// `ROUTE`, `CONNECT`: the destination.
    pub peer: Endpoint,
    /// `ROUTE`: the source address, or none.
    pub local: Endpoint,
    /// `ROUTE`: `SO_BINDTODEVICE` or `IP_PKTINFO` interface, 0 for any. `TRACE`: the only interface to show, 0 for all.
    pub ifindex: u32,
    /// `TAKEOVER`, `CONNECT`: wanted size of the transmit ring in bytes, 0 for the default.
    pub tx_size: u32,
    /// `TAKEOVER`, `CONNECT`, `TRACE`: wanted size of a receive ring in bytes, 0 for the default.
    pub rx_size: u32,
    /// `TAKEOVER`, `CONNECT`: IP protocol numbers of the framework protocols to use (6: TCP, 17: UDP), the preferred one
    /// first, 0 behind the last. A listener takes the peers of all of them.
    pub protocols: [u8; MAX_PROTOCOLS],
    /// `TAKEOVER` of a listener, `REFRESH` of one after listen(2) was called again: connections that may wait to be
    /// accepted. 0 in another `REFRESH`: as before.
    pub backlog: u32,
    /// `TRACE`: the most bytes of each packet, 0 for all.
    pub snap_len: u32,
    /// `CONNECT` by several protocols: milliseconds that one may take to answer before the next one is tried too, up to
    /// 60,000.
    pub stagger_ms: u32,
}

const _: () = assert!(size_of::<Request>() == 88);

impl Request {
    /// A request with nothing filled in.
    pub const fn new(op: u16) -> Self {
        Request {
            version: crate::ABI_VERSION,
            op,
            flags: 0,
            peer: Endpoint::NONE,
            local: Endpoint::NONE,
            ifindex: 0,
            tx_size: 0,
            rx_size: 0,
            protocols: [0; MAX_PROTOCOLS],
            backlog: 0,
            snap_len: 0,
            stagger_ms: 0,
        }
    }

    /// A request about one protocol.
    pub const fn of(op: u16, protocol: u8) -> Self {
        let mut request = Request::new(op);
        request.protocols[0] = protocol;
        request
    }

    /// The protocols.
    pub fn protocols(&self) -> &[u8] {
        let count = self.protocols.iter().position(|protocol| *protocol == 0).unwrap_or(MAX_PROTOCOLS);
        &self.protocols[..count]
    }
}

/// A response.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// [`crate::ABI_VERSION`] of the server; a request with another one is answered with `EPROTO` and this.
    pub version: u32,
    /// 0, or an errno.
    pub errno: u32,
    /// One of [`verdict`].
    pub verdict: u16,
    /// `ROUTE`: the answer holds for the whole prefix of this many bits around the destination, counted in the
    /// IPv4-mapped form for IPv4 (96 to 128).
    pub prefix_len: u16,
    /// `ROUTE`: largest IP packet to the destination in bytes.
    pub mtu: u32,
    /// `ROUTE`: value of `ServerPage::route_epoch` that the answer belongs to.
    pub epoch: u64,
    /// Name of the socket.
    pub socket_id: u64,
    /// Own address of the socket.
    pub local: Endpoint,
    /// Peer of the socket, or none.
    pub peer: Endpoint,
    /// Bytes used in `reason`.
    pub reason_len: u32,
    /// Why, in words: UTF-8.
    pub reason: [u8; 172],
}

const _: () = assert!(size_of::<Response>() == 256);

impl Response {
    /// A response that says nothing yet.
    pub const fn new() -> Self {
        Response {
            version: crate::ABI_VERSION,
            errno: 0,
            verdict: 0,
            prefix_len: 0,
            mtu: 0,
            epoch: 0,
            socket_id: 0,
            local: Endpoint::NONE,
            peer: Endpoint::NONE,
            reason_len: 0,
            reason: [0; 172],
        }
    }

    /// Stores `words`, cut at a character boundary where they are too long.
    #[must_use]
    pub fn because(mut self, words: &str) -> Self {
        let mut len = words.len().min(self.reason.len());
        while !words.is_char_boundary(len) {
            len -= 1;
        }
        self.reason[..len].copy_from_slice(&words.as_bytes()[..len]);
        self.reason_len = len as u32;
        self
    }

    /// The words.
    pub fn reason(&self) -> &str {
        let len = (self.reason_len as usize).min(self.reason.len());
        core::str::from_utf8(&self.reason[..len]).unwrap_or("")
    }
}

impl Default for Response {
    fn default() -> Self {
        Self::new()
    }
}

/// The control socket where neither `--control` nor `FREENA_CONTROL` names one.
pub const DEFAULT_PATH: &str = "/run/freena/control";

/// Environment variable that names the control socket.
pub const ENV_CONTROL: &str = "FREENA_CONTROL";

/// Environment variable with the settings that `freena run` resolved for the program.
pub const ENV_SETTINGS: &str = "FREENA_SETTINGS";

/// Environment variable with the services that a program's flows get: a plan, as `freena_service_chain::Plan` writes it.
pub const ENV_SERVICES: &str = "FREENA_SERVICES";
