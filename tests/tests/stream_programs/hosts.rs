//! Two hosts of which both, one or none has the fast path, and what tests of programs need there.

use freena_tests::binaries;
use freena_tests::lab::{Lab, Server, number};
use freena_tests::netns::privileged;
use freena_tests::program::{PATIENCE, Program};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// With `1`, all programs run bare, over kernel TCP: what differs then is the fast path's doing, and what does not is
/// the test's.
const NATIVE: &str = "FREENA_TEST_NATIVE";

/// What carries the streams of programs on both hosts: `tcp`, which runs either host alone too, `sctp` or `quic`. Default: what each
/// test says, mostly TCP.
const PROTOCOL: &str = "FREENA_TEST_PROTOCOL";

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(45);

/// Which hosts' programs run under freena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Under {
    Both,
    Near,
    Far,
    Neither,
}

/// What carries streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp,
    Sctp,
    Quic,
}

impl Carrier {
    /// What the environment chooses.
    fn chosen() -> Option<Self> {
        match std::env::var(PROTOCOL).as_deref() {
            Err(_) => None,
            Ok("tcp") => Some(Carrier::Tcp),
            Ok("sctp") => Some(Carrier::Sctp),
            Ok("quic") => Some(Carrier::Quic),
            Ok(other) => panic!("{PROTOCOL}={other}, expected tcp, sctp or quic"),
        }
    }

    /// For `freena run`.
    fn protocols(self) -> &'static str {
        match self {
            Carrier::Tcp => "udp,tcp",
            Carrier::Sctp => "sctp",
            Carrier::Quic => "quic",
        }
    }

    /// Its counters of one polling thread.
    fn counters(self, worker: &Value) -> &Value {
        match self {
            Carrier::Tcp => &worker["tcp"],
            Carrier::Sctp => &worker["protocols"]["132"],
            Carrier::Quic => &worker["protocols"]["17"],
        }
    }
}

/// The hosts. By custom the near one serves and the far one asks.
#[derive(Debug)]
pub(crate) struct Hosts<'l> {
    pub carrier: Carrier,
    pub lab: &'l Lab,
    pub near: Option<Server<'l>>,
    pub far: Option<Server<'l>>,
}

/// The programs, or `None`, said loudly, where one is not installed.
fn installed<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    for name in names {
        if binaries::installed(name).is_none() {
            say(&format!("SKIPPED: the program {name} is not installed"));
            let required = std::env::var_os("FREENA_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
            assert!(!required, "{name} must be installed (FREENA_REQUIRE_PRIVILEGED=1)");
            return None;
        }
    }
    Some(names.map(|name| binaries::installed(name).expect("found a moment ago")))
}

/// To the standard error itself: what the macros print is hidden where a test passes.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs a test with both ends under freena, then with either of them alone, if the programs are there; then sees to it
/// that the fast path was taken and that nothing stayed behind.
pub(crate) fn with_programs<const N: usize>(
    name: &str,
    names: [&str; N],
    test: impl Fn(&Hosts, &[PathBuf; N]) + Send + Sync,
) {
    with_programs_under(name, &[Under::Both, Under::Near, Under::Far], names, test);
}

/// As [`with_programs`], with some of the arrangements.
pub(crate) fn with_programs_under<const N: usize>(
    name: &str,
    arrangements: &[Under],
    names: [&str; N],
    test: impl Fn(&Hosts, &[PathBuf; N]) + Send + Sync,
) {
    let chosen = Carrier::chosen().unwrap_or(Carrier::Tcp);
    with_programs_over(name, &[(chosen, arrangements)], names, test);
}

/// As [`with_programs`], and over the other protocols too, where the environment does not choose one.
pub(crate) fn with_programs_over_all<const N: usize>(
    name: &str,
    names: [&str; N],
    test: impl Fn(&Hosts, &[PathBuf; N]) + Send + Sync,
) {
    let all = [Carrier::Tcp, Carrier::Sctp, Carrier::Quic].into_iter();
    let carriers = all.filter(|it| Carrier::chosen().is_none_or(|chosen| chosen == *it));
    let both: &[Under] = &[Under::Both, Under::Near, Under::Far];
    let carriers: Vec<_> = carriers.map(|carrier| (carrier, both)).collect();
    with_programs_over(name, &carriers, names, test);
}

fn with_programs_over<const N: usize>(
    name: &str,
    carriers: &[(Carrier, &[Under])],
    names: [&str; N],
    test: impl Fn(&Hosts, &[PathBuf; N]) + Send + Sync,
) {
    let Some(programs) = installed(names) else { return };
    let native = std::env::var_os(NATIVE).is_some_and(|value| value == "1");
    let carriers = if native { &[(Carrier::Tcp, &[Under::Neither][..])] } else { carriers };
    for (carrier, arrangements) in carriers {
        // Of SCTP and QUIC the kernel has neither.
        let possible = arrangements.iter().filter(|under| *carrier == Carrier::Tcp || **under == Under::Both);
        for under in possible {
            run_under(name, *carrier, *under, |hosts| test(hosts, &programs));
        }
    }
}

fn run_under(name: &str, carrier: Carrier, under: Under, test: impl Fn(&Hosts) + Send + Sync) {
    privileged(&format!("{name}, under freena: {under:?}, {carrier:?}"), || {
        let lab = Lab::new();
        let keys = if carrier == Carrier::Quic { keys(&lab) } else { Vec::new() };
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let hosts = Hosts {
            carrier,
            lab: &lab,
            near: matches!(under, Under::Both | Under::Near).then(|| lab.near_server_with(&keys)),
            far: matches!(under, Under::Both | Under::Far).then(|| lab.far_server_with(&keys)),
        };
        say(&format!("{name}: {under:?}, {carrier:?}"));
        test(&hosts);
        hosts.assert_fast_and_clean();
    });
}

