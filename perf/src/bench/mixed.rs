//! One listener of an unmodified nginx for the clients of all protocols, against listeners of one protocol each.
//!
//! All listeners stand on one host at once, nginx processes of their own with one worker each; what is not measured waits. A
//! client gets one file again and again. Each is measured alone, at the listener of its own protocol and at that of all, one
//! after the other and in the reversed order in the next round; then all clients at once, each at its own listener or all at the
//! one. The kernel's client is then framework TCP's at both: served by the kernel it would take the cores from all others. Before
//! it is measured the server on the listeners' host has told that it carries the connection by what it should.

mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Error;
use super::options::Options;
use super::process::{Program, RunError};
use super::progress::Progress;
use super::report::Outcome;
use super::servers::{Place, Servers};
use crate::lab::Lab;
use crate::programs::report::Line;
use report::{ALONE, AT_ONCE};

pub use report::{Client, Listener, MixedPoint, MixedReport};

/// Bytes of the file.
const FILE: u64 = 256 << 20;
/// The port of the first listener.
const PORT: u16 = 7230;
/// From the start of a program to its first answer.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Given to a run beyond the time it measures.
const GRACE: Duration = Duration::from_secs(10);
/// Between two attempts to reach a listener that has just been started.
const AGAIN: Duration = Duration::from_millis(50);

/// Measures each client at each listener that may serve it, and all clients at once. Of the options, length, rounds, the servers'
/// arguments and the programs matter.
///
/// # Errors
/// [`Error`] when nothing at all can be measured: nginx is missing, a server does not start. A run that fails is part of the
/// report.
pub fn mixed(options: &Options) -> Result<MixedReport, Error> {
    options.check()?;
    let lab = Lab::new()?;
    let failed = |error: RunError| Error::Start(error.to_string());
    let keys = make_keys(&lab, options).map_err(failed)?;
    let keys = keys.to_string_lossy();
    let servers = Servers::start(&lab, options, &["--quic", &keys]).map_err(failed)?;
    let (from, to, address) = Place::both(&lab, options, Some(&servers));
    let bench = Bench { options, address: address.to_string(), from, servers: &servers };
    let _listeners = listen(&bench, &lab, &to).map_err(failed)?;

    let own: Vec<_> = AT_ONCE.iter().map(|client| (*client, client.own())).collect();
    let shared: Vec<_> = AT_ONCE.iter().map(|client| (*client, Listener::All)).collect();
    let mut steps: Vec<Step> = ALONE.iter().map(|pair| Step::of(false, vec![*pair])).collect();
    steps.extend([Step::of(true, own), Step::of(true, shared)]);
    let mut progress = Progress::new(options.progress, u64::from(options.rounds) * steps.len() as u64);
    for round in 0..options.rounds as usize {
        for at in 0..steps.len() {
            let last = steps.len() - 1;
            let step = &mut steps[if round % 2 == 0 { at } else { last - at }];
            let what = step.describe();
            progress.now(&what);
            let rates = bench.measure(&step.clients).map_err(|error| error.to_string());
            progress.done(&match &rates {
                Ok(rates) => format!("{what}: {rates:.0?} Mb/s"),
                Err(reason) => format!("{what}: failed: {reason}"),
            });
            for (index, runs) in step.runs.iter_mut().enumerate() {
                runs.push(rates.as_ref().map(|rates| rates[index]).map_err(Clone::clone));
            }
        }
    }
    Ok(MixedReport::new(options, steps.into_iter().flat_map(Step::points).collect()))
}

/// Clients that are measured together, and what came of it in each round.
struct Step {
    at_once: bool,
    clients: Vec<(Client, Listener)>,
    runs: Vec<Vec<Result<f64, String>>>,
}

impl Step {
    fn of(at_once: bool, clients: Vec<(Client, Listener)>) -> Self {
        let runs = vec![Vec::new(); clients.len()];
        Self { at_once, clients, runs }
    }

    fn describe(&self) -> String {
        let each = self.clients.iter().map(|(client, listener)| format!("{client} at {listener}"));
        each.collect::<Vec<_>>().join(", ")
    }

    fn points(self) -> Vec<MixedPoint> {
        let at_once = self.at_once;
        let each = self.clients.into_iter().zip(self.runs);
        let point = |((client, listener), runs)| {
            let outcome = Outcome::of(runs, |rate| *rate);
            MixedPoint { client, listener, at_once, outcome }
        };
        each.map(point).collect()
    }
}

/// A key, which is both hosts', who trust it.
fn make_keys(lab: &Lab, options: &Options) -> Result<PathBuf, RunError> {
    let folder = lab.directory().join("quic");
    let freena = options.binaries.find("freena").map_err(RunError::Missing)?;
    let output = Command::new(freena).args(["keygen", "--quic"]).arg(&folder).output();
    let output = output.map_err(|source| RunError::Start { name: "freena keygen".to_owned(), source })?;
    let key = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(RunError::Setup(format!("freena keygen said {said:?}")));
    }
    let trusted = folder.join("trusted");
    fs::write(&trusted, format!("* {key}")).map_err(|error| cannot("write", &trusted, &error))?;
    Ok(folder)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::Setup(format!("cannot {what} {}: {error}", path.display()))
}

/// nginx, which is started by users with a path that may lack the folders of services.
fn find_nginx() -> Result<PathBuf, RunError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/local/sbin", "/usr/sbin"]);
    let found =
        folders.find_map(|folder| Some(Path::new(folder).join("nginx")).filter(|file| file.is_file()));
    found.ok_or_else(|| RunError::Missing("nginx (Debian package nginx) not found".to_owned()))
}

