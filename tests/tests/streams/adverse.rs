//! Programs that read or accept late, or go away; a server that goes away; and what idle connections keep.

use super::wire::{PATIENCE, connect, listen, wait_for};
use super::{PORT, at, kernel_connect, kernel_listener, on_each_link};
use freena_tests::lab::{FAR4, Lab, NEAR4};
use freena_tests::netns::privileged;
use std::io::{Read, Write};
use std::thread;

/// Bytes that fit into no ring and no kernel buffer of these tests.
const MUCH: usize = 24 << 20;
/// What an idle connection may keep in its memory, the page of words included.
const IDLE_BYTES: u64 = 16 << 10;

#[test]
fn who_reads_slowly_stops_the_sender_and_loses_nothing() {
    on_each_link("who_reads_slowly_stops_the_sender_and_loses_nothing", |lab, _, client| {
        let (listener, name) = kernel_listener(lab, FAR4);
        let mut ours = connect(client, &lab.pair.near, name);
        let (mut theirs, _) = listener.accept().expect("accepted");
        let writer = thread::spawn(move || {
            let bytes: Vec<u8> = (0..MUCH).map(|at| (at / 7) as u8).collect();
            theirs.write_all(&bytes).expect("sent by the kernel");
            theirs
        });
        let size = u64::from(ours.memory.sizes().rx);
        let tail = || ours.memory.rx_pipe().tail().load(std::sync::atomic::Ordering::Acquire);
        // The window is rounded to its scale, so that the ring is full but for some bytes.
        wait_for("the ring is as good as full", || tail() + (64 << 10) > size);
        assert!(tail() <= size);
        assert!(!writer.is_finished(), "{MUCH} bytes do not fit");
        let (mut at, mut buffer) = (0, vec![0; 100_000]);
        wait_for("all that was sent", || {
            let len = ours.read(&mut buffer).expect("no end of file");
            assert!(buffer[..len].iter().enumerate().all(|(i, byte)| *byte == ((at + i) / 7) as u8));
            at += len;
            at == MUCH
        });
        drop(writer.join().expect("the writer"));
        ours.read_end();
    });
}

#[test]
fn an_idle_connection_gives_its_memory_back() {
    on_each_link("an_idle_connection_gives_its_memory_back", |lab, _, client| {
        let (listener, name) = kernel_listener(lab, FAR4);
        let mut ours = connect(client, &lab.pair.near, name);
        let (mut theirs, _) = listener.accept().expect("accepted");
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..2 {
            let tail = ours.memory.rx_pipe().tail().load(std::sync::atomic::Ordering::Relaxed);
            theirs.write_all(&buffer).expect("sent by the kernel");
            wait_for("it has arrived unread", || {
                ours.memory.rx_pipe().tail().load(std::sync::atomic::Ordering::Acquire) > tail
            });
            ours.read_exact(&mut buffer);
            wait_for("memory is given back", || ours.kept_bytes() <= IDLE_BYTES);
        }
        // And the ring is as good as before.
        theirs.write_all(b"still there").expect("sent");
        let mut got = [0; 11];
        ours.read_exact(&mut got);
        assert_eq!(&got, b"still there");
    });
}

#[test]
fn connections_wait_until_they_are_accepted() {
    on_each_link("connections_wait_until_they_are_accepted", |lab, server, client| {
        let listener = listen(client, &lab.pair.near, at(NEAR4, PORT), 2);
        let mut theirs: Vec<_> = (0..2).map(|_| kernel_connect(lab, at(NEAR4, PORT))).collect();
        for stream in &mut theirs {
            stream.write_all(b"hello").expect("sent");
        }
        for _ in 0..2 {
            let mut got = [0; 5];
            listener.accept_fast().read_exact(&mut got);
            assert_eq!(&got, b"hello");
        }
        // Both were closed by the end of the loop; the listener goes on.
        for stream in &mut theirs {
            assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
        }
        drop(theirs);
        drop(kernel_connect(lab, at(NEAR4, PORT)));
        let mut last = listener.accept_fast();
        last.read_end();
        drop(last);
        server.wait_until("no connection is left", |status| {
            status["connections"].as_array().is_some_and(Vec::is_empty)
        });
    });
}

#[test]
fn who_closes_without_reading_resets() {
    on_each_link("who_closes_without_reading_resets", |lab, _, client| {
        let (listener, name) = kernel_listener(lab, FAR4);
        let ours = connect(client, &lab.pair.near, name);
        let (mut theirs, _) = listener.accept().expect("accepted");
        theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        theirs.write_all(b"for nobody").expect("sent");
        wait_for("it has arrived", || {
            ours.memory.rx_pipe().tail().load(std::sync::atomic::Ordering::Acquire) == 10
        });
        drop(ours);
        let error = theirs.read(&mut [0; 1]).expect_err("reset");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    });
}

#[test]
fn a_killed_server_hangs_up() {
    privileged("a_killed_server_hangs_up", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let client = super::Client::attached(&server.control);
        let (listener, name) = kernel_listener(&lab, FAR4);
        let ours = connect(&client, &lab.pair.near, name);
        let _theirs = listener.accept().expect("accepted");
        assert_eq!(ours.events() & libc::POLLHUP, 0);
        server.program.signal(libc::SIGKILL);
        wait_for("it hangs up", || ours.events() & libc::POLLHUP != 0);
    });
}
