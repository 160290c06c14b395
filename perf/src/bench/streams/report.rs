//! What was measured of connections, and its table.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::super::machine::Machine;
use super::super::options::{Options, Series};
use super::super::report::{Cost, Outcome};
use super::super::table::{failure, write_rows};
use super::SERIES;

/// What is done with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// One connection, one way, as fast as it goes, in calls of 16 KiB.
    Bulk,
    /// Requests of 64 bytes and their answers over 50 kept connections, one at a time on each; a thread at each end.
    Requests,
    /// The same with a new connection for each request.
    Opens,
    /// As [`Case::Bulk`] by CUBIC, over a path from the sender to the receiver that delays by 20 ms, loses 1 % of all frames
    /// and carries 200 Mb/s.
    Lossy,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bulk, Self::Requests, Self::Opens, Self::Lossy];

    pub(super) fn is_lossy(self) -> bool {
        self == Self::Lossy
    }

    pub(super) fn is_bulk(self) -> bool {
        self == Self::Bulk || self.is_lossy()
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Requests => "requests",
            Self::Opens => "opened and closed",
            Self::Lossy => "1 % loss, 20 ms, CUBIC",
        }
    }

    /// Of [`StreamRun::rate`].
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self.is_bulk() { "Mb/s" } else { "requests/s" }
    }

    /// Of what costs are told for each.
    fn each(self) -> &'static str {
        if self.is_bulk() { "MiB" } else { "request" }
    }
}

/// The outcome, with what one needs to know to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Where it ran.
    pub machine: Machine,
    /// Length of each run in seconds; four times that over a path that loses.
    pub seconds: f64,
    /// Runs of each series.
    pub rounds: u32,
    /// By case and series.
    pub points: Vec<StreamPoint>,
}

/// One series in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamPoint {
    /// What was done.
    pub case: Case,
    /// Who carried it.
    pub series: Series,
    /// What came of it.
    pub outcome: Outcome<StreamRun>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamRun {
    /// In the case's unit: [`Case::unit`].
    pub rate: f64,
    /// For requests: the time in nanoseconds that 99 % do not exceed, connecting included where each has a connection.
    pub p99_ns: Option<u64>,
    /// What it cost for each MiB, or for each request.
    pub cost: Cost,
}

impl StreamReport {
    pub(super) fn new(options: &Options) -> Self {
        let &Options { seconds, rounds, .. } = options;
        Self { machine: Machine::here(), seconds, rounds, points: Vec::new() }
    }

    /// The cases that were tried, in order.
    pub(super) fn cases(&self) -> Vec<Case> {
        let tried = |case: &Case| self.points.iter().any(|point| point.case == *case);
        Case::ALL.into_iter().filter(tried).collect()
    }

    /// The run that stands for a series in a case, if there is one.
    #[must_use]
    pub fn of(&self, case: Case, series: Series) -> Option<&StreamRun> {
        let point = self.points.iter().find(|point| (point.case, point.series) == (case, series));
        point?.outcome.median()
    }

    /// The framework's rate in kernel TCP's.
    #[must_use]
    pub fn ratio(&self, case: Case) -> Option<f64> {
        let [kernel, framework] = SERIES.map(|series| self.of(case, series));
        Some(framework?.rate / kernel?.rate)
    }

    /// As JSON, indented, with a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: every key is a string, and writing to a string does not.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For a terminal: a line for each series in each case. What failed is named below, with the reason.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let head = [
            "case",
            "series",
            "rate",
            "",
            "p99, us",
            "CPU us",
            "switches, vol. + invol.",
            "per",
            "fw/kernel",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for case in self.cases() {
            for series in SERIES {
                let Some(run) = self.of(case, series) else { continue };
                let ratio = self.ratio(case).filter(|_| series == Series::FrameworkStream);
                let p99 = run.p99_ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.0}", ns as f64 / 1e3));
                rows.push(vec![
                    case.name().to_owned(),
                    series.to_string(),
                    format!("{:.1}", run.rate),
                    case.unit().to_owned(),
                    p99,
                    format!("{:.2}", run.cost.cpu_ns() / 1e3),
                    format!("{:.3} + {:.3}", run.cost.voluntary_switches, run.cost.involuntary_switches),
                    case.each().to_owned(),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
                ]);
            }
        }
        let runs = if self.rounds == 1 { String::new() } else { format!(", median of {}", self.rounds) };
        let title = format!(
            "TCP over a veth pair, {} s ({} s where frames are lost){runs}; CPU time of programs and servers",
            self.seconds,
            self.seconds * super::LOSSY_FACTOR
        );
        write_rows(&title, &rows, &mut text);
        for point in &self.points {
            if let Some(reason) = failure(&point.outcome) {
                let _ = writeln!(text, "\nfailed: {}, {}: {reason}", point.series, point.case.name());
            }
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::report::Measured;
    use super::*;

    pub(in super::super) fn example() -> StreamReport {
        let run = |rate, p99_ns| {
            let median =
                StreamRun { rate, p99_ns, cost: Cost { programs_cpu_ns: 1500.0, ..Cost::default() } };
            Outcome::Measured(Measured { runs: vec![median.clone()], median, failures: Vec::new() })
        };
        let point = |case, series, outcome| StreamPoint { case, series, outcome };
        StreamReport {
            machine: Machine::example(),
            seconds: 2.0,
            rounds: 3,
            points: vec![
                point(Case::Requests, Series::KernelStream, run(1000.0, Some(50_000))),
                point(Case::Requests, Series::FrameworkStream, run(1500.0, Some(40_000))),
                point(Case::Lossy, Series::KernelStream, run(8.0, None)),
                point(Case::Lossy, Series::FrameworkStream, Outcome::Failed("no such <thing>".to_owned())),
            ],
        }
    }

    #[test]
    fn ratios_costs_and_failures_are_shown() {
        let report = example();
        let table = report.table();
        assert_eq!(report.ratio(Case::Requests), Some(1.5));
        assert_eq!(report.ratio(Case::Lossy), None);
        for text in [
            "1500.0",
            "requests/s",
            "1.50x",
            "40",
            "1.50",
            "failed: TCP (framework), 1 % loss, 20 ms, CUBIC: no such",
        ] {
            assert!(table.contains(text), "no {text:?} in {table}");
        }
        let again: StreamReport = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(again, report);
    }
}
