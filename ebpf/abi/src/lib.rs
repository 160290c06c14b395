//! What the eBPF programs and user space share: map keys, map sizes, counter indices, and the classifier of frames.
//!
//! `no_std` and free of dependencies, so that the same source is compiled for `bpfel-unknown-none` and for the host.
#![no_std]
#![forbid(unsafe_code)]

mod classify;

pub use classify::{Bytes, Verdict, classify};

/// Name of the map of owned flows, `BPF_MAP_TYPE_HASH` of [`FlowKey`] to `u32` (the value is not used).
pub const MAP_FLOWS: &str = "FLOWS";
/// Name of the XSKMAP, indexed by the receive queue of the interface that the program is attached to.
pub const MAP_XSKS: &str = "XSKS";
/// Name of the counters, `BPF_MAP_TYPE_PERCPU_ARRAY` of `u64`, indexed by [`Counter`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Name of the map of fragmented datagrams on their way, `BPF_MAP_TYPE_LRU_HASH` of [`FragmentKey`] to `u32`.
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
/// Name of the XDP program inside the object.
pub const PROGRAM: &str = "freena_xdp";
/// Name of the tc program, which keeps the frames of owned flows from the kernel's IP layer.
pub const PROGRAM_TC: &str = "freena_tc";
/// Name of the socket filter, which lets the frames of owned flows into a packet socket, and no others.
pub const PROGRAM_FILTER: &str = "freena_filter";
/// Name of the read-only `u8` of the XDP program, set at load time: 1 redirects the fragments of owned flows, 0 (the default) leaves every
/// fragment to the kernel, which reassembles the datagram for the companion socket.
pub const GLOBAL_REDIRECT_FRAGMENTS: &str = "REDIRECT_FRAGMENTS";

/// Entries in [`MAP_FLOWS`]: every owned (protocol, local address, port).
pub const MAX_FLOWS: u32 = 65_536;
/// Entries in [`MAP_XSKS`]: receive queues of one interface.
pub const MAX_QUEUES: u32 = 64;
/// Entries in [`MAP_FRAGMENTS`].
pub const MAX_FRAGMENTS: u32 = 4_096;

/// What the framework owns: an IP protocol at a local address, and a port where the protocol has ports.
///
/// A wildcard bind is entered once for each local address, so that the program needs one look-up per frame and never
/// takes a frame that the host merely forwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Destination address; IPv4 as an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`).
    pub addr: [u8; 16],
    /// Destination port in network byte order; 0 where the whole protocol number is owned.
    pub port: [u8; 2],
    /// IP protocol number, after IPv6 extension headers.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Identifies the fragments of one datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address, IPv4-mapped for IPv4.
    pub source: [u8; 16],
    /// Destination address, IPv4-mapped for IPv4.
    pub destination: [u8; 16],
    /// Identification field in network byte order; IPv4's 16 bits in the first two bytes.
    pub id: [u8; 4],
    /// IP protocol number for IPv4; for IPv6 always 44, since only addresses and identification count there.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// An IPv4 address in the form of the keys: IPv4-mapped (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

impl FlowKey {
    /// The flow of `protocol` to `addr` and `port` (host byte order; 0 for a protocol without ports).
    pub fn new(addr: core::net::IpAddr, port: u16, protocol: u8) -> Self {
        let addr = match addr {
            core::net::IpAddr::V4(v4) => mapped(v4.octets()),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        FlowKey { addr, port: port.to_be_bytes(), protocol, pad: 0 }
    }

    /// The key as the map holds it.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.addr);
        bytes[16..18].copy_from_slice(&self.port);
        bytes[18] = self.protocol;
        bytes
    }
}

const _: () = assert!(size_of::<FlowKey>() == 20 && size_of::<FragmentKey>() == 40);

/// Why a frame went where it went. One per-CPU counter each.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// An owned flow: redirected to an AF_XDP socket, or left to the packet socket by the tc program.
    Redirected = 0,
    /// Redirected: a fragment of an owned flow.
    RedirectedFragment = 1,
    /// Owned, but no AF_XDP socket is registered for this queue, so it went to the kernel.
    NoSocket = 2,
    /// To the kernel: neither IPv4 nor IPv6 (ARP, VLAN-tagged frames, ...).
    PassNotIp = 3,
    /// To the kernel: an IP packet that the framework does not own, or a frame to a group address.
    PassNotOwned = 4,
    /// To the kernel: the headers are truncated or contradict each other.
    PassMalformed = 5,
    /// To the kernel: IPv6 extension headers beyond what the program follows.
    PassTooManyHeaders = 6,
    /// To the kernel: a fragment, where they are not redirected, or one whose first fragment was not seen.
    PassFragment = 7,
}

impl Counter {
    /// All counters in the order of their indices.
    pub const ALL: [Counter; 8] = [
        Counter::Redirected,
        Counter::RedirectedFragment,
        Counter::NoSocket,
        Counter::PassNotIp,
        Counter::PassNotOwned,
        Counter::PassMalformed,
        Counter::PassTooManyHeaders,
        Counter::PassFragment,
    ];

    /// The name under which `freena status` shows the counter.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::Redirected => "redirected",
            Counter::RedirectedFragment => "redirected-fragment",
            Counter::NoSocket => "no-socket",
            Counter::PassNotIp => "pass-not-ip",
            Counter::PassNotOwned => "pass-not-owned",
            Counter::PassMalformed => "pass-malformed",
            Counter::PassTooManyHeaders => "pass-too-many-headers",
            Counter::PassFragment => "pass-fragment",
        }
    }
}
