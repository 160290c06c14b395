//! The errors of ICMP (RFC 792) and ICMPv6 (RFC 4443), with the packet that they quote.

use crate::{
    Fragment, Header, Malformed, Packet, Sum, be16, be32, checksum, ipv4, ipv6, protocol, put16, put32,
};
use core::net::IpAddr;

/// Length of the header, in bytes; what is quoted follows.
pub const HEADER_LEN: usize = 8;
/// The most bytes of an ICMP error with its IP header: RFC 1812 section 4.3.2.3 for IPv4.
pub const MAX_LEN_V4: usize = 576;
/// The most bytes of an ICMPv6 error with its IP header: the minimum MTU (RFC 4443 section 2.4 (c)).
pub const MAX_LEN_V6: usize = 1280;

/// What an error says, for both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No route: type 3 codes 0, 6, 8, 11; ICMPv6 type 1 codes 0, 5, 6 and unknown ones.
    NetUnreachable,
    /// The host, or its link-layer address, cannot be found: type 3 codes 1, 5, 7, 12 and unknown ones; ICMPv6 type 1
    /// codes 2, 3.
    HostUnreachable,
    /// Nobody there speaks the protocol: type 3 code 2; ICMPv6 type 4 code 1.
    ProtocolUnreachable,
    /// Nobody listens at the port: type 3 code 3; ICMPv6 type 1 code 4.
    PortUnreachable,
    /// The packet is too big for a link: type 3 code 4 (RFC 1191); ICMPv6 type 2 (RFC 8201).
    TooBig {
        /// MTU of that link, in bytes. 0 from IPv4 routers that know nothing of RFC 1191.
        mtu: u32,
    },
    /// Refused by a policy: type 3 codes 9, 10, 13, 14, 15; ICMPv6 type 1 code 1.
    Prohibited,
    /// The time to live ran out: type 11 code 0; ICMPv6 type 3 code 0.
    HopLimit,
    /// Fragments were missing for too long: type 11 code 1; ICMPv6 type 3 code 1.
    ReassemblyTime,
    /// A field of the header is wrong: type 12; ICMPv6 type 4 but for code 1.
    Parameter,
}

/// The packet that an error quotes: ours, if its addresses and ports say so, as far as it was sent back.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    /// Its source.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Which fragment it was.
    pub fragment: Option<Fragment>,
    /// What there is of its payload.
    pub payload: &'a [u8],
}

impl Quote<'_> {
    /// Source and destination port, which UDP, TCP and SCTP all have in front; `None` where a later fragment, or too
    /// little, is quoted.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let first = self.fragment.is_none_or(|fragment| fragment.offset == 0);
        (first && self.payload.len() >= 4).then(|| (be16(self.payload, 0), be16(self.payload, 2)))
    }
}

/// An error whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    /// Type, as it is.
    pub kind: u8,
    /// Code, as it is.
    pub code: u8,
    /// What they mean.
    pub cause: Cause,
    /// The packet that it is about.
    pub quote: Quote<'a>,
}

/// Reads the ICMP or ICMPv6 error that `packet` carries.
///
/// # Errors
/// [`Malformed::NotIcmpError`] for every other message, redirects and echo included, and for a packet of another
/// protocol; [`Malformed::Checksum`]; and what is wrong with the quoted packet.
pub fn parse<'a>(packet: &Packet<'a>) -> Result<Error<'a>, Malformed> {
    let message = packet.payload;
    let v4 = packet.src.is_ipv4();
    let header = if v4 { Header::Icmp } else { Header::Icmpv6 };
    if packet.protocol != if v4 { protocol::ICMP } else { protocol::ICMPV6 } {
        return Err(Malformed::NotIcmpError { kind: message.first().copied().unwrap_or(0) });
    }
    if message.len() < HEADER_LEN {
        return Err(Malformed::Truncated { header, expected: HEADER_LEN, got: message.len() });
    }
    let (kind, code) = (message[0], message[1]);
    let cause =
        if v4 { cause_v4(kind, code, be16(message, 6)) } else { cause_v6(kind, code, be32(message, 4)) }
            .ok_or(Malformed::NotIcmpError { kind })?;
    let pseudo = if v4 {
        Sum::ZERO
    } else {
        let pseudo = checksum::pseudo(packet.src, packet.dst, protocol::ICMPV6, message.len() as u16);
        pseudo.unwrap_or(Sum::ZERO)
    };
    if pseudo.bytes(message).checksum() != 0 {
        let expected = pseudo.bytes(&message[..2]).bytes(&message[4..]).checksum();
        return Err(Malformed::Checksum { header, got: be16(message, 2), expected });
    }
    let quote = if v4 { quote_v4(&message[HEADER_LEN..]) } else { quote_v6(&message[HEADER_LEN..]) }?;
    Ok(Error { kind, code, cause, quote })
}

