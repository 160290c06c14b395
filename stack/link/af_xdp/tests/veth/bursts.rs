//! Bursts arrive as the frames they stand for.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use freena_link_af_xdp::{AfXdpLink, FlowKey, Mode, Options, Transmit, XdpInterface};
use freena_link_raw::{Options as RawOptions, RawLink};
use freena_stack_api::{Burst, Chunk, Gso, Link};
use freena_tests::netns::{Pair, privileged};

use crate::{FAR, FAR6, KERNEL, NEAR, OWNED, UDP, attach, open, receive, socket};

fn mac(interface: &str) -> [u8; 6] {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Ethernet, IPv4 and UDP headers from 10.0.0.1 to 10.0.0.2 as `Burst` wants them.
fn header(to: [u8; 6], from: [u8; 6], port: u16, payload: usize) -> Vec<u8> {
    let mut h = [to, from].concat();
    h.extend([8, 0, 0x45, 0]);
    h.extend((28 + payload as u16).to_be_bytes());
    h.extend([0x12, 0x34, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = !fold(sum(&h[14..34]));
    h[24..26].copy_from_slice(&check.to_be_bytes());
    h.extend(5555u16.to_be_bytes());
    h.extend(port.to_be_bytes());
    let length = 8 + payload as u16;
    h.extend(length.to_be_bytes());
    h.extend(fold(sum(&h[26..34]) + u32::from(UDP) + u32::from(length)).to_be_bytes());
    h
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Sends all of it, waiting where the link wants to.
fn send(link: &mut dyn Link, bursts: &[Burst<'_>]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut taken = 0;
    while taken < bursts.len() {
        taken += link.transmit(&bursts[taken..]).unwrap();
        assert!(Instant::now() < deadline, "only {taken} of {} bursts were taken", bursts.len());
    }
}

/// Checks that `frames` are what `payload` becomes, cut at `segment`.
fn check(frames: &[Vec<u8>], payload: &[u8], segment: usize) {
    assert_eq!(frames.len(), payload.len().div_ceil(segment));
    for (index, (frame, want)) in frames.iter().zip(payload.chunks(segment)).enumerate() {
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let udp = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
        let id = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!((total, udp), (28 + want.len(), 8 + want.len()), "lengths of frame {index}");
        assert_eq!(usize::from(id), 0x1234 + index, "identification of frame {index}");
        assert_eq!(fold(sum(&frame[14..34])), 0xffff, "IPv4 checksum of frame {index}");
        assert_eq!(&frame[42..42 + want.len()], want, "payload of frame {index}");
        let pseudo = sum(&frame[26..34]) + u32::from(UDP) + udp as u32;
        let field = u16::from_be_bytes([frame[40], frame[41]]);
        let whole = fold(pseudo + sum(&frame[34..34 + udp])) == 0xffff;
        assert!(whole || field == fold(pseudo), "UDP checksum {field:#06x} of frame {index}");
    }
}

/// Two bursts through `sender` to an AF_XDP link at the other end, then to a kernel socket there.
fn bursts_arrive(pair: &Pair, interface: &XdpInterface, sender: &mut dyn Link) {
    let mut link = open(pair, interface);
    interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    let kernel = socket(&pair.far, (FAR, KERNEL));
    let (to, from) = (pair.far.run(|| mac(Pair::FAR)), pair.near.run(|| mac(Pair::NEAR)));
    for (segments, segment) in [(44usize, 1472usize), (64, 64), (64, 1), (1, 1472), (3, 1000)] {
        // The last segment is short where there are several.
        let payload = pattern(segments * segment - usize::from(segments > 1 && segment > 1));
        let gso = if segments == 1 { Gso::None } else { Gso::Udp };
        let chunks = [Chunk::new(&payload[..payload.len() / 3]), Chunk::new(&payload[payload.len() / 3..])];
        for port in [OWNED, KERNEL] {
            let header = header(to, from, port, payload.len());
            let burst = Burst {
                header: &header,
                l3: 14,
                l4: 34,
                checksum: 6,
                payload: &chunks,
                payload_len: payload.len() as u32,
                segment: if segments == 1 { 0 } else { segment as u16 },
                gso,
            };
            assert_eq!(burst.frames() as usize, segments);
            send(sender, &[burst]);
            if port == OWNED {
                check(&receive(&mut link, segments), &payload, segment);
            } else {
                let mut buffer = vec![0; 2048];
                for want in payload.chunks(segment) {
                    let len = kernel.recv(&mut buffer).unwrap();
                    assert!(buffer[..len] == *want, "{len} bytes, {} expected", want.len());
                }
            }
        }
    }
    let stats = sender.stats();
    assert_eq!(
        (stats.tx_frames, stats.tx_dropped),
        (2 * (44 + 64 + 64 + 1 + 3), 0),
        "{}",
        sender.info().send
    );
    assert_eq!(link.stats().rx_dropped, 0);
}

#[test]
fn bursts_of_the_gso_sender_arrive() {
    privileged("bursts_of_the_gso_sender_arrive", || {
        let pair = Pair::new();
        let mut raw = pair.near.run(|| RawLink::open(Pair::NEAR, RawOptions::default())).unwrap();
        bursts_arrive(&pair, &attach(&pair, Mode::Native), &mut raw);
        assert_eq!(raw.info().send, "packet socket with GSO");
    });
}

#[test]
fn bursts_segmented_for_an_old_kernel_arrive() {
    privileged("bursts_segmented_for_an_old_kernel_arrive", || {
        let pair = Pair::new();
        let options = RawOptions { gso: false, ..RawOptions::default() };
        let mut raw = pair.near.run(|| RawLink::open(Pair::NEAR, options)).unwrap();
        bursts_arrive(&pair, &attach(&pair, Mode::Native), &mut raw);
    });
}

#[test]
fn bursts_of_the_af_xdp_ring_arrive() {
    for mode in [Mode::Native, Mode::Skb] {
        privileged("bursts_of_the_af_xdp_ring_arrive", || {
            let pair = Pair::new();
            let near = XdpInterface::attach(Pair::NEAR, mode).unwrap();
            // Few frames, so that they have to come back to be used again.
            let options = Options { transmit: Transmit::AfXdp, frames: 128, ..Options::default() };
            let mut ring = AfXdpLink::open(&near, 0, options).unwrap();
            assert_eq!(ring.info().send, "af_xdp");
            bursts_arrive(&pair, &attach(&pair, mode), &mut ring);
        });
    }
}

#[test]
fn super_packets_of_a_kernel_peer_arrive_as_frames_in_native_mode() {
    privileged("super_packets_of_a_kernel_peer_arrive_as_frames_in_native_mode", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        let mut link = open(&pair, &interface);
        interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
        let near = socket(&pair.near, (NEAR, 0));
        let size: libc::c_int = 1000;
        // SAFETY: the pointer and the length describe `size`, which outlives the call.
        let set = unsafe {
            libc::setsockopt(near.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), 4)
        };
        assert_eq!(set, 0);
        let payload = pattern(39_500);
        near.send_to(&payload, (FAR, OWNED)).unwrap();
        let frames = receive(&mut link, 40);
        let got: Vec<u8> = frames.iter().flat_map(|frame| frame[42..].to_vec()).collect();
        assert!(got == payload);
    });
}

#[test]
fn what_can_never_be_sent_is_dropped_and_counted() {
    privileged("what_can_never_be_sent_is_dropped_and_counted", || {
        let pair = Pair::new();
        let near = XdpInterface::attach(Pair::NEAR, Mode::Native).unwrap();
        let ring = Options { transmit: Transmit::AfXdp, ..Options::default() };
        let mut links: [Box<dyn Link>; 2] = [
            Box::new(AfXdpLink::open(&near, 0, ring).unwrap()),
            Box::new(RawLink::open(Pair::NEAR, RawOptions::default()).unwrap()),
        ];
        let header = header([2; 6], [2; 6], OWNED, 100);
        let long = vec![0; 70_000];
        let chunks = [Chunk::new(&long)];
        let good = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &[Chunk::new(&long[..100])],
            payload_len: 100,
            segment: 0,
            gso: Gso::None,
        };
        let bad = Burst { payload: &chunks, payload_len: 70_000, segment: 1000, gso: Gso::Udp, ..good };
        let no_segment = Burst { gso: Gso::Udp, ..good };
        let frame_too_long = Burst { payload: &[Chunk::new(&long[..5000])], payload_len: 5000, ..good };
        for link in &mut links {
            assert_eq!(
                link.transmit(&[bad, no_segment, frame_too_long, good]).unwrap(),
                4,
                "{}",
                link.info().send
            );
            let stats = link.stats();
            assert_eq!((stats.tx_frames, stats.tx_dropped), (1, 70 + 1 + 1), "{}", link.info().send);
        }
        drop(pair);
    });
}

/// Ethernet, IPv6 and UDP headers from fd00::1 to fd00::2.
fn header6(to: [u8; 6], from: [u8; 6], port: u16, payload: usize) -> Vec<u8> {
    let mut h = [to, from].concat();
    let length = 8 + payload as u16;
    h.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    h.extend(length.to_be_bytes());
    h.extend([UDP, 64]);
    for host in [1, 2] {
        h.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    let pseudo = fold(sum(&h[22..54]) + u32::from(UDP) + u32::from(length));
    h.extend([0x15, 0xb3]);
    h.extend(port.to_be_bytes());
    h.extend(length.to_be_bytes());
    h.extend(pseudo.to_be_bytes());
    h
}

#[test]
fn bursts_over_ipv6_arrive() {
    privileged("bursts_over_ipv6_arrive", || {
        let pair = Pair::new();
        let kernel = socket(&pair.far, (FAR6, KERNEL));
        let (to, from) = (pair.far.run(|| mac(Pair::FAR)), mac(Pair::NEAR));
        let near = XdpInterface::attach(Pair::NEAR, Mode::Native).unwrap();
        let ring = Options { transmit: Transmit::AfXdp, ..Options::default() };
        let mut links: [Box<dyn Link>; 2] = [
            Box::new(AfXdpLink::open(&near, 0, ring).unwrap()),
            Box::new(RawLink::open(Pair::NEAR, RawOptions::default()).unwrap()),
        ];
        let payload = pattern(40 * 1452 - 7);
        let header = header6(to, from, KERNEL, payload.len());
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 54,
            checksum: 6,
            payload: &[Chunk::new(&payload)],
            payload_len: payload.len() as u32,
            segment: 1452,
            gso: Gso::Udp,
        };
        for link in &mut links {
            send(link.as_mut(), &[burst]);
            let mut buffer = vec![0; 2048];
            for want in payload.chunks(1452) {
                let len = kernel.recv(&mut buffer).unwrap();
                assert!(buffer[..len] == *want, "{}: {len} bytes, {} expected", link.info().send, want.len());
            }
        }
    });
}
