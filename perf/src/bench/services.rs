//! What it costs that services are inserted: the same library, called by a program's own source or inserted into the program,
//! which knows nothing of it then. And AES-GCM inserted over kernel TCP, against TLS by openssl(1).
//!
//! The two ways take turns, in the reversed order in the next round; what is told is the median of the rounds' quotients. Both
//! ends of a run have it the same way.

mod figure;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Error;
use super::options::Options;
use super::process::{Program, RunError};
use super::progress::Progress;
use crate::lab::{Host, Lab};
use crate::programs::report::{Arrival, Line};

use report::{Rates, megabits};
pub use report::{ServicePoint, ServicesReport, Transport};

/// Sizes of messages, in bytes. The largest of datagrams are such that services have room.
const SIZES: [usize; 6] = [64, 256, 1024, 4096, 16_384, 65_536];
const LARGEST_DATAGRAM: usize = 65_000;
/// The services: the light one, which only looks, and a heavy one.
const SERVICES: [&str; 2] = ["trace", "crypto"];
/// Bytes of a message where TLS is compared with: a record of it.
const RECORD: usize = 16_384;
const PORT: u16 = 7240;
const PROGRAM: &str = "freena-perf-services";
/// From the start of a program to its first line.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Given to a run beyond the time it measures.
const GRACE: Duration = Duration::from_secs(10);

/// How a program has services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its own source calls them.
    Direct,
    /// `freena run` has them inserted.
    Inserted,
}

/// Measures each transport, service and size. Of the options, length, rounds and programs matter.
///
/// # Errors
/// [`Error`] when nothing at all can be measured. A run that fails is part of the report.
pub fn services(
    options: &Options,
    transports: &[Transport],
    sizes: &[usize],
) -> Result<ServicesReport, Error> {
    options.check()?;
    let lab = Lab::new()?;
    let bench = Bench::new(&lab, options).map_err(|error| Error::Start(error.to_string()))?;
    let sizes = if sizes.is_empty() { &SIZES[..] } else { sizes };
    let mut points = Vec::new();
    for &transport in transports {
        for service in SERVICES {
            for &size in sizes {
                let size = if transport == Transport::Udp { size.min(LARGEST_DATAGRAM) } else { size };
                points.push(ServicePoint {
                    transport,
                    service: service.to_owned(),
                    size,
                    rates: Rates::default(),
                });
            }
        }
    }
    let tls = transports.contains(&Transport::Tcp);
    let runs = options.rounds as usize * (2 * points.len() + 2 * usize::from(tls));
    let mut progress = Progress::new(options.progress, runs as u64);
    let mut show = |what: &str, rate: &Result<f64, String>| {
        progress.done(&match rate {
            Ok(rate) => format!("{what}: {rate:.0} Mb/s"),
            Err(reason) => format!("{what}: failed: {reason}"),
        });
    };
    for point in &mut points {
        for round in 0..options.rounds {
            let ways = [Way::Direct, Way::Inserted];
            let mut rates = [Err(String::new()), Err(String::new())];
            for step in 0..2 {
                let index = if round % 2 == 0 { step } else { 1 - step };
                let rate = bench.measure(point, ways[index]).map_err(|error| error.to_string());
                show(
                    &format!("{} {}, {} B, {:?}", point.transport, point.service, point.size, ways[index]),
                    &rate,
                );
                rates[index] = rate;
            }
            point.rates.add(rates);
        }
    }
    let tls = tls.then(|| {
        let mut rates = Rates::default();
        let inserted = ServicePoint {
            transport: Transport::Tcp,
            service: "crypto".to_owned(),
            size: RECORD,
            rates: Rates::default(),
        };
        for _ in 0..options.rounds {
            let openssl = bench.openssl().map_err(|error| error.to_string());
            show("TLS by openssl", &openssl);
            let own = bench.measure(&inserted, Way::Inserted).map_err(|error| error.to_string());
            show("crypto inserted", &own);
            rates.add([openssl, own]);
        }
        rates
    });
    Ok(ServicesReport::new(options, points, tls))
}

