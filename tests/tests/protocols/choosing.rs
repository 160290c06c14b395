//! Unmodified programs over a protocol that was chosen for them: of a library, or another one of the kernel's.

use crate::{PORT, listens, program, said, with_steady};
use freena_tests::binaries;
use freena_tests::lab::{Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use serde_json::Value;

/// Packets that the engine of the example has received and sent on a host.
fn packets(server: &Server<'_>) -> (u64, u64) {
    let status = server.status();
    let workers = status["workers"].as_array().expect("workers");
    let sum = |key| workers.iter().map(|worker| number(&worker["protocols"]["253"], key)).sum();
    (sum("segments_in"), sum("segments_out"))
}

#[test]
fn iperf3_runs_over_a_library() {
    with_steady("iperf3_runs_over_a_library", |_, near, far| {
        let modes: [&[&str]; 4] =
            [&["-n", "64M"], &["-n", "64M", "-R"], &["-t", "1", "-P", "4"], &["-t", "1", "--bidir"]];
        for (port, mode) in (5201..).zip(modes) {
            let port = port.to_string();
            // One for each: it closes its listener and opens it anew after a test, and who comes in between is refused.
            let mut server = near.run_with("steady", program("iperf3"));
            server.args(["-s", "--one-off", "-p", &port]);
            let mut server = Program::start(server);
            listens(near, "steady");
            let mut client = far.run_with("STEADY", program("iperf3"));
            client.args(["-c", NEAR4, "-p", &port, "--json"]).args(mode);
            let report: Value = serde_json::from_str(&said(client)).expect("JSON");
            assert!(report["error"].is_null(), "{mode:?}: {}", report["error"]);
            let (sent, received) = (
                number(&report["end"]["sum_sent"], "bytes"),
                number(&report["end"]["sum_received"], "bytes"),
            );
            assert!(received > 0 && received <= sent, "{mode:?}: sent {sent}, received {received}");
            server.succeed();
        }
        let (received, sent) = packets(near);
        assert!(received > 1000 && sent > 1000, "{received} packets received, {sent} sent");
    });
}

#[test]
fn python_and_curl_talk_over_a_library() {
    with_steady("python_and_curl_talk_over_a_library", |lab, near, far| {
        let content: Vec<u8> =
            (0..8_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::create_dir(lab.path("www")).expect("a folder");
        std::fs::write(lab.path("www/large"), &content).expect("a file");
        let mut server = near.run_with("steady", binaries::python());
        server.args(["-u", "-m", "http.server", "--bind", NEAR4, &PORT.to_string(), "--directory"]);
        server.arg(lab.path("www"));
        let _server = Program::start(server);
        listens(near, "steady");
        let url = format!("http://{NEAR4}:{PORT}/large");
        let mut curl = far.run_with("steady", program("curl"));
        curl.args(["--silent", "--show-error", "--fail", "--output"]).arg(lab.path("got")).arg(&url);
        said(curl);
        assert!(
            std::fs::read(lab.path("got")).expect("what curl got") == content,
            "other bytes than were served"
        );
        // The kernel's TCP reaches the same listener.
        let mut curl = lab.far(program("curl"));
        curl.args(["--silent", "--show-error", "--fail", "--output"]).arg(lab.path("got2")).arg(&url);
        said(curl);
        assert!(
            std::fs::read(lab.path("got2")).expect("what curl got") == content,
            "other bytes than were served"
        );
        // What carries a connection SO_PROTOCOL tells, of each connection by itself.
        let script = format!(
            "import socket\ns = socket.create_connection(('{NEAR4}', {PORT}))\n\
             print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), s.getpeername())"
        );
        let mut python = far.run_with("steady", binaries::python());
        python.args(["-c", &script]);
        assert_eq!(said(python).trim(), format!("253 ('{NEAR4}', {PORT})"));
    });
}

#[test]
fn a_file_chooses_a_library() {
    with_steady("a_file_chooses_a_library", |lab, near, _| {
        let run = |protocols: &str, program: &[&str]| {
            let path = lab.path("app.xml");
            let text = format!(
                "<configuration application='test'><protocols>{protocols}</protocols></configuration>"
            );
            std::fs::write(&path, text).expect("a file");
            let mut command = lab.near(binaries::freena("freena"));
            command
                .args(["run", "--control"])
                .arg(&near.control)
                .arg("--config")
                .arg(path)
                .arg("--")
                .args(program);
            output(command)
        };
        let script = "import socket\n\
                      s = socket.socket()\n\
                      s.listen()\n\
                      print(s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))";
        let python = binaries::python();
        let python = [python.to_str().expect("a name"), "-c", script];
        let chosen = run("<default name='STEADY' lib='libsteady.so' type='stream'/>", &python);
        assert_eq!(String::from_utf8_lossy(&chosen.stdout).trim(), "253");
        for (protocols, words) in [
            ("<default name='STEADY' lib='libother.so' type='stream'/>", "of libother.so"),
            ("<default name='SWIFT' lib='libsteady.so' type='stream'/>", "`SWIFT`"),
        ] {
            let refused = run(protocols, &python);
            // Without the frame and the line breaks that a report has on a terminal.
            let errors = String::from_utf8_lossy(&refused.stderr).replace("│", " ");
            let errors = errors.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(!refused.status.success() && errors.contains(words), "{errors}");
            assert!(errors.contains("tcp, sctp, udp, steady (libsteady.so)"), "{errors}");
        }
    });
}

/// Has Python print what kind of socket it got, with no server anywhere.
fn python_gets(lab: &Lab, protocol: &str, kind: &str) -> std::process::Output {
    let script = format!(
        "import socket\ns = socket.socket(type=socket.{kind})\ns.bind(('{NEAR4}', 7002))\n\
         if s.type == socket.SOCK_STREAM: s.listen()\n\
         c = socket.socket(type=socket.{kind})\nc.connect(('{NEAR4}', 7002))\nc.sendall(b'something')\n\
         r = s.accept()[0] if s.type == socket.SOCK_STREAM else s\nassert r.recv(99) == b'something'\n\
         print([x.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) for x in (s, c, r)])"
    );
    let mut command = lab.near(binaries::freena("freena"));
    let path = lab.path("kernel.xml");
    let kind = if kind == "SOCK_STREAM" { "stream" } else { "datagram" };
    let text = format!(
        "<configuration application='test'><protocols>\
         <default name='{protocol}' lib='kernel' type='{kind}'/></protocols></configuration>"
    );
    std::fs::write(&path, text).expect("a file");
    command.args(["run", "--control", "/nonexistent", "--config"]).arg(path).arg("--");
    output({
        command.arg(binaries::python()).args(["-c", &script]);
        command
    })
}

#[test]
fn the_kernels_other_protocols_need_no_server() {
    privileged("the_kernels_other_protocols_need_no_server", || {
        let lab = Lab::new();
        for (protocol, kind, number) in
            [("mptcp", "SOCK_STREAM", 262), ("udp-lite", "SOCK_DGRAM", 136), ("sctp", "SOCK_STREAM", 132)]
        {
            let got = python_gets(&lab, protocol, kind);
            let (out, err) = (String::from_utf8_lossy(&got.stdout), String::from_utf8_lossy(&got.stderr));
            let kind = if kind == "SOCK_STREAM" { socket2::Type::STREAM } else { socket2::Type::DGRAM };
            match lab.pair.near.run(|| socket2::Socket::new(socket2::Domain::IPV4, kind, Some(number.into())))
            {
                Ok(_) => {
                    assert_eq!(out.trim(), format!("[{number}, {number}, {number}]"), "{err}");
                    assert!(err.is_empty(), "{err}");
                }
                Err(error) => {
                    eprintln!("SKIPPED data over {protocol}: this kernel has none ({error})");
                    assert!(!got.status.success() && err.contains("the kernel has no"), "{out}{err}");
                }
            }
        }
    });
}
