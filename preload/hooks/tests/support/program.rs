//! Real programs run under the library.

use super::FakeServer;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The library under test.
pub fn library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // Cargo does not build a cdylib for the tests of its own package.
        let test = std::env::current_exe().expect("path of this test");
        let folder = test.ancestors().nth(2).expect("the profile's folder");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--offline", "-p", "freena-preload", "--target-dir"])
            .arg(folder.parent().expect("target"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let output = build.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder.join("libfreena_preload.so")
    })
}

/// Puts the library in front of a program.
pub fn preload(command: &mut Command, control: &Path) {
    command
        .env("LD_PRELOAD", library())
        .env("FREENA_CONTROL", control)
        .env("FREENA_SETTINGS", "v=1 datagram=udp stream=tcp spin_us=50 look=1 exec=1")
        .env("FREENA_LOG", "1");
}

/// Runs to the end; kills what does not end.
pub fn finish(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let start = Instant::now();
    while child.try_wait().expect("wait").is_none() {
        if start.elapsed() > LIMIT {
            child.kill().expect("kill");
            let output = child.wait_with_output().expect("output");
            panic!("hangs: {command:?}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("output")
}

/// Runs a Python script under the library; returns what it wrote to stderr. The script fails by an exception.
pub fn python(server: &FakeServer, script: &str) -> String {
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!("{PRELUDE}\n{script}"));
    preload(&mut command, &server.path);
    succeed(command, script)
}

/// Runs a Python script as [`python`] does, but on the kernel's sockets.
pub fn without_the_library(script: &str) {
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!("{PRELUDE}\n{script}"));
    succeed(command, script);
}

const PRELUDE: &str = "
import ctypes, errno, fcntl, os, select, signal, socket, struct, sys, threading, time, termios
def udp(addr=('127.0.0.1', 0), family=socket.AF_INET, **kw):
    s = socket.socket(family, socket.SOCK_DGRAM, **kw); s.bind(addr); return s
def raises(number, call, *args):
    try: call(*args)
    except OSError as e: assert e.errno == number, e; return
    raise AssertionError('no error')
PEER = ('127.0.0.7', 4242)
REFUSES, SILENT, RESETS, SLOW = [('127.0.0.%d' % n, 4242) for n in (6, 5, 4, 3)]
def tcp(addr=None, **kw):
    s = socket.socket()
    if addr: s.connect(addr)
    return s
def listener(addr=('127.0.0.1', 0), backlog=8):
    s = socket.socket(); s.bind(addr); s.listen(backlog); return s
def pair():
    l = listener(); a = tcp(l.getsockname()); b, _ = l.accept(); l.close(); return a, b
def recvall(s, n):
    data = bytearray()
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part: break
        data += part
    return bytes(data)
";

/// Compiles a C program and runs it under the library; returns what it wrote to stderr.
pub fn c(server: &FakeServer, source: &str, flags: &[&str]) -> String {
    let mut command = Command::new(compile(source, flags));
    preload(&mut command, &server.path);
    succeed(command, source)
}

/// Compiles a C program; returns its path.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    let folder = tempfile::tempdir().expect("temporary folder").keep();
    let (code, program) = (folder.join("program.c"), folder.join("program"));
    fs::write(&code, source).expect("write");
    let mut command = Command::new("cc");
    command.args(["-Wall", "-pthread", "-D_GNU_SOURCE", "-o"]).arg(&program).arg(&code).args(flags);
    let output = finish(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn succeed(command: Command, what: &str) -> String {
    let output = finish(command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}\n{what}\n--- stderr:\n{stderr}", output.status);
    stderr
}