fn cause_v4(kind: u8, code: u8, mtu: u16) -> Option<Cause> {
    Some(match (kind, code) {
        (3, 0 | 6 | 8 | 11) => Cause::NetUnreachable,
        (3, 2) => Cause::ProtocolUnreachable,
        (3, 3) => Cause::PortUnreachable,
        (3, 4) => Cause::TooBig { mtu: mtu.into() },
        (3, 9 | 10 | 13 | 14 | 15) => Cause::Prohibited,
        (3, _) => Cause::HostUnreachable,
        (11, 0) => Cause::HopLimit,
        (11, 1) => Cause::ReassemblyTime,
        (12, _) => Cause::Parameter,
        _ => return None,
    })
}

fn cause_v6(kind: u8, code: u8, mtu: u32) -> Option<Cause> {
    Some(match (kind, code) {
        (1, 1) => Cause::Prohibited,
        (1, 2 | 3) => Cause::HostUnreachable,
        (1, 4) => Cause::PortUnreachable,
        (1, _) => Cause::NetUnreachable,
        (2, _) => Cause::TooBig { mtu },
        (3, 0) => Cause::HopLimit,
        (3, 1) => Cause::ReassemblyTime,
        (4, 1) => Cause::ProtocolUnreachable,
        (4, _) => Cause::Parameter,
        _ => return None,
    })
}

fn quote_v4(bytes: &[u8]) -> Result<Quote<'_>, Malformed> {
    let ip = ipv4::Header::parse_truncated(bytes)?;
    Ok(Quote {
        src: ip.src().into(),
        dst: ip.dst().into(),
        protocol: ip.protocol(),
        fragment: ip.fragment(),
        payload: ip.payload(),
    })
}

fn quote_v6(bytes: &[u8]) -> Result<Quote<'_>, Malformed> {
    let ip = ipv6::Header::parse_truncated(bytes)?;
    let upper = ipv6::upper(ip.next_header(), ip.payload(), true)?;
    Ok(Quote {
        src: ip.src().into(),
        dst: ip.dst().into(),
        protocol: upper.protocol,
        fragment: upper.fragment,
        payload: upper.payload,
    })
}

/// An error to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The second word of the header: the MTU of a "too big" error, else 0.
    pub word: u32,
}

impl Repr {
    /// "Port unreachable" of the version of `dst`.
    pub fn port_unreachable(dst: IpAddr) -> Repr {
        match dst {
            IpAddr::V4(_) => Repr { kind: 3, code: 3, word: 0 },
            IpAddr::V6(_) => Repr { kind: 1, code: 4, word: 0 },
        }
    }

    /// "Fragmentation needed" or "packet too big", of the version of `dst`, for a link with this MTU.
    pub fn too_big(dst: IpAddr, mtu: u32) -> Repr {
        match dst {
            IpAddr::V4(_) => Repr { kind: 3, code: 4, word: mtu & 0xffff },
            IpAddr::V6(_) => Repr { kind: 2, code: 0, word: mtu },
        }
    }

