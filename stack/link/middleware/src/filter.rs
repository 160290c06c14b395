//! Which packets a trace shows: a small part of pcap-filter(7)'s language.
//!
//! ```text
//! filter    = all { ("or" | "||") all }
//! all       = one { ("and" | "&&") one }
//! one       = ("not" | "!") one | "(" filter ")" | primitive
//! primitive = protocol [ primitive ] | [ "src" | "dst" ] what | "inbound" | "outbound"
//! protocol  = "ip" | "ip6" | "tcp" | "udp" | "sctp" | "icmp" | "icmp6"
//! what      = "host" ADDRESS | "net" ADDRESS "/" BITS | "port" NUMBER | "portrange" FIRST "-" LAST
//! ```

mod parse;
mod sight;

pub use parse::BadFilter;
pub use sight::Sight;

use std::net::IpAddr;

/// The longest filter in bytes.
pub const MAX_FILTER: usize = 1024;

/// A filter that was read. The default one lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Term>);

/// Which end of a packet a primitive speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    And(Vec<Term>),
    Or(Vec<Term>),
    Not(Box<Term>),
    /// 4 or 6.
    Version(u8),
    Protocol(u8),
    /// Addresses whose first bits are these.
    Net(Side, IpAddr, u8),
    /// Ports from the first to the second.
    Ports(Side, u16, u16),
    Outbound(bool),
}

impl Filter {
    /// Reads a filter; an empty one lets everything through.
    ///
    /// # Errors
    /// What was found, where, and what was expected.
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        parse::parse(text).map(Filter)
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it lets a packet through. As with tcpdump, a fragment other than the first has no ports.
    pub fn matches(&self, sight: &Sight) -> bool {
        self.0.as_ref().is_none_or(|term| term.matches(sight))
    }
}

impl Term {
    fn matches(&self, sight: &Sight) -> bool {
        match self {
            Term::And(terms) => terms.iter().all(|term| term.matches(sight)),
            Term::Or(terms) => terms.iter().any(|term| term.matches(sight)),
            Term::Not(term) => !term.matches(sight),
            Term::Version(version) => match sight.addresses {
                Some((IpAddr::V4(_), _)) => *version == 4,
                Some((IpAddr::V6(_), _)) => *version == 6,
                None => false,
            },
            Term::Protocol(protocol) => sight.protocol == Some(*protocol),
            Term::Net(side, net, bits) => {
                sight.addresses.is_some_and(|ends| side.any(ends, |address| is_in(address, *net, *bits)))
            }
            Term::Ports(side, first, last) => {
                sight.ports.is_some_and(|ends| side.any(ends, |port| (*first..=*last).contains(&port)))
            }
            Term::Outbound(outbound) => sight.outbound == *outbound,
        }
    }
}

impl Side {
    fn any<T>(self, (source, destination): (T, T), is: impl Fn(T) -> bool) -> bool {
        match self {
            Side::Source => is(source),
            Side::Destination => is(destination),
            Side::Either => is(source) || is(destination),
        }
    }
}

/// Whether the first `bits` of both are equal; addresses of two versions never are.
fn is_in(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    // Bits beyond those that count; all of them may be, and a shift by all is none.
    let rest = |all: u32| all - u32::from(bits);
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(rest(32)).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(rest(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
