//! Streams of datagrams from one program to the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Error;
use super::account::{Taken, machine_busy_ns};
use super::options::{Hosts, Load, Options, Series};
use super::process::{Program, RunError};
use super::progress::Progress;
use super::report::{Cost, Outcome, Report, Throughput, ThroughputPoint};
use super::servers::{Place, Servers};
use crate::lab::{INTERFACE, Lab};
use crate::programs::report::{Line, Received, Sent};

/// The port that receivers use. Nothing else runs in the lab.
const PORT: &str = "7213";
/// From the start of a program to its first line.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Given to a run beyond the time it should take.
const GRACE: Duration = Duration::from_secs(10);
/// A burst ends within this time, or has failed.
const BURST_WITHIN: Duration = Duration::from_secs(10);
/// A series that failed so often in a row is not tried again: each try may take as long as its time is bounded to.
const GIVE_UP_AFTER: u32 = 3;
/// Shorter than this, the ticks that the machine's time is counted in say nothing.
const WORTH_TICKS: Duration = Duration::from_millis(500);

/// Measures received throughput against datagram size, for every load and series of the options.
///
/// # Errors
/// [`Error`] when nothing at all can be measured. A series that fails is part of the report.
pub fn throughput(options: &Options) -> Result<Report, Error> {
    options.check()?;
    let lab = Lab::new()?;
    let runs = options.loads.len() * options.sizes.len() * options.series.len() * options.rounds as usize;
    let mut bench = Bench {
        lab: &lab,
        options,
        progress: Progress::new(options.progress, runs as u64),
        failures: HashMap::new(),
    };
    let mut report = Report::new(options);
    for &load in &options.loads {
        for &size in &options.sizes {
            report.throughput.extend(bench.point(load, size));
        }
    }
    Ok(report)
}

struct Bench<'a> {
    lab: &'a Lab,
    options: &'a Options,
    progress: Progress,
    /// By series, how often in a row it failed, and why at last.
    failures: HashMap<Series, (u32, String)>,
}

impl Bench<'_> {
    /// Every series at one size, interleaved.
    fn point(&mut self, load: Load, size: usize) -> Vec<ThroughputPoint> {
        let series = &self.options.series;
        let mut runs: Vec<Vec<Result<Throughput, String>>> = vec![Vec::new(); series.len()];
        for round in 0..self.options.rounds {
            for step in 0..series.len() {
                let index = if round % 2 == 0 { step } else { series.len() - 1 - step };
                runs[index].push(self.run(load, size, series[index]));
            }
        }
        let outcomes = series.iter().zip(runs).map(|(&series, runs)| {
            let outcome = Outcome::of(runs, |run| run.datagrams_per_second);
            ThroughputPoint { load, size, series, outcome }
        });
        outcomes.collect()
    }

    /// One run, with its failure put into words.
    fn run(&mut self, load: Load, size: usize, series: Series) -> Result<Throughput, String> {
        let what = format!("{series}, {size} B");
        let (times, why) = self.failures.entry(series).or_default();
        let outcome = if *times >= GIVE_UP_AFTER {
            Err(why.clone())
        } else {
            self.progress.now(&what);
            let outcome = measure(self.lab, self.options, (load, size, series), &self.progress);
            outcome.map_err(|error| error.to_string())
        };
        match &outcome {
            Ok(_) => *times = 0,
            Err(reason) => (*times, *why) = (*times + 1, reason.clone()),
        }
        self.progress.done(&match &outcome {
            Ok(run) => format!("{what}: {:.0} Mb/s", run.megabits_per_second),
            Err(reason) => format!("{what}: failed: {reason}"),
        });
        outcome
    }
}

fn measure(
    lab: &Lab,
    options: &Options,
    (load, size, series): (Load, usize, Series),
    progress: &Progress,
) -> Result<Throughput, RunError> {
    let servers = series.server_arguments().map(|more| Servers::start(lab, options, more)).transpose()?;
    let (mut sender, mut receiver) = match series {
        Series::RawAfXdp => raw(lab, options, load, size, "af-xdp")?,
        Series::RawGso => raw(lab, options, load, size, "gso")?,
        Series::KernelStream | Series::FrameworkStream => {
            connection(lab, options, servers.as_ref(), load, size)?
        }
        _ => sockets(lab, options, servers.as_ref(), (load, size, series))?,
    };
    let usual = match load {
        Load::Steady => Duration::from_secs_f64(options.seconds),
        Load::Burst => BURST_WITHIN,
    };

    let servers_taken = || servers.as_ref().map(Servers::taken).unwrap_or_default();
    let (before, busy_before, started) = (servers_taken(), machine_busy_ns(), Instant::now());
    let deadline = started + usual + GRACE;
    sender.go();
    let received = receiver.report("what it received", deadline, |line| match line {
        Line::Received(received) => Some(received),
        Line::Interval { megabits_per_second, .. } => {
            progress.now(&format!("{series}, {size} B: {megabits_per_second:.0} Mb/s"));
            None
        }
        _ => None,
    })?;
    let (servers_cost, elapsed) = (servers_taken() - before, started.elapsed());
    let machine = (elapsed >= WORTH_TICKS).then(|| machine_busy_ns().saturating_sub(busy_before));
    let sent = sender.report("what it sent", deadline, |line| match line {
        Line::Sent(sent) => Some(sent),
        _ => None,
    })?;
    if let (Hosts::One, Some(servers)) = (options.hosts, &servers) {
        match series.is_stream() {
            true => servers.check_joined()?,
            false => servers.check_local(received.datagrams)?,
        }
    }
    result(&sent, &received, servers_cost, machine)
}

