//! Programs of others, as they are installed, under freena on one side or on both.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The programs, or `None`, said loudly, where one is not installed.
fn installed<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    for name in names {
        if binaries::installed(name).is_none() {
            let _ = writeln!(std::io::stderr(), "SKIPPED: the program {name} is not installed");
            let required = std::env::var_os("FREENA_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
            assert!(!required, "{name} must be installed (FREENA_REQUIRE_PRIVILEGED=1)");
            return None;
        }
    }
    Some(names.map(|name| binaries::installed(name).expect("found a moment ago")))
}

/// Runs a test with a server on each host, if the programs are there.
fn with_programs<const N: usize>(
    name: &str,
    names: [&str; N],
    test: impl FnOnce(&Lab, &Server, &Server, [PathBuf; N]) + Send,
) {
    let Some(programs) = installed(names) else { return };
    privileged(name, || {
        let lab = Lab::new();
        let (near, far) = (lab.near_server(), lab.far_server());
        test(&lab, &near, &far, programs);
    });
}

fn with(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split_whitespace());
    command
}

/// Waits until a program has a socket with this port: framework ones are in the status of the server.
fn wait_for_port(server: &Server, port: u16) {
    let end = format!(":{port}");
    server.wait_until(&format!("port {port} is open"), |status| {
        let mut sockets = status["sockets"].as_array().expect("a list").iter();
        sockets.any(|socket| socket["local"].as_str().is_some_and(|local| local.ends_with(&end)))
    });
}

/// Runs a command to its end, which must be a success; returns its output.
fn run(command: Command) -> String {
    let said = format!("{command:?}");
    let output = output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}: {out}\n{err}");
    out.into_owned()
}

#[test]
fn iperf3_measures_udp() {
    with_programs("iperf3_measures_udp", ["iperf3"], |_, near, far, [iperf3]| {
        let mut server = Program::start(with(near.run(&iperf3), "-s -1 --forceflush"));
        server.expect("Server listening");
        server.line();
        // Its server opens its socket when the client has asked for it by TCP, which is the kernel's.
        let arguments = format!("-u -c {NEAR4} -b 50M -l 1000 -t 1 --json");
        let report: Value = serde_json::from_str(&run(with(far.run(&iperf3), &arguments))).expect("JSON");
        assert!(report["error"].is_null(), "{}", report["error"]);
        let sum = &report["end"]["sum"];
        let packets = number(sum, "packets");
        assert!(packets > 5000, "{sum:#}");
        assert!(sum["lost_percent"].as_f64().expect("a share") < 1.0, "{sum:#}");
        let links = near.status()["workers"][0]["links"][0].clone();
        assert!(number(&links, "rx_frames") > 0, "not on the fast path: {links:#}");
    });
}

#[test]
fn sockperf_in_all_its_modes() {
    with_programs("sockperf_in_all_its_modes", ["sockperf"], |lab, near, far, [sockperf]| {
        // How it waits is chosen by a feed file, and only used with several addresses in it.
        let feed = lab.path("feed");
        std::fs::write(&feed, format!("U:{NEAR4}:7101\nU:{NEAR4}:7102\n")).expect("a file");
        for mode in ["recvfrom", "select", "poll", "epoll"] {
            let wait = match mode {
                "recvfrom" => format!("-i {NEAR4} -p 7101"),
                mode => format!("-f {} -F {}", feed.display(), &mode[..1]),
            };
            let _server = Program::start(with(near.run(&sockperf), &format!("sr {wait}")));
            wait_for_port(near, 7101);
            let report = run(with(far.run(&sockperf), &format!("pp {wait} -m 64 -t 1")));
            assert!(report.contains("Summary: Latency is"), "{mode}: {report}");
            assert!(report.contains("# dropped messages = 0"), "{mode}: {report}");
        }
        // One way, as fast as it goes; the server counts.
        let mut server = Program::start(with(near.run(&sockperf), &format!("sr -i {NEAR4} -p 7103")));
        wait_for_port(near, 7103);
        let report = run(with(far.run(&sockperf), &format!("tp -i {NEAR4} -p 7103 -m 1000 -t 1")));
        assert!(report.contains("Summary: Message Rate is"), "{report}");
        assert!(number(&near.socket(7103), "rx_datagrams") > 1000);
        server.signal(libc::SIGINT);
        server.wait();
    });
}

