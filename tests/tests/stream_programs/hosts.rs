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

/// The hosts. By custom the near one serves and the far one asks.
#[derive(Debug)]
pub(crate) struct Hosts<'l> {
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
    let Some(programs) = installed(names) else { return };
    let native = std::env::var_os(NATIVE).is_some_and(|value| value == "1");
    let arrangements = if native { &[Under::Neither] } else { arrangements };
    for under in arrangements {
        privileged(&format!("{name}, under freena: {under:?}"), || {
            let lab = Lab::new();
            let hosts = Hosts {
                lab: &lab,
                near: matches!(under, Under::Both | Under::Near).then(|| lab.near_server()),
                far: matches!(under, Under::Both | Under::Far).then(|| lab.far_server()),
            };
            say(&format!("{name}: {under:?}"));
            test(&hosts, &programs);
            hosts.assert_fast_and_clean();
        });
    }
}

impl Hosts<'_> {
    /// A command on the near host, as the arrangement has it.
    pub(crate) fn near(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.near {
            Some(server) => server.run_with("udp,tcp", program),
            None => self.lab.near(program),
        }
    }

    /// A command on the far host.
    pub(crate) fn far(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.far {
            Some(server) => server.run_with("udp,tcp", program),
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
            let opened = counter(&status, "passive_opens") + counter(&status, "active_opens");
            assert!(opened > 0, "{name}: no connection took the fast path: {status:#}");
            assert!(
                counter(&status, "segments_in") > 0 && counter(&status, "segments_out") > 0,
                "{name}: {status:#}"
            );
            assert_eq!(
                counter(&status, "malformed") + counter(&status, "bad_checksum"),
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

    /// Segments that the near server has got and sent, if there is one.
    pub(crate) fn near_segments(&self) -> Option<(u64, u64)> {
        let status = self.near.as_ref()?.status();
        Some((counter(&status, "segments_in"), counter(&status, "segments_out")))
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

/// A counter of the TCP engine, over all workers.
pub(crate) fn counter(status: &Value, name: &str) -> u64 {
    entries(status, "workers").map(|worker| number(&worker["tcp"], name)).sum()
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
