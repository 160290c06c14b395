//! Programs that open SCTP sockets, by libsctp and by plain calls, where the kernel has no SCTP.

use crate::{LONG, PORT, listens, peer, program, python, said, usrsctp_peer};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, NEAR6, Server};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program that speaks SCTP by libsctp.
fn sctp_messages(lab: &Lab) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/sctp_messages.c");
    let program = lab.path("sctp_messages");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).args([&program, &source]).arg("-lsctp");
    said(cc);
    program
}

fn start(server: &Server<'_>, program: &Path, arguments: &[&str]) -> Program {
    let mut command = server.run_with("sctp", program);
    command.args(arguments);
    Program::start(command)
}

#[test]
fn messages_and_their_streams_arrive_as_they_were_sent() {
    privileged("messages_and_their_streams_arrive_as_they_were_sent", || {
        let lab = Lab::new();
        let (program, port) = (sctp_messages(&lab), PORT.to_string());
        for impairments in [&[][..], &["--impair", "loss=2%,duplicate=1%,reorder=2%,delay=1ms"]] {
            let (mut near, mut far) = (lab.near_server_with(impairments), lab.far_server());
            for address in [NEAR4, NEAR6] {
                let mut serves = start(&near, &program, &["serve", address, &port]);
                serves.expect("listening");
                listens(&near);
                let mut asks = start(&far, &program, &["ask", address, &port]);
                assert_eq!(asks.succeed_within(LONG).trim(), "120");
                assert_eq!(serves.succeed_within(LONG).trim(), "120");
            }
            // On one host.
            let mut serves = start(&near, &program, &["serve", NEAR4, &port]);
            serves.expect("listening");
            listens(&near);
            let mut asks = start(&near, &program, &["ask", NEAR4, &port]);
            assert_eq!(asks.succeed_within(LONG).trim(), "120");
            assert_eq!(serves.succeed_within(LONG).trim(), "120");
            near.wait_until("nothing is left", |status| {
                status["connections"].as_array().is_some_and(Vec::is_empty)
            });
            near.stop();
            far.stop();
        }
    });
}

#[test]
fn usrsctp_gets_and_gives_the_same_messages() {
    privileged("usrsctp_gets_and_gives_the_same_messages", || {
        let lab = Lab::new();
        let (program, usrsctp, port) = (sctp_messages(&lab), usrsctp_peer(&lab), PORT.to_string());
        for impairments in [&[][..], &["--impair", "loss=2%,duplicate=1%,reorder=2%,delay=1ms"]] {
            let mut near = lab.near_server_with(impairments);
            let mut serves = start(&near, &program, &["serve", NEAR4, &port]);
            serves.expect("listening");
            listens(&near);
            let mut asks = peer(&lab, &usrsctp, &["ask", NEAR4, &port]);
            assert_eq!(asks.succeed_within(LONG).trim(), "60");
            assert_eq!(serves.succeed_within(LONG).trim(), "60");
            let mut serves = peer(&lab, &usrsctp, &["serve", &port]);
            serves.expect("listening");
            let mut calls = start(&near, &program, &["calls", FAR4, &port]);
            assert_eq!(calls.succeed_within(LONG).trim(), "right");
            assert_eq!(serves.succeed_within(LONG).trim(), "3");
            near.stop();
        }
    });
}

#[test]
fn options_bounds_and_errors_are_those_of_the_socket_api() {
    privileged("options_bounds_and_errors_are_those_of_the_socket_api", || {
        let lab = Lab::new();
        let (program, port) = (sctp_messages(&lab), PORT.to_string());
        let (mut near, mut far) = (lab.near_server(), lab.far_server());
        // Over the wire, and on one host.
        for asking in [&far, &near] {
            let mut serves = start(&near, &program, &["serve", NEAR4, &port]);
            serves.expect("listening");
            listens(&near);
            assert_eq!(start(asking, &program, &["calls", NEAR4, &port]).succeed().trim(), "right");
            assert_eq!(serves.succeed().trim(), "3");
        }
        // Nobody listens: what the kernel says that has no SCTP; and on this host. The kernel's TCP is no way to a listener.
        let connect = "import errno, socket, sys\n\
                       s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[3]))\n\
                       print(errno.errorcode.get(s.connect_ex((sys.argv[1], int(sys.argv[2]))), 'connected'))";
        for (asking, errno) in [(&far, "ENOPROTOOPT"), (&near, "ECONNREFUSED")] {
            assert_eq!(python(asking, connect, &[NEAR4, &port, "132"]).succeed().trim(), errno);
        }
        let mut serves = start(&near, &program, &["serve", NEAR4, &port]);
        serves.expect("listening");
        listens(&near);
        let mut plain = lab.near(binaries::python());
        let reset = "import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
                     try: print(s.recv(9))\nexcept OSError as error: print(error.strerror)";
        plain.args(["-c", reset, NEAR4, &port]);
        assert_eq!(said(plain).trim(), "Connection reset by peer");
        serves.kill();
        near.stop();
        far.stop();
    });
}

#[test]
fn socat_and_ncat_open_sctp_sockets() {
    privileged("socat_and_ncat_open_sctp_sockets", || {
        let lab = Lab::new();
        let (mut near, mut far) = (lab.near_server(), lab.far_server());
        let content: Vec<u8> =
            (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (from, to) = (lab.path("from"), lab.path("to"));
        fs::write(&from, &content).expect("a file");
        let open = |path: &Path| format!("OPEN:{},creat,trunc", path.display());
        let mut takes = near.run_with("sctp", program("socat"));
        takes.args(["-u", &format!("SCTP4-LISTEN:{PORT}"), &open(&to)]);
        let mut takes = Program::start(takes);
        listens(&near);
        let mut gives = far.run_with("sctp", program("socat"));
        gives.args(["-u", &format!("OPEN:{}", from.display()), &format!("SCTP4-CONNECT:{NEAR4}:{PORT}")]);
        said(gives);
        takes.succeed();
        assert!(fs::read(&to).expect("a file") == content, "other bytes by socat");
        let ncat = program("ncat").display().to_string();
        let mut takes = near.run_with("sctp", "/bin/sh");
        // It ends when its own input does: that is a pipe whose other end it has itself.
        let pipe = lab.path("pipe");
        let pipe = pipe.display();
        let listen = format!(
            "mkfifo {pipe} && exec {ncat} --sctp --recv-only -l :: {PORT} <> {pipe} > {}",
            to.display()
        );
        takes.args(["-c", &listen]);
        let mut takes = Program::start(takes);
        listens(&near);
        let mut gives = far.run_with("sctp", "/bin/sh");
        gives.args(["-c", &format!("{ncat} --sctp --send-only {NEAR6} {PORT} < {}", from.display())]);
        said(gives);
        takes.succeed();
        let got = fs::read(&to).expect("a file");
        assert!(got == content, "{} bytes by ncat, or others", got.len());
        near.stop();
        far.stop();
    });
}
