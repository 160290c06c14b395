//! Two hosts with servers on them: what most end-to-end tests start from.

use crate::netns::{Namespace, Pair};
use crate::program::{Program, output};
use crate::{binaries, host};
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Address of the near host.
pub const NEAR4: &str = "10.0.0.1";
/// Address of the far host.
pub const FAR4: &str = "10.0.0.2";
/// Address of the near host.
pub const NEAR6: &str = "fd00::1";
/// Address of the far host.
pub const FAR6: &str = "fd00::2";

/// A pair of hosts and a folder for what they need. Most tests have a server on the near host and leave the far one to
/// the kernel.
#[derive(Debug)]
pub struct Lab {
    /// The hosts.
    pub pair: Pair,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Makes the hosts. No server runs yet.
    ///
    /// # Panics
    /// If the kernel refuses: call it inside [`crate::netns::privileged`].
    pub fn new() -> Lab {
        Lab { pair: Pair::new(), folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a server on the near host.
    pub fn near_server(&self) -> Server<'_> {
        self.near_server_with(&[])
    }

    /// As [`Lab::near_server`], with arguments.
    pub fn near_server_with(&self, arguments: &[&str]) -> Server<'_> {
        Server::start(&self.pair.near, Pair::NEAR, self.path("near"), arguments)
    }

    /// Starts a server on the far host.
    pub fn far_server(&self) -> Server<'_> {
        Server::start(&self.pair.far, Pair::FAR, self.path("far"), &[])
    }

    /// As [`Lab::far_server`], with further arguments.
    pub fn far_server_with(&self, arguments: &[&str]) -> Server<'_> {
        Server::start(&self.pair.far, Pair::FAR, self.path("far"), arguments)
    }

    /// A bare command on the near host.
    pub fn near(&self, program: impl AsRef<OsStr>) -> Command {
        host::command(&self.pair.near, program)
    }

    /// A bare command on the far host.
    pub fn far(&self, program: impl AsRef<OsStr>) -> Command {
        host::command(&self.pair.far, program)
    }

    /// A program of the tests' own on the far host, with the kernel's sockets.
    pub fn far_script(&self, name: &str, arguments: &[&dyn Display]) -> Program {
        let mut command = self.far(binaries::python());
        script(&mut command, name, arguments);
        Program::start(command)
    }

    /// The same on the near host.
    pub fn near_script(&self, name: &str, arguments: &[&dyn Display]) -> Program {
        let mut command = self.near(binaries::python());
        script(&mut command, name, arguments);
        Program::start(command)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Lab::new()
    }
}

fn script(command: &mut Command, name: &str, arguments: &[&dyn Display]) {
    command.arg("-u").arg(binaries::script(name)).args(arguments.iter().map(ToString::to_string));
}

/// A running `freena-stack`. Killed on drop, unless it has ended.
#[derive(Debug)]
pub struct Server<'l> {
    /// The process.
    pub program: Program,
    /// Its control socket.
    pub control: PathBuf,
    /// What it printed when it was ready.
    pub ready: String,
    host: &'l Namespace,
}

impl<'l> Server<'l> {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start(host: &'l Namespace, interface: &str, control: PathBuf, arguments: &[&str]) -> Server<'l> {
        let mut program = Program::start(command(host, interface, &control, arguments));
        let ready = program.expect("freena-stack: ready on ");
        Server { program, control, ready, host }
    }

    /// Starts one that may use packet sockets and nothing else, so that nothing steers.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start_unsteered(host: &'l Namespace, interface: &str, control: PathBuf) -> Server<'l> {
        let setpriv = binaries::installed("setpriv").expect("setpriv (Debian package util-linux)");
        let mut command = host::command(host, setpriv);
        command.args(["--bounding-set", "-all,+net_raw", "--"]).arg(binaries::freena("freena-stack"));
        command.args(["--iface", interface, "--control"]).arg(&control).stdin(Stdio::null());
        let mut program = Program::start(command);
        let ready = program.expect("freena-stack: ready on ");
        Server { program, control, ready, host }
    }

    /// `freena run --protocol udp` for `program`, on the server's host.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Command {
        self.run_with("udp", program)
    }

    /// `freena run --protocol PROTOCOLS` for `program`, on the server's host.
    pub fn run_with(&self, protocols: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = host::command(self.host, binaries::freena("freena"));
        command.args(["run", "--protocol", protocols, "--control"]).arg(&self.control).arg("--").arg(program);
        command
    }

    /// As [`Server::run_with`]; one of several protocols may take so many milliseconds before the next one is tried too.
    pub fn run_waiting(&self, protocols: &str, milliseconds: u32, program: impl AsRef<OsStr>) -> Command {
        let mut command = host::command(self.host, binaries::freena("freena"));
        command.args([
            "run",
            "--protocol",
            protocols,
            "--stagger-ms",
            &milliseconds.to_string(),
            "--control",
        ]);
        command.arg(&self.control).arg("--").arg(program);
        command
    }

    /// A program of the tests' own under `freena run`.
    pub fn script(&self, name: &str, arguments: &[&dyn Display]) -> Program {
        let mut command = self.run(binaries::python());
        script(&mut command, name, arguments);
        Program::start(command)
    }

    /// The document of `freena status --json`.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn status(&self) -> Value {
        let mut command = host::command(self.host, binaries::freena("freena"));
        command.args(["status", "--json", "--control"]).arg(&self.control);
        let output = output(command);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "freena status: {errors}");
        serde_json::from_slice(&output.stdout).expect("a JSON document")
    }

    /// Its socket with this port, as the status shows it.
    ///
    /// # Panics
    /// If there is none.
    pub fn socket(&self, port: u16) -> Value {
        let status = self.status();
        let found = find_socket(&status, port);
        found.unwrap_or_else(|| panic!("no socket with port {port} on the fast path: {status:#}"))
    }

    /// Waits until the status satisfies `condition`.
    ///
    /// # Panics
    /// If that is not so within 5 seconds; `what` and the last status are in the message.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: not so after 5 s: {status:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(&mut self) {
        self.program.signal(libc::SIGTERM);
        self.program.succeed();
    }
}

/// The command that [`Server::start`] starts.
pub fn command(host: &Namespace, interface: &str, control: &Path, arguments: &[&str]) -> Command {
    let mut command = host::command(host, binaries::freena("freena-stack"));
    command.args(["--iface", interface, "--control"]).arg(control).args(arguments).stdin(Stdio::null());
    command
}

/// The socket with this port in a status document.
pub fn find_socket(status: &Value, port: u16) -> Option<Value> {
    let end = format!(":{port}");
    let mut sockets = status["sockets"].as_array()?.iter();
    sockets.find(|socket| socket["local"].as_str().is_some_and(|local| local.ends_with(&end))).cloned()
}

/// A number of a status document.
///
/// # Panics
/// If it is none.
pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value:#}"))
}
