//! Why a packet is refused.

use core::{fmt, net::IpAddr};

/// The header in which something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Ethernet II.
    Ethernet,
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
    /// IPv6 hop-by-hop options (RFC 8200 section 4.3).
    HopByHop,
    /// IPv6 routing (RFC 8200 section 4.4).
    Routing,
    /// IPv6 destination options (RFC 8200 section 4.6).
    Destination,
    /// IPv6 fragment (RFC 8200 section 4.5).
    Fragment,
    /// Authentication (RFC 4302).
    Authentication,
    /// UDP (RFC 768).
    Udp,
    /// TCP (RFC 9293).
    Tcp,
    /// ICMP (RFC 792).
    Icmp,
    /// ICMPv6 (RFC 4443).
    Icmpv6,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Header::Ethernet => "Ethernet",
            Header::Ipv4 => "IPv4",
            Header::Ipv6 => "IPv6",
            Header::HopByHop => "IPv6 hop-by-hop options",
            Header::Routing => "IPv6 routing",
            Header::Destination => "IPv6 destination options",
            Header::Fragment => "IPv6 fragment",
            Header::Authentication => "authentication",
            Header::Udp => "UDP",
            Header::Tcp => "TCP",
            Header::Icmp => "ICMP",
            Header::Icmpv6 => "ICMPv6",
        })
    }
}

/// Why a packet is refused. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end inside a header.
    Truncated {
        /// The header that is not whole.
        header: Header,
        /// Bytes it needs.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The frame carries neither IPv4 nor IPv6.
    NotIp {
        /// Its EtherType, or its length where it is an 802.3 frame.
        ethertype: u16,
    },
    /// The IP version does not match the EtherType.
    Version {
        /// Version that the EtherType says.
        expected: u8,
        /// Version in the header.
        got: u8,
    },
    /// A length field says less than the header itself needs.
    ShortLength {
        /// The header.
        header: Header,
        /// The least it may say.
        least: usize,
        /// What it says.
        got: usize,
    },
    /// A length field says more than has arrived.
    LongLength {
        /// The header.
        header: Header,
        /// What it says.
        claimed: usize,
        /// What there is.
        available: usize,
    },
    /// The checksum is wrong.
    Checksum {
        /// The header whose checksum it is.
        header: Header,
        /// The field.
        got: u16,
        /// What it ought to hold.
        expected: u16,
    },
    /// The checksum is 0 where one is required: UDP over IPv6 (RFC 8200 section 8.1).
    NoChecksum,
    /// The source address cannot be a source (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
    Source {
        /// The address.
        address: IpAddr,
    },
    /// An option whose length does not fit its header.
    OptionLength {
        /// The header.
        header: Header,
        /// Type of the option.
        kind: u8,
    },
    /// An option with which the packet must not be accepted: one that asks for the packet to be discarded where it is
    /// not known (RFC 8200 section 4.2), or an IPv4 source route (RFC 7126 section 4.3).
    OptionRefused {
        /// The header.
        header: Header,
        /// Type of the option.
        kind: u8,
    },
    /// Hop-by-hop options anywhere but right behind the IPv6 header (RFC 8200 section 4.1).
    HopByHopNotFirst,
    /// A routing header that names further hops (RFC 8200 section 4.4, RFC 5095).
    SegmentsLeft {
        /// Routing type.
        kind: u8,
        /// Segments left.
        left: u8,
    },
    /// More extension headers than [`MAX_EXTENSIONS`](crate::ipv6::MAX_EXTENSIONS).
    TooManyExtensions,
    /// A fragment that would end beyond the 65,535 bytes that a packet can have.
    FragmentBeyondPacket {
        /// Its offset.
        offset: usize,
        /// Its length.
        len: usize,
    },
    /// An ICMP message that is not an error, or of a type that is not known.
    NotIcmpError {
        /// Type of the message.
        kind: u8,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Malformed::Truncated { header, expected, got } => {
                write!(f, "{header} header needs {expected} bytes, the packet has {got}")
            }
            Malformed::NotIp { ethertype } => {
                write!(f, "EtherType {ethertype:#06x} is neither IPv4 nor IPv6")
            }
            Malformed::Version { expected, got } => write!(f, "IP version {got}, expected {expected}"),
            Malformed::ShortLength { header, least, got } => {
                write!(f, "{header} length field says {got}, the least is {least}")
            }
            Malformed::LongLength { header, claimed, available } => {
                write!(f, "{header} length field says {claimed}, only {available} bytes are there")
            }
            Malformed::Checksum { header, got, expected } => {
                write!(f, "{header} checksum is {got:#06x}, expected {expected:#06x}")
            }
            Malformed::NoChecksum => f.write_str("UDP over IPv6 without a checksum"),
            Malformed::Source { address } => write!(f, "{address} cannot be a source address"),
            Malformed::OptionLength { header, kind } => {
                write!(f, "option {kind} does not fit the {header} header")
            }
            Malformed::OptionRefused { header, kind } => {
                write!(f, "option {kind} of the {header} header is not accepted")
            }
            Malformed::HopByHopNotFirst => f.write_str("hop-by-hop options not right behind the IPv6 header"),
            Malformed::SegmentsLeft { kind, left } => {
                write!(f, "routing header of type {kind} with {left} segments left")
            }
            Malformed::TooManyExtensions => {
                write!(f, "more than {} IPv6 extension headers", crate::ipv6::MAX_EXTENSIONS)
            }
            Malformed::FragmentBeyondPacket { offset, len } => {
                write!(f, "fragment of {len} bytes at {offset} ends beyond 65,535")
            }
            Malformed::NotIcmpError { kind } => write!(f, "ICMP type {kind} is not a known error"),
        }
    }
}

impl core::error::Error for Malformed {}
