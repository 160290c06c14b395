//! The program and the link on a veth pair between two namespaces. Needs root.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use freena_link_af_xdp::{AfXdpLink, Counter, FlowKey, Mode, Options, Transmit, XdpInterface};
use freena_link_raw::{Options as RawOptions, RawLink};
use freena_stack_api::{Burst, Chunk, Frame, Gso, Link};
use freena_tests::netns::{Namespace, Pair, ip, privileged};

const UDP: u8 = 17;
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const NEAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const OWNED: u16 = 7000;
const KERNEL: u16 = 7001;

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

/// Receives `count` frames, or fails after some seconds.
fn receive(link: &mut dyn Link, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while frames.len() < count {
        link.receive(64, &mut |frame: Frame<'_>| frames.push(frame.data.to_vec())).unwrap();
        assert!(Instant::now() < deadline, "{} of {count} frames arrived; {:?}", frames.len(), link.stats());
    }
    frames
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

fn attach(pair: &Pair, mode: Mode) -> XdpInterface {
    let interface = pair.far.run(|| XdpInterface::attach(Pair::FAR, mode)).unwrap();
    assert_eq!(interface.mode(), mode);
    interface
}

fn open(pair: &Pair, interface: &XdpInterface) -> AfXdpLink {
    pair.far.run(|| AfXdpLink::open(interface, 0, Options::default())).unwrap()
}

fn socket(host: &Namespace, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    let socket = host.run(|| UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Waits until the counter has reached `least`.
fn expect(interface: &XdpInterface, counter: Counter, least: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while interface.counters().unwrap()[counter as usize] < least {
        assert!(Instant::now() < deadline, "{}: {:?}", counter.name(), interface.counters());
    }
}

/// The owned flow reaches the link; another port, ARP, neighbour discovery and ICMP reach the kernel.
fn steers(mode: Mode) {
    let pair = Pair::new();
    let interface = attach(&pair, mode);
    let mut link = open(&pair, &interface);
    interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    interface.own(FlowKey::new(FAR6, OWNED, UDP)).unwrap();
    let near = socket(&pair.near, (NEAR, 0));
    let near6 = socket(&pair.near, (Ipv6Addr::UNSPECIFIED, 0));
    let kernel = socket(&pair.far, (FAR, KERNEL));

    near.send_to(b"for the stack", (FAR, OWNED)).unwrap();
    near.send_to(b"for the kernel", (FAR, KERNEL)).unwrap();
    near6.send_to(b"for the stack, 6", (FAR6, OWNED)).unwrap();
    let mut frames = receive(&mut link, 2);
    frames.sort_by_key(Vec::len);
    assert!(frames[0].ends_with(b"for the stack") && frames[1].ends_with(b"for the stack, 6"));
    let mut buffer = [0; 64];
    let len = kernel.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"for the kernel");
    expect(&interface, Counter::Redirected, 2);
    expect(&interface, Counter::PassNotOwned, 1);
    expect(&interface, Counter::PassNotIp, 1);

    // The far kernel still answers for itself: a port that nobody has is unreachable.
    for target in [FAR, FAR6] {
        let probe = socket(&pair.near, (if target.is_ipv4() { NEAR } else { NEAR6 }, 0));
        probe.connect((target, 9)).unwrap();
        probe.send(b"anyone?").unwrap();
        assert_eq!(
            probe.recv(&mut buffer).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{target}"
        );
    }

    // Given back, the flow is the kernel's; without a link, so is an owned one.
    interface.disown(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    interface.disown(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    let released = socket(&pair.far, (FAR, OWNED));
    near.send_to(b"released", (FAR, OWNED)).unwrap();
    assert_eq!(released.recv(&mut buffer).unwrap(), 8);
    drop(link);
    near6.send_to(b"no link", (FAR6, OWNED)).unwrap();
    expect(&interface, Counter::NoSocket, 1);
}

#[test]
fn steers_in_native_mode() {
    privileged("steers_in_native_mode", || steers(Mode::Native));
}

#[test]
fn steers_in_skb_mode() {
    privileged("steers_in_skb_mode", || steers(Mode::Skb));
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
fn a_second_program_is_told_who_holds_the_interface() {
    privileged("a_second_program_is_told_who_holds_the_interface", || {
        let pair = Pair::new();
        let first = attach(&pair, Mode::Native);
        for mode in [Mode::Auto, Mode::Native, Mode::Skb] {
            let error = pair.far.run(|| XdpInterface::attach(Pair::FAR, mode)).err().expect("it is taken");
            let text = error.to_string();
            let this = format!("of process {} (", std::process::id());
            assert!(text.contains("'freena_xdp'") && text.contains(&this), "{text}");
        }
        drop(first);
        attach(&pair, Mode::Skb);
    });
}

#[test]
fn a_second_link_on_the_queue_is_refused() {
    privileged("a_second_link_on_the_queue_is_refused", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        assert_eq!(interface.queues(), 1);
        let first = open(&pair, &interface);
        let error =
            pair.far.run(|| AfXdpLink::open(&interface, 0, Options::default())).err().expect("it is taken");
        assert!(error.to_string().contains("interface far, queue 0: bind: "), "{error}");
        drop(first);
        open(&pair, &interface);
        let error = AfXdpLink::open(&interface, 1, Options::default()).err().expect("there is no queue 1");
        assert_eq!(error.to_string(), "interface far has 1 queues, there is no queue 1");
    });
}

#[test]
fn a_vanished_interface_is_an_error() {
    privileged("a_vanished_interface_is_an_error", || {
        let pair = Pair::new();
        let mut link = open(&pair, &attach(&pair, Mode::Native));
        ip("link delete near");
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = loop {
            match link.receive(64, &mut |_| {}) {
                Ok(_) => assert!(Instant::now() < deadline, "no error"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
        assert!(link.receive(64, &mut |_| {}).is_err(), "and it stays one");
    });
}
