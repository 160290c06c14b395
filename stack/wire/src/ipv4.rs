//! IPv4 (RFC 791).

use crate::{Fragment, Header as Layer, Malformed, Sum, be16, put16};
use core::net::{IpAddr, Ipv4Addr};

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// The most bytes that a packet can have, its header included.
pub const MAX_LEN: usize = 0xffff;

/// Loose and strict source route (RFC 791 section 3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// A packet whose header is whole and right.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    /// Checks version, lengths, checksum, options and source address. What follows the total length (Ethernet padding)
    /// is cut off.
    ///
    /// # Errors
    /// Any [`Malformed`] that names [`Layer::Ipv4`], and [`Malformed::Version`], [`Malformed::Source`],
    /// [`Malformed::FragmentBeyondPacket`].
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let view = Self::parse_truncated(packet)?;
        let total = be16(packet, 2) as usize;
        let header_len = view.header.len();
        if total < header_len {
            return Err(Malformed::ShortLength { header: Layer::Ipv4, least: header_len, got: total });
        }
        if total > packet.len() {
            return Err(Malformed::LongLength {
                header: Layer::Ipv4,
                claimed: total,
                available: packet.len(),
            });
        }
        let sum = Sum::ZERO.bytes(view.header);
        if sum.checksum() != 0 {
            let got = be16(packet, 10);
            let expected = crate::checksum::add(sum.checksum(), got);
            return Err(Malformed::Checksum { header: Layer::Ipv4, got, expected });
        }
        if header_len > HEADER_LEN {
            check_options(&view.header[HEADER_LEN..])?;
        }
        let src = view.src();
        if src.is_multicast() || src.is_broadcast() {
            return Err(Malformed::Source { address: IpAddr::V4(src) });
        }
        let payload = &packet[header_len..total];
        if let Some(Fragment { offset, .. }) = view.fragment()
            && usize::from(offset) + total > MAX_LEN
        {
            return Err(Malformed::FragmentBeyondPacket { offset: offset.into(), len: payload.len() });
        }
        Ok(Header { header: view.header, payload })
    }

    /// Checks version and header length only, for a packet quoted by ICMP: it is cut short, and a router may have
    /// changed it without summing again. The payload is what there is of it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::ShortLength`].
    #[inline]
    pub fn parse_truncated(packet: &'a [u8]) -> Result<Self, Malformed> {
        let truncated =
            |expected| Err(Malformed::Truncated { header: Layer::Ipv4, expected, got: packet.len() });
        if packet.len() < HEADER_LEN {
            return truncated(HEADER_LEN);
        }
        if packet[0] >> 4 != 4 {
            return Err(Malformed::Version { expected: 4, got: packet[0] >> 4 });
        }
        let header_len = usize::from(packet[0] & 15) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::ShortLength { header: Layer::Ipv4, least: HEADER_LEN, got: header_len });
        }
        if header_len > packet.len() {
            return truncated(header_len);
        }
        let (header, payload) = packet.split_at(header_len);
        let total = usize::from(be16(packet, 2)).max(header_len);
        Ok(Header { header, payload: &payload[..payload.len().min(total - header_len)] })
    }

    /// Length of the header with its options.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// What follows the header, up to the total length.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Type of service: DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        be16(self.header, 4)
    }

    /// Whether routers must not fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.header[6] & 0x40 != 0
    }

    /// Which fragment it is; `None` for a whole packet.
    #[inline]
    pub fn fragment(&self) -> Option<Fragment> {
        let field = be16(self.header, 6);
        if field & 0x3fff == 0 {
            return None;
        }
        Some(Fragment { id: self.id().into(), offset: (field & 0x1fff) << 3, more: field & 0x2000 != 0 })
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// The options, as they are.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        &self.header[HEADER_LEN..]
    }
}

/// Walks the options (RFC 791 section 3.1): each must end inside the header, and none may be a source route, which hosts
/// refuse (RFC 7126 section 4.3; `accept_source_route` of Linux is off).
#[cold]
fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => break,
            1 => rest,
            kind if SOURCE_ROUTES.contains(kind) => {
                return Err(Malformed::OptionRefused { header: Layer::Ipv4, kind: *kind });
            }
            kind => match rest.first() {
                Some(&len) if len >= 2 && usize::from(len) <= options.len() => &options[usize::from(len)..],
                _ => return Err(Malformed::OptionLength { header: Layer::Ipv4, kind: *kind }),
            },
        };
    }
    Ok(())
}

/// A header without options to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification; any value will do for a whole packet that must not be fragmented (RFC 6864).
    pub id: u16,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// Whether further fragments follow.
    pub more_fragments: bool,
    /// Offset of a fragment, in bytes; a multiple of 8.
    pub fragment_offset: u16,
    /// Bytes of payload, at most 65,515.
    pub payload_len: u16,
}

impl Repr {
    /// The fields of a view, its options left out.
    pub fn parse(view: &Header<'_>) -> Repr {
        let fragment = view.fragment();
        Repr {
            src: view.src(),
            dst: view.dst(),
            protocol: view.protocol(),
            ttl: view.ttl(),
            tos: view.tos(),
            id: view.id(),
            dont_fragment: view.dont_fragment(),
            more_fragments: fragment.is_some_and(|fragment| fragment.more),
            fragment_offset: fragment.map_or(0, |fragment| fragment.offset),
            payload_len: view.payload().len() as u16,
        }
    }

