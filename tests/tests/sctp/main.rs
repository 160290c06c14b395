//! SCTP under programs that know nothing of it, and with another implementation, libusrsctp, at the other end.

mod sockets;

use freena_tests::binaries::{self, installed};
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PORT: u16 = 7000;
/// How long a transfer may take.
const LONG: Duration = Duration::from_secs(60);

/// A program of others.
fn program(name: &str) -> PathBuf {
    installed(name)
        .unwrap_or_else(|| panic!("{name} is not installed: scripts/test installs what tests need"))
}

/// What a command prints; it must succeed.
fn said(command: Command) -> String {
    let output = output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

fn listens(server: &Server<'_>) {
    server.wait_until("it listens", |status| {
        status["listeners"].as_array().is_some_and(|all| all.iter().any(|it| it["protocol"] == "sctp"))
    });
}

/// Python under freena, over SCTP, with a program and its arguments.
fn python(server: &Server<'_>, script: &str, arguments: &[&str]) -> Program {
    let mut command = server.run_with("sctp", binaries::python());
    command.args(["-u", "-c", script]).args(arguments);
    Program::start(command)
}

/// Sends back what comes, until its end; prints how much, or the error.
const ECHO: &str = "
import socket, sys
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('listening')
c, _ = l.accept()
assert c.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 132
n = 0
try:
    while data := c.recv(65536):
        c.sendall(data)
        n += len(data)
    print(n)
except OSError as error:
    print(n, error.strerror)
";

/// Sends bytes, expects them back, ends its direction and expects the end.
const ASK: &str = "
import socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
data = bytes((at * 0x9e3779b97f4a7c15 >> 56) & 255 for at in range(1 << 16)) * (int(sys.argv[3]) >> 16)
threading.Thread(target=s.sendall, args=(data,)).start()
back = bytearray()
while len(back) < len(data):
    part = s.recv(1 << 16)
    assert part, len(back)
    back += part
assert back == data
s.shutdown(socket.SHUT_WR)
assert s.recv(1) == b''
print(len(back))
";

/// Builds the peer that speaks SCTP by libusrsctp.
fn usrsctp_peer(lab: &Lab) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/usrsctp_peer.c");
    let program = lab.path("usrsctp_peer");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).args([&program, &source]);
    cc.args(["-lusrsctp", "-lpthread"]);
    said(cc);
    program
}

/// What the peer prints, started on the far host with these arguments.
fn peer(lab: &Lab, program: &Path, arguments: &[&str]) -> Program {
    let mut command = lab.far(program);
    command.args(arguments);
    Program::start(command)
}

#[test]
fn iperf3_and_curl_with_nginx_run_over_sctp() {
    privileged("iperf3_and_curl_with_nginx_run_over_sctp", || {
        let lab = Lab::new();
        let (mut near, mut far) = (lab.near_server(), lab.far_server());
        let port = PORT.to_string();
        for direction in [&[][..], &["-R"], &["--bidir"]] {
            let mut server = near.run_with("sctp", program("iperf3"));
            server.args(["-s", "-1", "-B", NEAR4, "-p", &port]);
            let mut server = Program::start(server);
            listens(&near);
            let mut client = far.run_with("sctp", program("iperf3"));
            client.args(["-c", NEAR4, "-p", &port, "-t", "1", "-P", "2", "-J"]).args(direction);
            let report: serde_json::Value = serde_json::from_str(&said(client)).expect("a report");
            let bytes = report["end"]["sum_received"]["bytes"].as_u64().expect("a figure");
            assert!(bytes > 10 << 20, "{bytes} bytes in a second");
            server.succeed();
        }
        let folder = lab.path("nginx");
        std::fs::create_dir(&folder).expect("a folder");
        let content: Vec<u8> =
            (0..4u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(folder.join("large"), &content).expect("a file");
        let tmp = folder.display();
        let configuration = format!(
            "worker_processes 2; daemon off; pid {tmp}/pid; error_log stderr notice; user root;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {tmp}/b;\n\
             proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f; uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
             server {{ listen {NEAR4}:{PORT}; root {tmp}; }} }}\n"
        );
        let path = lab.path("nginx.conf");
        std::fs::write(&path, configuration).expect("a file");
        let mut nginx = near.run_with("sctp", program("nginx"));
        nginx.arg("-c").arg(path);
        let nginx = Program::start(nginx);
        listens(&near);
        let mut curl = far.run_with("sctp", program("curl"));
        // Four at once, each by a connection of its own or by one that is used again.
        curl.args(["--silent", "--show-error", "--fail", "--parallel", "--parallel-max", "4"]);
        for at in 0..8 {
            curl.arg("-o").arg(folder.join(format!("got{at}"))).arg(format!("http://{NEAR4}:{PORT}/large"));
        }
        said(curl);
        for at in 0..8 {
            let got = std::fs::read(folder.join(format!("got{at}"))).expect("a file");
            assert!(got == content, "file {at} differs");
        }
        drop(nginx);
        near.stop();
        far.stop();
    });
}

