//! A transport address in a fixed layout.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Address, port and scope: what a `sockaddr_in` or `sockaddr_in6` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// IPv6 address; an IPv4 address is IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
    pub addr: [u8; 16],
    /// `sin6_scope_id`: the interface index for link-local addresses, else 0.
    pub scope: u32,
    /// Port in host byte order.
    pub port: u16,
    /// 4, 6, or 0 for no address at all.
    pub family: u8,
    /// Always 0.
    pub pad: u8,
}

const _: () = assert!(size_of::<Endpoint>() == 24);

impl Endpoint {
    /// No address.
    pub const NONE: Endpoint = Endpoint { addr: [0; 16], scope: 0, port: 0, family: 0, pad: 0 };

    /// Builds one from an address and a port.
    pub const fn new(ip: IpAddr, port: u16, scope: u32) -> Self {
        let (addr, family) = match ip {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 4),
            IpAddr::V6(v6) => (v6.octets(), 6),
        };
        Endpoint { addr, scope, port, family, pad: 0 }
    }

    /// Whether there is an address.
    pub const fn is_some(&self) -> bool {
        self.family != 0
    }

    /// The address, IPv4-mapped ones as IPv4 whatever the family of the socket.
    pub const fn ip(&self) -> IpAddr {
        ip_of(&self.addr)
    }
}

/// Reads an address as [`Endpoint::addr`] holds it.
pub const fn ip_of(addr: &[u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from_octets(*addr);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(v6),
    }
}

/// Writes an address as [`Endpoint::addr`] holds it.
pub const fn octets_of(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The unspecified IPv4 address as [`Endpoint::addr`] holds it.
pub const UNSPECIFIED_V4: [u8; 16] = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
