//! Network namespaces for tests: made by a thread for itself, gone when the thread and its descriptors are.
//!
//! No names are used, so that nothing can be left behind and nothing can clash. Inside a namespace a test uses `ip`,
//! sockets and links as it would on a host of its own.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

static RAN: AtomicUsize = AtomicUsize::new(0);

/// Runs `test` on a thread of its own in a fresh network namespace with the loopback up, or says loudly on the standard
/// error that it was skipped and why. Returns whether it ran.
///
/// With `FREENA_REQUIRE_PRIVILEGED=1` in the environment a skipped test is a failed one: CI sets it, so that a machine
/// that lost its privileges does not pass for one that ran the tests.
///
/// # Panics
/// If `test` does; or if it is skipped where that is not allowed.
pub fn privileged(name: &str, test: impl FnOnce() + Send) -> bool {
    let skipped = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = enter_new() {
                return Some(error);
            }
            ip("link set lo up");
            test();
            None
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    match skipped {
        None => {
            say(&format!("privileged tests ran: {} ({name})", RAN.fetch_add(1, Ordering::Relaxed) + 1));
            true
        }
        Some(error) => {
            say(&format!("SKIPPED privileged test {name}: no network namespace can be made: {error}"));
            let required = std::env::var_os("FREENA_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
            assert!(!required, "{name} must run (FREENA_REQUIRE_PRIVILEGED=1): {error}");
            false
        }
    }
}

/// Writes to the standard error itself: what the macros print is hidden where a test passes.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Moves the calling thread into a network namespace of its own.
fn enter_new() -> io::Result<()> {
    // SAFETY: unshare has no memory arguments; CLONE_NEWNET changes the calling thread only.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Another namespace, kept alive by a descriptor. The thread that made it stays in its own.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes a namespace with the loopback up.
    ///
    /// # Panics
    /// If the kernel refuses: call it inside [`privileged`].
    pub fn new() -> Namespace {
        let file = thread::spawn(|| {
            enter_new().expect("a second network namespace");
            ip("link set lo up");
            current()
        });
        Namespace(file.join().expect("a thread in its own namespace"))
    }

    /// The namespace of the calling thread.
    pub fn current() -> Namespace {
        Namespace(current())
    }

    /// Runs `f` on a new thread inside the namespace and waits for its result.
    ///
    /// # Panics
    /// If `f` does.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                f()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn enter(&self) {
        // SAFETY: setns has no memory arguments; the descriptor is open for as long as `self` lives.
        let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "setns: {}", io::Error::last_os_error());
    }

    /// Descriptor of the namespace, for setns(2). Open as long as `self` is.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }

    /// Descriptor of the namespace, for `ip link ... netns /proc/PID/fd/N`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").expect("the thread's own network namespace")
}

/// Runs `ip ARGUMENTS` (split at spaces) in the namespace of the calling thread.
///
/// # Panics
/// If it fails, with what it printed.
pub fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (package iproute2)");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {}", printed.trim());
}

/// Two hosts joined by a veth pair.
///
/// The near one is the namespace of the thread that makes the pair; its interface is [`Pair::NEAR`] with 10.0.0.1/24 and
/// fd00::1/64. The far one has [`Pair::FAR`] with 10.0.0.2/24 and fd00::2/64. MTU 1500, IPv6 without duplicate address
/// detection, so that the addresses can be used at once.
///
/// A socket or link stays in the namespace in which it was opened, so a test opens it by [`Namespace::run`] and then
/// uses it from anywhere.
#[derive(Debug)]
pub struct Pair {
    /// This host.
    pub near: Namespace,
    /// The other host.
    pub far: Namespace,
}

impl Pair {
    /// Name of the interface on the near host.
    pub const NEAR: &str = "near";
    /// Name of the interface on the far host.
    pub const FAR: &str = "far";

    /// Makes the far host and the cable.
    ///
    /// # Panics
    /// If the kernel refuses: call it inside [`privileged`].
    pub fn new() -> Pair {
        Pair::with_queues(1)
    }

    /// As [`Pair::new`], with `queues` queues on each side.
    ///
    /// # Panics
    /// As [`Pair::new`].
    pub fn with_queues(queues: u32) -> Pair {
        let far = Namespace::new();
        let q = format!("numtxqueues {queues} numrxqueues {queues}");
        ip(&format!("link add near {q} type veth peer name far {q} netns {}", far.path()));
        configure("near", 1);
        far.run(|| configure("far", 2));
        Pair { near: Namespace::current(), far }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Pair::new()
    }
}

fn configure(interface: &str, host: u8) {
    ip(&format!("address add 10.0.0.{host}/24 dev {interface}"));
    ip(&format!("address add fd00::{host}/64 dev {interface} nodad"));
    // The link-local address takes no time for duplicate address detection (RFC 4862): until it is over the kernel cannot
    // solicit neighbours that it is only asked to look for, and gives up on them after three seconds.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad"), "0")
        .expect("an IPv6 interface");
    ip(&format!("link set {interface} up"));
}
