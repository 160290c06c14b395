//! Clients that may use several protocols: the first that the peer answers by.

use crate::{PORT, listens, said, with_steady};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, FAR6, Lab, Server};
use freena_tests::netns::privileged;
use freena_tests::plugins;
use freena_tests::program::{Program, output};

/// How long a protocol may take before the next one is tried too, in milliseconds: much longer than usual, so that a busy
/// machine tells waiting from not waiting.
const STAGGER: f64 = 3000.0;

/// Connects as often as it is told, and says what carries each connection and how many milliseconds that took.
const CONNECT: &str = "
import socket, sys, time
for _ in range(int(sys.argv[3])):
    before = time.monotonic()
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
    except OSError as error:
        print(error.errno, 1000 * (time.monotonic() - before))
        continue
    print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), 1000 * (time.monotonic() - before))
    s.sendall(b'something')
    assert s.recv(99) == b'something'
    s.close()
";

/// Gives back what it gets.
const ECHO: &str = "
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
print('ready', flush=True)
while True:
    c, _ = s.accept()
    while part := c.recv(99):
        c.sendall(part)
    c.close()
";

fn echo(mut command: std::process::Command, address: &str) -> Program {
    command.args(["-c", ECHO, address, &PORT.to_string()]);
    let mut program = Program::start(command);
    program.expect("ready");
    program
}

