use super::*;
use crate::{Mac, ethernet, protocol};
use core::net::IpAddr;
use proptest::prelude::*;
use std::{vec, vec::Vec};

/// Headers for `payload_len` bytes, with the sum of the pseudo-header in the checksum field.
fn header(
    v6: bool,
    transport: Transport,
    payload_len: usize,
    id: u16,
    sequence: u32,
    flags: u8,
) -> (Vec<u8>, usize) {
    let (src, dst): (IpAddr, IpAddr) = match v6 {
        false => ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()),
        true => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
    };
    let (protocol, l4_len) = match transport {
        Transport::Udp => (protocol::UDP, 8),
        Transport::Tcp => (protocol::TCP, 24),
    };
    let l4 = if v6 { 54 } else { 34 };
    let len = (l4_len + payload_len) as u16;
    let mut bytes = vec![0; l4 + l4_len];
    let ethertype = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    ethernet::Repr { dst: Mac::BROADCAST, src: Mac([2; 6]), ethertype }.emit(&mut bytes);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::Repr {
            src,
            dst,
            protocol,
            ttl: 64,
            tos: 0,
            id,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: len,
        }
        .emit(&mut bytes[14..]),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::Repr {
            src,
            dst,
            next_header: protocol,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
            payload_len: len,
        }
        .emit(&mut bytes[14..]),
        _ => unreachable!("both are of one version"),
    }
    let pseudo = checksum::pseudo(src, dst, protocol, len).unwrap().partial();
    match transport {
        Transport::Udp => {
            let repr = udp::Repr { src_port: 1000, dst_port: 2000, payload_len: payload_len as u16 };
            repr.emit(pseudo, &mut bytes[l4..]);
        }
        Transport::Tcp => {
            let tcp = &mut bytes[l4..];
            put16(tcp, 0, 1000);
            put16(tcp, 2, 2000);
            put32(tcp, 4, sequence);
            (tcp[12], tcp[13]) = (0x60, flags);
            put16(tcp, 16, pseudo);
            tcp[20..].copy_from_slice(&[1, 1, 1, 0]);
        }
    }
    (bytes, l4)
}

proptest! {
    /// Each frame of a super-packet is byte for byte the one that would have been built for its payload alone.
    #[test]
    fn equals_building_each_alone(v6: bool, tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..5000),
                                  segment in 1usize..1500, id: u16, sequence: u32, flags: u8) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let (whole, l4) = header(v6, transport, payload.len(), id, sequence, flags);
        let plan = Super::new(&whole, 14, l4, payload.len(), segment, transport).unwrap();
        let mut seen: Vec<u8> = Vec::new();
        for index in 0..plan.frames() {
            let mut frame = vec![0; whole.len()];
            let span = plan.emit(index, &mut frame);
            let part = &payload[span.offset..span.offset + span.len];
            seen.extend(part);
            frame.extend(part);
            finish_checksum(&mut frame, l4, plan.checksum_offset());

            let (first, last) = (index == 0, index + 1 == plan.frames());
            let flags = flags & if first { 0xff } else { !0x80 } & if last { 0xff } else { !0x09 };
            let (mut alone, _) = header(v6, transport, part.len(), id.wrapping_add(index as u16),
                                        sequence.wrapping_add(span.offset as u32), flags);
            alone.extend(part);
            finish_checksum(&mut alone, l4, plan.checksum_offset());
            prop_assert_eq!(&frame, &alone);

            let packet = crate::parse_frame(&frame).unwrap();
            if !tcp {
                let datagram = udp::Header::parse(packet.payload).unwrap();
                prop_assert_eq!(datagram.payload(), part);
                prop_assert_eq!(datagram.verify(packet.src, packet.dst).map(|v| v != udp::Verdict::Absent), Ok(true));
            }
        }
        prop_assert_eq!(seen, payload);
    }
}

#[test]
fn a_header_that_is_none_is_refused() {
    let (bytes, l4) = header(false, Transport::Udp, 100, 1, 0, 0);
    let new = |header, l3, l4, segment| Super::new(header, l3, l4, 100, segment, Transport::Udp).err();
    assert_eq!(new(&bytes, 14, l4, 10), None);
    assert_eq!(new(&bytes, 0, l4, 10), Some(BadSuper::Ip(0)));
    assert_eq!(new(&bytes, 999, l4, 10), Some(BadSuper::Ip(999)));
    assert_eq!(new(&bytes, 14, l4 + 4, 10), Some(BadSuper::Ip(14)));
    assert_eq!(new(&bytes[..41], 14, l4, 10), Some(BadSuper::Transport(l4)));
    assert_eq!(new(&bytes, 14, l4, 0), Some(BadSuper::Segment));
    let long = Super::new(&bytes, 14, l4, 65_508, 65_508, Transport::Udp).err();
    assert_eq!(long, Some(BadSuper::TooLong(65_508)));
    assert!(Super::new(&bytes, 14, l4, 65_507, 65_507, Transport::Udp).is_ok());
}
