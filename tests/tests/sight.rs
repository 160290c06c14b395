//! Seeing what the fast path carries: traces, metrics, the live view.

use freena_tests::binaries;
use freena_tests::lab::{self, FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{PATIENCE, Program, output};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// `freena WORDS --control ...`, on the near host.
fn freena(lab: &Lab, server: &Server, words: &str) -> Command {
    let mut command = lab.near(binaries::freena("freena"));
    let mut words = words.split_whitespace();
    command.args(words.next()).arg("--control").arg(&server.control).args(words);
    command
}

/// Starts `freena trace WORDS` and waits until it sees packets.
fn trace(lab: &Lab, server: &Server, words: &str) -> Program {
    let mut program = Program::start(freena(lab, server, &format!("trace {words}")));
    wait_for("a trace that has begun", || program.errors().contains("tracing near") || !program.is_running());
    assert!(program.is_running(), "{}", program.errors());
    program
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Echo server on the near host under freena, and a program of the far host's kernel that asks it.
fn echo(lab: &Lab, server: &Server) -> (Program, Program, u16, u16) {
    let mut echo = server.script("echo.py", &[&NEAR4, &0]);
    let port: u16 = echo.expect("ready").parse().expect("a port");
    let mut ask = lab.far_script("ask.py", &[&NEAR4, &port, &"connected"]);
    let own_port: u16 = ask.expect("ready").parse().expect("a port");
    (echo, ask, port, own_port)
}

fn exchange(ask: &mut Program, size: usize) {
    ask.tell(&size.to_string());
    assert_eq!(ask.line(), format!("ok {size}"));
}

/// Packets of a capture, and what it says of packets that matched and were lost.
struct Capture {
    packets: Vec<(bool, Vec<u8>, u32)>,
    matched: u64,
    lost: u64,
}

fn read(path: &Path) -> Capture {
    let mut reader = PcapNgReader::new(File::open(path).expect("a capture")).expect("pcapng");
    let mut read = Capture { packets: Vec::new(), matched: 0, lost: 0 };
    while let Some(block) = reader.next_block() {
        match block.expect("a whole block") {
            Block::EnhancedPacket(packet) => {
                let outbound = packet.options.contains(&EnhancedPacketOption::Flags(2));
                read.packets.push((outbound, packet.data.to_vec(), packet.original_len));
            }
            Block::InterfaceStatistics(statistics) => {
                for option in statistics.options {
                    match option {
                        InterfaceStatisticsOption::IsbIfRecv(n) => read.matched += n,
                        InterfaceStatisticsOption::IsbIfDrop(n) => read.lost += n,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    read
}

#[test]
fn a_trace_holds_what_a_program_sent_and_received() {
    privileged("a_trace_holds_what_a_program_sent_and_received", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let (_echo, mut ask, port, own_port) = echo(&lab, &server);
        exchange(&mut ask, 1);
        let file = lab.path("trace.pcapng");
        let words = format!("--write {} --count 6 udp port {port} and host {FAR4}", file.display());
        let mut trace = trace(&lab, &server, &words);
        for size in [9, 200, 1400] {
            exchange(&mut ask, size);
        }
        trace.succeed();
        let Capture { packets, matched, lost } = read(&file);
        assert_eq!((packets.len(), matched, lost), (6, 6, 0));
        for (pair, size) in packets.chunks(2).zip([9, 200, 1400]) {
            for ((outbound, data, original), expected) in pair.iter().zip([false, true]) {
                assert_eq!((*outbound, data.len(), *original as usize), (expected, 42 + size, 42 + size));
                let ports =
                    [u16::from_be_bytes([data[34], data[35]]), u16::from_be_bytes([data[36], data[37]])];
                assert_eq!(ports, if *outbound { [port, own_port] } else { [own_port, port] });
                let byte = |index: usize| ((index * 31 + size) % 251) as u8;
                assert!((0..size).all(|index| data[42 + index] == byte(index)), "payload of {size} bytes");
            }
        }
        dissect(&file, 6);
    });
}

/// Has Wireshark's dissector read the file, where it is installed.
fn dissect(file: &Path, packets: usize) {
    let Some(tshark) = binaries::installed("tshark") else { return };
    let mut command = Command::new(tshark);
    command.args(["-n", "-T", "fields", "-e", "ip.proto", "-e", "frame.interface_name", "-r"]).arg(file);
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| *line == "17\tnear").count(), packets, "{text}");
}

#[test]
fn lines_and_filters() {
    privileged("lines_and_filters", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let (_echo, mut ask, port, own_port) = echo(&lab, &server);
        let mut both = trace(&lab, &server, "--interface near");
        let mut out = trace(&lab, &server, &format!("--count 1 --snap 64 outbound and src port {port}"));
        let mut other = trace(&lab, &server, &format!("not (port {port} or tcp)"));
        exchange(&mut ask, 300);
        let line = both.line();
        let told = format!("near In  IP {FAR4}.{own_port} > {NEAR4}.{port}: UDP, length 300");
        assert!(line.ends_with(&told), "{line}");
        let line = both.line();
        assert!(line.contains(&format!("near Out IP {NEAR4}.{port} > {FAR4}.{own_port}: UDP")), "{line}");
        let line = out.line();
        assert!(line.ends_with("UDP, 64 of 342 bytes"), "{line}");
        out.succeed();
        other.signal(libc::SIGINT);
        assert_eq!(other.succeed(), "");
        both.signal(libc::SIGTERM);
        both.succeed();
        assert!(both.errors().contains("2 packets shown, 2 matched the filter, 0 lost"), "{}", both.errors());

        for (words, said) in [
            ("port http", "column 6: found `http`, expected a port from 0 to 65535"),
            ("(udp", "column 5: found the end, expected and, or, or )"),
            ("--interface lo", "found interface `lo`, expected one that is served: near"),
        ] {
            let output = output(freena(&lab, &server, &format!("trace {words}")));
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && errors.contains(said), "{words}: {errors}");
        }
    });
}

#[test]
fn super_packets_are_whole_or_cut() {
    privileged("super_packets_are_whole_or_cut", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let files = [lab.path("whole.pcapng"), lab.path("cut.pcapng")];
        let mut whole = trace(&lab, &server, &format!("--write {} outbound and udp", files[0].display()));
        let mut cut =
            trace(&lab, &server, &format!("--write {} --frames outbound and udp", files[1].display()));
        // A steady stream: the server finds rows of datagrams to send.
        let mut sink = lab.far(binaries::python());
        sink.args(["-c", "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.0.0.2', 7000)); print('ready', flush=True); input()"]);
        let mut sink = Program::start(sink);
        sink.expect("ready");
        let mut send = server.run(binaries::python());
        send.args(["-c", "import socket\ns=socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('10.0.0.2', 7000))\nfor i in range(20000): s.send(bytes(500))"]);
        Program::start(send).succeed();
        server.wait_until("all is sent", |status| status["sockets"].as_array().is_some_and(Vec::is_empty));
        for trace in [&mut whole, &mut cut] {
            trace.signal(libc::SIGINT);
            trace.succeed();
        }
        let (whole, cut) = (read(&files[0]), read(&files[1]));
        assert_eq!((whole.lost, cut.lost), (0, 0));
        let long = whole.packets.iter().filter(|(_, data, _)| data.len() > 542).count();
        assert!(long > 0, "no super-packet among {}", whole.packets.len());
        let payload: usize = whole.packets.iter().map(|(_, data, _)| data.len() - 42).sum();
        // How many depends: the first datagrams go by the kernel, until it has resolved the neighbour.
        assert!(payload.is_multiple_of(500), "{payload} bytes");
        assert_eq!(cut.packets.len() * 500, payload);
        for (_, data, original) in &cut.packets {
            assert_eq!((data.len(), *original), (542, 542));
            let packet = freena_wire::parse_frame(data).expect("a right IP header");
            let view = freena_wire::udp::Header::parse(packet.payload).expect("UDP");
            assert_eq!(view.verify(packet.src, packet.dst), Ok(freena_wire::udp::Verdict::Right));
        }
    });
}

#[test]
fn a_reader_that_stops_costs_packets_of_the_trace_only() {
    privileged("a_reader_that_stops_costs_packets_of_the_trace_only", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let (_echo, mut ask, port, _) = echo(&lab, &server);
        let file = lab.path("stopped.pcapng");
        let mut trace = trace(&lab, &server, &format!("--buffer 1 --write {} port {port}", file.display()));
        trace.signal(libc::SIGSTOP);
        for _ in 0..1200 {
            exchange(&mut ask, 1400);
        }
        assert_eq!(number(&server.socket(port), "rx_dropped"), 0);
        trace.signal(libc::SIGCONT);
        trace.signal(libc::SIGINT);
        trace.succeed();
        let Capture { packets, matched, lost } = read(&file);
        assert_eq!(matched, 2400);
        assert!(lost > 0 && !packets.is_empty(), "{} packets, {lost} lost", packets.len());
        assert_eq!(packets.len() as u64 + lost, matched);
        assert!(trace.errors().contains(&format!("{lost} of {matched} lost")), "{}", trace.errors());
    });
}

