//! Congestion control: how much may be in flight. The window is counted in bytes (RFC 5681, RFC 3465).

mod cubic;
mod hystart;

use crate::Congestion;
use cubic::Cubic;
use hystart::HyStart;
use std::time::{Duration, Instant};

/// Segments in the initial window (RFC 6928).
const INITIAL_SEGMENTS: u64 = 10;
/// Fewest segments in the threshold (RFC 5681 equation 4).
const MIN_THRESHOLD: u64 = 2;

/// An acknowledgement of new data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) now: Instant,
    /// Bytes, selectively acknowledged earlier or not.
    pub(crate) bytes: u64,
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// What this acknowledgement measured.
    pub(crate) sample: Option<Duration>,
    /// End of what is acknowledged.
    pub(crate) position: u64,
    /// End of what was sent.
    pub(crate) next: u64,
    /// The window kept the sender from sending more (RFC 7661; RFC 9438 section 5.8).
    pub(crate) limited: bool,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Cubic(Cubic),
    /// `counted`: bytes acknowledged since the window last grew (RFC 5681 section 3.1).
    NewReno {
        counted: u64,
    },
}

/// The window, and what moves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    pub(crate) window: u64,
    /// `u64::MAX` until the first loss.
    pub(crate) threshold: u64,
    mss: u64,
    algorithm: Algorithm,
    start: HyStart,
}

/// What a loss that was none is taken back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    window: u64,
    threshold: u64,
    algorithm: Algorithm,
}

impl Control {
    pub(crate) fn new(kind: Congestion, mss: u64) -> Self {
        Control {
            window: INITIAL_SEGMENTS * mss,
            threshold: u64::MAX,
            mss,
            algorithm: Algorithm::new(kind),
            start: HyStart::default(),
        }
    }

    /// Another algorithm: the window stays.
    pub(crate) fn choose(&mut self, kind: Congestion) {
        let same = matches!(
            (kind, &self.algorithm),
            (Congestion::Cubic | Congestion::Bbr, Algorithm::Cubic(_))
                | (Congestion::NewReno, Algorithm::NewReno { .. })
        );
        if !same {
            self.algorithm = Algorithm::new(kind);
        }
    }

    /// The size of a segment has changed.
    pub(crate) fn set_mss(&mut self, mss: u64, untouched: bool) {
        self.mss = mss;
        if untouched {
            self.window = INITIAL_SEGMENTS * mss;
        }
        self.window = self.window.max(mss);
    }

    /// The SYN was lost: RFC 5681 section 3.1.
    pub(crate) fn restart(&mut self) {
        self.window = self.mss;
    }

    pub(crate) fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// New data was acknowledged while nothing is missing.
    pub(crate) fn acknowledged(&mut self, ack: &Acknowledged) {
        if self.in_slow_start() {
            if self.start.leave(ack, self.mss, self.window, self.threshold == u64::MAX) {
                self.threshold = self.window;
            } else if ack.limited {
                self.window += ack.bytes / self.start.divisor();
                // RFC 5681 section 3.1: only up to the threshold exponentially.
                self.window = self.window.min(self.threshold.max(self.mss));
            }
            return;
        }
        if !ack.limited {
            return;
        }
        match &mut self.algorithm {
            Algorithm::Cubic(cubic) => self.window = cubic.acknowledged(ack, self.window, self.mss),
            Algorithm::NewReno { counted } => {
                *counted += ack.bytes;
                if *counted >= self.window {
                    *counted -= self.window;
                    self.window += self.mss;
                }
            }
        }
    }

    /// What to go back to if the loss turns out to be none.
    pub(crate) fn before(&self) -> Before {
        Before { window: self.window, threshold: self.threshold, algorithm: self.algorithm }
    }

    /// The loss was none: RFC 9438 section 4.9, RFC 4015.
    pub(crate) fn undo(&mut self, before: Before) {
        self.window = self.window.max(before.window);
        self.threshold = before.threshold;
        self.algorithm = before.algorithm;
    }

    /// A loss, once per round trip: lowers the threshold. The window is up to the recovery.
    pub(crate) fn lost(&mut self, in_flight: u64) {
        let threshold = match &mut self.algorithm {
            Algorithm::Cubic(cubic) => cubic.lost(self.window, self.mss),
            // RFC 5681 equation 4.
            Algorithm::NewReno { counted } => {
                *counted = 0;
                in_flight / 2
            }
        };
        self.threshold = threshold.max(MIN_THRESHOLD * self.mss);
        self.start = HyStart::default();
    }

    /// A retransmission time-out: RFC 5681 section 3.1, RFC 9438 section 4.8.
    pub(crate) fn timed_out(&mut self, in_flight: u64) {
        self.lost(in_flight);
        if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.timed_out();
        }
        self.window = self.mss;
    }

    /// Nothing was sent for a while: RFC 5681 section 4.1, by halves as Linux does it (RFC 7661 in spirit).
    pub(crate) fn idle(&mut self, idle: Duration, rto: Duration) {
        let floor = (INITIAL_SEGMENTS * self.mss).min(self.window);
        let halves = (idle.as_micros() / rto.as_micros().max(1)).min(63) as u32;
        if halves > 0 {
            self.threshold = self.threshold.max(self.window / 4 * 3);
            self.window = (self.window >> halves).max(floor);
        }
        if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.paused(idle);
        }
    }
}

impl Algorithm {
    fn new(kind: Congestion) -> Self {
        match kind {
            // There is no BBR yet.
            Congestion::Cubic | Congestion::Bbr => Algorithm::Cubic(Cubic::default()),
            Congestion::NewReno => Algorithm::NewReno { counted: 0 },
        }
    }
}

#[cfg(test)]
mod tests;