/// Starts the listeners; each has answered when it returns.
fn listen(bench: &Bench<'_>, lab: &Lab, to: &Place<'_>) -> Result<Vec<Program>, RunError> {
    let nginx = find_nginx()?;
    let folder = lab.directory().join("nginx");
    fs::create_dir(&folder).map_err(|error| cannot("make", &folder, &error))?;
    let file = folder.join("file");
    // A hole: what is in it does not matter to any protocol, and a disk would.
    let made = File::create(&file).and_then(|made| made.set_len(FILE));
    made.map_err(|error| cannot("write", &file, &error))?;
    let mut running = Vec::new();
    for listener in Listener::ALL {
        let name = format!("nginx, {listener}");
        let own = folder.join(listener.port().to_string());
        fs::create_dir(&own).map_err(|error| cannot("make", &own, &error))?;
        let configuration = own.join("nginx.conf");
        let text = configure(&folder, &own, &bench.address, listener.port());
        fs::write(&configuration, text).map_err(|error| cannot("write", &configuration, &error))?;
        let mut command = to.command(listener.protocols(), &nginx);
        command.arg("-c").arg(&configuration).arg("-e").arg("stderr");
        running.push(Program::start(&name, command)?);
    }
    // Until each has answered a client of its own.
    let deadline = Instant::now() + READY_WITHIN;
    for (client, listener) in ALONE {
        while let Err(error) = bench.client(client, listener, deadline) {
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep(AGAIN);
        }
    }
    Ok(running)
}

fn configure(root: &Path, own: &Path, address: &str, port: u16) -> String {
    let (root, own) = (root.display(), own.display());
    format!(
        "worker_processes 1; daemon off; pid {own}/pid; error_log stderr; user root;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path {own}/b;\n\
         proxy_temp_path {own}/p; fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n\
         server {{ listen {address}:{port}; root {root}; }} }}\n"
    )
}

/// What stands while it is measured.
struct Bench<'a> {
    options: &'a Options,
    address: String,
    from: Place<'a>,
    servers: &'a Servers,
}

impl Bench<'_> {
    /// Starts a client, which has got the file once when it returns; and its port.
    fn client(
        &self,
        client: Client,
        listener: Listener,
        deadline: Instant,
    ) -> Result<(Program, u16), RunError> {
        let name = "freena-perf-download";
        let program = self.options.binaries.find(name).map_err(RunError::Missing)?;
        let mut command = self.from.command(client.protocol(), &program);
        command.args([&self.address, &listener.port().to_string(), "/file"]);
        command.args(["--seconds", &self.options.seconds.to_string()]);
        let mut program = Program::start(name, command)?;
        let ready = |line| if let Line::Ready { port } = line { Some(port) } else { None };
        let port = program.report("that it has got the file", deadline, ready)?;
        Ok((program, port))
    }

    /// Runs these clients at once. Their rates in megabits each second.
    fn measure(&self, clients: &[(Client, Listener)]) -> Result<Vec<f64>, RunError> {
        let deadline = Instant::now() + READY_WITHIN;
        let start = |&(client, listener)| self.client(client, listener, deadline);
        let mut running = clients.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let status = self.servers.status()?;
        for ((client, listener), (_, port)) in clients.iter().zip(&running) {
            check(&status, *client, *listener, *port)?;
        }
        running.iter_mut().for_each(|(program, _)| program.go());
        let deadline = Instant::now() + Duration::from_secs_f64(self.options.seconds) + GRACE;
        let done =
            |line| if let Line::Downloaded(done) = line { Some(done.megabits_per_second) } else { None };
        running.iter_mut().map(|(program, _)| program.report("what it got", deadline, done)).collect()
    }
}

/// Whether a listener's connection with the client at this port is carried by what it should be.
fn check(status: &serde_json::Value, client: Client, listener: Listener, port: u16) -> Result<(), RunError> {
    let Some(expected) = listener.carries(client) else { return Ok(()) };
    let ends_with =
        |of: &serde_json::Value, port: u16| of.as_str().is_some_and(|end| end.ends_with(&format!(":{port}")));
    let mut all = status["connections"].as_array().into_iter().flatten();
    let found = all.find(|it| ends_with(&it["local"], listener.port()) && ends_with(&it["peer"], port));
    match found.map(|it| it["protocol"].as_str().unwrap_or_default()) {
        Some(got) if got == expected => Ok(()),
        got => Err(RunError::OtherProtocol {
            listener: listener.name(),
            expected,
            peer: format!("port {port}"),
            got: got.unwrap_or("none").to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_carried_by_another_protocol_is_told() {
        let local = format!("10.0.0.2:{}", Listener::All.port());
        let status = serde_json::json!({ "connections": [
            { "local": local, "peer": "10.0.0.1:44", "protocol": "tcp" },
            { "local": local, "peer": "10.0.0.1:45", "protocol": "quic" },
        ]});
        check(&status, Client::Tcp, Listener::All, 44).unwrap();
        check(&status, Client::Kernel, Listener::All, 44).unwrap();
        check(&status, Client::Kernel, Listener::Kernel, 99).unwrap();
        let said = check(&status, Client::Sctp, Listener::All, 45).unwrap_err().to_string();
        assert!(said.contains("by sctp") && said.ends_with("tells quic"), "{said}");
        assert!(check(&status, Client::Quic, Listener::Quic, 45).is_err(), "that is another listener's");
    }
}