/// What stands while it is measured.
struct Bench<'a> {
    lab: &'a Lab,
    options: &'a Options,
    program: PathBuf,
    freena: PathBuf,
    key: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab, options: &'a Options) -> Result<Self, RunError> {
        let find = |name: &str| options.binaries.find(name).map_err(RunError::Missing);
        let (program, freena, key) = (find(PROGRAM)?, find("freena")?, lab.directory().join("key"));
        done(Command::new(&freena).arg("keygen").arg(&key), "freena keygen")?;
        Ok(Self { lab, options, program, freena, key })
    }

    /// Parameters of a service.
    fn parameters(&self, service: &str) -> Vec<(&'static str, String)> {
        if service == "crypto" {
            vec![("key", self.key.display().to_string()), ("key_size", "128".to_owned())]
        } else {
            Vec::new()
        }
    }

    /// Megabits a second that a receiver gets of messages.
    fn measure(&self, point: &ServicePoint, way: Way) -> Result<f64, RunError> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut server = self.start(self.lab.b(), "server", point, way)?;
        server.ready(deadline)?;
        let _client = self.start(self.lab.a(), "client", point, way)?;
        self.arrived(&mut server)
    }

    fn arrived(&self, program: &mut Program) -> Result<f64, RunError> {
        let deadline = Instant::now() + Duration::from_secs_f64(self.options.seconds) + GRACE;
        let arrived = |line| if let Line::Arrived(arrival) = line { Some(arrival) } else { None };
        let Arrival { bytes, nanoseconds } = program.report("what has arrived", deadline, arrived)?;
        if bytes == 0 {
            return Err(RunError::NothingArrived { sent: 0 });
        }
        Ok(megabits(bytes, nanoseconds))
    }

    fn start(&self, host: &Host, end: &str, point: &ServicePoint, way: Way) -> Result<Program, RunError> {
        let mut command = match way {
            Way::Direct => host.command(&self.program),
            Way::Inserted => {
                let mut command = host.command(&self.freena);
                let file = self.configuration(point)?;
                command.args(["run", "--config"]).arg(file).arg("--").arg(&self.program);
                command
            }
        };
        let address = self.lab.b().v4().to_string();
        command.args([end, &address, &PORT.to_string(), "--transport", point.transport.option()]);
        command.args(["--size", &point.size.to_string(), "--seconds", &self.options.seconds.to_string()]);
        // Where the scheduler puts the two ends decides more than what is measured.
        if std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2) {
            command.args(["--core", if end == "server" { "1" } else { "0" }]);
        }
        if way == Way::Direct {
            let library = format!("libfreena_service_{}.so", point.service);
            command.arg("--service").arg(self.options.binaries.find(&library).map_err(RunError::Missing)?);
            for (name, value) in self.parameters(&point.service) {
                command.arg("--parameter").arg(format!("{name}={value}"));
            }
        }
        Program::start(PROGRAM, command)
    }

    fn configuration(&self, point: &ServicePoint) -> Result<PathBuf, RunError> {
        let path = self.lab.directory().join("services.xml");
        let parameters = self.parameters(&point.service);
        let parameters: String = parameters
            .iter()
            .map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>"))
            .collect();
        let text = format!(
            "<configuration application='bench'><services><service name='{}'>{parameters}</service><using-rules>\
             <rule use='true' transport='{}' port='{PORT}'/></using-rules></services></configuration>",
            point.service, point.transport
        );
        fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
        Ok(path)
    }

    /// Megabits a second from `openssl s_client` to `openssl s_server`, by TLS 1.3 with AES-128-GCM.
    fn openssl(&self) -> Result<f64, RunError> {
        let folder = self.lab.directory();
        let (key, certificate) = (folder.join("tls.key"), folder.join("tls.crt"));
        if !certificate.exists() {
            let mut command = Command::new("openssl");
            command.args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=b".split(' '),
            );
            done(command.arg("-keyout").arg(&key).arg("-out").arg(&certificate), "openssl req")?;
        }
        let (port, program) = (PORT + 1, self.program.display());
        let mut command = self.lab.b().command("sh");
        let (key, certificate) = (key.display(), certificate.display());
        command.arg("-c").arg(format!(
            "tail -f /dev/null | openssl s_server -quiet -accept {port} -naccept 1 -key {key} -cert {certificate} \
             -tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256 | {program} count 0.0.0.0 0"
        ));
        let mut server = Program::start("openssl s_server", command)?;
        server.ready(Instant::now() + READY_WITHIN)?;
        // It says nothing when it listens.
        sleep(Duration::from_millis(300));
        let mut command = self.lab.a().command("sh");
        let (address, seconds) = (self.lab.b().v4(), self.options.seconds);
        command.arg("-c").arg(format!(
            "{program} zeros 0.0.0.0 0 --size {RECORD} --seconds {seconds} | \
             openssl s_client -quiet -no_ign_eof -connect {address}:{port} -tls1_3"
        ));
        let _client = Program::start("openssl s_client", command)?;
        self.arrived(&mut server)
    }
}

fn done(command: &mut Command, name: &str) -> Result<(), RunError> {
    let output = command.output();
    let output = output.map_err(|source| RunError::Start { name: name.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(RunError::Setup(format!("{name} said {:?}", String::from_utf8_lossy(&output.stderr))))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::Setup(format!("cannot {what} {}: {error}", path.display()))
}
