//! Steering by tc: owned flows reach the link and not the kernel, all else the kernel and not the link.

use std::{
    env,
    io::{BufRead, BufReader, ErrorKind, Read},
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use freena_link_raw::{Counter, Device, FlowKey, GsoSender, Options, RawLink, SteerError, SteeredInterface};
use freena_stack_api::{Burst, Chunk, Gso, Link, RxChecksum};
use freena_tests::netns::{Namespace, Pair, ip, privileged};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{FAR, FAR6, Got, NEAR, PORT, socket};

const UDP: u8 = 17;
const KERNEL: u16 = PORT + 1;
const NEAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

/// The far interface, steered, with a link; [`PORT`] is owned at both addresses.
fn steer(pair: &Pair) -> (SteeredInterface, RawLink) {
    let (interface, link) = pair.far.run(|| {
        let interface = SteeredInterface::attach(Pair::FAR).unwrap();
        let options = Options { steering: Some(&interface), ..Options::default() };
        let link = RawLink::open(Pair::FAR, options).unwrap();
        (interface, link)
    });
    for address in [FAR, FAR6] {
        interface.own(FlowKey::new(address, PORT, UDP)).unwrap();
    }
    (interface, link)
}

/// Receives `count` frames, whatever they are, or fails after some seconds.
fn receive(link: &mut RawLink, count: usize) -> Vec<Got> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut frames = Vec::new();
    while frames.len() < count {
        let keep = &mut |frame: freena_stack_api::Frame<'_>| {
            frames.push(Got { data: frame.data.to_vec(), checksum: frame.checksum, segment: frame.segment });
        };
        link.receive(64, keep).unwrap();
        assert!(Instant::now() < deadline, "{} of {count} frames arrived", frames.len());
    }
    frames
}

/// Once `socket` has received this, all that was sent before has gone where it goes.
fn flush(near: &UdpSocket, socket: &UdpSocket, to: IpAddr) {
    near.send_to(b"last", (to, KERNEL)).unwrap();
    assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 4);
}

/// Names of the programs at tc ingress of the far interface.
fn programs(host: &Namespace) -> Vec<String> {
    let query = || SchedClassifier::query_tcx(Pair::FAR, TcAttachType::Ingress).unwrap();
    let (_, programs) = host.run(query);
    programs.iter().map(|program| program.name_as_str().unwrap().to_owned()).collect()
}

/// Sends an echo request (RFC 792, RFC 4443 section 4.1) from the near host and waits for the reply.
fn ping(to: IpAddr) {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // Type, code, checksum (the kernel fills in that of ICMPv6), identifier, sequence number.
    let mut message = [request, 0, 0, 0, 0x12, 0x34, 0, 1];
    let check = !(0x0800u16 + 0x1234 + 1);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    socket.send_to(&message, &SocketAddr::new(to, 0).into()).unwrap();
    loop {
        let mut buffer = [0; 128];
        let len = (&socket).read(&mut buffer).unwrap_or_else(|error| panic!("no reply from {to}: {error}"));
        // A raw IPv4 socket receives the IP header as well.
        let start = if to.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
        if buffer[start..len].first() == Some(&reply) && buffer[start + 4..len] == message[4..] {
            return;
        }
    }
}

#[test]
fn owned_flows_reach_the_link_only() {
    privileged("owned_flows_reach_the_link_only", || {
        let pair = Pair::new();
        let (interface, mut link) = steer(&pair);
        for (from, to) in [(NEAR, FAR), (NEAR6, FAR6)] {
            let near = socket(&pair.near, (from, 0));
            let companion = socket(&pair.far, (to, PORT));
            companion.set_nonblocking(true).unwrap();
            let kernel = socket(&pair.far, (to, KERNEL));
            near.send_to(b"for the stack", (to, PORT)).unwrap();
            flush(&near, &kernel, to);
            let frames = receive(&mut link, 1);
            assert!(frames.len() == 1 && frames[0].data.ends_with(b"for the stack"), "{to}");
            assert_eq!(companion.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock, "{to}");
        }
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0, "nothing else reached the link");
        let counters = interface.counters().unwrap();
        assert_eq!(counters[Counter::Redirected as usize], 2);
        assert!(counters[Counter::PassNotOwned as usize] >= 2 && counters[Counter::PassNotIp as usize] >= 1);
        let info = link.info();
        assert_eq!(info.receive, "raw, steered by tc");
        assert!(info.reason.starts_with("asked for; ") && info.reason.contains("TCX"), "{}", info.reason);

        // Given back, the flow is the kernel's, and not the link's any more.
        for address in [FAR, FAR6] {
            interface.disown(FlowKey::new(address, PORT, UDP)).unwrap();
            interface.disown(FlowKey::new(address, PORT, UDP)).unwrap();
        }
        let released = socket(&pair.far, (FAR, PORT));
        socket(&pair.near, (NEAR, 0)).send_to(b"released", (FAR, PORT)).unwrap();
        assert_eq!(released.recv(&mut [0; 64]).unwrap(), 8);
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0);
    });
}

