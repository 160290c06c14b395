//! Connections opened and closed all the while: whatever they take is given back.
//!
//! 10 s by default; `FREENA_TEST_SOAK_SECONDS` says otherwise. From 60 s on, this host closes some connections first, whose
//! ports it then keeps for a minute (`TIME_WAIT`), so that the test takes as much longer.

use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{PATIENCE, Program};
use socket2::SockRef;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 7051;
/// After this what stays is what any number of connections needs: caches, the allocator's.
const WARM_UP: Duration = Duration::from_secs(5);
/// The same with connections in `TIME_WAIT`, which are as many as there will be after a minute.
const LONG_WARM_UP: Duration = Duration::from_secs(70);
/// Between two connections of one kind: without it the far host runs out of ports, which it keeps for a minute.
const PAUSE: Duration = Duration::from_millis(3);
/// What a process may keep more than at the beginning, in KiB: for as many connections that leaked 100 bytes each would do.
const SLACK_KIB: u64 = 4 << 10;
/// `TIME_WAIT`, and the time to see its end.
const TIME_WAIT: Duration = Duration::from_secs(75);

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// In KiB; of shared memory apart, which counts for each process that maps it.
    resident: u64,
    shared: u64,
    descriptors: usize,
    mappings: usize,
}

impl Held {
    fn by(program: &Program) -> Held {
        let folder = format!("/proc/{}", program.pid());
        let status = fs::read_to_string(format!("{folder}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let maps = fs::read_to_string(format!("{folder}/maps")).expect("it runs");
        Held {
            resident: field("VmRSS:"),
            shared: field("RssShmem:"),
            descriptors: fs::read_dir(format!("{folder}/fd")).expect("it runs").count(),
            mappings: maps.lines().filter(|line| line.contains("memfd:")).count(),
        }
    }

    /// Whether it is no more than there was: to the descriptor and the mapping, which connections alone hold.
    fn is_like(&self, before: &Held) -> bool {
        self.resident <= before.resident + SLACK_KIB
            && self.shared <= before.shared + SLACK_KIB / 2
            && self.descriptors <= before.descriptors
            && self.mappings <= before.mappings
    }
}

/// To the standard error itself: what the macros print is hidden where a test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The far host's side of connections that the near one opens: closes first behind a line's end.
fn answer(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..len]).is_err() || buffer[len - 1] == b'\n' {
                    return;
                }
            }
        });
    }
}

/// Opens connections to the near host's program until told to end; returns how many there were. None is open while `pause`
/// is held.
fn open(lab: &Lab, over: &AtomicBool, pause: &Mutex<()>) -> u64 {
    lab.pair.far.enter();
    let (mut count, mut got) = (0u64, vec![0; 20_000]);
    while !over.load(Ordering::Relaxed) {
        let opening = pause.lock().expect("no panic");
        let mut stream = TcpStream::connect((NEAR4, PORT)).expect("a kernel connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let words = vec![count as u8; 20 + (count % 20_000) as usize / 2];
        stream.write_all(&words).expect("sent");
        if count % 8 != 7 {
            stream.read_exact(&mut got[..words.len()]).expect("an answer");
            assert!(got[..words.len()] == words, "other bytes");
        } else {
            // Some do not wait for the answer, and reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
        }
        drop(stream);
        drop(opening);
        count += 1;
        thread::sleep(PAUSE);
    }
    count
}

/// Whether nothing is left of connections but `time_wait` of them that have ended; the listener counts as one that has not.
fn is_quiet(server: &Server, time_wait: u64) -> bool {
    let status = server.status();
    let left = status["connections"].as_array().expect("a list").len();
    number(&status["workers"][0]["tcp"], "time_wait") <= time_wait && left <= 1
}

#[test]
fn connections_opened_and_closed_leave_nothing() {
    privileged("connections_opened_and_closed_leave_nothing", || {
        let seconds =
            std::env::var("FREENA_TEST_SOAK_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
        let long = seconds >= 60;
        let lab = Lab::new();
        let server = lab.near_server();
        let far = lab.pair.far.run(|| TcpListener::bind((FAR4, 0)).expect("a kernel listener"));
        let port = far.local_addr().expect("its name").port().to_string();
        thread::spawn(move || answer(&far));
        let start = |script: &str, arguments: &[&str]| {
            let mut command = server.run_with("tcp", binaries::python());
            command.arg("-u").arg(binaries::script(script)).args(arguments);
            Program::start(command)
        };
        let mut accepts = start("stream_many.py", &[NEAR4, &PORT.to_string()]);
        accepts.expect("open");
        let opens_arguments = [FAR4, &port, "first"];
        let mut opens = start("stream_opens.py", &opens_arguments[..if long { 3 } else { 2 }]);
        let (over, pause) = (AtomicBool::new(false), Mutex::new(()));
        thread::scope(|scope| {
            let opener = scope.spawn(|| open(&lab, &over, &pause));
            let warm_up = if long { LONG_WARM_UP } else { WARM_UP };
            thread::sleep(warm_up);
            let paused = pause.lock().expect("no panic");
            opens.tell("");
            opens.expect("opened");
            let deadline = Instant::now() + PATIENCE;
            while !is_quiet(&server, u64::MAX) {
                assert!(Instant::now() < deadline, "connections stay: {}", server.status()["connections"]);
                thread::sleep(Duration::from_millis(50));
            }
            let before = [Held::by(&server.program), Held::by(&accepts), Held::by(&opens)];
            drop(paused);
            opens.tell("");
            let end = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
                assert!(!opener.is_finished(), "the far host's side has ended");
                assert!(opens.is_running() && accepts.is_running(), "{}{}", opens.errors(), accepts.errors());
            }
            let during = Held::by(&server.program);
            over.store(true, Ordering::Relaxed);
            let accepted = opener.join().expect("the far host's side");
            opens.tell("");
            let opened = opens.expect("opened");
            let deadline = Instant::now() + if long { TIME_WAIT } else { Duration::from_secs(5) };
            let after = loop {
                let after = [Held::by(&server.program), Held::by(&accepts), Held::by(&opens)];
                let given_back = after.iter().zip(&before).all(|(after, before)| after.is_like(before));
                if given_back && is_quiet(&server, 0) {
                    break after;
                }
                assert!(Instant::now() < deadline, "before {before:#?}, at the end {after:#?}");
                thread::sleep(Duration::from_millis(50));
            };
            say(&format!(
                "{accepted} connections accepted and {opened} opened in {seconds} s and {warm_up:?} to warm up; server, \
                 accepting, connecting program: before {before:?}, server at the end of it {during:?}, after it {after:?}"
            ));
            accepts.tell("");
            assert_eq!(accepts.expect("connections"), "0");
        });
    });
}