#[test]
fn who_may_not_trace_and_what_remains_of_one() {
    privileged("who_may_not_trace_and_what_remains_of_one", || {
        let lab = Lab::new();
        let mut server = lab.near_server();
        // A folder that everybody can reach.
        let folder = lab.path("open");
        fs::create_dir(&folder).expect("a folder");
        for open in [folder.parent().expect("the lab's"), &folder] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).expect("its owner");
        }
        let program = folder.join("freena");
        fs::copy(binaries::freena("freena"), &program).expect("a copy");
        let mut command = lab.near("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        let output = output({
            command.args(["trace", "--seconds", "1", "--control"]).arg(&server.control);
            command
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("user 65534 may not trace"), "{errors}");

        // Traces are counted, and one that is killed makes room.
        let mut traces: Vec<Program> = (0..8).map(|_| trace(&lab, &server, "udp")).collect();
        let refused = freena_tests::program::output(freena(&lab, &server, "trace udp"));
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && errors.contains("8 traces are running"), "{errors}");
        traces.pop().expect("eight").kill();
        wait_for("room for a trace", || {
            let mut next = Program::start(freena(&lab, &server, "trace --seconds 0.01"));
            next.wait().success()
        });
        // The server ends: so do they, and say so.
        server.stop();
        for mut trace in traces {
            assert!(!trace.wait().success());
            assert!(trace.errors().contains("freena-stack has ended"), "{}", trace.errors());
        }
    });
}

