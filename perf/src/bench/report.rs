//! What was measured.

use serde::{Deserialize, Serialize};

use super::account::Taken;
use super::machine::Machine;
use super::options::{Hosts, Load, Options, Series, Wait};
use crate::programs::histogram::Bucket;

/// The outcome of a benchmark, with what one needs to know to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// Where the programs were.
    #[serde(default)]
    pub hosts: Hosts,
    /// Length of each steady stream or ping-pong, in seconds.
    pub seconds: f64,
    /// Datagrams in each burst.
    pub burst: u64,
    /// Runs of each series.
    pub rounds: u32,
    /// Throughput, by load, size and series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throughput: Vec<ThroughputPoint>,
    /// Latency, by size, way of waiting and series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<LatencyPoint>,
}

/// Throughput of one series at one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThroughputPoint {
    /// How datagrams were offered.
    pub load: Load,
    /// Payload of each, in bytes.
    pub size: usize,
    /// Who carried them.
    pub series: Series,
    /// What came of it.
    pub outcome: Outcome<Throughput>,
}

/// Latency of one series at one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyPoint {
    /// Payload of each datagram, in bytes.
    pub size: usize,
    /// How both programs waited.
    pub wait: Wait,
    /// Who carried them.
    pub series: Series,
    /// What came of it.
    pub outcome: Outcome<Latency>,
}

/// What came of several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome<T> {
    /// At least one gave a result.
    Measured(Measured<T>),
    /// None did; why the first did not.
    Failed(String),
}

/// The results of several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured<T> {
    /// The run that stands for all: the one with the median rate or latency.
    pub median: T,
    /// All that gave a result, from the lowest rate or latency to the highest.
    pub runs: Vec<T>,
    /// Why others gave none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// One run of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Payload received between the first and the last datagram, in megabits each second.
    pub megabits_per_second: f64,
    /// Datagrams received between the first and the last, each second.
    pub datagrams_per_second: f64,
    /// Datagrams sent.
    pub sent: u64,
    /// Distinct, intact datagrams received.
    pub received: u64,
    /// Datagrams that never came.
    pub lost: u64,
    /// Datagrams that came again.
    pub duplicates: u64,
    /// Datagrams that came after one sent later.
    pub reordered: u64,
    /// Datagrams whose bytes were not what was sent.
    pub corrupt: u64,
    /// What it cost for each datagram received.
    pub cost: Cost,
}

/// One run of a ping-pong. Times are half the round trip, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests that were answered.
    pub exchanges: u64,
    /// Requests that were not, in 200 ms.
    pub lost: u64,
    /// What 50 % of all do not exceed.
    pub p50_ns: u64,
    /// What 90 % do not exceed.
    pub p90_ns: u64,
    /// What 99 % do not exceed.
    pub p99_ns: u64,
    /// What 99.9 % do not exceed.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// The whole distribution.
    pub histogram: Vec<Bucket>,
    /// What it cost for each exchange.
    pub cost: Cost,
}

/// What each datagram, or exchange, cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of both programs, in nanoseconds.
    pub programs_cpu_ns: f64,
    /// CPU time of both servers, in nanoseconds; 0 where there are none.
    pub servers_cpu_ns: f64,
    /// CPU time of the whole machine while it ran, in nanoseconds: with what the kernel does in threads of its own, but
    /// also with whatever else ran. Known to 10 ms in all, so absent for a run shorter than half a second.
    pub machine_cpu_ns: Option<f64>,
    /// Times one of the programs or servers waited.
    pub voluntary_switches: f64,
    /// Times the CPU was taken from one of them.
    pub involuntary_switches: f64,
}

