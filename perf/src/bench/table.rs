//! A report as text.

use std::fmt::Write;

use super::latency::name;
use super::options::{Hosts, Load, Series};
use super::report::{Cost, Outcome, Report, Throughput};

/// One quantity of a run, as a cell of a table.
type Show = fn(&Throughput) -> String;

impl Report {
    /// For a terminal: one table for each quantity, a line for each size, a column for each series; where rates are
    /// shown, the ratios of framework to kernel come last. What failed is named below, with the reason.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        if self.hosts == Hosts::One {
            text.push_str(
                "Two programs on one host, at 127.0.0.1: kernel loopback; framework from ring to ring\n",
            );
        }
        for load in self.loads() {
            self.throughput_tables(load, &mut text);
        }
        if !self.latency.is_empty() {
            self.latency_table(&mut text);
        }
        self.failures(&mut text);
        text
    }

    fn throughput_tables(&self, load: Load, text: &mut String) {
        let what = self.describe(load);
        let runs = if self.rounds == 1 { String::new() } else { format!(", median of {}", self.rounds) };
        let quantities: [(&str, Show); 5] = [
            ("Received, Mb/s of payload", |run| format!("{:.0}", run.megabits_per_second)),
            ("Received, 1000 datagrams/s", |run| format!("{:.0}", run.datagrams_per_second / 1e3)),
            ("Lost, %", |run| format!("{:.2}", 100.0 * run.loss())),
            ("CPU time of programs and servers, ns/datagram", |run| format!("{:.0}", run.cost.cpu_ns())),
            ("Process switches/datagram, voluntary + involuntary", |run| switches(&run.cost)),
        ];
        for (index, (title, show)) in quantities.into_iter().enumerate() {
            let title = format!("{title}, {what}{runs}");
            let ratios = index == 0 && self.series().contains(&Series::Framework);
            self.throughput_table(load, &title, show, ratios, text);
        }
    }

    fn throughput_table(&self, load: Load, title: &str, show: Show, ratios: bool, text: &mut String) {
        let series = self.series();
        let compared: Vec<Series> = match ratios {
            true => Series::KERNEL.into_iter().filter(|kernel| series.contains(kernel)).collect(),
            false => Vec::new(),
        };
        let mut header = vec!["bytes".to_owned()];
        header.extend(series.iter().map(|series| series.short().to_owned()));
        header.extend(compared.iter().map(|kernel| format!("fw/{}", kernel.short())));
        let streams =
            ratios && [Series::KernelStream, Series::FrameworkStream].iter().all(|one| series.contains(one));
        if streams {
            header.push("fw TCP/TCP".to_owned());
        }
        let mut rows = vec![header];
        for size in self.sizes(load) {
            let of = |series| self.throughput_of(load, size, series);
            let mut row = vec![size.to_string()];
            row.extend(series.iter().map(|&series| of(series).map_or("-".to_owned(), show)));
            row.extend(compared.iter().map(|&kernel| {
                let rates = of(Series::Framework).zip(of(kernel));
                rates.map_or("-".to_owned(), |(framework, kernel)| {
                    format!("{:.2}x", framework.datagrams_per_second / kernel.datagrams_per_second)
                })
            }));
            if streams {
                let rates = of(Series::FrameworkStream).zip(of(Series::KernelStream));
                row.push(rates.map_or("-".to_owned(), |(framework, kernel)| {
                    format!("{:.2}x", framework.datagrams_per_second / kernel.datagrams_per_second)
                }));
            }
            rows.push(row);
        }
        write_rows(title, &rows, text);
    }

    fn latency_table(&self, text: &mut String) {
        let header =
            ["bytes", "waits in", "series", "p50", "p90", "p99", "p99.9", "max", "exchanges", "lost"];
        let header = [&header[..], &["CPU ns", "switches", "p50/kernel"]].concat();
        let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for point in &self.latency {
            let mut row = vec![point.size.to_string(), point.wait.to_string(), name(point.series).to_owned()];
            match point.outcome.median() {
                None => row.extend((0..10).map(|_| "-".to_owned())),
                Some(run) => {
                    let times = [run.p50_ns, run.p90_ns, run.p99_ns, run.p999_ns, run.max_ns];
                    row.extend(times.map(|time| format!("{:.1}", time as f64 / 1e3)));
                    row.extend([run.exchanges, run.lost].map(|count| count.to_string()));
                    row.extend([format!("{:.0}", run.cost.cpu_ns()), switches(&run.cost)]);
                    let kernel = self.latency_of(point.size, point.wait, point.series.kernel());
                    row.push(kernel.map_or("-".to_owned(), |kernel| {
                        format!("{:.2}x", run.p50_ns as f64 / kernel.p50_ns.max(1) as f64)
                    }));
                }
            }
            rows.push(row);
        }
        let title = "Half round trip, us; CPU time and process switches for each exchange";
        write_rows(title, &rows, text);
    }

    /// Each reason once, with the series that it stopped.
    fn failures(&self, text: &mut String) {
        let mut told = Vec::new();
        let throughput = self.throughput.iter().map(|point| (point.series, failure(&point.outcome)));
        let latency = self.latency.iter().map(|point| (point.series, failure(&point.outcome)));
        for (series, reason) in throughput.chain(latency) {
            let Some(reason) = reason else { continue };
            if !told.contains(&(series, reason)) {
                told.push((series, reason));
                let _ = write!(text, "\nfailed: {series}: {reason}");
            }
        }
        if !told.is_empty() {
            text.push('\n');
        }
    }
}

