//! The lines that the benchmark programs print, and the benchmark reads.

use serde::{Deserialize, Serialize};

use super::histogram::{Bucket, Histogram};
use super::sys;

/// One line of a program's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Line {
    /// Sockets are open. A receiver may be sent to; a sender told to hold waits for a line on its standard input.
    Ready {
        /// The local port.
        port: u16,
    },
    /// What came since the last such line.
    Interval {
        /// Datagrams each second.
        datagrams_per_second: f64,
        /// Payload, in megabits each second.
        megabits_per_second: f64,
    },
    /// A sender is done.
    Sent(Sent),
    /// A receiver is done.
    Received(Received),
    /// A ping-pong client or server is done.
    PingPong(PingPong),
    /// A client that gets files is done.
    Downloaded(Downloaded),
    /// A receiver of messages that pass services is done.
    Arrived(Arrival),
}

/// What a receiver of messages that pass services has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Bytes of the messages behind the first.
    pub bytes: u64,
    /// Time from the first to the last.
    pub nanoseconds: u64,
}

/// What a client that gets files has got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Downloaded {
    /// Bytes of files.
    pub bytes: u64,
    /// Their rate, in megabits each second.
    pub megabits_per_second: f64,
    /// What the process cost.
    pub usage: Usage,
}

/// What a process cost between the first and the last datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, in nanoseconds.
    pub user_ns: u64,
    /// CPU time in the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Times the process gave the CPU up because it waited for something.
    pub voluntary_switches: u64,
    /// Times the CPU was taken from it.
    pub involuntary_switches: u64,
}

/// What a sender did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams that a send call accepted.
    pub datagrams: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
    /// Calls tried again after `ENOBUFS` or `EAGAIN`.
    pub retries: u64,
    /// Before the first call, in nanoseconds of `CLOCK_MONOTONIC`.
    pub first_ns: u64,
    /// After the last call, in nanoseconds of `CLOCK_MONOTONIC`.
    pub last_ns: u64,
    /// Datagrams each second between the two.
    pub datagrams_per_second: f64,
    /// Payload between the two, in megabits each second.
    pub megabits_per_second: f64,
    /// What the process cost between the two.
    pub usage: Usage,
}

impl Sent {
    /// For `datagrams` of `size` bytes, sent from `first_ns` until now by a process that had cost `before` then.
    #[must_use]
    pub fn until_now(datagrams: u64, size: usize, retries: u64, first_ns: u64, before: Usage) -> Self {
        let (last_ns, usage) = (sys::now_ns(), sys::usage() - before);
        let datagrams_per_second = per_second(datagrams, last_ns.saturating_sub(first_ns));
        Self {
            datagrams,
            bytes: datagrams * size as u64,
            retries,
            first_ns,
            last_ns,
            datagrams_per_second,
            megabits_per_second: megabits(datagrams_per_second, size),
            usage,
        }
    }
}

/// Why a receiver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// The sender's mark came.
    EndMark,
    /// As many datagrams as asked for.
    Count,
    /// Nothing came for the idle time.
    Idle,
    /// The time allowed was over.
    Time,
}

/// What a receiver saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Distinct, intact datagrams.
    pub datagrams: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
    /// How many the sender says it sent; absent when its mark did not arrive.
    pub sent: Option<u64>,
    /// Datagrams that never came.
    pub lost: u64,
    /// Datagrams that came again.
    pub duplicates: u64,
    /// Datagrams that came after one sent later.
    pub reordered: u64,
    /// Datagrams whose bytes are not what was sent; not counted in any of the above.
    pub corrupt: u64,
    /// When the first arrived, in nanoseconds of `CLOCK_MONOTONIC`.
    pub first_ns: u64,
    /// When the last one that the clock was read for arrived.
    pub last_ns: u64,
    /// Datagrams each second between the two.
    pub datagrams_per_second: f64,
    /// Payload between the two, in megabits each second.
    pub megabits_per_second: f64,
    /// Why it stopped.
    pub stopped: Stop,
    /// What the process cost from the first datagram on.
    pub usage: Usage,
}

/// What a ping-pong client measured, or, with an empty histogram, how many requests a server answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingPong {
    /// Requests that were answered.
    pub exchanges: u64,
    /// Requests without an answer in time.
    pub lost: u64,
    /// Half the round trip, in nanoseconds, that 50 % do not exceed.
    pub p50_ns: u64,
    /// As above, 90 %.
    pub p90_ns: u64,
    /// As above, 99 %.
    pub p99_ns: u64,
    /// As above, 99.9 %.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// The whole distribution.
    pub histogram: Vec<Bucket>,
    /// What the process cost from the first exchange on.
    pub usage: Usage,
}

impl PingPong {
    /// For so many exchanges, of which these took half the times in the histogram.
    #[must_use]
    pub fn of(histogram: &Histogram, exchanges: u64, lost: u64, usage: Usage) -> Self {
        Self {
            exchanges,
            lost,
            p50_ns: histogram.percentile(50.0),
            p90_ns: histogram.percentile(90.0),
            p99_ns: histogram.percentile(99.0),
            p999_ns: histogram.percentile(99.9),
            max_ns: histogram.max(),
            histogram: histogram.buckets().collect(),
            usage,
        }
    }
}

/// A rate from two readings of the clock: `count` things in `elapsed_ns`. 0 when no time passed.
#[must_use]
pub fn per_second(count: u64, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 }
}

/// The payload rate, in megabits each second, of so many datagrams of `size` bytes each second.
#[must_use]
pub fn megabits(datagrams_per_second: f64, size: usize) -> f64 {
    datagrams_per_second * size as f64 * 8.0 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tagged_by_event() {
        let line = serde_json::to_string(&Line::Ready { port: 9 }).unwrap();
        assert_eq!(line, r#"{"event":"ready","port":9}"#);
        assert_eq!(serde_json::from_str::<Line>(&line).unwrap(), Line::Ready { port: 9 });
    }

    #[test]
    fn rates() {
        assert_eq!(per_second(5, 0), 0.0);
        assert_eq!(per_second(1_000, 500_000_000), 2_000.0);
        assert_eq!(megabits(1e6, 125), 1_000.0);
    }
}
