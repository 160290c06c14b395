//! Connections between two programs on one host, both under freena: both ends share one memory. What each shows is what the
//! kernel's loopback would have shown it.

use freena_tests::binaries;
use freena_tests::lab::{Lab, Server};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use serde_json::Value;
use std::fmt::Display;
use std::process::Command;
use std::time::Duration;

const SCRIPT: &str = "local_streams.py";

fn with_server(name: &str, play: impl Fn(&Lab, &Server) + Send + Sync) {
    privileged(name, || {
        let lab = Lab::new();
        let server = lab.near_server();
        play(&lab, &server);
    });
}

/// All scenes of the script, by whoever carries them.
fn play(mut command: Command) -> Vec<String> {
    command.arg("-u").arg(binaries::script(SCRIPT));
    let told = Program::start(command).succeed_within(Duration::from_secs(120));
    let lines: Vec<String> = told.lines().map(str::to_owned).collect();
    assert_eq!(lines.last().map(String::as_str), Some("done"), "{told}");
    lines
}

#[test]
fn both_ends_show_what_the_loopback_shows() {
    with_server("both_ends_show_what_the_loopback_shows", |lab, server| {
        let kernel = play(lab.near(binaries::python()));
        let framework = play(server.run_with("tcp", binaries::python()));
        for (line, (kernel, framework)) in kernel.iter().zip(&framework).enumerate() {
            assert_eq!(kernel, framework, "line {line}");
        }
        assert_eq!(kernel.len(), framework.len());
        server.wait_until("nothing is left", |status| connections(status).is_empty());
    });
}

fn connections(status: &Value) -> Vec<Value> {
    status["connections"].as_array().cloned().unwrap_or_default()
}

/// One end of a connection, in a program of its own.
struct End(Program);

impl End {
    fn start(mut command: Command, arguments: &[&dyn Display]) -> End {
        command.arg("-u").arg(binaries::script(SCRIPT)).args(arguments.iter().map(ToString::to_string));
        End(Program::start(command))
    }

    /// Both ends of a connection, under freena.
    fn pair(server: &Server) -> (End, End) {
        let start =
            |arguments: &[&dyn Display]| End::start(server.run_with("tcp", binaries::python()), arguments);
        let mut accepted = start(&[&"listen", &"127.0.0.1", &0]);
        let port = accepted.0.expect("ready ");
        let mut connected = start(&[&"connect", &"127.0.0.1", &port]);
        accepted.0.expect("connected");
        connected.0.expect("connected");
        (connected, accepted)
    }

    fn expect(&mut self, what: &str, answer: &str) {
        self.0.tell(what);
        assert_eq!(self.0.line(), format!("ok {answer}").trim_end(), "{what}: {}", self.0.errors());
    }
}

#[test]
fn the_status_lists_both_ends() {
    with_server("the_status_lists_both_ends", |_, server| {
        let (mut connected, mut accepted) = End::pair(server);
        connected.expect("send 1000", "1000");
        let listed = connections(&server.status());
        assert_eq!(listed.len(), 2, "{listed:#?}");
        let text = |at: usize, key: &str| listed[at][key].as_str().unwrap_or_default().to_owned();
        assert_eq!((text(0, "local"), text(0, "peer")), (text(1, "peer"), text(1, "local")));
        for at in [0, 1] {
            assert!(text(at, "path").starts_with("local"), "{listed:#?}");
            assert_eq!(text(at, "state"), "established");
        }
        assert_eq!((&listed[0]["bytes_sent"], &listed[1]["rx_queue_bytes"]), (&1000.into(), &1000.into()));
        accepted.expect("recv", "1000");
        connected.expect("close", "");
        accepted.expect("recv", "0");
        accepted.expect("close", "");
        server.wait_until("nothing is left", |status| connections(status).is_empty());
    });
}

/// Killed while there is nothing that its peer sent and it did not read: the end of a stream. With something: a reset.
#[test]
fn a_killed_program_is_an_end_or_a_reset_to_its_peer() {
    with_server("a_killed_program_is_an_end_or_a_reset_to_its_peer", |_, server| {
        let (mut connected, mut accepted) = End::pair(server);
        connected.expect("send 300", "300");
        connected.0.kill();
        accepted.expect("recv", "300");
        // The server ends what a killed program leaves, a moment later: a receive waits for that, a look does not.
        accepted.expect("recv", "0");
        accepted.expect("poll", "POLLIN POLLOUT POLLRDHUP");
        let (mut connected, mut accepted) = End::pair(server);
        connected.expect("send 300", "300");
        accepted.0.kill();
        connected.expect("recv", "ECONNRESET");
        connected.expect("send 1", "EPIPE");
        server.wait_until("one is left of each", |status| connections(status).len() <= 2);
    });
}

/// Connections on one host live on without the server, until one end is closed.
#[test]
fn a_killed_server_is_not_needed() {
    privileged("a_killed_server_is_not_needed", || {
        let lab = Lab::new();
        let mut server = lab.near_server();
        let (mut connected, mut accepted) = End::pair(&server);
        connected.expect("send 10", "10");
        server.program.kill();
        accepted.expect("recv", "10");
        for size in ["1", "100", "60000"] {
            accepted.expect(&format!("send {size}"), size);
            connected.expect("recv", size);
            connected.expect(&format!("send {size}"), size);
            accepted.expect("recv", size);
        }
        accepted.0.tell("recv");
        connected.0.kill();
        assert_eq!(accepted.0.line(), "ok ECONNRESET");
    });
}
