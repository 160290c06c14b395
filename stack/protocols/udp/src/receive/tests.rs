use super::*;
use freena_wire::{Sum, checksum, ipv4, parse_frame, protocol, udp::Repr};
use std::net::{IpAddr, Ipv4Addr};

const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const DST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// An Ethernet frame with a UDP datagram from SRC:1000 to DST:7.
fn frame(payload: &[u8], sum: impl Fn(&[u8]) -> u16) -> Vec<u8> {
    let mut frame = vec![0u8; 14 + 20 + 8 + payload.len()];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[42..].copy_from_slice(payload);
    let udp = Repr { src_port: 1000, dst_port: 7, payload_len: payload.len() as u16 };
    udp.emit(0, &mut frame[34..]);
    let sum = sum(&frame[34..]);
    udp.emit(sum, &mut frame[34..]);
    ipv4::Repr {
        src: SRC,
        dst: DST,
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        id: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: (8 + payload.len()) as u16,
    }
    .emit(&mut frame[14..]);
    frame
}

fn right(segment: &[u8]) -> u16 {
    pseudo(segment).bytes(segment).nonzero_checksum()
}

fn partial(segment: &[u8]) -> u16 {
    pseudo(segment).partial()
}

fn pseudo(segment: &[u8]) -> Sum {
    checksum::pseudo_v4(SRC, DST, protocol::UDP, segment.len() as u16)
}

fn engine() -> Udp {
    let mut udp = Udp::default();
    let local = IpAddr::V4(DST);
    udp.bind(5, Binding { local, port: 7, peer: None, ifindex: 0, dual: false, share: false });
    udp
}

#[test]
fn a_right_checksum_is_accepted_and_lends_the_payload() {
    let frame = frame(b"hello", right);
    let mut udp = engine();
    let packet = parse_frame(&frame).unwrap();
    let got = udp.receive(&packet, RxChecksum::Unknown, 0, 3).unwrap();
    assert_eq!((got.socket, got.payload, got.segment), (5, &b"hello"[..], 0));
    assert_eq!((got.flow.src_port, got.flow.dst_port, got.flow.ifindex), (1000, 7, 3));
    assert_eq!(udp.stats().delivered, 1);
}

#[test]
fn a_wrong_checksum_is_refused_rfc1122_4_1_3_4() {
    let frame = frame(b"hello", |s| right(s) ^ 0x0101);
    let mut udp = engine();
    let packet = parse_frame(&frame).unwrap();
    for known in [RxChecksum::Unknown, RxChecksum::MayBePartial] {
        assert_eq!(udp.receive(&packet, known, 0, 3).unwrap_err(), Drop::Checksum);
    }
    assert_eq!(udp.stats().checksum, 2);
}

#[test]
fn a_partial_checksum_is_accepted_where_the_link_leaves_it_and_nowhere_else() {
    let frame = frame(b"hello", partial);
    let mut udp = engine();
    let packet = parse_frame(&frame).unwrap();
    assert!(udp.receive(&packet, RxChecksum::MayBePartial, 0, 3).is_ok());
    assert_eq!(udp.stats().partial_checksum, 1);
    assert_eq!(udp.receive(&packet, RxChecksum::Unknown, 0, 3).unwrap_err(), Drop::Checksum);
}

#[test]
fn no_checksum_is_allowed_over_ipv4_rfc768() {
    let frame = frame(b"hello", |_| 0);
    let packet = parse_frame(&frame).unwrap();
    assert!(engine().receive(&packet, RxChecksum::Unknown, 0, 3).is_ok());
}

#[test]
fn another_port_has_no_socket() {
    let mut frame = frame(b"hello", |_| 0);
    frame[37] = 8;
    let packet = parse_frame(&frame).unwrap();
    assert_eq!(engine().receive(&packet, RxChecksum::Unknown, 0, 3).unwrap_err(), Drop::NoSocket);
}

#[test]
fn a_length_field_beyond_the_packet_is_malformed() {
    let mut frame = frame(b"hello", |_| 0);
    frame[39] = 200;
    let packet = parse_frame(&frame).unwrap();
    assert_eq!(engine().receive(&packet, RxChecksum::Unknown, 0, 3).unwrap_err(), Drop::Malformed);
}

#[test]
fn a_super_packet_counts_its_datagrams() {
    let frame = frame(&[7; 1000], right);
    let mut udp = engine();
    let packet = parse_frame(&frame).unwrap();
    let got = udp.receive(&packet, RxChecksum::Unknown, 300, 3).unwrap();
    assert_eq!((got.payload.len(), got.segment), (1000, 300));
    assert_eq!(udp.stats().delivered, 4);
    assert_eq!(udp.receive(&packet, RxChecksum::Unknown, 1000, 3).unwrap().segment, 0);
}
