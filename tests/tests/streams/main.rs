//! Framework TCP as the server carries it, without the library, and kernel TCP on the other host.

mod adverse;
#[path = "../hostile/client.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod client;
mod libraries;
mod neighbours;
mod pressure;
mod transfer;
#[allow(dead_code, reason = "each test uses a part")]
mod wire;

use client::Client;
use freena_shm_abi::stream::{accepted, state};
use freena_tests::lab::{FAR4, FAR6, Lab, NEAR4, NEAR6, Server};
use freena_tests::netns::privileged;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use wire::{PATIENCE, begin_connect, connect, listen, wait_for};

const PORT: u16 = 7001;

/// Runs `play` with a server on the near host, on each kind of link.
fn on_each_link(name: &str, play: impl Fn(&Lab, &Server, &Client) + Send + Sync) {
    for link in ["raw", "xdp-native"] {
        privileged(&format!("{name}, {link}"), || {
            let lab = Lab::new();
            let mut server = lab.near_server_with(&["--link", link]);
            let client = Client::attached(&server.control);
            play(&lab, &server, &client);
            drop(client);
            server.stop();
            let said = server.program.errors();
            assert!(!said.contains("panicked"), "{said}");
        });
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}

fn kernel_listener(lab: &Lab, address: &str) -> (TcpListener, SocketAddr) {
    let listener = lab.pair.far.run(|| TcpListener::bind(at(address, 0)).expect("a kernel listener"));
    let name = listener.local_addr().expect("its name");
    (listener, name)
}

fn kernel_connect(lab: &Lab, to: SocketAddr) -> TcpStream {
    let stream = lab.pair.far.run(|| TcpStream::connect_timeout(&to, PATIENCE).expect("a kernel connection"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

#[test]
fn a_connection_is_opened_used_and_closed_from_this_side() {
    on_each_link("a_connection_is_opened_used_and_closed_from_this_side", |lab, server, client| {
        for far in [FAR4, FAR6] {
            let (listener, name) = kernel_listener(lab, far);
            let mut ours = connect(client, &lab.pair.near, name);
            let (mut theirs, peer) = listener.accept().expect("accepted");
            theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            assert!(ours.is_writable());
            ours.write_all(b"from here");
            let mut got = [0; 9];
            theirs.read_exact(&mut got).expect("what was written");
            assert_eq!(&got, b"from here");
            theirs.write_all(b"from there").expect("sent");
            let mut got = [0; 10];
            ours.read_exact(&mut got);
            assert_eq!(&got, b"from there");
            let status = server.status();
            let connections = status["connections"].as_array().expect("connections");
            assert_eq!(connections.len(), 1, "{status:#}");
            assert_eq!(connections[0]["local"], peer.to_string());
            assert_eq!(connections[0]["peer"], name.to_string());
            assert_eq!(connections[0]["state"], "established");
            ours.shutdown();
            assert_eq!(theirs.read(&mut [0; 1]).expect("the end"), 0);
            theirs.shutdown(Shutdown::Write).expect("ended");
            ours.read_end();
            wait_for("it hangs up", || ours.events() & libc::POLLHUP != 0);
            drop(ours);
            server.wait_until("no connection is left", |status| {
                status["connections"].as_array().is_some_and(Vec::is_empty)
            });
        }
    });
}

#[test]
fn a_listener_takes_connections_of_the_network_and_of_the_kernel() {
    on_each_link("a_listener_takes_connections_of_the_network_and_of_the_kernel", |lab, server, client| {
        let listener = listen(client, &lab.pair.near, at("::", PORT), 16);
        assert_eq!(listener.state(), state::LISTEN);
        assert_eq!(server.status()["listeners"][0]["local"], format!("[::]:{PORT}"));
        for near in [NEAR4, NEAR6] {
            let mut theirs = kernel_connect(lab, at(near, PORT));
            let (accepted, message) = listener.accept();
            let mut ours = accepted.unwrap_or_else(|_| panic!("{near}: it came by the kernel"));
            assert_eq!(
                (message.kind, message.peer.port),
                (accepted::FRAMEWORK, theirs.local_addr().unwrap().port())
            );
            assert_eq!((message.local.ip().to_string().as_str(), message.local.port), (near, PORT));
            theirs.write_all(b"question").expect("sent");
            let mut got = [0; 8];
            ours.read_exact(&mut got);
            assert_eq!(&got, b"question");
            ours.write_all(b"answer");
            drop(ours);
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).expect("an answer and the end");
            assert_eq!(got, b"answer");
        }
        // By the loopback, which is the kernel's.
        let own = lab.pair.near.run(|| TcpStream::connect(at("127.0.0.1", PORT)).expect("a connection"));
        let (accepted, message) = listener.accept();
        assert!(accepted.is_err());
        assert_eq!((message.kind, message.peer.port), (accepted::KERNEL, own.local_addr().unwrap().port()));
        drop(listener);
        server.wait_until("no listener is left", |status| {
            status["listeners"].as_array().is_some_and(Vec::is_empty)
        });
        let error = lab.pair.far.run(|| TcpStream::connect(at(NEAR4, PORT)).expect_err("nobody listens"));
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    });
}

#[test]
fn what_cannot_be_reached_is_an_error() {
    on_each_link("what_cannot_be_reached_is_an_error", |lab, _, client| {
        for (far, near) in [(FAR4, NEAR4), (FAR6, NEAR6)] {
            let (refused, _) = begin_connect(client, &lab.pair.near, at(far, 9));
            wait_for("refused", || refused.error() == libc::ECONNREFUSED as u32);
            assert_eq!(refused.state(), state::CLOSED);
            wait_for("writable", || refused.is_writable());
            let absent = near.replace(".1", ".77").replace("::1", "::77");
            let (absent, _) = begin_connect(client, &lab.pair.near, at(&absent, 9));
            assert!(!absent.is_writable(), "not while it connects");
            wait_for("nobody there", || absent.error() == libc::EHOSTUNREACH as u32);
        }
    });
}

#[test]
fn a_reset_is_told() {
    on_each_link("a_reset_is_told", |lab, server, client| {
        let (listener, name) = kernel_listener(lab, FAR4);
        let ours = connect(client, &lab.pair.near, name);
        let (theirs, _) = listener.accept().expect("accepted");
        socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(theirs);
        wait_for("reset", || ours.error() == libc::ECONNRESET as u32);
        wait_for("closed", || ours.state() == state::CLOSED && ours.events() & libc::POLLHUP != 0);
        // And the other way: who asks for no lingering resets.
        let ours = connect(client, &lab.pair.near, name);
        let (mut theirs, _) = listener.accept().expect("accepted");
        theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        ours.page().stream.asked.linger.store(0, std::sync::atomic::Ordering::Relaxed);
        drop(ours);
        let error = theirs.read(&mut [0; 1]).expect_err("reset");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
        server.wait_until("no connection is left", |status| {
            status["connections"].as_array().is_some_and(Vec::is_empty)
        });
    });
}
