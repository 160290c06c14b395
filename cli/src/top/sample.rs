//! From two status documents to rates.

use clap::ValueEnum;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

/// Counters at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    at: Instant,
    pid: u64,
    control: String,
    processes: u64,
    links: Vec<Value>,
    workers: Vec<Value>,
    sockets: Vec<Value>,
}

impl Sample {
    /// Reads a status document.
    pub(super) fn read(text: &str, at: Instant) -> Result<Sample, serde_json::Error> {
        let status: Value = serde_json::from_str(text)?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let workers = list(&status["workers"]);
        Ok(Sample {
            at,
            pid: number(&status, "pid"),
            control: word(&status, "control"),
            processes: number(&status, "processes"),
            links: workers.iter().flat_map(|worker| list(&worker["links"])).collect(),
            workers,
            sockets: list(&status["sockets"]),
        })
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn word(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_owned()
}

/// What a link carries in a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LinkRate {
    pub(super) interface: String,
    pub(super) queue: u64,
    pub(super) in_frames: f64,
    pub(super) in_bits: f64,
    pub(super) out_frames: f64,
    pub(super) out_bits: f64,
    pub(super) dropped: f64,
}

/// What a polling thread does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WorkerRate {
    pub(super) index: u64,
    pub(super) core: Option<u64>,
    /// Share of a core, spinning included.
    pub(super) cpu: f64,
    /// Share of its turns with something to do.
    pub(super) busy: f64,
    pub(super) turns: f64,
    pub(super) sleeps: f64,
}

/// What a socket carries in a second: datagrams, or of a stream bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SocketRate {
    pub(super) program: String,
    pub(super) pid: u64,
    pub(super) protocol: String,
    pub(super) state: String,
    pub(super) local: String,
    pub(super) peer: String,
    pub(super) received: f64,
    pub(super) sent: f64,
    pub(super) dropped: f64,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) pid: u64,
    pub(super) control: String,
    pub(super) processes: u64,
    pub(super) links: Vec<LinkRate>,
    pub(super) workers: Vec<WorkerRate>,
    pub(super) sockets: Vec<SocketRate>,
}

/// What sockets are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    /// Name of the program
    Program,
    /// Own address
    Local,
    /// Peer's address
    Peer,
    /// Received in a second
    In,
    /// Sent in a second
    Out,
    /// Lost in a second
    Drop,
    /// Received and sent in a second
    Total,
}

impl Column {
    /// In the order in which the keys go through them.
    pub(super) const ALL: [Column; 7] =
        [Column::Program, Column::Local, Column::Peer, Column::In, Column::Out, Column::Drop, Column::Total];
}

/// How sockets are sorted: rates from the largest, words from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: Column,
    pub(super) reversed: bool,
}

/// Counters that a socket is judged by. Whatever of them a protocol does not have is 0.
const RECEIVED: [&str; 3] = ["rx_datagrams", "rx_through_kernel", "rx_bytes"];
const SENT: [&str; 3] = ["tx_datagrams", "tx_through_kernel", "tx_bytes"];
const DROPPED: [&str; 2] = ["rx_dropped", "tx_dropped"];

impl Rates {
    /// What happened from one sample to the next, in a second. What is new counts from 0; what a restarted server counts
    /// anew is no rate below 0.
    pub(super) fn between(before: &Sample, after: &Sample) -> Rates {
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let per_second =
            |now: u64, then: u64| if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 };
        let find = |list: &[Value], keys: &[&str], value: &Value| {
            list.iter()
                .find(|other| keys.iter().all(|key| other[key] == value[key]))
                .cloned()
                .unwrap_or_default()
        };
        let link = |link: &Value| {
            let then = find(&before.links, &["interface", "queue"], link);
            let rate = |key: &str| per_second(number(link, key), number(&then, key));
            LinkRate {
                interface: word(link, "interface"),
                queue: number(link, "queue"),
                in_frames: rate("rx_frames"),
                in_bits: rate("rx_bytes") * 8.0,
                out_frames: rate("tx_frames"),
                out_bits: rate("tx_bytes") * 8.0,
                dropped: rate("rx_dropped") + rate("tx_dropped"),
            }
        };
        let worker = |worker: &Value| {
            let then = find(&before.workers, &["index"], worker);
            let rate = |key: &str| per_second(number(worker, key), number(&then, key));
            let cpu = |value: &Value| value["cpu_seconds"].as_f64().unwrap_or(0.0);
            let turns = rate("turns");
            WorkerRate {
                index: number(worker, "index"),
                core: worker["core"].as_u64(),
                cpu: if seconds > 0.0 { ((cpu(worker) - cpu(&then)) / seconds).max(0.0) } else { 0.0 },
                busy: if turns > 0.0 { rate("busy_turns") / turns } else { 0.0 },
                turns,
                sleeps: rate("sleeps"),
            }
        };
        let earlier: HashMap<u64, &Value> =
            before.sockets.iter().map(|socket| (number(socket, "id"), socket)).collect();
        let socket = |socket: &Value| {
            let then = earlier.get(&number(socket, "id"));
            let rate = |key: &&str| per_second(number(socket, key), then.map_or(0, |then| number(then, key)));
            SocketRate {
                program: word(socket, "program"),
                pid: number(socket, "pid"),
                protocol: word(socket, "protocol"),
                state: word(socket, "state"),
                local: word(socket, "local"),
                peer: word(socket, "peer"),
                received: RECEIVED.iter().map(rate).sum(),
                sent: SENT.iter().map(rate).sum(),
                dropped: DROPPED.iter().map(rate).sum(),
            }
        };
        Rates {
            pid: after.pid,
            control: after.control.clone(),
            processes: after.processes,
            links: after.links.iter().map(link).collect(),
            workers: after.workers.iter().map(worker).collect(),
            sockets: after.sockets.iter().map(socket).collect(),
        }
    }

    /// Sorts the sockets. Those that are alike keep their order.
    pub(super) fn sort(&mut self, order: Order) {
        let largest = |value: f64| Reverse((value * 1000.0) as u64);
        match order.column {
            Column::Program => self.sockets.sort_by_key(|socket| (socket.program.clone(), socket.pid)),
            Column::Local => self.sockets.sort_by_key(|socket| socket.local.clone()),
            Column::Peer => self.sockets.sort_by_key(|socket| socket.peer.clone()),
            Column::In => self.sockets.sort_by_key(|socket| largest(socket.received)),
            Column::Out => self.sockets.sort_by_key(|socket| largest(socket.sent)),
            Column::Drop => self.sockets.sort_by_key(|socket| largest(socket.dropped)),
            Column::Total => self.sockets.sort_by_key(|socket| largest(socket.received + socket.sent)),
        }
        if order.reversed {
            self.sockets.reverse();
        }
    }
}

/// A number in at most six characters.
pub(super) fn short(value: f64) -> String {
    for (limit, unit, name) in [(1e3, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")] {
        // What would be rounded up to 1000 belongs to the next unit.
        if value < limit - unit / 2.0 {
            let value = value / unit;
            return if name.is_empty() || value >= 99.95 {
                format!("{value:.0}{name}")
            } else {
                format!("{value:.1}{name}")
            };
        }
    }
    format!("{:.1}T", value / 1e12)
}
