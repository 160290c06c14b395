//! Calls and situations of streams that few programs meet, each compared with kernel TCP: a script prints what it sees, and
//! prints the same with the fast path, which carried it.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Mutex;
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

#[test]
fn connections_are_deferred_until_there_is_data() {
    for when in ["before", "after"] {
        privileged(&format!("deferred, set {when} listen"), || {
            natively_and_not(|lab, server| {
                let mut command = python(lab, server, "stream_deferred.py");
                command.args([when, NEAR4, "7041"]);
                let mut program = Program::start(command);
                let connect =
                    || lab.pair.far.run(|| TcpStream::connect((NEAR4, 7041)).expect("a kernel connection"));
                let says = |line: &str, program: &mut Program| {
                    assert_eq!(program.line(), line, "fast: {}: {}", server.is_some(), program.errors());
                };
                says("shown 3", &mut program);
                let mut first = connect();
                program.tell("");
                says("silent False", &mut program);
                says("waits", &mut program);
                first.write_all(b"data").expect("sent");
                program.tell("");
                says("first b'data'", &mut program);
                assert_carried(server, 1);
                says("next", &mut program);
                let mut second = connect();
                program.tell("");
                says("second True", &mut program);
                let mut got = [0; 5];
                second.read_exact(&mut got).expect("an answer");
                second.write_all(&got).expect("sent");
                says("answers b'hello'", &mut program);
                program.succeed();
            });
        });
    }
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

/// Segments that a server's engine has taken.
fn segments(server: &Server<'_>) -> u64 {
    let status = server.status();
    status["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|worker| number(&worker["tcp"], "segments_in"))
        .sum()
}

#[test]
fn what_is_sent_before_a_close_arrives_whole() {
    privileged("what_is_sent_before_a_close_arrives_whole", || {
        let lab = Lab::new();
        let (near, far) = (lab.near_server(), lab.far_server());
        let count = std::env::var("FREENA_TEST_CLOSES").unwrap_or_else(|_| "200".to_owned());
        let mut serving = python(&lab, Some(&near), "stream_closes.py");
        serving.args(["serve", NEAR4, "7021"]);
        let mut serving = Program::start(serving);
        serving.expect("open");
        let mut asking = far.run_with("tcp", binaries::python());
        asking.arg("-u").arg(binaries::script("stream_closes.py")).args(["ask", NEAR4, "7021", &count, FAR4]);
        let mut asking = Program::start(asking);
        let ended = asking.wait_within(Duration::from_secs(300));
        assert!(ended.success(), "{}; the other end: {}", asking.errors(), serving.errors());
        for server in [&near, &far] {
            assert!(segments(server) > 1000, "{:#}", server.status());
        }
        serving.kill();
    });
}

/// Runs a case of `stream_calls.py` with a peer of kernel TCP on the far host; what it prints must be the same both times.
fn calls(case: &'static str, port: u16, peer: fn(&Lab, u16)) {
    privileged(&format!("calls, {case}"), || {
        let said = Mutex::new(Vec::new());
        natively_and_not(|lab, server| {
            let mut command = python(lab, server, "stream_calls.py");
            // The kernel keeps the port of what it closed for a while.
            let port = port + u16::from(server.is_some());
            command.args([case, NEAR4, &port.to_string()]);
            let mut program = Program::start(command);
            let mut lines = Vec::new();
            loop {
                lines.push(program.line());
                if lines.last().is_some_and(|line| line == "open") {
                    break;
                }
            }
            let before = server.map(segments);
            peer(lab, port);
            lines.push(program.succeed());
            if let (Some(server), Some(before)) = (server, before) {
                assert!(segments(server) > before, "{case}: not the fast path: {:#}", server.status());
            }
            said.lock().expect("no panic").push(lines);
        });
        let said = said.into_inner().expect("no panic");
        assert_eq!(said[0], said[1], "{case}: kernel TCP, then framework TCP");
    });
}

fn connect(lab: &Lab, port: u16) -> TcpStream {
    let stream = lab.pair.far.run(|| TcpStream::connect((NEAR4, port)).expect("a kernel connection"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Connects 40 times and reads a byte from each.
fn forty(lab: &Lab, port: u16) {
    for _ in 0..40 {
        connect(lab, port).read_exact(&mut [0]).expect("a byte");
    }
}

#[test]
fn a_listener_comes_as_descriptor_3() {
    calls("activation", 7100, |lab, port| connect(lab, port).write_all(b"x").expect("sent"));
}

#[test]
fn listeners_of_one_port_share_the_load() {
    calls("reuseport", 7102, forty);
}

#[test]
fn an_exclusive_set_takes_all_connections() {
    calls("exclusive", 7104, forty);
}

#[test]
fn urgent_data_stay_apart() {
    calls("urgent", 7108, |lab, port| {
        let mut stream = connect(lab, port);
        stream.write_all(b"ab").expect("sent");
        // SAFETY: one readable byte, and a descriptor that lives through the call.
        let sent = unsafe { libc::send(stream.as_raw_fd(), b"c".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        stream.write_all(b"d").expect("sent");
        read_all(&mut stream);
    });
}

#[test]
fn a_pipe_takes_and_gives_what_a_connection_has() {
    calls("splice", 7110, |lab, port| {
        let mut stream = connect(lab, port);
        let mut writer = stream.try_clone().expect("a second descriptor");
        let sent: Vec<u8> = (0..1 << 20).map(|at| (at / 3) as u8).collect();
        let expected = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).expect("sent");
            writer.shutdown(std::net::Shutdown::Write).expect("ended");
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("all of it");
        writing.join().expect("the writer");
        assert!(got == expected, "{} bytes came back, or others", got.len());
    });
}

#[test]
fn fast_open_is_answered_as_the_kernel_does() {
    calls("fastopen", 7112, |lab, port| {
        let mut stream = connect(lab, port);
        stream.write_all(b"x").expect("sent");
        read_all(&mut stream);
    });
}

#[test]
fn what_is_acknowledged_late_is_shown() {
    calls("info", 7113, |lab, port| {
        // With little room the reader acknowledges late, when the sender is at rest.
        let (mut stream, mut buffer) = (connect(lab, port), vec![0; 65_536]);
        socket2::SockRef::from(&stream).set_recv_buffer_size(65_536).expect("an option");
        while let Ok(1..) = stream.read(&mut buffer) {
            thread::sleep(Duration::from_millis(5));
        }
    });
}
