//! Framework UDP with kernel UDP on the other host, both ways: byte for byte, at every size that is a boundary of
//! something, and through the fast path wherever a datagram needs no fragments.

use freena_tests::lab::{FAR4, FAR6, Lab, NEAR4, NEAR6, Server, number};
use freena_tests::netns::{Namespace, privileged};
use freena_tests::program::Program;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const SIZES: [usize; 18] =
    [0, 1, 2, 63, 64, 65, 511, 512, 1471, 1472, 1473, 2000, 8972, 9000, 32_768, 65_506, 65_507, 1];

/// Largest payload that one frame carries at an MTU of 1500: less the IP and the UDP header.
fn unfragmented(address: &str) -> usize {
    if address.contains(':') { 1500 - 40 - 8 } else { 1500 - 20 - 8 }
}

/// Sizes that fit in a frame, and those that do not.
fn sizes(address: &str) -> (Vec<usize>, Vec<usize>) {
    let mut sizes = SIZES.to_vec();
    sizes.extend([unfragmented(address), unfragmented(address) + 1]);
    sizes.into_iter().partition(|&size| size <= unfragmented(address))
}

/// A kernel socket in a namespace.
fn kernel_socket(host: &Namespace, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().expect("an address");
    let socket = host.run(|| UdpSocket::bind(SocketAddr::new(address, 0)).expect("a kernel socket"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| ((index * 31 + size) % 251) as u8).collect()
}

/// Asserts that `count` datagrams went each way since `before`, none of them through the kernel.
fn assert_fast(before: &Value, after: &Value, count: usize) {
    for (key, expected) in
        [("rx_datagrams", count), ("tx_datagrams", count), ("rx_through_kernel", 0), ("tx_through_kernel", 0)]
    {
        let grown = number(after, key) - number(before, key);
        assert_eq!(grown, expected as u64, "{key}: before {before:#}, after {after:#}");
    }
}

/// A kernel program asks, a framework program answers.
fn kernel_asks(lab: &Lab, server: &Server, connected: bool, (near, far): (&str, &str)) {
    let socket = kernel_socket(&lab.pair.far, far);
    let own_port = socket.local_addr().expect("its name").port();
    let peer: [&dyn std::fmt::Display; 4] = [&near, &0, &far, &own_port];
    let mut echo = server.script("echo.py", if connected { &peer } else { &peer[..2] });
    let port: u16 = echo.expect("ready").parse().expect("a port");
    socket.connect((near, port)).expect("a connected kernel socket");
    let exchange = |size: usize| {
        let (sent, mut got) = (pattern(size), vec![0; 65_536]);
        socket.send(&sent).unwrap_or_else(|error| panic!("{size} bytes are not sent: {error}"));
        let len = socket.recv(&mut got).unwrap_or_else(|error| {
            panic!("{size} bytes from {far} to {near} (connected: {connected}) do not come back: {error}")
        });
        assert!(got[..len] == sent, "{size} bytes came back as {len} other ones");
    };
    let (small, large) = sizes(near);
    // Has the neighbours resolved.
    exchange(5);
    let before = server.socket(port);
    assert_eq!(before["peer"].is_string(), connected, "{before:#}");
    small.iter().copied().for_each(exchange);
    assert_fast(&before, &server.socket(port), small.len());
    large.into_iter().for_each(exchange);
    assert_eq!(number(&server.socket(port), "rx_dropped"), 0);
}

/// A framework program asks, a kernel program answers.
fn framework_asks(lab: &Lab, server: &Server, connected: bool, far: &str) {
    let socket = kernel_socket(&lab.pair.far, far);
    let peer_port = socket.local_addr().expect("its name").port();
    let way = if connected { "connected" } else { "unconnected" };
    let mut ask = server.script("ask.py", &[&far, &peer_port, &way]);
    let port: u16 = ask.expect("ready").parse().expect("a port");
    let exchange = |ask: &mut Program, size: usize| {
        ask.tell(&size.to_string());
        let mut got = vec![0; 65_536];
        let (len, from) = socket.recv_from(&mut got).unwrap_or_else(|error| {
            panic!("{size} bytes to {far} ({way}) do not arrive: {error}; the program: {}", ask.errors())
        });
        assert!(got[..len] == pattern(size), "{size} bytes arrive as {len} other ones");
        assert_eq!(from.port(), port);
        socket.send_to(&got[..len], from).expect("a reply");
        assert_eq!(ask.line(), format!("ok {size}"));
    };
    let (small, large) = sizes(far);
    exchange(&mut ask, 5);
    let before = server.socket(port);
    small.iter().for_each(|&size| exchange(&mut ask, size));
    assert_fast(&before, &server.socket(port), small.len());
    large.into_iter().for_each(|size| exchange(&mut ask, size));
}

/// Runs `play` with a server on the near host, on each kind of link.
fn on_each_link(name: &str, play: impl Fn(&Lab, &Server) + Send + Sync) {
    for link in ["xdp-native", "raw"] {
        privileged(&format!("{name}, {link}"), || {
            let lab = Lab::new();
            let server = lab.near_server_with(&["--link", link]);
            play(&lab, &server);
        });
    }
}

#[test]
fn kernel_asks_framework_over_ipv4() {
    on_each_link("kernel_asks_framework_over_ipv4", |lab, server| {
        kernel_asks(lab, server, false, (NEAR4, FAR4));
        kernel_asks(lab, server, true, (NEAR4, FAR4));
    });
}

#[test]
fn kernel_asks_framework_over_ipv6() {
    on_each_link("kernel_asks_framework_over_ipv6", |lab, server| {
        kernel_asks(lab, server, false, (NEAR6, FAR6));
        kernel_asks(lab, server, true, (NEAR6, FAR6));
    });
}

#[test]
fn framework_asks_kernel_over_ipv4() {
    on_each_link("framework_asks_kernel_over_ipv4", |lab, server| {
        framework_asks(lab, server, false, FAR4);
        framework_asks(lab, server, true, FAR4);
    });
}

#[test]
fn framework_asks_kernel_over_ipv6() {
    on_each_link("framework_asks_kernel_over_ipv6", |lab, server| {
        framework_asks(lab, server, false, FAR6);
        framework_asks(lab, server, true, FAR6);
    });
}

#[test]
fn framework_talks_to_framework() {
    privileged("framework_talks_to_framework", || {
        let lab = Lab::new();
        let (near, far) = (lab.near_server(), lab.far_server());
        for (address, connected) in [(NEAR4, "connected"), (NEAR6, "unconnected")] {
            let mut echo = near.script("echo.py", &[&address, &0]);
            let port: u16 = echo.expect("ready").parse().expect("a port");
            let mut ask = far.script("ask.py", &[&address, &port, &connected]);
            let own_port: u16 = ask.expect("ready").parse().expect("a port");
            let exchange = |ask: &mut Program, size: usize| {
                ask.tell(&size.to_string());
                assert_eq!(ask.line(), format!("ok {size}"));
            };
            exchange(&mut ask, 5);
            let (small, large) = sizes(address);
            let before = (near.socket(port), far.socket(own_port));
            small.iter().for_each(|&size| exchange(&mut ask, size));
            assert_fast(&before.0, &near.socket(port), small.len());
            assert_fast(&before.1, &far.socket(own_port), small.len());
            large.into_iter().for_each(|size| exchange(&mut ask, size));
        }
    });
}
