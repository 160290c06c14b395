//! Bytes, many of them, both ways at once, over good networks and bad ones.

use super::wire::{PATIENCE, Stream, connect, listen};
use super::{PORT, at, kernel_connect, kernel_listener, on_each_link};
use crate::client::Client;
use freena_tests::lab::{FAR4, FAR6, Lab, NEAR4, NEAR6};
use freena_tests::netns::privileged;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes each way on a good network, unless `FREENA_TEST_STREAM_MIB` says otherwise.
fn amount(default_mib: usize) -> usize {
    std::env::var("FREENA_TEST_STREAM_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(default_mib) << 20
}

/// The byte at a place of a stream, which no shifted or repeated part has at the same place.
fn byte(at: usize, seed: usize) -> u8 {
    let word = ((at / 8 + seed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[at % 8]
}

fn fill(buffer: &mut [u8], from: usize, seed: usize) {
    buffer.iter_mut().enumerate().for_each(|(index, to)| *to = byte(from + index, seed));
}

fn check(buffer: &[u8], from: usize, seed: usize) {
    if let Some(wrong) = buffer.iter().enumerate().position(|(index, got)| *got != byte(from + index, seed)) {
        panic!("byte {} is wrong: {} instead of {}", from + wrong, buffer[wrong], byte(from + wrong, seed));
    }
}

/// Sends and receives `len` bytes each way at once, compares each, and ends both directions.
fn exchange(mut ours: Stream, theirs: TcpStream, len: usize) {
    let mut writer = theirs.try_clone().expect("a second descriptor");
    let mut reader = theirs;
    let far_writer = thread::spawn(move || {
        let (mut at, mut buffer) = (0, vec![0; 60_000]);
        while at < len {
            let part = buffer.len().min(len - at);
            fill(&mut buffer[..part], at, 1);
            writer.write_all(&buffer[..part]).expect("sent by the kernel");
            at += part;
        }
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let far_reader = thread::spawn(move || {
        let (mut at, mut buffer) = (0, vec![0; 60_000]);
        loop {
            let part = reader.read(&mut buffer).expect("received by the kernel");
            check(&buffer[..part], at, 2);
            at += part;
            if part == 0 {
                return at;
            }
        }
    });
    let (mut sent, mut received, mut ended) = (0, 0, false);
    let (mut out, mut into) = (vec![0; 50_000], vec![0; 70_000]);
    let mut progress = Instant::now();
    while sent < len || !ended {
        let before = (sent, received, ended);
        if sent < len {
            let part = out.len().min(len - sent);
            fill(&mut out[..part], sent, 2);
            sent += ours.write(&out[..part]);
            if sent == len {
                ours.shutdown();
            }
        }
        match ours.read(&mut into) {
            Some(part) => {
                check(&into[..part], received, 1);
                received += part;
            }
            None => ended = true,
        }
        if before == (sent, received, ended) {
            assert!(progress.elapsed() < PATIENCE, "stuck: sent {sent}, received {received} of {len}");
            thread::sleep(Duration::from_micros(100));
        } else {
            progress = Instant::now();
        }
    }
    assert_eq!(received, len);
    assert_eq!(far_reader.join().expect("the far reader"), len);
    far_writer.join().expect("the far writer");
}

/// Connections opened by either side, over both versions.
fn exchange_all(lab: &Lab, client: &Client, len: usize) {
    for (near, far) in [(NEAR4, FAR4), (NEAR6, FAR6)] {
        let (listener, name) = kernel_listener(lab, far);
        let ours = connect(client, &lab.pair.near, name);
        exchange(ours, listener.accept().expect("accepted").0, len);
        let listener = listen(client, &lab.pair.near, at(near, PORT), 4);
        let theirs = kernel_connect(lab, at(near, PORT));
        exchange(listener.accept_fast(), theirs, len);
    }
}

#[test]
fn every_byte_arrives() {
    on_each_link("every_byte_arrives", |lab, _, client| exchange_all(lab, client, amount(64)));
}

#[test]
fn every_byte_arrives_over_a_bad_network() {
    for (link, impairments) in [
        ("xdp-native", "loss=1%,duplicate=1%,reorder=2%,delay=2ms,jitter=1ms,corrupt=0.2%"),
        ("raw", "loss=1%,duplicate=1%,reorder=2%,delay=2ms"),
        ("raw", "loss=5%,corrupt=1%"),
    ] {
        privileged(&format!("every_byte_arrives_over_a_bad_network, {link}, {impairments}"), || {
            let lab = Lab::new();
            let server = lab.near_server_with(&["--link", link, "--impair", impairments]);
            let client = Client::attached(&server.control);
            exchange_all(&lab, &client, amount(4));
        });
    }
}
