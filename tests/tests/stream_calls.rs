//! Calls and situations of streams that few programs meet, each compared with kernel TCP: a script prints what it sees, and
//! prints the same with the fast path, which carried it.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, Server};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// What the peer of `stream_stuffed.py` sends and reads, each way.
const MUCH: usize = 24 << 20;

/// Plays a case twice on the near host, over kernel TCP and over the framework's.
fn natively_and_not(play: impl Fn(&Lab, Option<&Server<'_>>)) {
    let lab = Lab::new();
    let server = lab.near_server();
    play(&lab, None);
    play(&lab, Some(&server));
}

fn python(lab: &Lab, server: Option<&Server<'_>>, script: &str) -> Command {
    let mut command = match server {
        None => lab.near(binaries::python()),
        Some(server) => server.run_with("tcp", binaries::python()),
    };
    command.arg("-u").arg(binaries::script(script));
    command
}

/// Asserts that the fast path carries `count` connections now, or none without it.
fn assert_carried(server: Option<&Server<'_>>, count: usize) {
    let Some(server) = server else { return };
    let status = server.status();
    assert_eq!(status["connections"].as_array().expect("a list").len(), count, "{status:#}");
}

/// Runs `stream_stuffed.py` with a peer of kernel TCP on the far host.
fn stuffed(case: &'static str, peer: fn(TcpStream), says: &[&str]) {
    privileged(&format!("stuffed, {case}"), || {
        natively_and_not(|lab, server| {
            let listener = lab.pair.far.run(|| TcpListener::bind((FAR4, 0)).expect("a kernel listener"));
            let port = listener.local_addr().expect("its name").port();
            let peer = thread::spawn(move || peer(listener.accept().expect("a connection").0));
            let mut command = python(lab, server, "stream_stuffed.py");
            command.args([case, FAR4, &port.to_string()]);
            let mut program = Program::start(command);
            program.expect("open");
            assert_carried(server, 1);
            program.tell("");
            for line in says {
                assert_eq!(program.line(), *line, "fast: {}: {}", server.is_some(), program.errors());
            }
            program.succeed();
            peer.join().expect("the peer");
        });
    });
}

fn read_all(stream: &mut TcpStream) -> usize {
    let (mut count, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        count += len;
    }
    count
}

#[test]
fn a_program_that_cannot_send_still_makes_room_for_its_peer() {
    let peer = |mut stream: TcpStream| {
        stream.write_all(&vec![1; MUCH]).expect("sent by the kernel");
        assert_eq!(read_all(&mut stream), MUCH);
    };
    stuffed("both", peer, &["read", "sent"]);
}

#[test]
fn epoll_tells_a_program_that_cannot_send_what_lies_unread() {
    let peer = |mut stream: TcpStream| {
        stream.write_all(b"x").expect("sent by the kernel");
        thread::sleep(Duration::from_secs(2));
        assert!(read_all(&mut stream) > 0);
    };
    stuffed("told", peer, &["told"]);
}
