//! IPv6 and its extension headers (RFC 8200).

use crate::{Fragment, Header as Layer, Malformed, be16, be32, put16, put32};
use core::net::{IpAddr, Ipv6Addr};

/// Length of the header without extensions, in bytes.
pub const HEADER_LEN: usize = 40;
/// Length of a fragment header, in bytes.
pub const FRAGMENT_LEN: usize = 8;
/// The most extension headers accepted in one packet. RFC 8504 section 5.3 lets a host set such a bound.
pub const MAX_EXTENSIONS: usize = 8;

/// Next Header value of a hop-by-hop options header.
pub const HOP_BY_HOP: u8 = 0;
/// Next Header value of a routing header.
pub const ROUTING: u8 = 43;
/// Next Header value of a fragment header.
pub const FRAGMENT: u8 = 44;
/// Next Header value of an authentication header.
pub const AUTHENTICATION: u8 = 51;
/// Next Header value where nothing follows.
pub const NO_NEXT: u8 = 59;
/// Next Header value of a destination options header.
pub const DESTINATION: u8 = 60;

/// A packet whose fixed header is whole and right. Its extension headers are walked by [`upper`].
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    /// Checks version, length and source address. What follows the payload (Ethernet padding) is cut off. Jumbograms
    /// (RFC 2675) are not accepted.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::LongLength`], [`Malformed::Source`].
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let view = Self::parse_truncated(packet)?;
        let claimed = usize::from(be16(packet, 4));
        let available = packet.len() - HEADER_LEN;
        if claimed > available {
            return Err(Malformed::LongLength { header: Layer::Ipv6, claimed, available });
        }
        if packet[8] == 0xff {
            return Err(Malformed::Source { address: IpAddr::V6(view.src()) });
        }
        Ok(view)
    }

    /// Checks that the fixed header is whole, and its version, for a packet quoted by ICMPv6, which is cut short. The
    /// payload is what there is of it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`].
    #[inline]
    pub fn parse_truncated(packet: &'a [u8]) -> Result<Self, Malformed> {
        if packet.len() < HEADER_LEN {
            return Err(Malformed::Truncated {
                header: Layer::Ipv6,
                expected: HEADER_LEN,
                got: packet.len(),
            });
        }
        if packet[0] >> 4 != 6 {
            return Err(Malformed::Version { expected: 6, got: packet[0] >> 4 });
        }
        let (header, payload) = packet.split_at(HEADER_LEN);
        Ok(Header { header, payload: &payload[..payload.len().min(be16(packet, 4).into())] })
    }

    /// What follows the fixed header, extension headers included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.header, 0) >> 4) as u8
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        be32(self.header, 0) & 0xf_ffff
    }

    /// What the payload starts with.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        self.address(24)
    }

    #[inline]
    fn address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[at..at + 16]);
        octets.into()
    }
}

/// What the extension headers lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// Protocol of the payload. In a fragment it is what the fragment header says, which may be a further extension
    /// header: the walk ends at a fragment, and goes on with [`upper`] once the packet is whole.
    pub protocol: u8,
    /// Which fragment it is; `None` for a whole packet, and for an atomic fragment (RFC 6946), which is one.
    pub fragment: Option<Fragment>,
    /// The payload.
    pub payload: &'a [u8],
}

/// Walks extension headers from one of type `next` at the start of `bytes` to the payload.
///
/// `after_fixed` says that `bytes` follows the fixed header, where alone hop-by-hop options may stand. Authentication
/// headers are stepped over: without a security association there is nothing to verify them by.
///
/// # Errors
/// Any [`Malformed`] that names an extension header, [`Malformed::HopByHopNotFirst`], [`Malformed::SegmentsLeft`],
/// [`Malformed::TooManyExtensions`], [`Malformed::FragmentBeyondPacket`].
#[inline]
pub fn upper(next: u8, bytes: &[u8], after_fixed: bool) -> Result<Upper<'_>, Malformed> {
    match next {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION => walk(next, bytes, after_fixed),
        protocol => Ok(Upper { protocol, fragment: None, payload: bytes }),
    }
}

