//! What was measured of listeners, and its table.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::machine::Machine;
use super::super::options::Options;
use super::super::report::Outcome;
use super::super::table::{failure, write_rows};
use super::PORT;

/// Who gets the file: what its program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// The kernel's TCP.
    Kernel,
    /// Framework TCP.
    Tcp,
    /// SCTP.
    Sctp,
    /// QUIC.
    Quic,
}

/// Whose clients a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listener {
    /// Those of TCP, by the kernel: nginx knows nothing of freena.
    Kernel,
    /// Those of TCP.
    Tcp,
    /// Those of SCTP.
    Sctp,
    /// Those of QUIC.
    Quic,
    /// All of them.
    All,
}

/// What is measured by itself.
pub(super) const ALONE: [(Client, Listener); 9] = [
    (Client::Kernel, Listener::Kernel),
    (Client::Kernel, Listener::All),
    (Client::Kernel, Listener::Tcp),
    (Client::Tcp, Listener::Tcp),
    (Client::Tcp, Listener::All),
    (Client::Sctp, Listener::Sctp),
    (Client::Sctp, Listener::All),
    (Client::Quic, Listener::Quic),
    (Client::Quic, Listener::All),
];
/// What is measured at once.
pub(super) const AT_ONCE: [Client; 4] = [Client::Kernel, Client::Tcp, Client::Sctp, Client::Quic];

impl Client {
    /// What `freena run` is told, `None` without it.
    pub(super) fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Kernel => None,
            Self::Tcp => Some("tcp"),
            Self::Sctp => Some("sctp"),
            Self::Quic => Some("quic"),
        }
    }

    /// The listener of its own protocol under freena.
    pub(super) fn own(self) -> Listener {
        match self {
            Self::Kernel | Self::Tcp => Listener::Tcp,
            Self::Sctp => Listener::Sctp,
            Self::Quic => Listener::Quic,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel TCP",
            Self::Tcp => "framework TCP",
            Self::Sctp => "SCTP",
            Self::Quic => "QUIC",
        })
    }
}

impl Listener {
    pub(super) const ALL: [Self; 5] = [Self::Kernel, Self::Tcp, Self::Sctp, Self::Quic, Self::All];

    /// What `freena run` is told, `None` without it.
    pub(super) fn protocols(self) -> Option<&'static str> {
        match self {
            Self::Kernel => None,
            Self::Tcp => Some("tcp"),
            Self::Sctp => Some("sctp"),
            Self::Quic => Some("quic"),
            Self::All => Some("quic,sctp,tcp"),
        }
    }

    pub(super) fn port(self) -> u16 {
        PORT + self as u16
    }

    /// By what this listener's server carries a connection with the client; `None`: by the kernel.
    pub(super) fn carries(self, client: Client) -> Option<&'static str> {
        if self == Self::Kernel { None } else { Some(client.protocol().unwrap_or("tcp")) }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "the kernel's listener",
            Self::Tcp => "the listener of TCP",
            Self::Sctp => "the listener of SCTP",
            Self::Quic => "the listener of QUIC",
            Self::All => "the listener of all",
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The outcome, with what one needs to know to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedReport {
    /// Where it ran.
    pub machine: Machine,
    /// Length of each run in seconds.
    pub seconds: f64,
    /// Runs of each client at each listener.
    pub rounds: u32,
    /// By client, listener, and whether others were measured at once.
    pub points: Vec<MixedPoint>,
}

/// One client at one listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedPoint {
    /// The client.
    pub client: Client,
    /// Where it gets the file.
    pub listener: Listener,
    /// Whether the clients of the other protocols got it at the same time.
    pub at_once: bool,
    /// Rates in megabits each second.
    pub outcome: Outcome<f64>,
}

impl MixedReport {
    pub(super) fn new(options: &Options, points: Vec<MixedPoint>) -> Self {
        let &Options { seconds, rounds, .. } = options;
        Self { machine: Machine::here(), seconds, rounds, points }
    }

    /// The rate that stands for a client at a listener, in megabits each second.
    #[must_use]
    pub fn rate(&self, client: Client, listener: Listener, at_once: bool) -> Option<f64> {
        let key = (client, listener, at_once);
        let point = self.points.iter().find(|it| (it.client, it.listener, it.at_once) == key);
        point?.outcome.median().copied()
    }

    /// The rate at the listener of all, in that at another one.
    #[must_use]
    pub fn share(&self, client: Client, listener: Listener, at_once: bool) -> Option<f64> {
        Some(self.rate(client, Listener::All, at_once)? / self.rate(client, listener, at_once)?)
    }

    /// As JSON, indented, with a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: every key is a string, and writing to a string does not.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For a terminal: a line for each client and each listener of one protocol, beside the listener of all. What failed is
    /// named below, with the reason.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let head = ["client", "with it", "listener of one", "rate, Mb/s", "listener of all, Mb/s", "share"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let ones = self.points.iter().filter(|point| point.listener != Listener::All);
        for &MixedPoint { client, listener, at_once, .. } in ones {
            let rate =
                |of| self.rate(client, of, at_once).map_or("-".to_owned(), |rate| format!("{rate:.0}"));
            let share = self.share(client, listener, at_once);
            rows.push(vec![
                client.to_string(),
                if at_once { "all others" } else { "nobody" }.to_owned(),
                listener.to_string(),
                rate(listener),
                rate(Listener::All),
                share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            ]);
        }
        let totals = [false, true].map(|is_all| {
            let of = self.points.iter().filter(|it| it.at_once && (it.listener == Listener::All) == is_all);
            of.map(|point| point.outcome.median().copied()).sum::<Option<f64>>()
        });
        if let [Some(ones), Some(all)] = totals {
            let share = format!("{:.1} %", 100.0 * all / ones);
            let cells = ["all", "", "one each", &format!("{ones:.0}"), &format!("{all:.0}"), &share];
            rows.push(cells.map(str::to_owned).to_vec());
        }
        let runs = if self.rounds == 1 { String::new() } else { format!(", median of {}", self.rounds) };
        let title = format!("A file from nginx over a veth pair, {} s{runs}", self.seconds);
        write_rows(&title, &rows, &mut text);
        for point in &self.points {
            if let Some(reason) = failure(&point.outcome) {
                text.push_str(&format!("\nfailed: {} at {}: {reason}", point.client, point.listener));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_failures_are_shown() {
        let point = |client, listener, at_once, rate: Result<f64, String>| MixedPoint {
            client,
            listener,
            at_once,
            outcome: Outcome::of(vec![rate], |rate| *rate),
        };
        let report = MixedReport {
            machine: Machine::example(),
            seconds: 1.0,
            rounds: 1,
            points: vec![
                point(Client::Sctp, Listener::Sctp, false, Ok(4000.0)),
                point(Client::Sctp, Listener::All, false, Ok(3900.0)),
                point(Client::Tcp, Listener::Tcp, true, Ok(1000.0)),
                point(Client::Tcp, Listener::All, true, Ok(1100.0)),
                point(Client::Quic, Listener::Quic, false, Err("no key".to_owned())),
            ],
        };
        assert_eq!(report.share(Client::Sctp, Listener::Sctp, false), Some(0.975));
        assert_eq!(report.share(Client::Sctp, Listener::Sctp, true), None);
        let table = report.table();
        for text in ["97.5 %", "110.0 %", "3900", "failed: QUIC at the listener of QUIC: no key"] {
            assert!(table.contains(text), "no {text:?} in {table}");
        }
        assert_eq!(serde_json::from_str::<MixedReport>(&report.to_json()).unwrap(), report);
    }
}