#[test]
fn no_port_unreachable_is_sent_for_an_owned_flow() {
    privileged("no_port_unreachable_is_sent_for_an_owned_flow", || {
        let pair = Pair::new();
        let (_interface, mut link) = steer(&pair);
        for (from, to) in [(NEAR, FAR), (NEAR6, FAR6)] {
            let probe = socket(&pair.near, (from, 0));
            probe.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            probe.connect((to, PORT)).unwrap();
            probe.send(b"anyone?").unwrap();
            receive(&mut link, 1);
            let error = probe.recv(&mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{to}: {error}");
            // A port that nobody has is unreachable still.
            probe.connect((to, KERNEL)).unwrap();
            probe.send(b"anyone?").unwrap();
            assert_eq!(probe.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        }
    });
}

#[test]
fn a_burst_arrives_as_one_frame() {
    privileged("a_burst_arrives_as_one_frame", || {
        let pair = Pair::new();
        let (interface, mut link) = steer(&pair);
        let payload: Vec<u8> =
            (0..44 * 1472u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let header = header(&pair, payload.len());
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &[Chunk::new(&payload)],
            payload_len: payload.len() as u32,
            segment: 1472,
            gso: Gso::Udp,
        };
        assert_eq!(sender(&pair).transmit(&[burst]).unwrap(), 1);
        let frames = receive(&mut link, 1);
        assert_eq!(
            (frames.len(), frames[0].segment, frames[0].checksum),
            (1, 1472, RxChecksum::MayBePartial)
        );
        assert!(frames[0].data[..42] == header && frames[0].data[42..] == payload);
        assert_eq!(interface.counters().unwrap()[Counter::Redirected as usize], 1);
    });
}

#[test]
fn the_host_can_be_reached() {
    privileged("the_host_can_be_reached", || {
        let pair = Pair::new();
        let (_interface, mut link) = steer(&pair);
        ping(FAR);
        ping(FAR6);
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0);
    });
}

#[test]
fn fragments_are_the_kernels() {
    privileged("fragments_are_the_kernels", || {
        let pair = Pair::new();
        let (interface, mut link) = steer(&pair);
        for (from, to) in [(NEAR, FAR), (NEAR6, FAR6)] {
            let companion = socket(&pair.far, (to, PORT));
            socket(&pair.near, (from, 0)).send_to(&[7; 4000], (to, PORT)).unwrap();
            assert_eq!(companion.recv(&mut [0; 5000]).unwrap(), 4000, "{to}");
        }
        assert_eq!(interface.counters().unwrap()[Counter::PassFragment as usize], 6);
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0);
    });
}

#[test]
fn what_is_not_for_this_host_is_not_taken() {
    privileged("what_is_not_for_this_host_is_not_taken", || {
        let pair = Pair::new();
        let (interface, mut link) = steer(&pair);
        let near = socket(&pair.near, (NEAR, 0));
        let kernel = socket(&pair.far, (FAR, KERNEL));
        // In a VLAN. The tag is out of the frame before the programs see it.
        let mut tagged = header(&pair, 0);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let burst = Burst {
            header: &tagged,
            l3: 18,
            l4: 0,
            checksum: 0,
            payload: &[],
            payload_len: 0,
            segment: 0,
            gso: Gso::None,
        };
        assert_eq!(sender(&pair).transmit(&[burst]).unwrap(), 1);
        // To another MAC address.
        pair.far.run(|| ip("link set far promisc on"));
        ip("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:33 dev near");
        near.send_to(b"to another host", (FAR, PORT)).unwrap();
        ip(&format!("neighbour replace 10.0.0.2 lladdr {} dev near", text(pair.far.run(|| mac(Pair::FAR)))));
        flush(&near, &kernel, FAR);
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0);
        assert_eq!(interface.counters().unwrap()[Counter::Redirected as usize], 0);
        near.send_to(b"to this host", (FAR, PORT)).unwrap();
        assert!(receive(&mut link, 1)[0].data.ends_with(b"to this host"));
    });
}

