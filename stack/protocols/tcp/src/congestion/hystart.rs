//! HyStart++ (RFC 9406): slow start ends when round trips become longer, before something is lost.

use super::Acknowledged;
use std::time::Duration;

/// `MIN_RTT_THRESH` and `MAX_RTT_THRESH` of RFC 9406 section 4.3.
const THRESHOLD: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(16));
/// `N_RTT_SAMPLE`.
const SAMPLES: u32 = 8;
/// `CSS_GROWTH_DIVISOR`.
const DIVISOR: u64 = 4;
/// `CSS_ROUNDS`.
const ROUNDS: u32 = 5;

/// Rounds of slow start, and of conservative slow start after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HyStart {
    /// End of what was sent when the round began.
    round_end: u64,
    last_min: Option<Duration>,
    min: Option<Duration>,
    samples: u32,
    /// Conservative slow start: the round-trip time that led into it, and the rounds since.
    conservative: Option<(Duration, u32)>,
}

impl HyStart {
    /// By how much slower than in slow start the window grows.
    pub(super) fn divisor(&self) -> u64 {
        if self.conservative.is_some() { DIVISOR } else { 1 }
    }

    /// RFC 9406 section 4.2; returns whether congestion avoidance is to begin. `initial`: only the first slow start may
    /// be left so.
    pub(super) fn leave(&mut self, ack: &Acknowledged, mss: u64, window: u64, initial: bool) -> bool {
        // As Linux's HyStart: not before 16 segments.
        if !initial || window < 16 * mss {
            return false;
        }
        if let Some(sample) = ack.sample {
            self.min = Some(self.min.map_or(sample, |min| min.min(sample)));
            self.samples += 1;
        }
        let mut leave = false;
        if self.samples >= SAMPLES
            && let Some(min) = self.min
        {
            match self.conservative {
                None => {
                    if let Some(last) = self.last_min
                        && min >= last + (last / 8).clamp(THRESHOLD.0, THRESHOLD.1)
                    {
                        self.conservative = Some((min, 0));
                    }
                }
                Some((baseline, _)) if min < baseline => self.conservative = None,
                Some(_) => {}
            }
        }
        if ack.position >= self.round_end {
            self.round_end = ack.next;
            self.last_min = self.min.take().or(self.last_min);
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                leave = *rounds >= ROUNDS;
            }
        }
        leave
    }
}
