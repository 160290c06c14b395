//! What was measured of services, and its table.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::super::machine::Machine;
use super::super::options::Options;
use super::super::table::write_rows;

/// What carries the messages, the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Tcp { "TCP" } else { "UDP" })
    }
}

/// Rates of two ways that took turns, in megabits a second: first what is compared with, then what was inserted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Of each round in which both ways worked.
    pub rounds: Vec<[f64; 2]>,
    /// Why runs failed.
    pub failures: Vec<String>,
}

impl Rates {
    pub(super) fn add(&mut self, rates: [Result<f64, String>; 2]) {
        match rates {
            [Ok(first), Ok(second)] => self.rounds.push([first, second]),
            rates => self.failures.extend(rates.into_iter().filter_map(Result::err)),
        }
    }

    /// The median rate of a way: 0 or 1.
    #[must_use]
    pub fn median(&self, way: usize) -> Option<f64> {
        median(self.rounds.iter().map(|it| it[way]).collect())
    }

    /// By how much the second way is slower, as a part of the first one's rate: the median over the rounds.
    #[must_use]
    pub fn overhead(&self) -> Option<f64> {
        median(self.rounds.iter().map(|[first, second]| 1.0 - second / first).collect())
    }
}

/// The middle one; of an even number the mean of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

pub(super) fn megabits(bytes: u64, nanoseconds: u64) -> f64 {
    bytes as f64 * 8e3 / nanoseconds.max(1) as f64
}

/// A service at one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServicePoint {
    /// What carried the messages.
    pub transport: Transport,
    /// The service's name.
    pub service: String,
    /// Bytes of a message.
    pub size: usize,
    /// The library called by the program's source, and inserted.
    pub rates: Rates,
}

/// The outcome, with what one needs to know to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServicesReport {
    /// Where it ran.
    pub machine: Machine,
    /// Length of each run in seconds.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
    /// By transport, service and size.
    pub points: Vec<ServicePoint>,
    /// TLS by openssl(1), and crypto inserted, both AES-128-GCM over TCP in calls of 16 KiB.
    pub tls: Option<Rates>,
}

impl ServicesReport {
    pub(super) fn new(options: &Options, points: Vec<ServicePoint>, tls: Option<Rates>) -> Self {
        let &Options { seconds, rounds, .. } = options;
        Self { machine: Machine::here(), seconds, rounds, points, tls }
    }

    /// As JSON, indented, with a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: every key is a string, and writing to a string does not.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For a terminal: a line for each transport, service and size. What failed is named below, with the reason.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let head = ["transport", "service", "bytes", "in source, Mb/s", "inserted, Mb/s", "slower by"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let rate = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.1}"));
        let part = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{:.1} %", it * 100.0));
        for point in &self.points {
            let rates = &point.rates;
            rows.push(vec![
                point.transport.to_string(),
                point.service.clone(),
                point.size.to_string(),
                rate(rates.median(0)),
                rate(rates.median(1)),
                part(rates.overhead()),
            ]);
        }
        let title = format!(
            "services inserted, against the same library called in a program's source; {} s, median of {}",
            self.seconds, self.rounds
        );
        write_rows(&title, &rows, &mut text);
        if let Some(tls) = &self.tls {
            let head = ["", "Mb/s"].map(str::to_owned).to_vec();
            let rows = vec![
                head,
                vec!["openssl s_client to s_server, TLS 1.3".to_owned(), rate(tls.median(0))],
                vec!["crypto inserted".to_owned(), rate(tls.median(1))],
            ];
            write_rows("AES-128-GCM over kernel TCP", &rows, &mut text);
        }
        let failed = self.points.iter().map(|it| (it.transport.to_string(), it.service.as_str(), &it.rates));
        for (transport, service, rates) in
            failed.chain(self.tls.iter().map(|it| ("TCP".to_owned(), "TLS", it)))
        {
            for why in &rates.failures {
                let _ = writeln!(text, "\nfailed: {transport}, {service}: {why}");
            }
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn example() -> ServicesReport {
        let mut rates = Rates::default();
        for round in [[1000.0, 990.0], [2000.0, 1900.0], [100.0, 99.5]] {
            rates.add(round.map(Ok));
        }
        rates.add([Err("no such thing".to_owned()), Ok(5.0)]);
        let point = |service: &str, size| ServicePoint {
            transport: Transport::Tcp,
            service: service.to_owned(),
            size,
            rates: rates.clone(),
        };
        ServicesReport {
            machine: Machine::example(),
            seconds: 1.0,
            rounds: 3,
            points: vec![point("trace", 64), point("trace", 1024)],
            tls: Some(Rates { rounds: vec![[5.0, 6.5], [5.0, 6.5]], failures: Vec::new() }),
        }
    }

    #[test]
    fn quotients_are_of_rounds_and_failures_are_shown() {
        let report = example();
        let table = report.table();
        for text in ["1000.0", "990.0", "1.0 %", "6.5", "failed: TCP, trace: no such thing"] {
            assert!(table.contains(text), "no {text:?} in {table}");
        }
        let again: ServicesReport = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(again, report);
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
