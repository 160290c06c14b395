//! A received frame, read in one pass.

use crate::{Header, Mac, Malformed, ethernet, ipv4, ipv6};
use core::net::IpAddr;

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits for IPv4, 32 for IPv6.
    pub id: u32,
    /// Where its payload belongs in the packet's, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether further fragments follow.
    pub more: bool,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Ethernet source.
    pub ether_src: Mac,
    /// Ethernet destination.
    pub ether_dst: Mac,
    /// IP source; of the same version as the destination.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// Protocol of the payload, behind any extension headers. For an IPv6 fragment see [`ipv6::Upper::protocol`].
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Which fragment it is; `None` for a whole packet.
    pub fragment: Option<Fragment>,
    /// What follows the IP headers, without Ethernet padding.
    pub payload: &'a [u8],
    /// Offset of the IP header in the frame.
    pub l3: usize,
}

/// Reads a received frame: Ethernet II, then IPv4 with its options or IPv6 with its extension headers.
///
/// A super-packet that the kernel merged or never cut reads the same way: its lengths cover the whole of it.
///
/// # Errors
/// [`Malformed::NotIp`] for what carries something else, and every other reason that [`ipv4::Header::parse`],
/// [`ipv6::Header::parse`] and [`ipv6::upper`] give.
#[inline]
pub fn parse_frame(frame: &[u8]) -> Result<Packet<'_>, Malformed> {
    let ether = ethernet::View::parse(frame)?;
    let l3 = ethernet::HEADER_LEN;
    match ether.ethertype() {
        ethernet::IPV4 => {
            let ip = ipv4::Header::parse(ether.payload())?;
            Ok(Packet {
                ether_src: ether.src(),
                ether_dst: ether.dst(),
                src: IpAddr::V4(ip.src()),
                dst: IpAddr::V4(ip.dst()),
                protocol: ip.protocol(),
                ttl: ip.ttl(),
                tos: ip.tos(),
                fragment: ip.fragment(),
                payload: ip.payload(),
                l3,
            })
        }
        ethernet::IPV6 => {
            let ip = ipv6::Header::parse(ether.payload())?;
            let upper = ipv6::upper(ip.next_header(), ip.payload(), true)?;
            Ok(Packet {
                ether_src: ether.src(),
                ether_dst: ether.dst(),
                src: IpAddr::V6(ip.src()),
                dst: IpAddr::V6(ip.dst()),
                protocol: upper.protocol,
                ttl: ip.hop_limit(),
                tos: ip.traffic_class(),
                fragment: upper.fragment,
                payload: upper.payload,
                l3,
            })
        }
        ethertype => Err(Malformed::NotIp { ethertype }),
    }
}

impl Packet<'_> {
    /// The IP header in which the packet came.
    pub fn header(&self) -> Header {
        if self.src.is_ipv4() { Header::Ipv4 } else { Header::Ipv6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol, udp};
    use proptest::prelude::*;
    use std::{net::Ipv6Addr, vec, vec::Vec};

    fn frame(v6: bool, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u16 + 8;
        let mut bytes = vec![0; if v6 { 62 } else { 42 }];
        let ethertype = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
        ethernet::Repr { dst: Mac([2, 0, 0, 0, 0, 2]), src: Mac([2, 0, 0, 0, 0, 1]), ethertype }
            .emit(&mut bytes);
        if v6 {
            ipv6::Repr {
                src: Ipv6Addr::LOCALHOST,
                dst: Ipv6Addr::LOCALHOST,
                next_header: protocol::UDP,
                hop_limit: 64,
                traffic_class: 0x2e,
                flow_label: 5,
                payload_len: len,
            }
            .emit(&mut bytes[14..]);
        } else {
            ipv4::Repr {
                src: [10, 0, 0, 1].into(),
                dst: [10, 0, 0, 2].into(),
                protocol: protocol::UDP,
                ttl: 64,
                tos: 0x2e,
                id: 1,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                payload_len: len,
            }
            .emit(&mut bytes[14..]);
        }
        let l4 = bytes.len() - 8;
        udp::Repr { src_port: 7, dst_port: 9, payload_len: len - 8 }.emit(0, &mut bytes[l4..]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn both_versions_are_read_and_padding_dropped() {
        for v6 in [false, true] {
            let mut bytes = frame(v6, b"hello");
            bytes.extend([0; 18]);
            let packet = parse_frame(&bytes).unwrap();
            assert_eq!(packet.src.is_ipv6(), v6);
            assert_eq!((packet.protocol, packet.ttl, packet.tos, packet.fragment), (17, 64, 0x2e, None));
            assert_eq!(packet.payload.len(), 13);
            assert_eq!(udp::Header::parse(packet.payload).unwrap().payload(), b"hello");
        }
    }

    #[test]
    fn what_is_not_ip_says_what_it_is() {
        let mut bytes = frame(false, b"");
        bytes[12..14].copy_from_slice(&ethernet::ARP.to_be_bytes());
        assert_eq!(parse_frame(&bytes).unwrap_err(), Malformed::NotIp { ethertype: ethernet::ARP });
        bytes[12..14].copy_from_slice(&ethernet::IPV6.to_be_bytes());
        assert_eq!(
            parse_frame(&bytes).unwrap_err(),
            Malformed::Truncated { header: Header::Ipv6, expected: 40, got: 28 }
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in proptest::option::of(proptest::sample::select(vec![0x0800u16, 0x86dd]))) {
            let mut bytes = bytes;
            if let Some(ethertype) = ethertype && bytes.len() >= 15 {
                crate::put16(&mut bytes, 12, ethertype);
                bytes[14] = if ethertype == 0x0800 { 0x45 } else { 0x60 };
            }
            let _ = parse_frame(&bytes);
        }

        #[test]
        fn a_cut_or_damaged_frame_never_panics(v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let mut bytes = frame(v6, &payload);
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = parse_frame(&bytes[..cut.index(bytes.len())]);
            if let Ok(packet) = parse_frame(&bytes) {
                let _ = udp::Header::parse(packet.payload).map(|view| view.verify(packet.src, packet.dst));
            }
        }
    }
}