impl Cost {
    pub(super) fn each(count: u64, programs: Taken, servers: Taken, machine_ns: Option<u64>) -> Self {
        let each = |total: u64| total as f64 / count.max(1) as f64;
        let both = programs + servers;
        Self {
            programs_cpu_ns: each(programs.cpu_ns),
            servers_cpu_ns: each(servers.cpu_ns),
            machine_cpu_ns: machine_ns.map(each),
            voluntary_switches: each(both.voluntary),
            involuntary_switches: each(both.involuntary),
        }
    }

    /// CPU time of programs and servers, in nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> f64 {
        self.programs_cpu_ns + self.servers_cpu_ns
    }

    /// Process switches of both kinds.
    #[must_use]
    pub fn switches(&self) -> f64 {
        self.voluntary_switches + self.involuntary_switches
    }
}

impl Throughput {
    /// The part of all datagrams sent that never came, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}

impl<T> Outcome<T> {
    /// The run that stands for all, if there is one.
    #[must_use]
    pub fn median(&self) -> Option<&T> {
        match self {
            Self::Measured(measured) => Some(&measured.median),
            Self::Failed(_) => None,
        }
    }
}

impl<T: Clone> Outcome<T> {
    /// Of all the runs. `rate` is what they are ordered by.
    pub(super) fn of(runs: Vec<Result<T, String>>, rate: impl Fn(&T) -> f64) -> Self {
        let (mut good, mut failures) = (Vec::new(), Vec::new());
        for run in runs {
            match run {
                Ok(run) => good.push(run),
                Err(reason) => failures.push(reason),
            }
        }
        good.sort_by(|one, two| rate(one).total_cmp(&rate(two)));
        match good.get(good.len().saturating_sub(1) / 2).cloned() {
            Some(median) => Self::Measured(Measured { median, runs: good, failures }),
            None => Self::Failed(failures.into_iter().next().unwrap_or_else(|| "it was not run".to_owned())),
        }
    }
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        let (throughput, latency) = (Vec::new(), Vec::new());
        let &Options { hosts, seconds, burst, rounds, .. } = options;
        Self { machine: Machine::here(), hosts, seconds, burst, rounds, throughput, latency }
    }

    /// The throughput of one series at one size, where it was measured.
    #[must_use]
    pub fn throughput_of(&self, load: Load, size: usize, series: Series) -> Option<&Throughput> {
        let matching =
            |point: &&ThroughputPoint| (point.load, point.size, point.series) == (load, size, series);
        self.throughput.iter().find(matching)?.outcome.median()
    }

    /// The latency of one series at one size, where it was measured.
    #[must_use]
    pub fn latency_of(&self, size: usize, wait: Wait, series: Series) -> Option<&Latency> {
        let matching = |point: &&LatencyPoint| (point.size, point.wait, point.series) == (size, wait, series);
        self.latency.iter().find(matching)?.outcome.median()
    }

    /// As JSON, indented, with a newline at the end. [`Report::from_json`] reads it again.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: every key is a string, and writing to a string does not.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }

    /// Reads a report that was written before, to show or plot it again.
    ///
    /// # Errors
    /// Where it is not JSON, or not a report, with line and column.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The loads that were measured, in order.
    pub(super) fn loads(&self) -> Vec<Load> {
        distinct(self.throughput.iter().map(|point| point.load))
    }

    /// The sizes of a load's streams, in order.
    pub(super) fn sizes(&self, load: Load) -> Vec<usize> {
        distinct(self.throughput.iter().filter(|point| point.load == load).map(|point| point.size))
    }

    /// The series that were tried, in the order in which they are shown.
    pub(super) fn series(&self) -> Vec<Series> {
        let tried = |series: &Series| self.throughput.iter().any(|point| point.series == *series);
        Series::ALL.into_iter().filter(tried).collect()
    }

