//! Descriptors as processes share, pass, inherit and watch them.

use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

const PORT: u16 = 7501;
const WORKERS: usize = 4;

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
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
        let port = echo.expect("ready");
        for (who, mut program) in [
            ("bare", lab.near_script("events.py", &[&FAR4, &port])),
            ("under freena", server.script("events.py", &[&FAR4, &port])),
        ] {
            let printed = program.succeed();
            assert_eq!(printed, "level\nedge\noneshot\nnested\nmixed", "{who}");
        }
    });
}
