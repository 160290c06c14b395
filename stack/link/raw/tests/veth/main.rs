//! The raw link on a veth pair between two namespaces. Needs root.

mod steering;
mod tcp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use freena_link_raw::{Options, RawLink};
use freena_stack_api::{Link, RxChecksum};
use freena_tests::netns::{Namespace, Pair, ip, privileged};

const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const PORT: u16 = 7000;

/// A frame that is kept.
struct Got {
    data: Vec<u8>,
    checksum: RxChecksum,
    segment: u16,
}

fn open(pair: &Pair) -> RawLink {
    pair.far.run(|| RawLink::open(Pair::FAR, Options::default())).unwrap()
}

fn socket(host: &Namespace, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    let socket = host.run(|| UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Receives until a UDP datagram to [`PORT`] ends with `last`.
fn receive_until(link: &mut RawLink, last: &[u8]) -> Vec<Got> {
    receive(link, |frames| frames.last().is_some_and(|frame| frame.data.ends_with(last)))
}

/// Receives frames to [`PORT`] until they are `enough`. The kernels talk to each other as well (ICMPv6).
fn receive(link: &mut RawLink, enough: impl Fn(&[Got]) -> bool) -> Vec<Got> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut frames: Vec<Got> = Vec::new();
    while !enough(&frames) {
        let keep = &mut |frame: freena_stack_api::Frame<'_>| {
            let transport = if frame.data[12..14] == [8, 0] { 34 } else { 54 };
            if frame.data.get(transport + 2..transport + 4) == Some(&PORT.to_be_bytes()[..]) {
                frames.push(Got {
                    data: frame.data.to_vec(),
                    checksum: frame.checksum,
                    segment: frame.segment,
                });
            }
        };
        link.receive(64, keep).unwrap();
        assert!(Instant::now() < deadline, "{} frames arrived", frames.len());
    }
    frames
}

#[test]
fn datagrams_arrive_with_what_is_known_of_their_checksum() {
    privileged("datagrams_arrive_with_what_is_known_of_their_checksum", || {
        let pair = Pair::new();
        let mut link = open(&pair);
        assert_eq!((link.info().receive.as_str(), link.device().driver.as_str()), ("raw", "veth"));
        let near = socket(&pair.near, (NEAR, 0));
        near.send_to(b"one", (FAR, PORT)).unwrap();
        near.send_to(b"two", (FAR, PORT)).unwrap();
        let mut frames = receive_until(&mut link, b"two");
        // Not before: the first two may have waited for the neighbour of another IP version.
        let near6 = socket(&pair.near, (Ipv6Addr::UNSPECIFIED, 0));
        near6.send_to(b"three", (FAR6, PORT)).unwrap();
        frames.extend(receive_until(&mut link, b"three"));
        assert_eq!(frames.len(), 3);
        assert!(frames[0].data.ends_with(b"one") && frames[1].data.ends_with(b"two"));
        // A veth peer leaves the checksum to an offload.
        assert!(frames.iter().all(|frame| frame.checksum == RxChecksum::MayBePartial && frame.segment == 0));
        assert!(link.stats().rx_frames >= 3 && link.stats().rx_bytes >= 3 * 45);
    });
}

#[test]
fn super_packets_arrive_whole() {
    privileged("super_packets_arrive_whole", || {
        let pair = Pair::new();
        let mut link = open(&pair);
        let near = socket(&pair.near, (NEAR, 0));
        let size: libc::c_int = 1000;
        // SAFETY: the pointer and the length describe `size`, which outlives the call.
        let set = unsafe {
            libc::setsockopt(near.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), 4)
        };
        assert_eq!(set, 0);
        let payload: Vec<u8> = (0..60_500u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        near.send_to(&payload, (FAR, PORT)).unwrap();
        let frames = receive_until(&mut link, &payload[60_000..]);
        assert_eq!((frames.len(), frames[0].segment), (1, 1000));
        assert!(frames[0].data[42..] == payload);
    });
}

#[test]
fn only_what_is_for_this_host_arrives() {
    privileged("only_what_is_for_this_host_arrives", || {
        let pair = Pair::new();
        let mut link = open(&pair);
        let near = socket(&pair.near, (NEAR, 0));
        near.set_broadcast(true).unwrap();
        near.send_to(b"to all", ("10.0.0.255", PORT)).unwrap();
        near.send_to(b"to a group", ("239.1.2.3", PORT)).ok();
        // What this host sends is not received.
        socket(&pair.far, (FAR, 0)).send_to(b"from here", (NEAR, PORT)).unwrap();
        // Neither is what goes to somebody else's address, even in promiscuous mode.
        pair.far.run(|| ip("link set far promisc on"));
        ip("neighbour replace 10.0.0.3 lladdr 02:00:00:00:00:33 dev near");
        near.send_to(b"to another host", ("10.0.0.3", PORT)).unwrap();
        near.send_to(b"to this host", (FAR, PORT)).unwrap();
        let frames = receive_until(&mut link, b"to this host");
        assert_eq!(frames.len(), 1);
    });
}

#[test]
fn drops_for_want_of_room_are_counted() {
    privileged("drops_for_want_of_room_are_counted", || {
        let pair = Pair::new();
        let options = Options { receive_buffer: 4096, ..Options::default() };
        let mut link = pair.far.run(|| RawLink::open(Pair::FAR, options)).unwrap();
        let near = socket(&pair.near, (NEAR, 0));
        for _ in 0..100 {
            near.send_to(&[0; 1000], (FAR, PORT)).unwrap();
        }
        let mut got = 0;
        while link.receive(64, &mut |_| got += 1).unwrap() > 0 {}
        let stats = link.stats();
        assert!(stats.rx_dropped > 0 && stats.rx_dropped + got >= 100, "{stats:?}, {got} received");
        assert_eq!(link.stats().rx_dropped, stats.rx_dropped, "told again, not counted again");
    });
}

#[test]
fn an_interface_that_goes_down_is_an_error() {
    privileged("an_interface_that_goes_down_is_an_error", || {
        let pair = Pair::new();
        let mut link = open(&pair);
        pair.far.run(|| ip("link set far down"));
        let error = loop {
            if let Err(error) = link.receive(64, &mut |_| {}) {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
        // Up again, it serves again.
        pair.far.run(|| ip("link set far up"));
        socket(&pair.near, (NEAR, 0)).send_to(b"back", (FAR, PORT)).unwrap();
        receive_until(&mut link, b"back");
    });
}

/// Opens a link, in the user namespace that the next test makes.
#[test]
fn opens_in_a_user_namespace() {
    if std::env::var_os("FREENA_TEST_USER_NAMESPACE").is_none() {
        return;
    }
    ip("link add near type veth peer name far");
    ip("link set near up");
    ip("link set far up");
    let mut link = RawLink::open("far", Options::default()).unwrap();
    link.receive(64, &mut |_| {}).unwrap();
    println!("opened");
}

#[test]
fn no_privilege_outside_a_user_namespace_is_needed() {
    privileged("no_privilege_outside_a_user_namespace_is_needed", || {
        let test = std::env::current_exe().unwrap();
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(test)
            .args(["--exact", "opens_in_a_user_namespace", "--nocapture"])
            .env("FREENA_TEST_USER_NAMESPACE", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("opened"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    });
}
