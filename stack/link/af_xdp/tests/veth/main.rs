//! The program and the link on a veth pair between two namespaces. Needs root.

mod bursts;
mod faults;
mod fragments;
mod steering;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use freena_link_af_xdp::{AfXdpLink, Counter, Mode, Options, XdpInterface};
use freena_stack_api::{Frame, Link};
use freena_tests::netns::{Namespace, Pair};

const UDP: u8 = 17;
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const NEAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const OWNED: u16 = 7000;
const KERNEL: u16 = 7001;

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
