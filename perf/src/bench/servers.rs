//! The framework's servers, one in each host of the lab that a program runs in.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Add;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::account::Taken;
use super::options::{Binaries, Hosts, Options};
use super::process::{Program, RunError};
use crate::lab::{Host, INTERFACE, Lab};

/// From the start of a server to its word that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// From `SIGTERM` to a server's end; then it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);

/// The servers, stopped on drop.
pub(super) struct Servers {
    /// Where the sender is first, where the receiver is last; one and the same on one host.
    all: Vec<Server>,
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
        let mut servers = Self { all: Vec::new(), freena };
        if options.hosts == Hosts::Two {
            servers.all.push(Server::start(lab.a(), &stack, lab.directory().join("a.sock"), options, more)?);
        }
        servers.all.push(Server::start(lab.b(), &stack, lab.directory().join("b.sock"), options, more)?);
        let deadline = Instant::now() + READY_WITHIN;
        for server in &mut servers.all {
            server.program.line("that it is ready", deadline)?;
        }
        Ok(servers)
    }

    /// What they have cost since they started.
    pub(super) fn taken(&self) -> Taken {
        let each = self.all.iter().map(|server| Taken::by_process(server.program.pid()));
        each.fold(Taken::default(), Add::add)
    }

    /// Asks the server of one host whether all that was sent since it started went from ring to ring.
    pub(super) fn check_local(&self, received: u64) -> Result<(), RunError> {
        for server in &self.all {
            let metrics = self.metrics(server)?;
            let counted = Counted::read(&metrics)
                .ok_or_else(|| RunError::Counters(format!("not understood: {metrics:?}")))?;
            counted.check(received)?;
        }
        Ok(())
    }

    /// Asks the server of one host whether it has joined a connection.
    pub(super) fn check_joined(&self) -> Result<(), RunError> {
        for server in &self.all {
            let metrics = self.metrics(server)?;
            let name = "freena_joined_connections_total ";
            let count = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
            if count.unwrap_or(0) == 0 {
                return Err(RunError::NotJoined);
            }
        }
        Ok(())
    }

    /// What the receiver's server says of its connections, as JSON.
    pub(super) fn status(&self) -> Result<serde_json::Value, RunError> {
        let Some(server) = self.all.last() else { return Ok(serde_json::Value::Null) };
        let mut command = Command::new(&self.freena);
        command.args(["status", "--json", "--control"]).arg(&server.control);
        let output = command.output().map_err(|error| RunError::Counters(error.to_string()))?;
        serde_json::from_slice(&output.stdout).map_err(|error| RunError::Counters(error.to_string()))
    }

    fn metrics(&self, server: &Server) -> Result<String, RunError> {
        let mut command = Command::new(&self.freena);
        command.args(["status", "--metrics", "--control"]).arg(&server.control);
        let output = command.output().map_err(|error| RunError::Counters(error.to_string()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(RunError::Counters(format!("freena status said {said:?}")))
            }
        }
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

/// Datagrams that a server has carried for its sockets, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    local: u64,
    other: u64,
}

impl Counted {
    /// Out of the server's counters; `None` where they are not there.
    fn read(metrics: &str) -> Option<Self> {
        let mut counted = None;
        let of_sockets = |line: &'_ str| line.starts_with("freena_socket_datagrams_total{");
        for line in metrics.lines().filter(|line| of_sockets(line)) {
            let value: u64 = line.rsplit(' ').next()?.parse().ok()?;
            let Self { local, other } = counted.get_or_insert(Self { local: 0, other: 0 });
            *if line.contains("path=\"local\"") { local } else { other } += value;
        }
        counted
    }

    /// Each datagram received counts twice, as sent and as received.
    fn check(self, received: u64) -> Result<(), RunError> {
        let Self { local, other } = self;
        let holds = other == 0 && local >= received.saturating_mul(2);
        if holds { Ok(()) } else { Err(RunError::NotLocal { local, other, received }) }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.all {
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
    /// The sender's and the receiver's, and the address that the receiver has for the sender.
    pub(super) fn both(
        lab: &'a Lab,
        options: &Options,
        servers: Option<&'a Servers>,
    ) -> (Self, Self, IpAddr) {
        let through = |server: fn(&[Server]) -> Option<&Server>| {
            let server = servers.and_then(|servers| Some((servers, server(&servers.all)?)));
            server.map(|(servers, server)| (servers.freena.as_path(), server.control.as_path()))
        };
        let (from, address) = match options.hosts {
            Hosts::Two => (lab.a(), lab.b().v4()),
            Hosts::One => (lab.b(), Ipv4Addr::LOCALHOST),
        };
        (
            Self { host: from, through: through(<[Server]>::first) },
            Self { host: lab.b(), through: through(<[Server]>::last) },
            address.into(),
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
        let mut command = self.command(Some("udp,tcp"), &path);
        arguments(&mut command);
        Program::start(name, command)
    }

    /// A command for a program here: bare where there are no protocols or no server, otherwise by `freena run`.
    pub(super) fn command(&self, protocols: Option<&str>, program: &Path) -> Command {
        let (Some(protocols), Some((freena, control))) = (protocols, self.through) else {
            return self.host.command(program);
        };
        let mut command = self.host.command(freena);
        command.args(["run", "--protocol", protocols, "--control"]).arg(control).arg("--").arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(local: u64, kernel: u64) -> Option<Counted> {
        let of = |direction, path, value| {
            format!("freena_socket_datagrams_total{{direction=\"{direction}\",path=\"{path}\"}} {value}\n")
        };
        let text = ["transmit", "receive"].map(|way| of(way, "local", local) + &of(way, "kernel", kernel));
        Counted::read(&format!("freena_sockets 2\n{}", text.concat()))
    }

    #[test]
    fn what_did_not_go_from_ring_to_ring_is_refused() {
        assert_eq!(metrics(5, 1), Some(Counted { local: 10, other: 2 }));
        assert_eq!(Counted::read("freena_sockets 2\n"), None);
        metrics(5, 0).unwrap().check(5).unwrap();
        assert!(metrics(5, 1).unwrap().check(5).is_err(), "one went through the kernel");
        assert!(metrics(5, 0).unwrap().check(6).is_err(), "one came from elsewhere");
    }
}
