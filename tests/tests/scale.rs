//! Many sockets, many programs, and what they cost.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Sockets in one program.
const SOCKETS: u64 = 1000;
/// Programs on one server.
const PROGRAMS: usize = 100;

/// Connections that are used all the time, and such that have been used once, unless `FREENA_TEST_IDLE` says otherwise: each
/// takes two descriptors of the server.
const BUSY: usize = 1000;
const IDLE: usize = 4000;
/// What an idle one may keep resident, over both processes.
const IDLE_KIB: f64 = 32.0;

/// To the standard error itself: what the macros print is hidden where a test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Memory that a process keeps resident, in KiB.
fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line Rss");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn both(server: &Server, program: &Program) -> u64 {
    resident(server.program.pid()) + resident(program.pid())
}

/// Has a program started by `prlimit`, which leaves it hardly more descriptors than it has sockets.
fn many(server: &Server, count: u64, port: &str) -> Program {
    let prlimit = binaries::installed("prlimit").expect("prlimit (Debian package util-linux)");
    let mut command = server.run(prlimit);
    command.arg(format!("--nofile={}", SOCKETS + 24)).arg(binaries::python()).arg("-u");
    command.arg(binaries::script("many.py")).args([&count.to_string(), FAR4, port]);
    let mut program = Program::start(command);
    assert_eq!(program.expect("opened"), count.to_string());
    program
}

#[test]
fn a_thousand_sockets_in_one_program() {
    privileged("a_thousand_sockets_in_one_program", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
        let port = echo.expect("ready");
        // What the first socket brings with it is no cost of the others.
        let mut one = many(&server, 1, &port);
        let base = resident(one.pid());
        one.kill();
        server.wait_until("none is left", |status| status["sockets"].as_array().is_some_and(Vec::is_empty));
        let base = base + resident(server.program.pid());

        let started = Instant::now();
        let mut program = many(&server, SOCKETS, &port);
        let took = started.elapsed();
        let status = server.status();
        assert_eq!(
            status["sockets"].as_array().map(Vec::len),
            Some(SOCKETS as usize),
            "all on the fast path"
        );
        let each = both(&server, &program).saturating_sub(base) as f64 / SOCKETS as f64;
        say(&format!(
            "{SOCKETS} idle sockets: {each:.1} KiB resident each, both processes; opened in {took:?}"
        ));
        assert!(each < 32.0, "an idle socket keeps {each:.1} KiB");
        program.tell("");
        assert_eq!(program.expect("answered"), SOCKETS.to_string());
        program.succeed();
        server.wait_until("all are gone", |status| status["sockets"].as_array().is_some_and(Vec::is_empty));
    });
}

#[test]
fn a_hundred_programs_on_one_server() {
    privileged("a_hundred_programs_on_one_server", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
        let port = echo.expect("ready");
        let mut programs: Vec<Program> =
            (0..PROGRAMS).map(|_| server.script("many.py", &[&2, &FAR4, &port])).collect();
        for program in &mut programs {
            assert_eq!(program.expect("opened"), "2");
        }
        let status = server.status();
        assert_eq!(status["processes"].as_u64(), Some(PROGRAMS as u64));
        assert_eq!(status["sockets"].as_array().map(Vec::len), Some(2 * PROGRAMS));
        // All at once.
        programs.iter_mut().for_each(|program| program.tell(""));
        for program in &mut programs {
            assert_eq!(program.expect("answered"), "2");
        }
        for program in &mut programs {
            program.succeed();
        }
        server.wait_until("all are gone", |status| status["sockets"].as_array().is_some_and(Vec::is_empty));
    });
}

#[test]
fn starting_a_program_costs_little() {
    privileged("starting_a_program_costs_little", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let program = binaries::installed("true").expect("true");
        let time = |command: Command| {
            let started = Instant::now();
            assert!(output(command).status.success());
            started.elapsed()
        };
        // In turns, so that both meet the same load.
        let (mut bare, mut freena): (Vec<_>, Vec<_>) =
            (0..20).map(|_| (time(lab.near(&program)), time(server.run(&program)))).unzip();
        bare.sort_unstable();
        freena.sort_unstable();
        let median = |times: &[Duration]| times[times.len() / 2];
        let (least, more) =
            (freena[0].saturating_sub(bare[0]), median(&freena).saturating_sub(median(&bare)));
        say(&format!(
            "starting a program costs {more:?} more under freena run (median of 20), {least:?} at the least"
        ));
        // The least, which tells the cost apart from what else the machine does.
        assert!(least <= Duration::from_millis(10), "{least:?} more");
    });
}

