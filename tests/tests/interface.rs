//! An interface that goes down, comes back, changes its addresses, or is deleted under a running server.

use freena_tests::lab::{FAR4, Lab, NEAR4, Server};
use freena_tests::netns::{Pair, ip, privileged};
use freena_tests::program::Program;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

/// Asks until an answer comes: a neighbour may have to be found again first.
fn wait_for_answer(ask: &mut Program, when: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        ask.tell("100");
        match ask.line() {
            line if line == "ok 100" => return,
            line => assert!(Instant::now() < deadline, "{when}: {line}"),
        }
        // A late answer to an earlier question is as good as its own: they are the same bytes.
        thread::sleep(Duration::from_millis(50));
    }
}

/// A framework program that asks with a patience of 0.3 s, and a kernel program that answers.
fn programs(lab: &Lab, server: &Server) -> (Program, Program) {
    let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
    let port = echo.expect("ready");
    let mut ask = server.script("ask.py", &[&FAR4, &port, &"unconnected", &0.3]);
    ask.expect("ready");
    (ask, echo)
}

#[test]
fn traffic_goes_on_when_the_interface_is_up_again() {
    for link in ["xdp-native", "raw"] {
        privileged(&format!("traffic_goes_on_when_the_interface_is_up_again, {link}"), || goes_on(link));
    }
}

fn goes_on(link: &str) {
    let lab = Lab::new();
    let mut server = lab.near_server_with(&["--link", link]);
    let (mut ask, _echo) = programs(&lab, &server);
    let mut listener = server.script("echo.py", &[&NEAR4, &7001]);
    listener.expect("ready");
    wait_for_answer(&mut ask, "before");
    for round in 0..3 {
        ip("link set near down");
        ask.tell("100");
        let line = ask.line();
        assert_ne!(line, "ok 100", "an answer through an interface that is down");
        assert!(server.program.is_running());
        ip("link set near up");
        wait_for_answer(&mut ask, &format!("after round {round}"));
        let mut far = lab.far_script("ask.py", &[&NEAR4, &7001, &"unconnected", &0.3]);
        far.expect("ready");
        wait_for_answer(&mut far, &format!("asked by the far host after round {round}"));
    }
    server.stop();
}

#[test]
fn a_program_follows_new_addresses() {
    privileged("a_program_follows_new_addresses", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let mut listener = server.script("echo.py", &[&"0.0.0.0", &7001]);
        listener.expect("ready");
        ip("address add 10.0.0.77/24 dev near");
        // The answer comes from the address that the kernel prefers, as without freena.
        let far = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
        far.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let (deadline, mut buffer) = (Instant::now() + Duration::from_secs(5), [0; 16]);
        loop {
            far.send_to(b"new", ("10.0.0.77", 7001)).expect("sent");
            match far.recv_from(&mut buffer) {
                Ok((len, from)) => break assert_eq!((&buffer[..len], from.port()), (&b"new"[..], 7001)),
                Err(error) => assert!(Instant::now() < deadline, "nothing comes back: {error}"),
            }
        }
        // The first may still have come through the kernel, before the server had heard of the address: more are asked.
        let socket = server.wait_until("the fast path is taken to it", |status| {
            far.send_to(b"more", ("10.0.0.77", 7001)).expect("sent");
            status["sockets"][0]["rx_datagrams"].as_u64().is_some_and(|count| count > 0)
        });
        assert_eq!(socket["sockets"][0]["local"], "0.0.0.0:7001");
    });
}

#[test]
fn a_server_outlives_its_interface_and_says_so() {
    for link in ["xdp-native", "raw"] {
        privileged("a_server_outlives_its_interface_and_says_so", || {
            let lab = Lab::new();
            let mut server = Server::start(&lab.pair.near, Pair::NEAR, lab.path("near"), &["--link", link]);
            let (mut ask, _echo) = programs(&lab, &server);
            wait_for_answer(&mut ask, "before");
            ip("link delete near");
            ask.tell("100");
            // Told by the kernel or by silence; never a hang.
            assert_ne!(ask.line(), "ok 100");
            server.program.expect_error("near");
            assert!(server.program.is_running());
            server.status();
            let mut bind = server.script("bind.py", &[&"0.0.0.0", &7001]);
            assert_eq!(bind.line(), "bound");
            server.stop();
        });
    }
}