    /// Writes the message from `src` to `dst` that quotes `packet` (from its IP header on), as much as fits `out` and
    /// the bound of the version, and returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, src: IpAddr, dst: IpAddr, packet: &[u8], out: &mut [u8]) -> usize {
        let (bound, pseudo) = match (src, dst) {
            (IpAddr::V6(_), IpAddr::V6(_)) => (MAX_LEN_V6 - ipv6::HEADER_LEN, true),
            _ => (MAX_LEN_V4 - ipv4::HEADER_LEN, false),
        };
        let quoted = packet.len().min(out.len().min(bound) - HEADER_LEN);
        let len = HEADER_LEN + quoted;
        let out = &mut out[..len];
        (out[0], out[1]) = (self.kind, self.code);
        put16(out, 2, 0);
        put32(out, 4, self.word);
        out[HEADER_LEN..].copy_from_slice(&packet[..quoted]);
        let sum = match checksum::pseudo(src, dst, protocol::ICMPV6, len as u16) {
            Some(sum) if pseudo => sum,
            _ => Sum::ZERO,
        };
        let sum = sum.bytes(out).checksum();
        put16(out, 2, sum);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mac, udp};
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn addresses(v6: bool) -> (IpAddr, IpAddr) {
        match v6 {
            false => ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()),
            true => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
        }
    }

    /// A UDP packet from its IP header on.
    fn packet(v6: bool, payload: usize) -> Vec<u8> {
        let len = (payload + 8) as u16;
        let mut bytes = vec![0; if v6 { 48 } else { 28 } + payload];
        match addresses(v6) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::Repr {
                src,
                dst,
                protocol: protocol::UDP,
                ttl: 64,
                tos: 0,
                id: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                payload_len: len,
            }
            .emit(&mut bytes),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::Repr {
                src,
                dst,
                next_header: protocol::UDP,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 0,
                payload_len: len,
            }
            .emit(&mut bytes),
            _ => unreachable!("both are of one version"),
        }
        let l4 = if v6 { 40 } else { 20 };
        udp::Repr { src_port: 4000, dst_port: 53, payload_len: payload as u16 }.emit(0, &mut bytes[l4..]);
        bytes
    }

    /// The message, as the packet that carries it back.
    fn carried(v6: bool, message: &[u8]) -> Packet<'_> {
        let (src, dst) = addresses(v6);
        Packet {
            ether_src: Mac::default(),
            ether_dst: Mac::default(),
            src: dst,
            dst: src,
            protocol: if v6 { protocol::ICMPV6 } else { protocol::ICMP },
            ttl: 64,
            tos: 0,
            fragment: None,
            payload: message,
            l3: 14,
        }
    }

    #[test]
    fn round_trip_of_each_error_with_its_quote() {
        for v6 in [false, true] {
            let (src, dst) = addresses(v6);
            for (repr, cause) in [
                (Repr::port_unreachable(dst), Cause::PortUnreachable),
                (Repr::too_big(dst, 1400), Cause::TooBig { mtu: 1400 }),
            ] {
                let mut out = [0; 2000];
                let len = repr.emit(dst, src, &packet(v6, 1400), &mut out);
                assert_eq!(len, if v6 { 1240 } else { 556 });
                let error = parse(&carried(v6, &out[..len])).unwrap();
                assert_eq!((error.kind, error.code, error.cause), (repr.kind, repr.code, cause));
                assert_eq!((error.quote.src, error.quote.dst), (src, dst));
                assert_eq!(error.quote.protocol, protocol::UDP);
                assert_eq!(error.quote.ports(), Some((4000, 53)));
                out[len - 1] ^= 1;
                let refused = parse(&carried(v6, &out[..len])).unwrap_err();
                assert!(matches!(refused, Malformed::Checksum { .. }), "{refused}");
            }
        }
    }

    #[test]
    fn a_quoted_later_fragment_has_no_ports() {
        let mut quoted = packet(false, 8);
        put16(&mut quoted, 6, 0x2001);
        let (src, dst) = addresses(false);
        let mut out = [0; 100];
        let len = Repr { kind: 11, code: 1, word: 0 }.emit(dst, src, &quoted, &mut out);
        let error = parse(&carried(false, &out[..len])).unwrap();
        assert_eq!((error.cause, error.quote.ports()), (Cause::ReassemblyTime, None));
    }

    #[test]
    fn echo_and_redirect_are_no_errors() {
        for (v6, kind) in [(false, 8), (false, 5), (true, 128), (true, 137)] {
            let message = [kind, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(parse(&carried(v6, &message)).unwrap_err(), Malformed::NotIcmpError { kind });
        }
    }

    proptest! {
        #[test]
        fn never_panics(v6: bool, mut message in proptest::collection::vec(any::<u8>(), 0..120)) {
            if message.len() >= 4 {
                message[0] = if v6 { message[0] % 5 } else { 3 };
                put16(&mut message, 2, 0);
                let (src, dst) = addresses(v6);
                let pseudo = if v6 { checksum::pseudo(dst, src, protocol::ICMPV6, message.len() as u16).unwrap() } else { Sum::ZERO };
                let sum = pseudo.bytes(&message).checksum();
                put16(&mut message, 2, sum);
            }
            if let Ok(error) = parse(&carried(v6, &message)) {
                let _ = error.quote.ports();
            }
        }
    }
}