/// Time that all threads of a process have had a core, proc_pid_schedstat(5).
fn core_time(pid: i32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).expect("a running thread");
        text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).expect("nanoseconds")
    };
    Duration::from_nanos(tasks.flatten().map(of).sum())
}

#[test]
fn an_idle_server_takes_hardly_any_time() {
    privileged("an_idle_server_takes_hardly_any_time", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
        let port = echo.expect("ready");
        // Its sockets have been used, and wait.
        let mut program = server.script("many.py", &[&100, &FAR4, &port]);
        assert_eq!(program.expect("opened"), "100");
        std::thread::sleep(Duration::from_millis(500));
        let (before, started) = (core_time(server.program.pid()), Instant::now());
        std::thread::sleep(Duration::from_secs(3));
        let share =
            (core_time(server.program.pid()) - before).as_secs_f64() / started.elapsed().as_secs_f64();
        say(&format!("an idle server takes {:.3} % of a core", share * 100.0));
        assert!(share < 0.01, "{:.2} % of a core", share * 100.0);
        program.tell("");
        assert_eq!(program.expect("answered"), "100");
        program.succeed();
    });
}

/// Opens connections from the far host's kernel and has each answer once.
fn open(lab: &Lab, port: u16, count: usize) -> Vec<TcpStream> {
    let connect = || {
        let stream = lab.pair.far.run(|| TcpStream::connect((NEAR4, port)).expect("a kernel connection"));
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..count).map(|_| connect()).collect();
    round(&mut streams, 0);
    streams
}

/// A message on all connections at once, and the answer on each.
fn round(streams: &mut [TcpStream], number: usize) {
    let words = |index: usize| format!("{number:08} on {index:08}");
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(words(index).as_bytes()).expect("sent");
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut got = [0; 20];
        stream.read_exact(&mut got).expect("an answer");
        assert_eq!(got, words(index).as_bytes(), "round {number}, connection {index}");
    }
}

#[test]
fn a_thousand_busy_connections_among_idle_ones() {
    privileged("a_thousand_busy_connections_among_idle_ones", || {
        let idle = std::env::var("FREENA_TEST_IDLE").ok().and_then(|n| n.parse().ok()).unwrap_or(IDLE);
        let lab = Lab::new();
        let server = lab.near_server();
        let mut command = server.run_with("tcp", binaries::python());
        command.arg("-u").arg(binaries::script("stream_many.py")).args([NEAR4, "7031"]);
        let mut program = Program::start(command);
        program.expect("open");
        // What the first ones bring with them is no cost of the others.
        let mut busy = open(&lab, 7031, BUSY);
        let base = both(&server, &program);
        let started = Instant::now();
        let held = open(&lab, 7031, idle);
        let opened = started.elapsed();
        program.tell("");
        assert_eq!(program.expect("connections"), (BUSY + idle).to_string());
        let status = server.status();
        assert_eq!(status["connections"].as_array().map(Vec::len), Some(BUSY + idle), "all on the fast path");
        let started = Instant::now();
        (1..=20).for_each(|number| round(&mut busy, number));
        let rounds = started.elapsed();
        let each = both(&server, &program).saturating_sub(base) as f64 / idle as f64;
        say(&format!(
            "{idle} idle connections: {each:.1} KiB resident each, both processes; opened in {opened:?}; 20 rounds on {BUSY} \
             busy ones beside them: {rounds:?}"
        ));
        assert!(each <= IDLE_KIB, "an idle connection keeps {each:.1} KiB");
        drop((held, busy));
        server.wait_until("none is left", |status| {
            status["connections"]
                .as_array()
                .is_some_and(|all| all.iter().all(|it| it["state"] == "time-wait"))
        });
        program.tell("");
        assert_eq!(program.expect("connections"), "0");
    });
}