pub(super) fn failure<T>(outcome: &Outcome<T>) -> Option<&str> {
    match outcome {
        Outcome::Failed(reason) => Some(reason),
        Outcome::Measured(_) => None,
    }
}

fn switches(cost: &Cost) -> String {
    format!("{:.3} + {:.3}", cost.voluntary_switches, cost.involuntary_switches)
}

/// Columns aligned to the right, two spaces apart.
pub(super) fn write_rows(title: &str, rows: &[Vec<String>], text: &mut String) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let _ = writeln!(text, "\n{title}");
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{example, latency_example};
    use super::*;

    #[test]
    fn ratios_and_failures_are_shown() {
        let table = example().table();
        assert!(table.starts_with("2 x Example <4000>, Linux 6.18.0 x86_64\n"), "{table}");
        let expected = "
Received, Mb/s of payload, bursts of 10,000 datagrams, median of 3
  bytes  sendto  sendmmsg  UDP_SEGMENT  framework  raw AF_XDP  fw/sendto  fw/sendmmsg  fw/UDP_SEGMENT
     64     128       256          384        512           -      4.00x        2.00x           1.33x
    512    1024      2048         3072       4096           -      4.00x        2.00x           1.33x
   1472    2944      5888         8832      11776           -      4.00x        2.00x           1.33x
";
        assert!(table.contains(expected), "{table}");
        assert_eq!(table.matches("failed: raw AF_XDP: no such <thing>\n").count(), 1, "{table}");
        assert!(table.contains("0.250 + 0.000"), "{table}");
    }

    #[test]
    fn a_run_on_one_host_says_so() {
        let local = Report { hosts: Hosts::One, ..example() };
        assert_eq!(
            local.table().lines().nth(1).map(|line| line.starts_with("Two programs on one host")),
            Some(true)
        );
        assert!(!example().table().contains("one host"));
    }

    #[test]
    fn latency_is_shown_in_microseconds() {
        let table = latency_example().table();
        let expected = "     64      recv     kernel  28.0  56.0  56.0   56.0  252.0       1000     0       0  0.000 + 0.000       1.00x\n";
        assert!(table.contains(expected), "{table}");
        assert!(table.contains("0.25x"), "{table}");
    }
}