#[test]
fn socat_echoes() {
    with_programs("socat_echoes", ["socat"], |_, near, far, [socat]| {
        let _server = Program::start(with(near.run(&socat), "UDP4-LISTEN:7201,fork EXEC:cat"));
        wait_for_port(near, 7201);
        for round in 0..3 {
            let mut client = Program::start(with(far.run(&socat), &format!("- UDP4:{NEAR4}:7201")));
            client.tell(&format!("round {round}"));
            assert_eq!(client.line(), format!("round {round}"));
        }
        let _server = Program::start(with(near.run(&socat), "UDP6-RECVFROM:7202,fork PIPE"));
        wait_for_port(near, 7202);
        let mut client = Program::start(with(far.run(&socat), "- UDP6:[fd00::1]:7202"));
        client.tell("over six");
        assert_eq!(client.line(), "over six");
    });
}

#[test]
fn netcat_talks() {
    with_programs("netcat_talks", ["nc"], |lab, near, far, [nc]| {
        let mut server = Program::start(with(near.run(&nc), &format!("-u -l {NEAR4} 7301")));
        wait_for_port(near, 7301);
        let mut client = Program::start(with(far.run(&nc), &format!("-u {NEAR4} 7301")));
        client.tell("there");
        assert_eq!(server.line(), "there");
        server.tell("and back");
        assert_eq!(client.line(), "and back");
        // With a bare program on the other side.
        let mut server = Program::start(with(lab.far(&nc), &format!("-u -l {FAR4} 7302")));
        thread::sleep(Duration::from_millis(200));
        let mut client = Program::start(with(near.run(&nc), &format!("-u {FAR4} 7302")));
        client.tell("to the kernel");
        assert_eq!(server.line(), "to the kernel");
        server.tell("from the kernel");
        assert_eq!(client.line(), "from the kernel");
    });
}

#[test]
fn dnsmasq_answers_dig() {
    with_programs("dnsmasq_answers_dig", ["dnsmasq", "dig"], |lab, near, far, [dnsmasq, dig]| {
        let arguments = format!(
            "--no-daemon --no-resolv --no-hosts --port=5353 --listen-address={NEAR4} --bind-interfaces --user=root \
             --address=/freena.test/192.0.2.7 --pid-file={} --conf-file=/dev/null",
            lab.path("dnsmasq.pid").display()
        );
        let _server = Program::start(with(near.run(&dnsmasq), &arguments));
        wait_for_port(near, 5353);
        let question = format!("@{NEAR4} -p 5353 +short +tries=2 +time=2 a.freena.test");
        assert_eq!(run(with(far.run(&dig), &question)).trim(), "192.0.2.7", "both sides under freena");
        assert_eq!(run(with(lab.far(&dig), &question)).trim(), "192.0.2.7", "dig bare");
        assert!(number(&near.socket(5353), "rx_datagrams") >= 2);
        for _ in 0..10 {
            run(with(far.run(&dig), &question));
        }
    });
}

#[test]
fn python_servers_answer() {
    with_programs("python_servers_answer", ["python3"], |_, near, far, _| {
        for (style, port) in [("socketserver", 7401), ("threading", 7402), ("asyncio", 7403)] {
            let mut server = near.script("servers.py", &[&style, &NEAR4, &port]);
            server.expect("ready");
            let mut ask = far.script("ask.py", &[&NEAR4, &port, &"unconnected"]);
            ask.expect("ready");
            let started = Instant::now();
            // Python's asyncio (before 3.13) sends no empty datagram.
            for size in [1, 100, 1400, 1400, 1400] {
                ask.tell(&size.to_string());
                assert_eq!(ask.line(), format!("ok {size}"), "{style}");
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{style} took {:?}", started.elapsed());
            assert_eq!(number(&near.socket(port), "rx_through_kernel"), 0, "{style}");
        }
    });
}