#[test]
fn usrsctp_talks_both_ways() {
    privileged("usrsctp_talks_both_ways", || {
        let lab = Lab::new();
        let program = usrsctp_peer(&lab);
        let port = PORT.to_string();
        for impairments in [&[][..], &["--impair", "loss=2%,duplicate=1%,reorder=2%,delay=1ms"]] {
            let mut near = lab.near_server_with(impairments);
            let len: u64 = if impairments.is_empty() { 16 << 20 } else { 1 << 20 };
            // Its messages are larger than packets, so that it fragments them.
            for size in ["100", "1000", "20000"] {
                let mut echo = python(&near, ECHO, &[NEAR4, &port]);
                echo.expect("listening");
                listens(&near);
                let mut asks = peer(&lab, &program, &["send", NEAR4, &port, &len.to_string(), size]);
                assert_eq!(asks.succeed_within(LONG).trim(), len.to_string());
                assert_eq!(echo.succeed_within(LONG).trim(), len.to_string());
            }
            let mut echo = peer(&lab, &program, &["echo", &port]);
            echo.expect("listening");
            let mut asks = python(&near, ASK, &[FAR4, &port, &len.to_string()]);
            assert_eq!(asks.succeed_within(LONG).trim(), len.to_string());
            assert_eq!(echo.succeed_within(LONG).trim(), format!("{len} end"));
            near.wait_until("nothing is left", |status| {
                status["connections"].as_array().is_some_and(Vec::is_empty)
            });
            if !impairments.is_empty() {
                let status = near.status();
                let workers = status["workers"].as_array().expect("workers");
                let again = workers.iter().map(|it| number(&it["protocols"]["132"], "retransmitted"));
                assert!(again.sum::<u64>() > 0, "{status:#}");
            }
            near.stop();
        }
    });
}

