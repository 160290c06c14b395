//! Streams that other protocols than TCP carry between two hosts: SCTP, and the example of a library, built with `cc` from
//! the public header.

use super::wire::{PATIENCE, Stream, begin_connect_by, kernel_socket, listen_by, wait_for};
use super::{PORT, at};
use crate::client::Client;
use freena_shm_abi::Endpoint;
use freena_shm_abi::control::{Request, op};
use freena_shm_abi::stream::state;
use freena_tests::lab::{FAR4, FAR6, Lab};
use freena_tests::netns::privileged;
use freena_tests::plugins::{self, STEADY};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

fn byte(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends `len` bytes and the end, and compares what arrives.
fn carry(from: &mut Stream, to: &mut Stream, len: usize) {
    let (mut sent, mut received, mut ended) = (0, 0, false);
    let mut into = vec![0; 70_000];
    let mut progress = Instant::now();
    while !ended {
        let before = (sent, received);
        if sent < len {
            let part: Vec<u8> = (sent..len.min(sent + 50_000)).map(byte).collect();
            sent += from.write(&part);
            if sent == len {
                from.shutdown();
            }
        }
        match to.read(&mut into) {
            Some(part) => {
                let wrong = into[..part].iter().enumerate().find(|(at, got)| **got != byte(received + at));
                assert!(wrong.is_none(), "another byte than was sent: {wrong:?} behind {received}");
                received += part;
            }
            None => ended = true,
        }
        if before == (sent, received) {
            assert!(progress.elapsed() < PATIENCE, "stuck: sent {sent}, received {received} of {len}");
            std::thread::sleep(Duration::from_micros(100));
        } else {
            progress = Instant::now();
        }
    }
    assert_eq!(received, len);
}

/// IP protocol number of SCTP.
const SCTP: u8 = 132;

fn play(protocol: u8, name: &str, arguments: &[&str], len: usize) {
    privileged(&format!("protocol {protocol} carries streams, {name}"), || {
        let lab = Lab::new();
        let folder = lab.path("plugins");
        plugins::build(&folder);
        let folder = folder.to_str().expect("a name");
        let arguments = [arguments, &["--plugins", folder]].concat();
        let (mut near, mut far) = (lab.near_server_with(&arguments), lab.far_server_with(&arguments));
        let (client, server) = (Client::attached(&near.control), Client::attached(&far.control));
        let status = near.status();
        assert_eq!(status["protocols"][0]["name"], "steady", "{status:#}");
        assert_eq!(status["protocols"][0]["state"], "ready");
        for address in [FAR4, FAR6] {
            let listener = listen_by(protocol, &server, &lab.pair.far, at(address, PORT), 4);
            let (mut ours, _) = begin_connect_by(protocol, &client, &lab.pair.near, at(address, PORT));
            ours.wait_state("connected", |now| !state::is_connecting(now));
            assert_eq!((ours.state(), ours.error()), (state::ESTABLISHED, 0));
            let mut theirs = listener.accept_fast();
            let name = if protocol == SCTP { "sctp" } else { "steady" };
            assert_eq!(near.status()["connections"][0]["protocol"], name);
            carry(&mut ours, &mut theirs, len);
            carry(&mut theirs, &mut ours, len);
            wait_for("it hangs up", || ours.events() & libc::POLLHUP != 0);
            drop((ours, theirs, listener));
            for host in [&near, &far] {
                host.wait_until("nothing is left", |status| {
                    status["connections"].as_array().is_some_and(Vec::is_empty)
                        && status["listeners"].as_array().is_some_and(Vec::is_empty)
                });
            }
        }
        // Nobody listens any more.
        let listener = listen_by(protocol, &server, &lab.pair.far, at(FAR4, PORT), 4);
        let (refused, _) = begin_connect_by(protocol, &client, &lab.pair.near, at(FAR4, PORT + 1));
        // A port that nobody owns is the kernel's. By SCTP it is not spoken to: this kernel may have none.
        let expected = if protocol == SCTP { libc::ENOPROTOOPT } else { libc::ECONNREFUSED };
        wait_for("refused", || refused.error() == expected as u32);
        drop((refused, listener));
        // A protocol that no library has.
        let peer = at(FAR4, PORT);
        let socket = kernel_socket(&lab.pair.near, &peer);
        let request =
            Request { peer: Endpoint::new(peer.ip(), peer.port(), 0), ..Request::of(op::CONNECT, 254) };
        let (response, _) = client.call(&request, &[socket.as_raw_fd()]).expect("an answer");
        assert_eq!(response.errno, libc::EPROTONOSUPPORT as u32);
        assert_eq!(response.reason(), "no stream protocol 254, only 6 (tcp), 132 (sctp), 253 (steady)");
        drop((client, server));
        near.stop();
        far.stop();
    });
}

#[test]
fn a_library_carries_streams() {
    play(STEADY, "raw", &["--link", "raw"], 20 << 20);
    play(STEADY, "xdp", &["--link", "xdp-native"], 20 << 20);
}

#[test]
fn a_library_carries_streams_over_a_bad_network() {
    play(STEADY, "bad", &["--link", "raw", "--impair", "loss=1%,duplicate=1%,reorder=2%,delay=2ms"], 1 << 20);
}

#[test]
fn sctp_carries_streams() {
    play(SCTP, "raw", &["--link", "raw"], 20 << 20);
    play(SCTP, "xdp", &["--link", "xdp-native"], 20 << 20);
}

#[test]
fn sctp_carries_streams_over_a_bad_network() {
    play(SCTP, "bad", &["--link", "raw", "--impair", "loss=1%,duplicate=1%,reorder=2%,delay=2ms"], 1 << 20);
}
