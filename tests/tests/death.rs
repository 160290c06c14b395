//! Programs and servers that are killed, stopped or ended: what they held is free again, and nobody else notices.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, number};
use freena_tests::netns::{Pair, privileged};
use freena_tests::program::{Program, output};
use freena_tests::reach::{assert_kernel_udp, assert_ping, has_xdp};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A kernel socket on the far host that waits a second for an answer.
fn far_socket(lab: &Lab) -> UdpSocket {
    let socket = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    socket
}

fn assert_echo(socket: &UdpSocket, port: u16, when: &str) {
    let mut buffer = [0; 64];
    socket.send_to(b"are you there", (NEAR4, port)).expect("sent");
    let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no answer {when}: {error}"));
    assert_eq!(&buffer[..len], b"are you there", "{when}");
}

#[test]
fn a_killed_program_frees_its_port() {
    privileged("a_killed_program_frees_its_port", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let far = far_socket(&lab);
        for round in 0..10 {
            let mut echo = server.script("echo.py", &[&NEAR4, &7001]);
            echo.expect("ready");
            assert_echo(&far, 7001, &format!("in round {round}"));
            echo.kill();
            if round % 2 == 0 {
                // Under freena the first try must do.
                let mut again = server.script("bind.py", &[&NEAR4, &7001]);
                assert_eq!(again.line(), "bound", "round {round}");
                continue;
            }
            // A bare program has only the kernel to ask, which learns of the death from the server.
            let deadline = Instant::now() + Duration::from_millis(500);
            while let Err(error) = lab.pair.near.run(|| UdpSocket::bind((NEAR4, 7001))) {
                assert!(Instant::now() < deadline, "a bare program cannot bind in round {round}: {error}");
                thread::sleep(Duration::from_millis(1));
            }
        }
        server.wait_until("no socket is left", |status| {
            status["sockets"].as_array().is_some_and(Vec::is_empty)
        });
    });
}

#[test]
fn a_stopped_program_stops_nobody_else() {
    privileged("a_stopped_program_stops_nobody_else", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let far = far_socket(&lab);
        let (mut stopped, mut other) =
            (server.script("echo.py", &[&NEAR4, &7001]), server.script("echo.py", &[&NEAR4, &7002]));
        stopped.expect("ready");
        other.expect("ready");
        assert_echo(&far, 7001, "before");
        stopped.signal(libc::SIGSTOP);
        // More than its ring holds.
        for round in 0..200 {
            for _ in 0..60 {
                far.send_to(&[1; 1000], (NEAR4, 7001)).expect("sent");
            }
            assert_echo(&far, 7002, &format!("in round {round} from the other program"));
        }
        server.wait_until("what the ring does not hold is counted", |status| {
            status["sockets"].as_array().is_some_and(|sockets| {
                sockets
                    .iter()
                    .any(|socket| socket["local"] == "10.0.0.1:7001" && number(socket, "rx_dropped") > 1000)
            })
        });
        // Also a new one can start, and the stopped one goes on where it was.
        let mut third = server.script("bind.py", &[&NEAR4, &7003]);
        assert_eq!(third.line(), "bound");
        stopped.signal(libc::SIGCONT);
        let mut buffer = [0; 2000];
        assert_eq!(far.recv(&mut buffer).expect("an answer of the program that was stopped"), 1000);
    });
}

#[test]
fn a_process_killed_while_it_uses_a_shared_socket_blocks_nobody() {
    privileged("a_process_killed_while_it_uses_a_shared_socket_blocks_nobody", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &7001]);
        echo.expect("ready");
        let mut siblings = server.script("siblings.py", &[&FAR4, &7001, &40]);
        siblings.expect("ready");
        assert_eq!(siblings.line(), "done");
        siblings.succeed();
    });
}

#[test]
fn a_killed_server_leaves_the_kernel_working_and_programs_with_an_error() {
    for link in ["xdp-native", "raw"] {
        let name = "a_killed_server_leaves_the_kernel_working_and_programs_with_an_error";
        privileged(&format!("{name}, {link}"), || killed_server(link));
    }
}

fn killed_server(link: &str) {
    let lab = Lab::new();
    let mut server = lab.near_server_with(&["--link", link]);
    let mut echo = lab.far_script("echo.py", &[&FAR4, &7001]);
    echo.expect("ready");
    let sink = far_socket(&lab);
    let port = sink.local_addr().expect("its name").port();
    let ways = ["recv", "poll", "select", "epoll", "send"];
    // A server of a protocol, whose port the kernel has to get again.
    let mut listener = server.script("echo.py", &[&NEAR4, &7002]);
    listener.expect("ready");
    let mut programs = ways.map(|way| (way, server.script("blocked.py", &[&way, &FAR4, &port])));
    for (_, program) in &mut programs {
        program.expect("ready");
    }
    server.wait_until("all are on the fast path", |status| {
        status["sockets"].as_array().is_some_and(|sockets| sockets.len() == ways.len() + 1)
    });
    assert_eq!(has_xdp(&lab.pair.near, Pair::NEAR), link == "xdp-native");
    thread::sleep(Duration::from_millis(100));

    let killed = Instant::now();
    server.program.kill();
    assert_ping(&lab.pair.far, NEAR4, "after the server was killed");
    assert_kernel_udp((&lab.pair.near, &lab.pair.far), (NEAR4, FAR4), "after the server was killed");
    assert!(!has_xdp(&lab.pair.near, Pair::NEAR), "the XDP program outlives its server");
    for (way, program) in &mut programs {
        assert_eq!(program.line(), "ended ENETDOWN", "{way}");
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(3), "{way}: the error came after {took:?}");
        assert_eq!(program.line(), "then ENETDOWN", "{way}");
        assert!(program.wait().success());
    }
    // No frame for what was its port is taken away any more.
    listener.wait();
    let mut listener = lab.near_script("echo.py", &[&NEAR4, &7002]);
    listener.expect("ready");
    assert_echo(&far_socket(&lab), 7002, "from a bare program on a port that was the server's");
    // What starts now is told, and works by the kernel.
    let mut ask = server.script("ask.py", &[&FAR4, &7001, &"unconnected"]);
    ask.expect("ready");
    ask.tell("100");
    assert_eq!(ask.line(), "ok 100");
    ask.expect_error("stay with the kernel");
    // The dead server's socket file is replaced.
    let server = lab.near_server();
    let mut ask = server.script("ask.py", &[&FAR4, &7001, &"unconnected"]);
    let port: u16 = ask.expect("ready").parse().expect("a port");
    server.socket(port);
}