/// A document of metrics, read by the rules of the text format.
struct Metrics {
    /// Sample with its labels as they are written, and value.
    samples: Vec<(String, f64)>,
}

impl Metrics {
    /// Reads and checks: HELP and TYPE before the samples of each family, names, labels, numbers, no sample twice.
    fn read(text: &str) -> Metrics {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
                && !name.as_bytes()[0].is_ascii_digit()
        };
        let (mut families, mut samples) = (Vec::<(&str, &str)>::new(), Vec::<(String, f64)>::new());
        let mut helped = "";
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("words of help");
                assert!(!help.is_empty() && is_name(name), "{line}");
                assert!(families.iter().all(|(family, _)| *family != name), "{name} comes twice");
                helped = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, helped, "{line}");
                assert!(matches!(kind, "counter" | "gauge"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                families.push((name, kind));
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                assert_eq!(families.last().map(|(family, _)| *family), Some(name), "{line}");
                let labels = labels.strip_suffix('}').expect("an end of the labels");
                for label in labels.split("\",").filter(|label| !label.is_empty()) {
                    let (label, words) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                    assert!(is_name(label) && !words.contains('\n'), "{line}");
                }
                assert!(samples.iter().all(|(other, _)| other != sample), "{sample} comes twice");
                samples.push((sample.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
            }
        }
        assert!(families.len() > 20 && samples.len() > families.len());
        Metrics { samples }
    }

    fn get(&self, sample: &str) -> f64 {
        let found = self.samples.iter().find(|(name, _)| name == sample);
        found.unwrap_or_else(|| panic!("no {sample} in {:?}", self.samples)).1
    }
}