#[test]
fn dropping_it_takes_the_program_off() {
    privileged("dropping_it_takes_the_program_off", || {
        let pair = Pair::new();
        let (first, link) = steer(&pair);
        assert_eq!(programs(&pair.far), ["freena_tc"]);
        // Another one is let in beside it.
        let second = pair.far.run(|| SteeredInterface::attach(Pair::FAR)).unwrap();
        assert_eq!(programs(&pair.far).len(), 2);
        drop((first, second));
        assert_eq!(programs(&pair.far), [""; 0]);
        let companion = socket(&pair.far, (FAR, PORT));
        socket(&pair.near, (NEAR, 0)).send_to(b"the kernel's", (FAR, PORT)).unwrap();
        assert_eq!(companion.recv(&mut [0; 64]).unwrap(), 12);
        drop(link);
    });
}

/// Names the interface that [`steers_until_killed`] attaches to, in a process of its own.
const HOLD: &str = "FREENA_TEST_STEER";

/// Does nothing, except in the process that `the_death_of_the_process_takes_the_program_off` starts.
#[test]
fn steers_until_killed() {
    let Ok(name) = env::var(HOLD) else { return };
    let _interface = SteeredInterface::attach(&name).unwrap();
    println!("attached");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_death_of_the_process_takes_the_program_off() {
    privileged("the_death_of_the_process_takes_the_program_off", || {
        let pair = Pair::new();
        let mut child = pair.far.run(|| {
            let arguments = ["--exact", "steering::steers_until_killed", "--nocapture"];
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(arguments).env(HOLD, Pair::FAR).stdout(Stdio::piped()).spawn().unwrap()
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let attached = output.lines().map_while(Result::ok).any(|line| line.ends_with("attached"));
        let while_alive = programs(&pair.far);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(attached, "the other process attaches");
        assert_eq!(while_alive, ["freena_tc"]);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !programs(&pair.far).is_empty() {
            assert!(Instant::now() < deadline, "the program outlived its process");
        }
    });
}

#[test]
fn a_wrong_interface_is_an_error() {
    privileged("a_wrong_interface_is_an_error", || {
        let error = SteeredInterface::attach("no-such-if0").unwrap_err();
        assert!(
            matches!(&error, SteerError::Interface { interface, .. } if interface == "no-such-if0"),
            "{error}"
        );
        let pair = Pair::new();
        let error = pair.far.run(|| {
            let interface = SteeredInterface::attach(Pair::FAR).unwrap();
            let options = Options { steering: Some(&interface), ..Options::default() };
            RawLink::open("lo", options).err().expect("another interface is steered")
        });
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "steering of lo: expected its own, got that of far");
    });
}

fn sender(pair: &Pair) -> GsoSender {
    pair.near.run(|| GsoSender::open(&Device::open(Pair::NEAR).unwrap())).unwrap()
}

/// Headers of a datagram to [`PORT`], without checksums: no IP layer looks at it where it is steered.
fn header(pair: &Pair, payload: usize) -> Vec<u8> {
    let mut header = pair.far.run(|| mac(Pair::FAR)).to_vec();
    header.extend(pair.near.run(|| mac(Pair::NEAR)));
    header.extend([8, 0, 0x45, 0]);
    header.extend((28 + payload as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header.extend(5555u16.to_be_bytes());
    header.extend(PORT.to_be_bytes());
    header.extend((8 + payload as u16).to_be_bytes());
    header.extend([0, 0]);
    header
}

fn mac(interface: &str) -> [u8; 6] {
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