/// What a client is told, connection by connection: protocol or errno, and milliseconds.
fn connect(near: &Server<'_>, protocols: &str, address: &str, times: u32) -> Vec<(i32, f64)> {
    let mut client = near.run_waiting(protocols, STAGGER as u32, binaries::python());
    client.args(["-c", CONNECT, address, &PORT.to_string(), &times.to_string()]);
    let lines = said(client);
    let read = |line: &str| {
        let (number, time) = line.split_once(' ')?;
        Some((number.parse().ok()?, time.parse().ok()?))
    };
    lines.lines().map(|line| read(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

fn reached(near: &Server<'_>) -> Vec<(String, String)> {
    let status = near.status();
    let text = |it: &serde_json::Value, key: &str| it[key].as_str().expect("words").to_owned();
    let all = status["remembered"].as_array().expect("a list");
    all.iter().map(|it| (text(it, "peer"), text(it, "protocol"))).collect()
}

/// A near host with the example library, and a far one with nothing of freena.
fn with_a_bare_peer(name: &str, test: impl FnOnce(&Lab, &Server<'_>) + Send) {
    privileged(name, || {
        let lab = Lab::new();
        let folder = lab.path("plugins");
        plugins::build(&folder);
        let mut near = lab.near_server_with(&["--plugins", folder.to_str().expect("a name")]);
        test(&lab, &near);
        near.stop();
    });
}

#[test]
fn a_peer_that_speaks_the_first_protocol_is_reached_by_it() {
    with_steady("a_peer_that_speaks_the_first_protocol_is_reached_by_it", |_, near, far| {
        let _echo = echo(far.run_with("steady,tcp", binaries::python()), FAR4);
        listens(far, "steady, tcp");
        for (protocol, took) in connect(near, "steady,tcp", FAR4, 3) {
            assert!(protocol == 253 && took < STAGGER, "{protocol} after {took} ms");
        }
        assert_eq!(reached(near), [(format!("{FAR4}:{PORT}"), "steady".to_owned())]);
        for (protocol, _) in connect(near, "tcp,steady", FAR4, 1) {
            assert_eq!(protocol, 253, "what has reached the peer before is preferred");
        }
    });
}

#[test]
fn a_peer_whose_host_refuses_the_first_protocol_is_reached_at_once_by_the_next() {
    with_a_bare_peer("a_peer_whose_host_refuses_the_first_protocol", |lab, near| {
        for address in [FAR4, FAR6] {
            // The kernel's TCP, in a process of its own for each address family.
            let _echo = echo(lab.far(binaries::python()), address);
            // The kernel's search for the neighbour may take a second, whatever the protocol.
            connect(near, "tcp", address, 1);
            for (protocol, took) in connect(near, "steady,tcp", address, 3) {
                assert!(protocol == 6 && took < STAGGER, "{address}: {protocol} after {took} ms");
            }
        }
        assert_eq!(
            reached(near),
            [(format!("{FAR4}:{PORT}"), "tcp".to_owned()), (format!("[{FAR6}]:{PORT}"), "tcp".to_owned())]
        );
    });
}

#[test]
fn a_peer_that_refuses_the_first_protocol_is_reached_at_once_by_the_next() {
    with_steady("a_peer_that_refuses_the_first_protocol", |_, near, far| {
        // Another socket keeps the host's engine in business, so that it answers by a reset.
        let _echo = echo(far.run_with("tcp", binaries::python()), FAR4);
        listens(far, "tcp");
        let mut other = far.run_with("steady", binaries::python());
        let port = (PORT + 1).to_string();
        other.args(["-c", ECHO, FAR4, &port]);
        let mut other = Program::start(other);
        other.expect("ready");
        listens(far, "steady");
        for (protocol, took) in connect(near, "steady,tcp", FAR4, 3) {
            assert!(protocol == 6 && took < STAGGER, "{protocol} after {took} ms");
        }
    });
}

#[test]
fn a_peer_that_does_not_answer_is_reached_after_the_stagger_once() {
    with_a_bare_peer("a_peer_that_does_not_answer_is_reached_after_the_stagger_once", |lab, near| {
        for setting in ["net.ipv4.icmp_msgs_per_sec=0", "net.ipv4.icmp_msgs_burst=0"] {
            let mut sysctl = lab.far("sysctl");
            sysctl.args(["-qw", setting]);
            said(sysctl);
        }
        let _echo = echo(lab.far(binaries::python()), FAR4);
        let times = connect(near, "steady,tcp", FAR4, 3);
        let (protocol, took) = times[0];
        assert!(protocol == 6 && took >= STAGGER, "{protocol} after {took} ms");
        for (protocol, took) in &times[1..] {
            assert!(*protocol == 6 && *took < STAGGER, "remembered, yet {protocol} after {took} ms");
        }
    });
}

#[test]
fn a_peer_that_speaks_none_refuses() {
    with_a_bare_peer("a_peer_that_speaks_none_refuses", |_, near| {
        for protocols in ["steady,tcp", "steady"] {
            let (errno, took) = connect(near, protocols, FAR4, 1)[0];
            assert!(errno == libc::ECONNREFUSED && took < STAGGER, "{protocols}: {errno} after {took} ms");
        }
        assert!(reached(near).is_empty());
        near.wait_until("nothing is left", |status| {
            status["connections"].as_array().is_some_and(Vec::is_empty)
        });
    });
}

/// Begins to connect without waiting and closes, or waits by poll.
const IMPATIENT: &str = "
import select, socket, sys
for n in range(50):
    s = socket.socket()
    s.setblocking(False)
    assert s.connect_ex((sys.argv[1], int(sys.argv[2]))) in (0, 115)
    if n % 2:
        p = select.poll()
        p.register(s, select.POLLOUT)
        assert p.poll(10000), 'it never ends'
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.sendall(b'something')
        s.setblocking(True)
        assert s.recv(99) == b'something'
    s.close()
print('done')
";

#[test]
fn who_does_not_wait_leaves_nothing_behind() {
    with_a_bare_peer("who_does_not_wait_leaves_nothing_behind", |lab, near| {
        let _echo = echo(lab.far(binaries::python()), FAR4);
        let mut client = near.run_with("steady,tcp", binaries::python());
        client.args(["-c", IMPATIENT, FAR4, &PORT.to_string()]);
        let told = output(client);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        near.wait_until("nothing is left", |status| {
            status["connections"].as_array().is_some_and(Vec::is_empty)
        });
    });
}

#[test]
fn a_file_forces_the_default_or_says_how_long_to_wait() {
    with_a_bare_peer("a_file_forces_the_default_or_says_how_long_to_wait", |lab, near| {
        for setting in ["net.ipv4.icmp_msgs_per_sec=0", "net.ipv4.icmp_msgs_burst=0"] {
            let mut sysctl = lab.far("sysctl");
            sysctl.args(["-qw", setting]);
            said(sysctl);
        }
        let _echo = echo(lab.far(binaries::python()), FAR4);
        let run = |connect: &str, seconds: &str| {
            let path = lab.path("app.xml");
            let text = format!(
                "<configuration application='test'><protocols connect='{connect}'>\
                 <default name='STEADY' lib='libsteady.so' type='stream'/><option name='TCP' lib='kernel'/>\
                 </protocols></configuration>"
            );
            std::fs::write(&path, text).expect("a file");
            let mut command = lab.near(binaries::freena("freena"));
            command.args(["run", "--control"]).arg(&near.control).arg("--config").arg(path);
            command.args(["--", "timeout", seconds]).arg(binaries::python());
            command.args(["-c", CONNECT, FAR4, &PORT.to_string(), "1"]);
            output(command)
        };
        let forced = run("default", "1");
        assert_eq!(forced.status.code(), Some(124), "it goes on by the default alone, which nobody answers");
        let quick = run("1000", "9");
        let line = String::from_utf8_lossy(&quick.stdout);
        let (protocol, took) = line.trim().split_once(' ').expect("two words");
        let took: f64 = took.parse().expect("a number");
        assert!(protocol == "6" && (1000.0..STAGGER).contains(&took), "{line}");
    });
}