    /// Writes the header, with its checksum, to the first [`HEADER_LEN`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        debug_assert!(
            self.fragment_offset.is_multiple_of(8) && usize::from(self.payload_len) + HEADER_LEN <= MAX_LEN
        );
        let out = &mut out[..HEADER_LEN];
        out[0] = 0x45;
        out[1] = self.tos;
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        put16(out, 6, flags | self.fragment_offset >> 3);
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        refit(out, self.payload_len.into(), self.id);
    }
}

/// Gives the header `header`, options included, another payload length and identification, and sums it again.
///
/// # Panics
/// If `header` is shorter than [`HEADER_LEN`].
#[inline]
pub fn refit(header: &mut [u8], payload_len: usize, id: u16) {
    put16(header, 2, (header.len() + payload_len) as u16);
    put16(header, 4, id);
    put16(header, 10, 0);
    let sum = Sum::ZERO.bytes(header).checksum();
    put16(header, 10, sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec, vec::Vec};

    fn packet(options: &[u8], payload: &[u8]) -> Vec<u8> {
        let repr = Repr {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            protocol: 17,
            ttl: 64,
            tos: 0,
            id: 7,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: payload.len() as u16,
        };
        let mut bytes = vec![0; HEADER_LEN];
        repr.emit(&mut bytes);
        bytes.extend(options);
        bytes[0] = 0x40 | (bytes.len() / 4) as u8;
        refit(&mut bytes, payload.len(), 7);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn padding_is_cut_off() {
        let mut bytes = packet(&[], b"abc");
        bytes.extend([0; 23]);
        assert_eq!(Header::parse(&bytes).unwrap().payload(), b"abc");
    }

    #[test]
    fn each_defect_is_named() {
        let good = packet(&[], b"abcd");
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Header::parse(&bytes).unwrap_err().to_string()
        };
        assert_eq!(refused(&|b| b.truncate(19)), "IPv4 header needs 20 bytes, the packet has 19");
        assert_eq!(refused(&|b| b[0] = 0x65), "IP version 6, expected 4");
        assert_eq!(refused(&|b| b[0] = 0x44), "IPv4 length field says 16, the least is 20");
        assert_eq!(refused(&|b| b[0] = 0x4f), "IPv4 header needs 60 bytes, the packet has 24");
        assert_eq!(refused(&|b| b[3] = 19), "IPv4 length field says 19, the least is 20");
        assert_eq!(refused(&|b| b[3] = 25), "IPv4 length field says 25, only 24 bytes are there");
        let right = be16(&good, 10);
        assert_eq!(
            refused(&|b| put16(b, 10, right ^ 0x0101)),
            std::format!("IPv4 checksum is {:#06x}, expected {right:#06x}", right ^ 0x0101)
        );
        assert_eq!(
            refused(&|b| {
                b[12] = 224;
                refit(&mut b[..20], 4, 7);
            }),
            "224.0.0.1 cannot be a source address"
        );
        assert_eq!(
            refused(&|b| {
                put16(b, 6, 0x1fff);
                refit(&mut b[..20], 4, 7);
            }),
            "fragment of 4 bytes at 65528 ends beyond 65,535"
        );
    }

    #[test]
    fn options_are_walked() {
        let router_alert = [148, 4, 0, 0];
        let bytes = packet(&router_alert, b"x");
        let view = Header::parse(&bytes).unwrap();
        assert_eq!((view.options(), view.payload()), (&router_alert[..], &b"x"[..]));
        assert_eq!(
            Header::parse(&packet(&[1, 1, 148, 4], b"x")).unwrap_err(),
            Malformed::OptionLength { header: Layer::Ipv4, kind: 148 }
        );
        assert_eq!(
            Header::parse(&packet(&[131, 3, 4, 0], b"x")).unwrap_err(),
            Malformed::OptionRefused { header: Layer::Ipv4, kind: 131 }
        );
    }

    proptest! {
        #[test]
        fn round_trip(src in 1u32..0xe000_0000, dst: u32, protocol: u8, ttl: u8, tos: u8, id: u16,
                      dont_fragment: bool, more_fragments: bool, offset in 0u16..4000, payload_len in 0u16..3000) {
            let repr = Repr {
                src: src.into(), dst: dst.into(), protocol, ttl, tos, id, dont_fragment, more_fragments,
                fragment_offset: offset * 8, payload_len,
            };
            let mut bytes = vec![0xa5; HEADER_LEN + usize::from(payload_len)];
            repr.emit(&mut bytes);
            prop_assert_eq!(Repr::parse(&Header::parse(&bytes).unwrap()), repr);
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), fix: bool) {
            if fix && bytes.len() >= 20 {
                bytes[0] = 0x40 | (bytes[0] & 15).max(5);
                let header = (usize::from(bytes[0] & 15) * 4).min(bytes.len());
                let payload = bytes.len() - header;
                refit(&mut bytes[..header], payload, 0);
            }
            let _ = Header::parse(&bytes);
            let _ = Header::parse_truncated(&bytes);
        }
    }
}