#[test]
fn a_killed_server_resets_who_only_reads() {
    for goes_on in [false, true] {
        let name = format!("a_killed_server_resets_who_only_reads, while the peer sends: {goes_on}");
        privileged(&name, || killed_under_readers(goes_on));
    }
}

fn killed_under_readers(goes_on: bool) {
    let lab = Lab::new();
    let mut server = lab.near_server();
    let listener = lab.pair.far.run(|| TcpListener::bind((FAR4, 0)).expect("a kernel listener"));
    let port = listener.local_addr().expect("its name").port();
    let ways = ["recv", "poll", "select", "epoll"];
    let mut readers = Vec::new();
    let mut senders = Vec::new();
    for way in ways {
        let mut command = server.run_with("tcp", binaries::python());
        command.arg("-u").arg(binaries::script("reader.py")).args([way, FAR4, &port.to_string()]);
        let mut reader = Program::start(command);
        let (mut stream, _) = listener.accept().expect("accepted");
        stream.write_all(&[1; 1000]).expect("sent");
        reader.expect("ready");
        senders.push(thread::spawn(move || {
            // Until nobody listens any more.
            while goes_on && stream.write_all(&[1; 100_000]).is_ok() {}
            stream
        }));
        readers.push((way, reader));
    }
    server.wait_until("all are on the fast path", |status| {
        status["connections"].as_array().is_some_and(|list| list.len() == ways.len())
    });
    let killed = Instant::now();
    server.program.kill();
    for (way, reader) in &mut readers {
        assert_eq!(reader.line(), "ended ECONNRESET", "{way}");
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(3), "{way}: the error came after {took:?}");
        // As after any reset.
        assert_eq!(reader.line(), "then b''", "{way}");
        assert_eq!(reader.line(), "then EPIPE", "{way}");
        assert!(reader.wait().success());
    }
    // The kernel answers for connections that it does not know, so that who sends is told.
    for sender in senders {
        let mut stream = sender.join().expect("a sender ends");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let _ = stream.write_all(b"more");
        let ended = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert!(matches!(ended, Err(ErrorKind::ConnectionReset) | Ok(0)), "{ended:?}");
    }
}

/// Everything in a folder.
fn list(folder: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn an_ended_server_leaves_nothing_behind() {
    privileged("an_ended_server_leaves_nothing_behind", || {
        let lab = Lab::new();
        let shared_memory = list("/dev/shm");
        let bpf = list("/sys/fs/bpf");
        for (signal, link) in [(libc::SIGTERM, "xdp-native"), (libc::SIGINT, "raw"), (libc::SIGTERM, "auto")]
        {
            let mut server = lab.near_server_with(&["--link", link]);
            let mut blocked = server.script("blocked.py", &[&"recv", &FAR4, &9]);
            blocked.expect("ready");
            let control = server.control.clone();
            assert!(control.exists());
            server.program.signal(signal);
            server.program.succeed();
            assert_eq!(list(control.parent().expect("a folder")), BTreeSet::new(), "files are left");
            assert!(!has_xdp(&lab.pair.near, Pair::NEAR), "an XDP program is left");
            assert_eq!(blocked.line(), "ended ENETDOWN");
            assert_kernel_udp((&lab.pair.near, &lab.pair.far), (NEAR4, FAR4), "after the server ended");
        }
        let new: Vec<_> = list("/dev/shm").difference(&shared_memory).cloned().collect();
        assert!(!new.iter().any(|name| name.contains("freena")), "left in /dev/shm: {new:?}");
        assert_eq!(list("/sys/fs/bpf"), bpf);
    });
}

/// `freena status` without a server says so.
#[test]
fn the_status_of_no_server_is_an_error_that_names_the_path() {
    privileged("the_status_of_no_server_is_an_error_that_names_the_path", || {
        let lab = Lab::new();
        let mut status = lab.near(binaries::freena("freena"));
        let path = lab.path("nobody");
        status.args(["status", "--control"]).arg(&path);
        let output = output(status);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.replace(['\n', ' ', '│'], "").contains(&*path.to_string_lossy()), "{said}");
        let mut program = Program::start({
            let mut command = lab.near(binaries::freena("freena"));
            command.args(["run", "--protocol", "udp", "--control"]).arg(&path);
            command.arg("--").arg(binaries::python()).arg(binaries::script("bind.py")).args([NEAR4, "7001"]);
            command
        });
        assert_eq!(program.line(), "bound", "without a server a program uses the kernel");
    });
}