fn result(
    sent: &Sent,
    received: &Received,
    servers: Taken,
    machine_ns: Option<u64>,
) -> Result<Throughput, RunError> {
    if received.datagrams == 0 {
        return Err(RunError::NothingArrived { sent: sent.datagrams });
    }
    if received.datagrams_per_second == 0.0 {
        return Err(RunError::TooFew { sent: sent.datagrams, received: received.datagrams });
    }
    let programs = Taken::from(sent.usage) + Taken::from(received.usage);
    Ok(Throughput {
        megabits_per_second: received.megabits_per_second,
        datagrams_per_second: received.datagrams_per_second,
        sent: sent.datagrams,
        received: received.datagrams,
        lost: sent.datagrams.saturating_sub(received.datagrams),
        duplicates: received.duplicates,
        reordered: received.reordered,
        corrupt: received.corrupt,
        cost: Cost::each(received.datagrams, programs, servers, machine_ns),
    })
}

/// Sender and receiver that use sockets, both ready.
fn sockets(
    lab: &Lab,
    options: &Options,
    servers: Option<&Servers>,
    (load, size, series): (Load, usize, Series),
) -> Result<(Program, Program), RunError> {
    let (send, receive) = match series {
        Series::KernelSendmmsg => ("sendmmsg", "recvmmsg"),
        Series::KernelSegment => ("gso", "recvmmsg"),
        Series::KernelSegmentGro => ("gso", "gro"),
        _ => ("sendto", "recvfrom"),
    };
    let (from, to, address) = Place::both(lab, options, servers);
    let (address, size) = (address.to_string(), size.to_string());
    let deadline = Instant::now() + READY_WITHIN;
    let mut receiver = to.start(&options.binaries, "freena-perf-recv", |command| {
        command.args([&address, PORT, "--size", &size, "--mode", receive, "--interval", "200"]);
        command.args(["--seconds", &(options.seconds + 2.0 * GRACE.as_secs_f64()).to_string()]);
        if let Some(bytes) = options.receive_buffer {
            command.args(["--rcvbuf", &bytes.to_string()]);
        }
    })?;
    receiver.ready(deadline)?;
    let mut sender = from.start(&options.binaries, "freena-perf-send", |command| {
        command.args([&address, PORT, "--size", &size, "--mode", send, "--hold"]);
        command.args(amount(load, options));
    })?;
    sender.ready(deadline)?;
    Ok((sender, receiver))
}

/// Sender and receiver of messages over a connection, both ready.
fn connection(
    lab: &Lab,
    options: &Options,
    servers: Option<&Servers>,
    load: Load,
    size: usize,
) -> Result<(Program, Program), RunError> {
    if load == Load::Burst {
        return Err(RunError::NoBurst);
    }
    let (from, to, address) = Place::both(lab, options, servers);
    let (address, size) = (address.to_string(), size.to_string());
    let deadline = Instant::now() + READY_WITHIN;
    let mut receiver = to.start(&options.binaries, "freena-perf-stream", |command| {
        command.args(["server", &address, PORT, "--size", &size]);
    })?;
    receiver.ready(deadline)?;
    let mut sender = from.start(&options.binaries, "freena-perf-stream", |command| {
        command.args(["client", &address, PORT, "--size", &size, "--hold"]);
        command.args(["--seconds", &options.seconds.to_string()]);
    })?;
    sender.ready(deadline)?;
    Ok((sender, receiver))
}

/// Sender and receiver with nothing between them and AF_XDP, both ready.
fn raw(
    lab: &Lab,
    options: &Options,
    load: Load,
    size: usize,
    transmit: &str,
) -> Result<(Program, Program), RunError> {
    let (from, to, _) = Place::both(lab, options, None);
    let (source, destination) = (lab.a().v4().to_string(), lab.b().v4().to_string());
    let common = ["--iface", INTERFACE, "--size", &size.to_string(), "--from", &source, "--to", &destination];
    let common = [&common[..], &["--port", PORT]].concat();
    let deadline = Instant::now() + READY_WITHIN;
    let mut receiver = to.start(&options.binaries, "freena-perf-xdp", |command| {
        command.arg("receive").args(&common).args(["--interval", "200"]);
        command.args(["--seconds", &(options.seconds + 2.0 * GRACE.as_secs_f64()).to_string()]);
    })?;
    receiver.ready(deadline)?;
    let mut sender = from.start(&options.binaries, "freena-perf-xdp", |command| {
        let macs = [lab.a().mac(), lab.b().mac()].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        command.arg("send").args(&common).args(["--from-mac", &macs[0], "--to-mac", &macs[1], "--hold"]);
        command.args(["--transmit", transmit]);
        command.args(amount(load, options));
    })?;
    sender.ready(deadline)?;
    Ok((sender, receiver))
}

/// How much to send.
fn amount(load: Load, options: &Options) -> [String; 2] {
    match load {
        Load::Burst => ["--burst".to_owned(), options.burst.to_string()],
        Load::Steady => ["--seconds".to_owned(), options.seconds.to_string()],
    }
}
