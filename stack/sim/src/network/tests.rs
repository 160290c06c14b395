use super::*;
use freena_ip::{Limits, Pieces, Reassembler, emit_v4};
use freena_stack_api::{Chunk, Gso};
use freena_wire::{Mac, checksum, ethernet, ipv4, parse_frame, protocol, udp};
use std::net::Ipv4Addr;

const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const DST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn ip(payload: usize) -> ipv4::Repr {
    ipv4::Repr {
        src: SRC,
        dst: DST,
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: payload as u16,
    }
}

fn ether(out: &mut [u8]) {
    ethernet::Repr { dst: Mac([2; 6]), src: Mac([4; 6]), ethertype: ethernet::IPV4 }.emit(out);
}

/// Headers for `payload` bytes of data, with the sum of the pseudo-header.
fn headers(payload: usize) -> Vec<u8> {
    let len = payload + udp::HEADER_LEN;
    let mut header = vec![0; 42];
    ether(&mut header);
    ip(len).emit(&mut header[14..]);
    let pseudo = checksum::pseudo_v4(SRC, DST, protocol::UDP, len as u16).partial();
    udp::Repr { src_port: 1, dst_port: 2, payload_len: payload as u16 }.emit(pseudo, &mut header[34..]);
    header
}

fn send(link: &mut SimLink, payload: &[u8], segment: u16) {
    let header = headers(payload.len());
    let gso = if segment == 0 { Gso::None } else { Gso::Udp };
    let chunks = [Chunk::new(payload)];
    let payload_len = payload.len() as u32;
    let burst =
        Burst { header: &header, l3: 14, l4: 34, checksum: 6, payload: &chunks, payload_len, segment, gso };
    assert_eq!(link.transmit(&[burst]).unwrap(), 1);
}

/// The data of every datagram that has arrived and is right.
fn receive(link: &mut SimLink) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    link.receive(usize::MAX, &mut |frame| {
        let datagram = parse_frame(frame.data).and_then(|packet| {
            let view = udp::Header::parse(packet.payload)?;
            view.verify(packet.src, packet.dst).map(|verdict| (view.payload().to_vec(), verdict))
        });
        if let Ok((payload, udp::Verdict::Right)) = datagram {
            got.push(payload);
        }
    })
    .unwrap();
    got
}

#[test]
fn a_frame_takes_its_time_both_ways() {
    let clock = Clock::new();
    let (network, mut one, mut other) = Network::pair(Config::default(), &clock).unwrap();
    send(&mut one, b"ping", 0);
    assert!(receive(&mut other).is_empty());
    clock.advance(Duration::from_micros(999));
    assert!(receive(&mut other).is_empty());
    assert!(network.advance_to_next(None));
    assert_eq!(clock.elapsed(), Duration::from_millis(1));
    assert_eq!(receive(&mut other), [b"ping"]);
    send(&mut other, b"pong", 0);
    let soon = clock.now() + Duration::from_micros(10);
    assert!(network.advance_to_next(Some(soon)));
    assert_eq!(clock.now(), soon);
    assert!(network.advance_to_next(None));
    assert_eq!(receive(&mut one), [b"pong"]);
    assert!(!network.advance_to_next(None));
}

#[test]
fn super_packets_arrive_as_datagrams() {
    let clock = Clock::new();
    let (_network, mut one, mut other) = Network::pair(Config::default(), &clock).unwrap();
    let payload: Vec<u8> = (0..=255).cycle().take(65_000).collect();
    send(&mut one, &payload, 1472);
    clock.advance(Duration::from_millis(1));
    let got = receive(&mut other);
    assert_eq!(got.len(), 45);
    assert!(got.iter().take(44).all(|datagram| datagram.len() == 1472));
    assert!(got.concat() == payload);
    assert_eq!((one.stats().tx_frames, other.stats().rx_frames), (45, 45));
}

