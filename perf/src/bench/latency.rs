//! Ping-pong between two programs.

use std::time::{Duration, Instant};

use super::Error;
use super::account::{Taken, machine_busy_ns};
use super::options::{Hosts, Options, Series, Wait};
use super::process::RunError;
use super::progress::Progress;
use super::report::{Cost, Latency, LatencyPoint, Outcome, Report};
use super::servers::{Place, Servers};
use crate::lab::Lab;
use crate::programs::report::{Line, PingPong};

const PORT: &str = "7214";
/// From the start of a program to its first line.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Given to a run, for warming up and going down, beyond the time it measures.
const GRACE: Duration = Duration::from_secs(10);

/// Measures half the round trip, for every size and way of waiting, through the kernel and through the framework.
///
/// # Errors
/// [`Error`] when nothing at all can be measured. A series that fails is part of the report.
pub fn latency(options: &Options) -> Result<Report, Error> {
    options.check()?;
    let compared = |series: &Series| {
        series.kernel() == *series || matches!(series, Series::Framework | Series::FrameworkStream)
    };
    let series: Vec<Series> = options.series.iter().copied().filter(compared).collect();
    if series.is_empty() {
        let expected = "kernel-sendto or framework among them";
        return Err(Error::Option { option: "series", got: format!("{:?}", options.series), expected });
    }
    let lab = Lab::new()?;
    let runs = options.sizes.len() * options.waits.len() * series.len() * options.rounds as usize;
    let mut progress = Progress::new(options.progress, runs as u64);
    let mut report = Report::new(options);
    for &size in &options.sizes {
        for &wait in &options.waits {
            let mut runs: Vec<Vec<Result<Latency, String>>> = vec![Vec::new(); series.len()];
            for round in 0..options.rounds {
                for step in 0..series.len() {
                    let index = if round % 2 == 0 { step } else { series.len() - 1 - step };
                    let what = format!("{} {wait}, {size} B", name(series[index]));
                    progress.now(&what);
                    let outcome = measure(&lab, options, (size, wait, series[index]));
                    let outcome = outcome.map_err(|error| error.to_string());
                    progress.done(&match &outcome {
                        Ok(run) => format!("{what}: {:.1} us at the median", run.p50_ns as f64 / 1e3),
                        Err(reason) => format!("{what}: failed: {reason}"),
                    });
                    runs[index].push(outcome);
                }
            }
            report.latency.extend(series.iter().zip(runs).map(|(&series, runs)| {
                let outcome = Outcome::of(runs, |run| run.p50_ns as f64);
                LatencyPoint { size, wait, series, outcome }
            }));
        }
    }
    Ok(report)
}

/// A series, where the calls that send do not tell it apart.
pub(super) fn name(series: Series) -> &'static str {
    match series {
        Series::Framework => "framework",
        Series::KernelStream => "kernel TCP",
        Series::FrameworkStream => "fw TCP",
        _ => "kernel",
    }
}

fn measure(
    lab: &Lab,
    options: &Options,
    (size, wait, series): (usize, Wait, Series),
) -> Result<Latency, RunError> {
    let servers = series.server_arguments().map(|more| Servers::start(lab, options, more)).transpose()?;
    let (from, to, address) = Place::both(lab, options, servers.as_ref());
    let (address, size, wait) = (address.to_string(), size.to_string(), wait.to_string());
    let common = [&address, PORT, "--size", &size, "--mode", &wait];
    let (program, more): (_, &[&str]) = match series.is_stream() {
        true => ("freena-perf-stream", &["--load", "ping-pong"]),
        false => ("freena-perf-pingpong", &[]),
    };
    let deadline = Instant::now() + READY_WITHIN;
    let mut server = to.start(&options.binaries, program, |command| {
        command.arg("server").args(common).args(more);
        if !series.is_stream() {
            let seconds = (options.seconds + 2.0 * GRACE.as_secs_f64()).to_string();
            command.args(["--seconds", &seconds]);
        }
    })?;
    server.ready(deadline)?;
    let mut client = from.start(&options.binaries, program, |command| {
        command.arg("client").args(common).args(more).args([
            "--seconds",
            &options.seconds.to_string(),
            "--hold",
        ]);
    })?;
    client.ready(deadline)?;

    let servers_taken = || servers.as_ref().map(Servers::taken).unwrap_or_default();
    let (before, busy_before) = (servers_taken(), machine_busy_ns());
    client.go();
    let deadline = Instant::now() + Duration::from_secs_f64(options.seconds) + GRACE;
    let result = |line| match line {
        Line::PingPong(result) => Some(result),
        _ => None,
    };
    let measured = client.report("what it measured", deadline, result)?;
    let (servers_cost, busy) = (servers_taken() - before, machine_busy_ns().saturating_sub(busy_before));
    if measured.exchanges == 0 {
        return Err(RunError::NoAnswer { lost: measured.lost });
    }
    let answered = server.report("what it answered", deadline, result)?;
    if let (Hosts::One, Some(servers)) = (options.hosts, &servers) {
        match series.is_stream() {
            true => servers.check_joined()?,
            false => servers.check_local(2 * measured.exchanges)?,
        }
    }
    let programs = Taken::from(measured.usage) + Taken::from(answered.usage);
    let cost = Cost::each(measured.exchanges, programs, servers_cost, Some(busy));
    let PingPong { exchanges, lost, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, histogram, .. } = measured;
    Ok(Latency { exchanges, lost, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, histogram, cost })
}