/// Arguments of servers that have and trust one key.
fn keys(lab: &Lab) -> Vec<String> {
    let folder = lab.path("keys");
    let mut keygen = Command::new(binaries::freena("freena"));
    keygen.args(["keygen", "--quic"]).arg(&folder);
    let fingerprint = run(keygen);
    std::fs::write(folder.join("trusted"), format!("* {fingerprint}\n")).expect("a file");
    vec!["--quic".to_owned(), folder.to_str().expect("a name").to_owned()]
}

impl Hosts<'_> {
    /// A command on the near host, as the arrangement has it.
    pub(crate) fn near(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.near {
            Some(server) => server.run_with(self.carrier.protocols(), program),
            None => self.lab.near(program),
        }
    }

    /// A command on the far host.
    pub(crate) fn far(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.far {
            Some(server) => server.run_with(self.carrier.protocols(), program),
            None => self.lab.far(program),
        }
    }

    /// Waits until something listens at this port on the near host, on the fast path if there is one.
    pub(crate) fn wait_for_port(&self, port: u16) {
        if let Some(server) = &self.near {
            let end = format!(":{port}");
            server.wait_until(&format!("port {port} listens"), |status| {
                entries(status, "listeners").any(|entry| ends_with(entry, &end))
            });
            return;
        }
        let listens = || {
            let entry = format!(":{port:04X} ");
            ["tcp", "tcp6"].iter().any(|table| {
                let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
                let table = table.expect("the kernel's table of sockets");
                table.lines().any(|line| line.contains(&entry) && line.contains(" 0A "))
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while !self.lab.pair.near.run(listens) {
            assert!(Instant::now() < deadline, "nothing listens at port {port}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Each server has carried connections both ways, and has none left, those that wait for their time to be over apart.
    fn assert_fast_and_clean(&self) {
        for (name, server) in [("near", &self.near), ("far", &self.far)] {
            let Some(server) = server else { continue };
            // A test may have killed it.
            let Some(status) = server.program.is_alive().then(|| server.status()) else { continue };
            let opened = self.counter(&status, "passive_opens") + self.counter(&status, "active_opens");
            assert!(opened > 0, "{name}: no connection took the fast path: {status:#}");
            assert!(
                self.counter(&status, "segments_in") > 0 && self.counter(&status, "segments_out") > 0,
                "{name}: {status:#}"
            );
            assert_eq!(
                self.counter(&status, "malformed") + self.counter(&status, "bad_checksum"),
                0,
                "{name}: {status:#}"
            );
            server.wait_until(&format!("{name}: nothing is left"), |status| {
                let open = |entry: &&Value| !matches!(entry["state"].as_str(), Some("time-wait" | "closed"));
                entries(status, "listeners").count() == 0
                    && entries(status, "connections").filter(open).count() == 0
                    && number(status, "processes") == 0
            });
        }
    }

    /// A counter of the engine, over all workers.
    fn counter(&self, status: &Value, name: &str) -> u64 {
        entries(status, "workers").map(|worker| number(self.carrier.counters(worker), name)).sum()
    }

    /// Segments that the near server has got and sent, if there is one.
    pub(crate) fn near_segments(&self) -> Option<(u64, u64)> {
        let status = self.near.as_ref()?.status();
        Some((self.counter(&status, "segments_in"), self.counter(&status, "segments_out")))
    }

    /// A file of the lab's folder, which any user may read, with `len` bytes that do not repeat.
    pub(crate) fn noise(&self, name: &str, len: usize) -> (PathBuf, Vec<u8>) {
        let bytes = noise(len);
        (self.file(name, &bytes), bytes)
    }

    /// A file of the lab's folder, which any user may read.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder(name.rsplit_once('/').map_or("", |(folder, _)| folder));
        let path = path.join(name.rsplit('/').next().expect("a name"));
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// A folder in the lab's folder, which any user may read.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.lab.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        let open = || std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.lab.path(""), open()).expect("a folder of ours");
        std::fs::set_permissions(&path, open()).expect("a folder of ours");
        path
    }
}

fn entries<'v>(status: &'v Value, list: &str) -> impl Iterator<Item = &'v Value> {
    status[list].as_array().into_iter().flatten()
}

fn ends_with(entry: &Value, end: &str) -> bool {
    entry["local"].as_str().is_some_and(|local| local.ends_with(end))
}

/// Bytes that do not repeat, the same ones each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn with(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split_whitespace());
    command
}

/// Runs a command to its end, which must be a success; returns what it printed.
pub(crate) fn run(command: Command) -> String {
    Program::start(command).succeed_within(LIMIT)
}

/// The same with arguments, split at spaces.
pub(crate) fn run_with(command: Command, arguments: &str) -> String {
    run(with(command, arguments))
}

/// Asserts that two texts of bytes are equal, without printing megabytes if not.
pub(crate) fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    let at = got.iter().zip(expected).position(|(got, expected)| got != expected);
    assert_eq!(at, None, "{what}: first difference; {} bytes, expected {}", got.len(), expected.len());
    assert_eq!(got.len(), expected.len(), "{what}: length");
}
