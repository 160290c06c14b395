//! TCP connections through the kernel and through the framework: bulk, requests, connections opened and closed, and a path
//! that delays and loses.

mod figure;
mod report;

use std::process::Command;
use std::time::{Duration, Instant};

use super::Error;
use super::account::{Taken, machine_busy_ns};
use super::options::{Options, Series};
use super::process::{Program, RunError};
use super::progress::Progress;
use super::report::{Cost, Outcome};
use super::servers::{Place, Servers};
use crate::lab::{Lab, WIRE};
use crate::programs::report::Line;

pub use report::{Case, StreamPoint, StreamReport, StreamRun};

const PORT: &str = "7215";
const SERIES: [Series; 2] = [Series::KernelStream, Series::FrameworkStream];
/// From the start of a program to its first line.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Given to a run beyond the time it measures: what is in buffers has to cross a slow path.
const GRACE: Duration = Duration::from_secs(20);
/// Bytes of one call that sends in bulk.
const MESSAGE: &str = "16384";
/// Connections at a time, for requests.
const CONNECTIONS: &str = "50";
/// A path that loses needs time to show its mean.
const LOSSY_FACTOR: f64 = 4.0;
/// The path of tc-netem(8): `delay 20ms loss 1%` from the sender to the receiver, and a rate that nothing here fails to reach.
const PATH: [&str; 6] = ["--delay-ms", "20", "--loss", "1", "--rate-mbit", "200"];

/// Measures each case through the kernel and through the framework. Of the options, sizes, loads and ways of waiting do not
/// matter.
///
/// # Errors
/// [`Error`] when nothing at all can be measured. A series that fails is part of the report.
pub fn streams(options: &Options, cases: &[Case]) -> Result<StreamReport, Error> {
    options.check()?;
    let runs = cases.len() * SERIES.len() * options.rounds as usize;
    let mut progress = Progress::new(options.progress, runs as u64);
    let mut report = StreamReport::new(options);
    for &case in cases {
        let lab = if case.is_lossy() { Lab::with_wire()? } else { Lab::new()? };
        let mut runs: [Vec<Result<StreamRun, String>>; 2] = Default::default();
        for round in 0..options.rounds {
            for step in 0..SERIES.len() {
                let index = if round % 2 == 0 { step } else { SERIES.len() - 1 - step };
                let what = format!("{}, {}", SERIES[index], case.name());
                progress.now(&what);
                let outcome = measure(&lab, options, case, SERIES[index]).map_err(|error| error.to_string());
                progress.done(&match &outcome {
                    Ok(run) => format!("{what}: {:.1} {}", run.rate, case.unit()),
                    Err(reason) => format!("{what}: failed: {reason}"),
                });
                runs[index].push(outcome);
            }
        }
        report.points.extend(SERIES.into_iter().zip(runs).map(|(series, runs)| StreamPoint {
            case,
            series,
            outcome: Outcome::of(runs, |run| run.rate),
        }));
    }
    Ok(report)
}

fn measure(lab: &Lab, options: &Options, case: Case, series: Series) -> Result<StreamRun, RunError> {
    let deadline = Instant::now() + READY_WITHIN;
    let _wire = lab.wire().map(|host| -> Result<Program, RunError> {
        let mut command = host.command(options.binaries.find("freena-perf-wire").map_err(RunError::Missing)?);
        command.args(WIRE).args(PATH);
        let mut wire = Program::start("freena-perf-wire", command)?;
        wire.ready(deadline)?;
        Ok(wire)
    });
    let _wire = _wire.transpose()?;
    let servers = series.server_arguments().map(|more| Servers::start(lab, options, more)).transpose()?;
    let (from, to, address) = Place::both(lab, options, servers.as_ref());
    let address = address.to_string();
    let seconds = options.seconds * if case.is_lossy() { LOSSY_FACTOR } else { 1.0 };
    let (program, common, more) = match case {
        Case::Bulk => ("freena-perf-stream", &["--size", MESSAGE][..], vec!["--hold"]),
        Case::Lossy => {
            ("freena-perf-stream", &["--size", MESSAGE][..], vec!["--hold", "--congestion", "cubic"])
        }
        Case::Requests => ("freena-perf-requests", &[][..], vec!["--connections", CONNECTIONS]),
        Case::Opens => ("freena-perf-requests", &["--reopen"][..], vec!["--connections", CONNECTIONS]),
    };
    let role = |role: &'static str| {
        let address = address.clone();
        move |command: &mut Command| {
            command.args([role, &address, PORT]).args(common);
        }
    };
    let deadline = Instant::now() + READY_WITHIN;
    let mut server = to.start(&options.binaries, program, role("server"))?;
    server.ready(deadline)?;
    let mut client = from.start(&options.binaries, program, |command| {
        role("client")(command);
        command.args(["--seconds", &seconds.to_string()]).args(more);
    })?;
    client.ready(deadline)?;

    let servers_taken = || servers.as_ref().map(Servers::taken).unwrap_or_default();
    let (before, busy_before) = (servers_taken(), machine_busy_ns());
    client.go();
    let deadline = Instant::now() + Duration::from_secs_f64(seconds) + GRACE;
    let (rate, p99_ns, count, usages) = if case.is_bulk() {
        let sent = client.report("what it sent", deadline, |line| match line {
            Line::Sent(sent) => Some(sent),
            _ => None,
        })?;
        let got = server.report("what it received", deadline, |line| match line {
            Line::Received(got) => Some(got),
            _ => None,
        })?;
        if got.bytes != sent.bytes || got.corrupt > 0 {
            return Err(RunError::NotWhole { sent: sent.bytes, received: got.bytes, corrupt: got.corrupt });
        }
        // Messages of whole calls: the rate is that of bytes.
        (got.megabits_per_second, None, got.bytes / (1 << 20), [sent.usage, got.usage])
    } else {
        let result = |line| match line {
            Line::PingPong(result) => Some(result),
            _ => None,
        };
        let asked = client.report("what it measured", deadline, result)?;
        server.go();
        let answered = server.report("what it answered", deadline, result)?;
        let rate = asked.exchanges as f64 / seconds;
        (rate, Some(2 * asked.p99_ns), asked.exchanges, [asked.usage, answered.usage])
    };
    let (servers_cost, busy) = (servers_taken() - before, machine_busy_ns().saturating_sub(busy_before));
    let programs = Taken::from(usages[0]) + Taken::from(usages[1]);
    Ok(StreamRun { rate, p99_ns, cost: Cost::each(count, programs, servers_cost, Some(busy)) })
}
