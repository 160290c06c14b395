//! A stream as its receiver sees it: what came, how fast, at what cost.

use std::io;

use super::payload::{self, Datagram};
use super::report::{Line, Received, Stop, Usage, megabits, per_second};
use super::tally::Tally;
use super::{print_line, sys};

/// A reading of the clock, and how many datagrams had come by then.
#[derive(Debug, Clone, Copy, Default)]
struct Stamp {
    at_ns: u64,
    datagrams: u64,
}

/// The account of one stream. Its rate is that between the first and the last [`Stream::stamp`], so a receiver may read
/// the clock less often than datagrams come.
#[derive(Debug)]
pub struct Stream {
    /// What writes messages to people.
    name: &'static str,
    size: usize,
    interval_ns: Option<u64>,
    tally: Tally,
    corrupt: u64,
    sent: Option<u64>,
    first: Option<(Stamp, Usage)>,
    last: Stamp,
    /// Where the current interval began.
    interval: Stamp,
}

impl Stream {
    /// For datagrams of `size` bytes. The rate is printed every `interval_ms`, if that is given.
    #[must_use]
    pub fn new(name: &'static str, size: usize, interval_ms: Option<u64>) -> Self {
        let interval_ns = interval_ms.map(|ms| ms.saturating_mul(1_000_000));
        let (tally, last, interval) = <(Tally, Stamp, Stamp)>::default();
        Self { name, size, interval_ns, tally, corrupt: 0, sent: None, first: None, last, interval }
    }

    /// Counts one datagram. The first corrupt one is described on standard error.
    pub fn take(&mut self, datagram: &[u8]) {
        match payload::read(datagram, self.size) {
            Ok(Datagram::Data(number)) => self.tally.record(number),
            Ok(Datagram::End(total)) => self.sent = Some(total),
            Err(error) => {
                if self.corrupt == 0 {
                    eprintln!("{}: {error}", self.name);
                }
                self.corrupt += 1;
            }
        }
    }

    /// Distinct datagrams so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.tally.received()
    }

    /// Whether the sender's mark has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether the clock has been read since the first datagram came.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// When the clock was last read for a datagram, in nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.last.at_ns
    }

    /// Reads the clock: the datagrams taken so far have come by now.
    ///
    /// # Errors
    /// Whatever printing the rate gives.
    pub fn stamp(&mut self) -> io::Result<()> {
        self.last = Stamp { at_ns: sys::now_ns(), datagrams: self.tally.received() };
        if self.first.is_none() {
            self.first = Some((self.last, sys::usage()));
            self.interval = self.last;
        }
        let elapsed_ns = self.last.at_ns - self.interval.at_ns;
        if self.interval_ns.is_some_and(|interval_ns| elapsed_ns >= interval_ns) {
            let datagrams_per_second = per_second(self.last.datagrams - self.interval.datagrams, elapsed_ns);
            let megabits_per_second = megabits(datagrams_per_second, self.size);
            print_line(&Line::Interval { datagrams_per_second, megabits_per_second })?;
            self.interval = self.last;
        }
        Ok(())
    }

    /// Closes the account.
    #[must_use]
    pub fn finish(self, stopped: Stop) -> Received {
        let (first, before) = self.first.unwrap_or_default();
        let usage = if self.first.is_some() { sys::usage() - before } else { Usage::default() };
        let (count, elapsed_ns) = (self.last.datagrams - first.datagrams, self.last.at_ns - first.at_ns);
        let datagrams_per_second = per_second(count, elapsed_ns);
        Received {
            datagrams: self.tally.received(),
            bytes: self.tally.received() * self.size as u64,
            sent: self.sent,
            lost: self.tally.lost(self.sent),
            duplicates: self.tally.duplicates(),
            reordered: self.tally.reordered(),
            corrupt: self.corrupt,
            first_ns: first.at_ns,
            last_ns: self.last.at_ns,
            datagrams_per_second,
            megabits_per_second: megabits(datagrams_per_second, self.size),
            stopped,
            usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64) -> [u8; 32] {
        let mut datagram = [0; 32];
        payload::write(&mut datagram, number);
        datagram
    }

    #[test]
    fn the_account_adds_up() {
        let mut stream = Stream::new("test", 32, None);
        for number in [0, 1, 1, 3] {
            stream.take(&datagram(number));
            stream.stamp().unwrap();
        }
        stream.take(&datagram(4)[..31]);
        let mut end = [0; 32];
        payload::write_end(&mut end, 6);
        assert!(!stream.has_ended());
        stream.take(&end);
        assert!(stream.has_ended() && stream.has_begun());
        let received = stream.finish(Stop::EndMark);
        assert_eq!((received.datagrams, received.bytes, received.sent), (3, 96, Some(6)));
        assert_eq!((received.lost, received.duplicates, received.corrupt), (3, 1, 1));
        assert!(received.first_ns <= received.last_ns && received.first_ns > 0);
    }

    #[test]
    fn nothing_received_is_no_rate() {
        let received = Stream::new("test", 32, None).finish(Stop::Time);
        assert_eq!((received.datagrams, received.datagrams_per_second), (0, 0.0));
    }
}
