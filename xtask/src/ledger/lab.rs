//! Two hosts made of network namespaces, joined by a cable; on the near one there may be a server.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
};

use crate::{root, run::output_of};

/// Folder of the release binaries, as the end-to-end tests have it.
const FOLDER: &str = "FREENA_BIN_DIR";
/// IPv4 addresses, near host first.
pub(super) const HOSTS4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
/// IPv6 addresses, near host first.
pub(super) const HOSTS6: [&str; 2] = ["fd00::1", "fd00::2"];

/// Two hosts; gone when dropped, with the server.
pub(super) struct Lab {
    near: Namespace,
    far: Namespace,
    server: Option<Server>,
    /// What `freena run` is to carry.
    protocols: &'static str,
}

impl Lab {
    /// Hosts without a server.
    pub(super) fn bare() -> Result<Lab, String> {
        Lab::new("bare")
    }

    /// Hosts with a server on the near one.
    pub(super) fn served(protocols: &'static str) -> Result<Lab, String> {
        let mut lab = Lab::new("served")?;
        lab.protocols = protocols;
        lab.server = Some(Server::start(&lab.near)?);
        Ok(lab)
    }

    fn new(kind: &str) -> Result<Lab, String> {
        let near = Namespace::new(&format!("{kind}-near"))?;
        let far = Namespace::new(&format!("{kind}-far"))?;
        let queues = ["numtxqueues", "1", "numrxqueues", "1"];
        let mut cable = Command::new("ip");
        cable.args(["-n", &near.0, "link", "add", "near"]).args(queues);
        cable.args(["type", "veth", "peer", "name", "far"]).args(queues).args(["netns", &far.0]);
        output_of(&mut cable)?;
        near.configure("near", 0)?;
        far.configure("far", 1)?;
        Ok(Lab { near, far, server: None, protocols: "" })
    }

    /// Paths of the two namespaces, near one first.
    pub(super) fn spaces(&self) -> [String; 2] {
        [self.near.path(), self.far.path()]
    }

    /// A command for `program` on the near host, by `freena run` where there is a server.
    pub(super) fn command(&self, program: &str) -> Command {
        match &self.server {
            None => self.near.command(program),
            Some(server) => {
                let mut command = self.near.command(server.binaries.join("freena"));
                command
                    .args(["run", "--protocol", self.protocols, "--control"])
                    .arg(&server.control)
                    .arg("--")
                    .arg(program);
                command
            }
        }
    }

    /// Datagrams that the server has delivered or sent so far; `None` without a server.
    pub(super) fn crossed(&self) -> Result<Option<u64>, String> {
        let Some(server) = &self.server else { return Ok(None) };
        let mut command = self.near.command(server.binaries.join("freena"));
        let status = output_of(command.args(["status", "--json", "--control"]).arg(&server.control))?;
        let status: serde_json::Value =
            serde_json::from_str(&status).map_err(|error| format!("freena status --json: {error}"))?;
        let workers = status["workers"].as_array().ok_or("freena status --json: no workers")?;
        let links = workers.iter().flat_map(|worker| worker["links"].as_array().into_iter().flatten());
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        Ok(Some(links.map(|link| number(&link["rx_frames"]) + number(&link["tx_frames"])).sum()))
    }
}

/// A named namespace.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Result<Self, String> {
        let name = format!("freena-ledger-{}-{role}", process::id());
        output_of(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Namespace(name))
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn configure(&self, interface: &str, host: usize) -> Result<(), String> {
        let ip = |arguments: &str| {
            output_of(Command::new("ip").args(["-n", &self.0]).args(arguments.split(' '))).map(drop)
        };
        ip("link set lo up")?;
        ip(&format!("address add {}/24 dev {interface}", HOSTS4[host]))?;
        ip(&format!("address add {}/64 dev {interface} nodad", HOSTS6[host]))?;
        ip(&format!("link set {interface} up"))
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program.as_ref()).stdin(Stdio::null());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output_of(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

/// A running `freena-stack`.
struct Server {
    process: Child,
    binaries: PathBuf,
    folder: PathBuf,
    control: PathBuf,
}

impl Server {
    fn start(host: &Namespace) -> Result<Server, String> {
        let binaries = binaries()?;
        let folder = env::temp_dir().join(&host.0);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let control = folder.join("control");
        let mut command = host.command(binaries.join("freena-stack"));
        command.args(["--iface", "near", "--control"]).arg(&control).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut ready = String::new();
        if let Some(printed) = process.stdout.take() {
            // An error here is an empty line, which is no "ready" either.
            let _ = BufReader::new(printed).read_line(&mut ready);
        }
        let server = Server { process, binaries, folder, control };
        match ready.contains("ready on") {
            true => Ok(server),
            false => Err(format!("freena-stack did not become ready; it printed {ready:?}")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = output_of(Command::new("kill").arg(self.process.id().to_string()));
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where the release binaries are.
fn binaries() -> Result<PathBuf, String> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = env::var_os(FOLDER).map_or_else(|| target.join("release"), PathBuf::from);
    let folder = std::path::absolute(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for name in ["freena", "freena-stack", "libfreena_preload.so"] {
        if !folder.join(name).is_file() {
            return Err(format!(
                "{name} is not in {}: run `cargo build --release --workspace` first, or set {FOLDER}",
                folder.display()
            ));
        }
    }
    Ok(folder)
}
