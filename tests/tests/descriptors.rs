//! Descriptors as processes share, pass, inherit and watch them.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, find_socket, number};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

const PORT: u16 = 7501;
const WORKERS: usize = 4;
/// A port at which nobody listens.
const UNUSED: u16 = 7502;

fn workers(server: &Server, way: &str) -> Program {
    let mut program = server.script("workers.py", &[&way, &NEAR4, &PORT, &WORKERS]);
    for _ in 0..WORKERS {
        program.expect("ready");
    }
    program
}

/// A new flow: a socket of the far host with a port of its own.
fn flow(lab: &Lab) -> UdpSocket {
    let socket = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    socket.connect((NEAR4, PORT)).expect("connected");
    socket
}

/// Which worker answers.
fn ask(flow: &UdpSocket) -> usize {
    let mut buffer = [0; 16];
    flow.send(b"who").expect("sent");
    let len = flow.recv(&mut buffer).expect("an answer");
    std::str::from_utf8(&buffer[..len]).expect("text").parse().expect("a number")
}

/// Nobody holds the port any more.
fn assert_free(server: &Server, mut program: Program) {
    program.tell("");
    program.wait();
    server
        .wait_until("the sockets are gone", |status| status["sockets"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(server.script("bind.py", &[&NEAR4, &PORT]).line(), "bound");
}

#[test]
fn workers_with_so_reuseport_share_the_load_by_flow() {
    privileged("workers_with_so_reuseport_share_the_load_by_flow", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let program = workers(&server, "reuseport");
        let flows: Vec<UdpSocket> = (0..64).map(|_| flow(&lab)).collect();
        let first: Vec<usize> = flows.iter().map(ask).collect();
        for _ in 0..3 {
            let again: Vec<usize> = flows.iter().map(ask).collect();
            assert_eq!(again, first, "a flow changes its worker");
        }
        let used: BTreeSet<usize> = first.iter().copied().collect();
        assert!(used.len() >= 3, "64 flows reach the workers {used:?} only");
        let status = server.status();
        let sockets = status["sockets"].as_array().expect("a list");
        assert_eq!(sockets.len(), WORKERS);
        assert_eq!(sockets.iter().map(|socket| number(socket, "rx_datagrams")).sum::<u64>(), 4 * 64);
        assert_free(&server, program);
    });
}

/// One socket that several processes hold in a way of theirs: each question has one answer, and the port is free when the
/// last of them is gone.
fn share(way: &'static str) {
    privileged(&format!("processes share a socket: {way}"), || {
        let lab = Lab::new();
        let server = lab.near_server();
        let program = workers(&server, way);
        let flow = flow(&lab);
        for _ in 0..200 {
            assert!(ask(&flow) < WORKERS);
        }
        // All at once: several of them have to wake up.
        for _ in 0..40 {
            flow.send(b"who").expect("sent");
        }
        let mut buffer = [0; 16];
        for count in 0..40 {
            flow.recv(&mut buffer)
                .unwrap_or_else(|error| panic!("only {count} of 40 answers ({way}): {error}"));
        }
        flow.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(flow.recv(&mut buffer).is_err(), "an answer too many");
        let socket = server.socket(PORT);
        assert_eq!(number(&socket, "rx_datagrams"), 240, "{socket:#}");
        assert_free(&server, program);
    });
}

#[test]
fn forked_workers_share_a_socket() {
    share("fork");
}

#[test]
fn a_passed_socket_works_where_it_arrives() {
    share("pass");
}

#[test]
fn an_inherited_socket_works_after_exec() {
    share("exec");
}

#[test]
fn epoll_tells_what_the_kernel_would() {
    privileged("epoll_tells_what_the_kernel_would", || {
        let lab = Lab::new();
        // Else the peer's kernel refuses no more than one datagram a second (icmp(7)).
        lab.pair.far.run(|| {
            fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").expect("a parameter of the namespace")
        });
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
        let port = echo.expect("ready");
        for under_freena in [false, true] {
            let mut program = match under_freena {
                false => lab.near_script("events.py", &[&FAR4, &port, &UNUSED]),
                true => server.script("events.py", &[&FAR4, &port, &UNUSED]),
            };
            for part in [
                "level",
                "edge",
                "edge while unread",
                "oneshot",
                "edge and oneshot",
                "nested",
                "nested edge",
                "mixed",
                "pending error",
                "queue of errors",
                "signals",
            ] {
                assert_eq!(program.line(), part, "under freena: {under_freena}: {}", program.errors());
            }
            let [own, asked] = [0; 2].map(|_| program.line().parse().expect("a number"));
            if under_freena {
                let socket = server.socket(own);
                assert_eq!(number(&socket, "rx_datagrams"), u64::from(asked), "{socket:#}");
                assert_eq!(number(&socket, "rx_through_kernel"), 0, "{socket:#}");
            } else {
                let status = server.status();
                assert!(find_socket(&status, own).is_none(), "{status:#}");
            }
            program.tell("");
            program.succeed();
        }
    });
}

/// Serves one connection as `stream_events.py` wants it.
fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let mut buffer = vec![0; 65536];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        for byte in &buffer[..len] {
            match byte {
                b'e' => stream.write_all(b"e").expect("sent"),
                b's' => thread::sleep(Duration::from_millis(300)),
                _ => {}
            }
        }
    }
}

#[test]
fn epoll_tells_edges_of_a_connection_as_the_kernel_would() {
    privileged("epoll_tells_edges_of_a_connection_as_the_kernel_would", || {
        let lab = Lab::new();
        let server = lab.near_server();
        for under_freena in [false, true] {
            let listener = lab.pair.far.run(|| TcpListener::bind((FAR4, 0)).expect("a kernel listener"));
            let port = listener.local_addr().expect("its name").port();
            let peer = thread::spawn(move || serve(&listener));
            let mut command = match under_freena {
                false => lab.near(binaries::python()),
                true => server.run_with("tcp", binaries::python()),
            };
            command.arg("-u").arg(binaries::script("stream_events.py")).args([FAR4, &port.to_string()]);
            let mut program = Program::start(command);
            program.expect("open");
            let status = server.status();
            let carried = status["connections"].as_array().expect("a list").len();
            assert_eq!(carried, usize::from(under_freena), "{status:#}");
            program.tell("");
            for part in ["in", "out", "end"] {
                assert_eq!(program.line(), part, "under freena: {under_freena}: {}", program.errors());
            }
            program.succeed();
            peer.join().expect("the peer");
        }
    });
}