/// Sends `request` and reads to the end.
fn talk(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("a request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn body(answer: &str) -> &str {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer}"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body
}

#[test]
fn metrics_by_http_and_by_command() {
    privileged("metrics_by_http_and_by_command", || {
        let lab = Lab::new();
        let server = lab.near_server_with(&["--metrics", "0"]);
        let address = server.ready.rsplit_once("metrics on ").expect("an address").1.to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        let connect = || {
            let stream = lab.pair.near.run(|| TcpStream::connect(&address).expect("a connection"));
            stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
            stream
        };
        let (mut echo, mut ask, port, _) = echo(&lab, &server);
        for _ in 0..10 {
            exchange(&mut ask, 100);
        }
        let scrape = || Metrics::read(body(&talk(connect(), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")));
        let metrics = scrape();
        let socket = server.socket(port);
        let received = "freena_socket_datagrams_total{direction=\"receive\",path=\"fast\"}";
        assert_eq!(metrics.get("freena_sockets"), 1.0);
        assert_eq!(metrics.get(received) as u64, number(&socket, "rx_datagrams"));
        assert!(metrics.get("freena_link_receive_frames_total{interface=\"near\",queue=\"0\"}") >= 10.0);
        assert!(metrics.get("freena_worker_cpu_seconds_total{worker=\"0\"}") > 0.0);
        // What a socket counted is not forgotten with it.
        echo.kill();
        server.wait_until("the socket is gone", |status| {
            status["sockets"].as_array().is_some_and(Vec::is_empty)
        });
        let after = scrape();
        assert_eq!(after.get("freena_sockets"), 0.0);
        assert!(after.get(received) >= metrics.get(received));

        let output = output(freena(&lab, &server, "status --metrics"));
        Metrics::read(&String::from_utf8_lossy(&output.stdout));

        // One that says nothing holds up nobody.
        let silent: Vec<TcpStream> = (0..4).map(|_| connect()).collect();
        scrape();
        drop(silent);
        for (request, code) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = talk(connect(), request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
        }
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(9000));
        assert!(talk(connect(), &long).starts_with("HTTP/1.1 431 "));
        if let Some(curl) = binaries::installed("curl") {
            let mut command = lab.near(curl);
            command.args(["--silent", "--fail", &format!("http://{address}/metrics")]);
            let output = freena_tests::program::output(command);
            assert!(output.status.success(), "{output:?}");
            Metrics::read(&String::from_utf8_lossy(&output.stdout));
        }
    });
}

#[test]
fn metrics_on_a_unix_socket_and_a_structured_log() {
    privileged("metrics_on_a_unix_socket_and_a_structured_log", || {
        let lab = Lab::new();
        let path = lab.path("metrics");
        let word = format!("unix:{}", path.display());
        // Left behind by a server that was killed.
        drop(UnixListener::bind(&path).expect("a socket"));
        let mut command = lab::command(&lab.pair.near, "near", &lab.path("near"), &["--metrics", &word]);
        command.args(["--log-format", "json"]).env("FREENA_STACK_LOG", "info");
        let mut server = Program::start(command);
        server.expect("freena-stack: ready on ");
        let stream = UnixStream::connect(&path).expect("a connection");
        Metrics::read(body(&talk(stream, "GET /metrics HTTP/1.0\r\n\r\n")));
        server.signal(libc::SIGTERM);
        server.succeed();
        assert!(!path.exists(), "the socket goes with the server");
        let log = server.errors();
        let events: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
        assert!(events.iter().any(|event| event["message"] == "ending" && event["level"] == "INFO"), "{log}");
    });
}

#[test]
fn top_for_scripts() {
    privileged("top_for_scripts", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let (_echo, mut ask, port, _) = echo(&lab, &server);
        exchange(&mut ask, 100);
        let mut top = Program::start(freena(&lab, &server, "top --batch 2 --interval 0.5 --sort in"));
        // The rate of a socket that is busy all the while.
        let deadline = Instant::now() + PATIENCE;
        while top.is_running() {
            assert!(Instant::now() < deadline, "top does not end");
            exchange(&mut ask, 100);
        }
        let text = top.succeed();
        assert_eq!(text.lines().filter(|line| line.starts_with("LINK")).count(), 2, "{text}");
        let local = format!("{NEAR4}:{port}");
        let rows: Vec<&str> = text.lines().filter(|line| line.contains(&local)).collect();
        assert_eq!(rows.len(), 2, "{text}");
        for row in rows {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let rate: f64 = columns[6].parse().unwrap_or_else(|_| panic!("{row}"));
            assert!(columns[0].starts_with("python3") && rate > 0.0, "{row}");
        }
        let once = output(freena(&lab, &server, "top --once --interval 0.1"));
        assert!(once.status.success());
        let live = output(freena(&lab, &server, "top"));
        let errors = String::from_utf8_lossy(&live.stderr).into_owned();
        assert!(!live.status.success() && errors.contains("no terminal"), "{errors}");
    });
}

/// On a terminal: what it draws, that a key ends it, and that the terminal is as it was.
#[test]
fn top_on_a_terminal() {
    privileged("top_on_a_terminal", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let program = "import os, pty, sys, time, select, termios\n\
            pid, fd = pty.fork()\n\
            if pid == 0: os.environ['TERM'] = 'xterm'; os.execv(sys.argv[1], sys.argv[1:])\n\
            import fcntl, struct\n\
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))\n\
            before, seen, end = termios.tcgetattr(fd), b'', time.time() + 15\n\
            while b'POLLING' not in seen and time.time() < end: seen += os.read(fd, 65536)\n\
            raw = termios.tcgetattr(fd)[3] & termios.ICANON == 0\n\
            os.write(fd, b'q')\n\
            while True:\n\
            \x20   try: seen += os.read(fd, 65536)\n\
            \x20   except OSError: break\n\
            status = os.waitpid(pid, 0)[1]\n\
            print(raw, status, seen.count(b'\\x1b[?1049h'), seen.count(b'\\x1b[?1049l'), flush=True)\n";
        let mut command = lab.near(binaries::python());
        command.args(["-c", program]).arg(binaries::freena("freena")).args(["top", "--control"]);
        command.arg(&server.control);
        // Raw while it ran; ended well; the alternate screen was entered and left.
        assert_eq!(Program::start(command).line(), "True 0 1 1");
    });
}
