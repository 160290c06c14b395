//! The framework's two servers, one in each host of the lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::account::Taken;
use super::options::{Binaries, Options};
use super::process::{Program, RunError};
use crate::lab::{Host, INTERFACE, Lab};

/// From the start of a server to its word that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// From `SIGTERM` to a server's end; then it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);

/// Both servers, stopped on drop.
pub(super) struct Servers {
    a: Server,
    b: Server,
    freena: PathBuf,
}

struct Server {
    program: Program,
    control: PathBuf,
}

impl Servers {
    pub(super) fn start(lab: &Lab, options: &Options, more: &[&str]) -> Result<Self, RunError> {
        let binaries = &options.binaries;
        let stack = binaries.find("freena-stack").map_err(RunError::Missing)?;
        let freena = binaries.find("freena").map_err(RunError::Missing)?;
        let a = Server::start(lab.a(), &stack, lab.directory().join("a.sock"), options, more)?;
        let b = Server::start(lab.b(), &stack, lab.directory().join("b.sock"), options, more)?;
        let mut servers = Self { a, b, freena };
        let deadline = Instant::now() + READY_WITHIN;
        for server in [&mut servers.a, &mut servers.b] {
            server.program.line("that it is ready", deadline)?;
        }
        Ok(servers)
    }

    /// What both have cost since they started.
    pub(super) fn taken(&self) -> Taken {
        Taken::by_process(self.a.program.pid()) + Taken::by_process(self.b.program.pid())
    }
}

impl Server {
    fn start(
        host: &Host,
        stack: &Path,
        control: PathBuf,
        options: &Options,
        more: &[&str],
    ) -> Result<Self, RunError> {
        let mut command = host.command(stack);
        command
            .args(["--iface", INTERFACE, "--control"])
            .arg(&control)
            .args(&options.server_arguments)
            .args(more);
        let program = Program::start(&format!("freena-stack in {}", host.name()), command)?;
        Ok(Self { program, control })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in [&mut self.a, &mut self.b] {
            // One that does not end by itself is killed when its program is dropped.
            server.program.terminate(STOPPED_WITHIN);
        }
    }
}

/// Where a program of the benchmark runs: a host, and the server there, if the framework is to carry its datagrams.
pub(super) struct Place<'a> {
    host: &'a Host,
    through: Option<(&'a Path, &'a Path)>,
}

impl<'a> Place<'a> {
    /// The sender's and the receiver's.
    pub(super) fn both(lab: &'a Lab, servers: Option<&'a Servers>) -> (Self, Self) {
        let through = |server: fn(&Servers) -> &Server| {
            servers.map(|servers| (servers.freena.as_path(), server(servers).control.as_path()))
        };
        (
            Self { host: lab.a(), through: through(|servers| &servers.a) },
            Self { host: lab.b(), through: through(|servers| &servers.b) },
        )
    }

    /// Starts a program here, bare or by `freena run`.
    pub(super) fn start(
        &self,
        binaries: &Binaries,
        name: &str,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<Program, RunError> {
        let path = binaries.find(name).map_err(RunError::Missing)?;
        let mut command = match self.through {
            None => self.host.command(path),
            Some((freena, control)) => {
                let mut command = self.host.command(freena);
                command.args(["run", "--protocol", "udp", "--control"]).arg(control).arg("--").arg(path);
                command
            }
        };
        arguments(&mut command);
        Program::start(name, command)
    }
}