fn walk(mut next: u8, mut bytes: &[u8], mut after_fixed: bool) -> Result<Upper<'_>, Malformed> {
    for _ in 0..MAX_EXTENSIONS {
        let header = match next {
            HOP_BY_HOP if !after_fixed => return Err(Malformed::HopByHopNotFirst),
            HOP_BY_HOP => Layer::HopByHop,
            ROUTING => Layer::Routing,
            FRAGMENT => Layer::Fragment,
            AUTHENTICATION => Layer::Authentication,
            DESTINATION => Layer::Destination,
            protocol => return Ok(Upper { protocol, fragment: None, payload: bytes }),
        };
        after_fixed = false;
        let truncated = |expected| Malformed::Truncated { header, expected, got: bytes.len() };
        // Every extension header is at least 8 bytes long.
        if bytes.len() < 8 {
            return Err(truncated(8));
        }
        let len = match header {
            Layer::Fragment => FRAGMENT_LEN,
            // RFC 4302 section 2.2: in 4-byte units, minus 2.
            Layer::Authentication => (usize::from(bytes[1]) + 2) * 4,
            _ => (usize::from(bytes[1]) + 1) * 8,
        };
        if len > bytes.len() {
            return Err(truncated(len));
        }
        match header {
            Layer::Fragment => {
                if let Some(fragment) = fragment(bytes)? {
                    let payload = &bytes[FRAGMENT_LEN..];
                    return Ok(Upper { protocol: bytes[0], fragment: Some(fragment), payload });
                }
            }
            Layer::Routing if bytes[3] != 0 => {
                return Err(Malformed::SegmentsLeft { kind: bytes[2], left: bytes[3] });
            }
            Layer::HopByHop | Layer::Destination => check_options(header, &bytes[2..len])?,
            Layer::Authentication if len < 12 => {
                return Err(Malformed::ShortLength { header, least: 12, got: len });
            }
            _ => {}
        }
        next = bytes[0];
        bytes = &bytes[len..];
    }
    match next {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION => Err(Malformed::TooManyExtensions),
        protocol => Ok(Upper { protocol, fragment: None, payload: bytes }),
    }
}

/// The fragment header at the start of `bytes`, which are at least its length; `None` for an atomic fragment.
fn fragment(bytes: &[u8]) -> Result<Option<Fragment>, Malformed> {
    let field = be16(bytes, 2);
    let (offset, more) = (field & 0xfff8, field & 1 != 0);
    if offset == 0 && !more {
        return Ok(None);
    }
    let len = bytes.len() - FRAGMENT_LEN;
    if usize::from(offset) + len > 0xffff {
        return Err(Malformed::FragmentBeyondPacket { offset: offset.into(), len });
    }
    Ok(Some(Fragment { id: be32(bytes, 4), offset, more }))
}

/// Walks options (RFC 8200 section 4.2). One that is not known is skipped if its two highest bits are 0, and else the
/// packet is discarded.
fn check_options(header: Layer, mut options: &[u8]) -> Result<(), Malformed> {
    const PAD1: u8 = 0;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest.first()) {
            (PAD1, _) => rest,
            (kind, Some(&len)) if usize::from(len) + 2 <= options.len() => {
                if kind >> 6 != 0 {
                    return Err(Malformed::OptionRefused { header, kind });
                }
                &options[usize::from(len) + 2..]
            }
            (kind, _) => return Err(Malformed::OptionLength { header, kind }),
        };
    }
    Ok(())
}

/// A fixed header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// What the payload starts with.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes of payload, extension headers included.
    pub payload_len: u16,
}

impl Repr {
    /// The fields of a view.
    pub fn parse(view: &Header<'_>) -> Repr {
        Repr {
            src: view.src(),
            dst: view.dst(),
            next_header: view.next_header(),
            hop_limit: view.hop_limit(),
            traffic_class: view.traffic_class(),
            flow_label: view.flow_label(),
            payload_len: view.payload().len() as u16,
        }
    }

    /// Writes the header to the first [`HEADER_LEN`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        put32(out, 0, 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0xf_ffff));
        put16(out, 4, self.payload_len);
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..40].copy_from_slice(&self.dst.octets());
    }
}

