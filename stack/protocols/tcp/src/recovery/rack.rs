//! RACK (RFC 8985): a segment is lost when one that was sent sufficiently later has arrived.

use super::{Rtt, Scoreboard, Sent};
use std::time::{Duration, Instant};

/// Duplicate acknowledgements that mean loss while no reordering was seen (RFC 8985 section 6.2 step 4).
const DUP_THRESHOLD: u64 = 3;
/// Recoveries for which a wider window is kept (RFC 8985 section 6.2 step 4).
const PERSIST: u32 = 16;
/// Widest window, in quarters of the smallest round-trip time. Bounded by the smoothed one anyway.
const MAX_MULTIPLIER: u32 = 255;

/// The state of RFC 8985 section 5.2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    /// The record sent last among those that have arrived: when, its end, and its round-trip time.
    latest: Option<(Instant, u64, Duration)>,
    reordering_seen: bool,
    /// End of the highest byte known to have arrived.
    forward: u64,
    multiplier: u32,
    persist: u32,
    dsack_round: Option<u64>,
}

impl Default for Rack {
    fn default() -> Self {
        Rack {
            latest: None,
            reordering_seen: false,
            forward: 0,
            multiplier: 1,
            persist: PERSIST,
            dsack_round: None,
        }
    }
}

impl Rack {
    /// A record has arrived: RFC 8985 section 6.2 steps 2 and 3. `original`: the peer's timestamp says that the
    /// acknowledgement is for an earlier transmission than the last.
    pub(crate) fn delivered(&mut self, now: Instant, sent: &Sent, rtt: &Rtt, original: bool) {
        if sent.end > self.forward {
            self.forward = sent.end;
        } else if !sent.again && sent.end < self.forward {
            self.reordering_seen = true;
        }
        let took = now.saturating_duration_since(sent.at);
        // Step 2: a retransmission answered that fast is its original that was late.
        if sent.again && (original || rtt.min().is_some_and(|min| took < min)) {
            return;
        }
        if self.latest.is_none_or(|(at, end, _)| (sent.at, sent.end) > (at, end)) {
            self.latest = Some((sent.at, sent.end, took));
        }
    }

    /// A duplicate selective acknowledgement (RFC 2883): the window was too small. `next`: end of what was sent.
    pub(crate) fn duplicate(&mut self, acknowledged: u64, next: u64) {
        if self.dsack_round.is_none_or(|round| acknowledged >= round) {
            self.dsack_round = Some(next);
            self.multiplier = (self.multiplier + 1).min(MAX_MULTIPLIER);
            self.persist = PERSIST;
        }
    }

    /// A recovery has ended.
    pub(crate) fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.multiplier = 1;
        }
    }

    /// RFC 8985 section 6.2 step 4: how much reordering in time is tolerated.
    fn window(&self, rtt: &Rtt, board: &Scoreboard, mss: u64, recovering: bool) -> Duration {
        if !self.reordering_seen && (recovering || board.sacked() >= DUP_THRESHOLD * mss) {
            return Duration::ZERO;
        }
        let quarter = rtt.min().unwrap_or_default() / 4;
        (quarter * self.multiplier).min(rtt.smoothed.unwrap_or_default())
    }

    /// RFC 8985 section 6.2 step 5: marks what is lost; returns its bytes, and when to look again.
    pub(crate) fn detect(
        &self,
        now: Instant,
        board: &mut Scoreboard,
        rtt: &Rtt,
        mss: u64,
        recovering: bool,
    ) -> (u64, Option<Instant>) {
        let Some((at, end, took)) = self.latest else { return (0, None) };
        if board.is_in_order() {
            return (0, None);
        }
        let patience = took + self.window(rtt, board, mss, recovering);
        let mut again: Option<Instant> = None;
        let lost = board.detect(|sent, in_order| {
            if (at, end) <= (sent.at, sent.end) {
                // Records that were sent once are in the order of their times.
                return if in_order { None } else { Some(false) };
            }
            let due = sent.at + patience;
            if due <= now {
                return Some(true);
            }
            again = Some(again.map_or(due, |other| other.max(due)));
            Some(false)
        });
        (lost, again)
    }

    /// RFC 8985 section 6.3: a retransmission time-out. The first record is lost, and whatever was sent long enough ago.
    pub(crate) fn time_out(&self, now: Instant, board: &mut Scoreboard, rtt: &Rtt, mss: u64) -> u64 {
        let took = self.latest.map_or(Duration::ZERO, |(_, _, took)| took);
        let patience = took + self.window(rtt, board, mss, true);
        let mut first = true;
        board.detect(|sent, _| Some(std::mem::take(&mut first) || sent.at + patience <= now))
    }
}