    /// A load, in words.
    pub(super) fn describe(&self, load: Load) -> String {
        match load {
            Load::Burst => format!("bursts of {} datagrams", grouped(self.burst)),
            Load::Steady => format!("steady stream, {} s", self.seconds),
        }
    }
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn sample(datagrams_per_second: f64, size: usize) -> Throughput {
        Throughput {
            megabits_per_second: crate::programs::report::megabits(datagrams_per_second, size),
            datagrams_per_second,
            sent: 1_000,
            received: 990,
            lost: 10,
            duplicates: 0,
            reordered: 0,
            corrupt: 0,
            cost: Cost { programs_cpu_ns: 1_500.0, voluntary_switches: 0.25, ..Cost::default() },
        }
    }

    /// Two loads, three sizes, every series; the last one failed.
    pub(in super::super) fn example() -> Report {
        let options = Options::new().unwrap();
        let mut report = Report { machine: Machine::example(), ..Report::new(&options) };
        for load in [Load::Burst, Load::Steady] {
            for size in [64, 512, 1472] {
                let series = [
                    Series::KernelSendto,
                    Series::KernelSendmmsg,
                    Series::KernelSegment,
                    Series::Framework,
                    Series::RawAfXdp,
                ];
                for (rank, series) in series.into_iter().enumerate() {
                    let outcome = match series {
                        Series::RawAfXdp => Outcome::Failed("no such <thing>".to_owned()),
                        _ => {
                            let rate = |_: u32| Ok(sample(250_000.0 * (rank + 1) as f64, size));
                            Outcome::of((0..3).map(rate).collect(), |run| run.datagrams_per_second)
                        }
                    };
                    report.throughput.push(ThroughputPoint { load, size, series, outcome });
                }
            }
        }
        report
    }

    /// Two series, one way of waiting.
    pub(in super::super) fn latency_example() -> Report {
        let options = Options::new().unwrap();
        let mut report = Report { machine: Machine::example(), ..Report::new(&options) };
        for (series, p50_ns) in [(Series::KernelSendto, 28_000), (Series::Framework, 7_000)] {
            let histogram = vec![
                Bucket { up_to_ns: p50_ns, count: 600 },
                Bucket { up_to_ns: 2 * p50_ns, count: 399 },
                Bucket { up_to_ns: 9 * p50_ns, count: 1 },
            ];
            let run = Latency {
                exchanges: 1_000,
                lost: 0,
                p50_ns,
                p90_ns: 2 * p50_ns,
                p99_ns: 2 * p50_ns,
                p999_ns: 2 * p50_ns,
                max_ns: 9 * p50_ns,
                histogram,
                cost: Cost::default(),
            };
            let outcome = Outcome::of(vec![Ok(run)], |run| run.p50_ns as f64);
            report.latency.push(LatencyPoint { size: 64, wait: Wait::Recv, series, outcome });
        }
        report
    }

    #[test]
    fn the_median_stands_for_the_runs() {
        let runs = [3.0, 1.0, 2.0].map(Ok::<f64, String>).to_vec();
        let Outcome::Measured(measured) = Outcome::of(runs, |run| *run) else { panic!() };
        assert_eq!((measured.median, measured.runs), (2.0, vec![1.0, 2.0, 3.0]));
        let even = Outcome::of([4.0, 1.0].map(Ok::<f64, String>).to_vec(), |run| *run);
        assert_eq!(even.median(), Some(&1.0), "of two the one that promises less");
    }

    #[test]
    fn failures_beside_results_are_kept_and_alone_are_the_outcome() {
        let mixed = Outcome::of(vec![Err("late".to_owned()), Ok(1.0)], |run| *run);
        let Outcome::Measured(measured) = mixed else { panic!() };
        assert_eq!(measured.failures, ["late"]);
        let none = Outcome::of(vec![Err("one".to_owned()), Err("two".to_owned())], |run: &f64| *run);
        assert_eq!(none, Outcome::Failed("one".to_owned()));
    }

    #[test]
    fn json_is_read_as_it_was_written() {
        for report in [example(), latency_example()] {
            assert_eq!(Report::from_json(&report.to_json()).unwrap(), report);
        }
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 10_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "10,000", "1,234,567"]
        );
    }
}