/// Writes a fragment header to the first [`FRAGMENT_LEN`] bytes of `out`.
///
/// # Panics
/// If `out` is shorter.
#[inline]
pub fn emit_fragment(next_header: u8, fragment: Fragment, out: &mut [u8]) {
    let out = &mut out[..FRAGMENT_LEN];
    out[0] = next_header;
    out[1] = 0;
    put16(out, 2, (fragment.offset & 0xfff8) | u16::from(fragment.more));
    put32(out, 4, fragment.id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec, vec::Vec};

    fn refusal(next: u8, bytes: &[u8]) -> Malformed {
        upper(next, bytes, true).unwrap_err()
    }

    #[test]
    fn every_extension_is_stepped_over_to_the_payload() {
        let mut bytes = Vec::new();
        bytes.extend([ROUTING, 0, 5, 2, 0, 0, 1, 0]); // hop-by-hop: router alert, PadN
        bytes.extend([DESTINATION, 0, 2, 0, 0, 0, 0, 0]); // routing, no segments left
        bytes.extend([AUTHENTICATION, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination: PadN
        bytes.extend([FRAGMENT, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]); // authentication, 12 bytes
        bytes.extend([17, 0, 0, 0, 0, 0, 0, 9]); // atomic fragment
        bytes.extend(b"datagram");
        assert_eq!(
            upper(HOP_BY_HOP, &bytes, true).unwrap(),
            Upper { protocol: 17, fragment: None, payload: b"datagram" }
        );
        for cut in 0..bytes.len() - 8 {
            assert!(matches!(refusal(HOP_BY_HOP, &bytes[..cut]), Malformed::Truncated { .. }), "{cut}");
        }
        assert_eq!(upper(HOP_BY_HOP, &bytes, false).unwrap_err(), Malformed::HopByHopNotFirst);
    }

    #[test]
    fn the_walk_ends_at_a_fragment() {
        let mut bytes = vec![0; FRAGMENT_LEN];
        let fragment = Fragment { id: 0xdead_beef, offset: 1448, more: true };
        emit_fragment(DESTINATION, fragment, &mut bytes);
        bytes.extend(b"tail");
        assert_eq!(
            upper(FRAGMENT, &bytes, true).unwrap(),
            Upper { protocol: DESTINATION, fragment: Some(fragment), payload: b"tail" }
        );
    }

    #[test]
    fn each_defect_is_named() {
        let mut packet = [0; 44];
        let repr = Repr {
            src: Ipv6Addr::LOCALHOST,
            dst: Ipv6Addr::LOCALHOST,
            next_header: NO_NEXT,
            hop_limit: 1,
            traffic_class: 0,
            flow_label: 0,
            payload_len: 5,
        };
        repr.emit(&mut packet);
        let error = |packet: &[u8]| Header::parse(packet).unwrap_err().to_string();
        assert_eq!(error(&packet), "IPv6 length field says 5, only 4 bytes are there");
        assert_eq!(error(&packet[..39]), "IPv6 header needs 40 bytes, the packet has 39");
        packet[0] = 0x45;
        assert_eq!(error(&packet), "IP version 4, expected 6");
        (packet[0], packet[5], packet[8]) = (0x60, 4, 0xff);
        assert_eq!(error(&packet), "ff00::1 cannot be a source address");

        assert_eq!(
            refusal(DESTINATION, &[17, 0, 0xc9, 4, 0, 0, 0, 0]),
            Malformed::OptionRefused { header: Layer::Destination, kind: 0xc9 }
        );
        assert_eq!(
            refusal(DESTINATION, &[17, 0, 1, 5, 0, 0, 0, 0]),
            Malformed::OptionLength { header: Layer::Destination, kind: 1 }
        );
        assert_eq!(
            refusal(ROUTING, &[17, 0, 0, 1, 0, 0, 0, 0]),
            Malformed::SegmentsLeft { kind: 0, left: 1 }
        );
        assert_eq!(
            refusal(AUTHENTICATION, &[17, 0, 0, 0, 0, 0, 0, 0]),
            Malformed::ShortLength { header: Layer::Authentication, least: 12, got: 8 }
        );
        let chain = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(9);
        assert_eq!(refusal(DESTINATION, &chain), Malformed::TooManyExtensions);
        let mut late = [17, 0, 0xff, 0xf9, 0, 0, 0, 1].to_vec();
        late.extend([0; 8]);
        assert_eq!(refusal(FRAGMENT, &late), Malformed::FragmentBeyondPacket { offset: 0xfff8, len: 8 });
    }

    proptest! {
        #[test]
        fn round_trip(mut src: [u8; 16], dst: [u8; 16], next_header: u8, hop_limit: u8, traffic_class: u8,
                      flow_label in 0u32..0x10_0000, payload_len in 0u16..3000) {
            src[0] &= 0x7f;
            let repr = Repr {
                src: src.into(), dst: dst.into(), next_header, hop_limit, traffic_class, flow_label, payload_len,
            };
            let mut bytes = vec![0; HEADER_LEN + usize::from(payload_len)];
            repr.emit(&mut bytes);
            prop_assert_eq!(Repr::parse(&Header::parse(&bytes).unwrap()), repr);
        }

        #[test]
        fn the_walk_never_panics(next in proptest::sample::select(vec![0u8, 43, 44, 51, 60]),
                                 bytes in proptest::collection::vec(prop_oneof![
                                     any::<u8>(), proptest::sample::select(vec![0u8, 43, 44, 51, 60, 1])], 0..200),
                                 after_fixed: bool) {
            if let Ok(upper) = upper(next, &bytes, after_fixed) {
                prop_assert!(bytes.ends_with(upper.payload));
            }
            let _ = Header::parse(&bytes);
        }
    }
}