#[test]
fn heartbeats_aborts_and_refusals_are_understood() {
    privileged("heartbeats_aborts_and_refusals_are_understood", || {
        let lab = Lab::new();
        let usrsctp = usrsctp_peer(&lab);
        let mut near = lab.near_server();
        let port = PORT.to_string();
        let serve = |what: &[&str]| {
            let mut echo = python(&near, ECHO, &[NEAR4, &port]);
            echo.expect("listening");
            listens(&near);
            (echo, peer(&lab, &usrsctp, what))
        };
        // One is sent each second and RTO, more or less by half of that (RFC 9260 section 8.3).
        let (mut echo, mut idle) = serve(&["idle", NEAR4, &port, "6"]);
        let answered: u32 = idle.succeed().trim().parse().expect("a number");
        assert!(answered >= 1, "{answered} heartbeats were answered");
        assert_eq!(echo.succeed().trim(), "0");
        let (mut echo, mut aborts) = serve(&["abort", NEAR4, &port]);
        aborts.succeed();
        assert_eq!(echo.succeed().trim(), "4 Connection reset by peer");
        // Ours aborts: something that it was sent is unread.
        let mut theirs = peer(&lab, &usrsctp, &["echo", &port]);
        theirs.expect("listening");
        let script = "import socket, sys, time\n\
                      s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
                      s.sendall(b'something')\ntime.sleep(0.5)\ns.close()";
        python(&near, script, &[FAR4, &port]).succeed();
        assert_eq!(theirs.succeed().trim(), "9 Connection reset by peer");
        // Nobody listens on that port: ABORT from the one, and ICMP from a kernel that has no SCTP.
        let refused = "import errno, socket, sys\n\
                       print(errno.errorcode[socket.socket().connect_ex((sys.argv[1], int(sys.argv[2])))])";
        let mut theirs = peer(&lab, &usrsctp, &["echo", &port]);
        theirs.expect("listening");
        assert_eq!(python(&near, refused, &[FAR4, "7001"]).succeed().trim(), "ECONNREFUSED");
        theirs.kill();
        assert_eq!(python(&near, refused, &[FAR4, "7001"]).succeed().trim(), "ENOPROTOOPT");
        // Where TCP may follow, that host is reached by it.
        let mut kernels = lab.far(binaries::python());
        let serve = "import socket, sys\n\
                     l = socket.create_server((sys.argv[1], int(sys.argv[2])))\n\
                     print('listening')\nl.accept()[0].sendall(b'by the kernel')";
        kernels.args(["-u", "-c", serve, FAR4, &port]);
        let mut kernels = Program::start(kernels);
        kernels.expect("listening");
        let mut asks = near.run_with("sctp,tcp", binaries::python());
        let ask = "import socket, sys\n\
                   s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
                   print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), s.recv(99))";
        asks.args(["-c", ask, FAR4, &port]);
        assert_eq!(said(asks).trim(), "6 b'by the kernel'");
        kernels.succeed();
        near.stop();
    });
}

#[test]
fn wireshark_finds_nothing_wrong() {
    privileged("wireshark_finds_nothing_wrong", || {
        let lab = Lab::new();
        let usrsctp = usrsctp_peer(&lab);
        let near = lab.near_server_with(&["--impair", "loss=2%"]);
        let port = PORT.to_string();
        let file = lab.path("trace.pcapng");
        let mut trace = lab.near(binaries::freena("freena"));
        trace.args(["trace", "--control"]).arg(&near.control).arg("--write").arg(&file).arg("sctp");
        let mut trace = Program::start(trace);
        std::thread::sleep(Duration::from_millis(300));
        let mut echo = peer(&lab, &usrsctp, &["echo", &port]);
        echo.expect("listening");
        python(&near, ASK, &[FAR4, &port, "262144"]).succeed_within(LONG);
        echo.succeed();
        trace.signal(libc::SIGINT);
        trace.succeed();
        let Some(tshark) = installed("tshark") else { return };
        let mut tshark = Command::new(tshark);
        tshark.args(["-n", "-o", "sctp.checksum:CRC 32c", "-T", "fields", "-e", "sctp.chunk_type"]);
        tshark.args(["-e", "sctp.checksum.status", "-e", "_ws.malformed", "-e", "_ws.expert.severity", "-r"]);
        tshark.arg(&file);
        let text = said(tshark);
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            // 1: the checksum is right. Severities: 0x00800000 is an error.
            let severe = fields[3].split(',').any(|it| it == "8388608" || it == "0x00800000");
            assert!(fields[1] == "1" && fields[2].is_empty() && !severe, "{line}");
        }
        let kinds: Vec<&str> =
            text.lines().flat_map(|line| line.split('\t').next().unwrap_or("").split(',')).collect();
        // INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, DATA, SACK, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
        for kind in ["1", "2", "10", "11", "0", "3", "7", "8", "14"] {
            assert!(kinds.contains(&kind), "no chunk of type {kind}: {kinds:?}");
        }
    });
}