#[test]
fn what_exceeds_the_mtu_is_dropped() {
    let clock = Clock::new();
    let (network, mut one, _other) = Network::pair(Config::default(), &clock).unwrap();
    send(&mut one, &[0; 1473], 0);
    assert_eq!((one.stats().tx_dropped, network.next_arrival()), (1, None));
    send(&mut one, &[0; 1472], 0);
    assert_eq!((one.stats().tx_dropped, one.stats().tx_frames), (1, 1));
}

#[test]
fn a_bad_network_is_bad_in_the_same_way_each_time() {
    let impairments = Impairments {
        loss: 0.2,
        duplicate: 0.1,
        corrupt: 0.1,
        jitter: Duration::from_millis(5),
        ..Default::default()
    };
    let run = |seed| {
        let clock = Clock::new();
        let config = Config { seed, impairments, ..Config::default() };
        let (network, mut one, mut other) = Network::pair(config, &clock).unwrap();
        for n in 0..200u8 {
            send(&mut one, &[n; 32], 0);
        }
        let mut got = Vec::new();
        while network.advance_to_next(None) {
            got.extend(receive(&mut other).into_iter().map(|datagram| (clock.elapsed(), datagram)));
        }
        got
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!((120..190).contains(&run(1).len()), "{}", run(1).len());
}

#[test]
fn an_interface_that_goes_down_says_so() {
    let clock = Clock::new();
    let (network, mut one, mut other) = Network::pair(Config::default(), &clock).unwrap();
    send(&mut one, b"lost", 0);
    network.set_down(true);
    assert_eq!(one.receive(1, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::NetworkDown);
    assert_eq!(one.transmit(&[]).unwrap_err().kind(), io::ErrorKind::NetworkDown);
    network.set_down(false);
    clock.advance(Duration::from_secs(1));
    assert!(receive(&mut other).is_empty());
    send(&mut one, b"again", 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(receive(&mut other), [b"again"]);
}

/// The largest datagrams there are, over a cable that reorders and duplicates: what arrives whole is right, and the
/// reassembler keeps nothing.
#[test]
fn fragments_find_together_on_a_bad_network() {
    let clock = Clock::new();
    let impairments = Impairments {
        loss: 0.001,
        duplicate: 0.05,
        jitter: Duration::from_micros(500),
        reorder: 0.1,
        ..Default::default()
    };
    let config = Config { seed: 11, impairments, ..Config::default() };
    let (network, mut one, mut other) = Network::pair(config, &clock).unwrap();
    let mut reassembler = Reassembler::new(Limits::default());
    let mut whole = 0;
    for id in 0..50u16 {
        let data: Vec<u8> = (0..65_507u32).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ id as u8).collect();
        let mut payload = headers(data.len())[34..].to_vec();
        payload.extend(&data);
        freena_wire::segment::finish_checksum(&mut payload, 0, udp::CHECKSUM_OFFSET);
        for piece in Pieces::v4(payload.len(), 1500).unwrap() {
            let mut header = vec![0; 34];
            ether(&mut header);
            emit_v4(&ipv4::Repr { id, ..ip(payload.len()) }, piece, &mut header[14..]);
            let chunks = [Chunk::new(&payload[piece.offset..piece.offset + piece.len])];
            let payload_len = piece.len as u32;
            let burst = Burst {
                header: &header,
                l3: 14,
                l4: 0,
                checksum: 0,
                payload: &chunks,
                payload_len,
                segment: 0,
                gso: Gso::None,
            };
            one.transmit(&[burst]).unwrap();
        }
        while network.advance_to_next(None) {
            other
                .receive(64, &mut |frame| {
                    let packet = parse_frame(frame.data).unwrap();
                    let Ok(Some(got)) = reassembler.handle_fragment(clock.now(), &packet) else { return };
                    let view = udp::Header::parse(got.payload).unwrap();
                    assert_eq!(view.verify(got.src, got.dst), Ok(udp::Verdict::Right));
                    assert!(view.payload() == data);
                    whole += 1;
                })
                .unwrap();
        }
    }
    assert!((40..=50).contains(&whole), "{whole}");
    clock.advance(Duration::from_secs(31));
    reassembler.handle_timeout(clock.now());
    assert_eq!(reassembler.memory(), 0);
    assert_eq!(reassembler.counters().overlaps, 0);
}
