//! The sending half: what is in flight, what the peer's window takes, and the reaction to acknowledgements and losses.

use super::Segment;
use crate::Congestion;
use crate::congestion::{Acknowledged, Before, Control};
use crate::recovery::{Rack, Rtt, Scoreboard, Sent};
use std::time::{Duration, Instant};

/// Duplicate acknowledgements before a loss is assumed without SACK (RFC 5681 section 3.2).
const DUP_THRESHOLD: u32 = 3;
/// A probe waits for as long as a peer may delay its acknowledgement (`TLP.max_ack_delay`, RFC 8985 section 7.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);
/// Shortest probe time-out, as Linux's `TCP_TIMEOUT_MIN`.
const MIN_PROBE: Duration = Duration::from_millis(10);

/// What is being recovered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    Open,
    /// A loss that acknowledgements told (RFC 6675).
    Recovery,
    /// A retransmission time-out.
    Loss,
}

/// What the retransmission timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// RFC 6298.
    TimeOut,
    /// A tail loss probe (RFC 8985 section 7).
    Probe,
}

/// A tail loss probe that is not answered yet: RFC 8985 section 7.3.
#[derive(Clone, Copy, Debug)]
struct Probe {
    end: u64,
    again: bool,
}

/// Proportional rate reduction (RFC 6937).
#[derive(Clone, Copy, Debug, Default)]
struct Reduction {
    delivered: u64,
    out: u64,
    flight: u64,
}

#[derive(Debug)]
pub(super) struct Sender {
    /// Initial sequence number.
    pub(super) initial: u32,
    /// `SND.UNA`.
    pub(super) unacknowledged: u64,
    /// `SND.NXT`; the FIN counts.
    pub(super) next: u64,
    /// `SND.WND`, scaled.
    pub(super) window: u64,
    /// The largest window so far (RFC 5961 section 5, RFC 9293 section 3.8.6.2.1).
    pub(super) max_window: u64,
    /// `SND.WL1`, `SND.WL2`.
    wl: (u64, u64),
    /// The peer's window scale.
    pub(super) scale: u8,
    /// Payload bytes of a segment.
    pub(super) mss: u64,
    pub(super) board: Scoreboard,
    pub(super) rtt: Rtt,
    rack: Rack,
    pub(super) control: Control,
    pub(super) phase: Phase,
    /// `RecoveryPoint`: end of what was sent when the loss was noticed.
    recover: u64,
    reduction: Reduction,
    /// To go back to if the loss was none, and the clock at the first retransmission (RFC 3522).
    before: Option<(Before, Option<u32>)>,
    duplicates: u32,
    /// End of the last segment that was not full (Minshall's variant of Nagle's algorithm).
    pub(super) small: u64,
    /// Time-outs without an answer.
    pub(super) backoff: u32,
    /// Since when nothing has been acknowledged although it was sent.
    pub(super) stalled: Option<Instant>,
    pub(super) retransmit: Option<(Instant, Kind)>,
    /// RACK's reordering timer.
    pub(super) reorder: Option<Instant>,
    probe: Option<Probe>,
    pub(super) probe_due: bool,
    /// The first lost segment is to be sent whatever the window: a time-out has passed (RFC 6298 section 5.4).
    pub(super) pressing: bool,
    /// Most that was in flight since `limited_until` was set.
    most_in_flight: u64,
    limited_until: u64,
    /// When something was sent last.
    pub(super) last: Option<Instant>,
    pub(super) sack: bool,
}

impl Sender {
    pub(super) fn new(initial: u32, congestion: Congestion) -> Self {
        Sender {
            initial,
            unacknowledged: 0,
            next: 0,
            window: 0,
            max_window: 0,
            wl: (0, 0),
            scale: 0,
            mss: 536,
            board: Scoreboard::default(),
            rtt: Rtt::default(),
            rack: Rack::default(),
            control: Control::new(congestion, 536),
            phase: Phase::Open,
            recover: 0,
            reduction: Reduction::default(),
            before: None,
            duplicates: 0,
            small: 0,
            backoff: 0,
            stalled: None,
            retransmit: None,
            reorder: None,
            probe: None,
            probe_due: false,
            pressing: false,
            most_in_flight: 0,
            limited_until: 0,
            last: None,
            sack: false,
        }
    }

    /// Sequence number of a position.
    #[inline]
    pub(super) fn sequence(&self, position: u64) -> u32 {
        self.initial.wrapping_add(1).wrapping_add(position as u32)
    }

    /// Position of an acknowledgement number, relative to [`Sender::unacknowledged`].
    #[inline]
    pub(super) fn offset(&self, acknowledgement: u32) -> i64 {
        i64::from(acknowledgement.wrapping_sub(self.sequence(self.unacknowledged)) as i32)
    }

    /// Bytes that the peer's window still takes.
    #[inline]
    pub(super) fn usable(&self) -> u64 {
        (self.unacknowledged + self.window).saturating_sub(self.next)
    }

    /// Bytes that may be added to what is in flight.
    #[inline]
    pub(super) fn room(&self) -> u64 {
        let pipe = self.board.pipe();
        // Whatever the window is: one segment may be out.
        if pipe == 0 { self.control.window.max(self.mss) } else { self.control.window.saturating_sub(pipe) }
    }

    /// The window field of a segment: RFC 9293 section 3.10.7.4. `at`: the segment's position in the peer's stream.
    pub(super) fn update_window(&mut self, at: u64, acknowledged: u64, window: u64) {
        if at > self.wl.0 || (at == self.wl.0 && acknowledged >= self.wl.1) {
            self.window = window;
            self.max_window = self.max_window.max(window);
            self.wl = (at, acknowledged);
        }
    }

    /// An acceptable acknowledgement: everything that follows from it. `plain`: the segment carries nothing else and does
    /// not change the window. `echo`: the peer's timestamp echo and the clock.
    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        position: u64,
        segment: &Segment<'_>,
        plain: bool,
        echo: Option<(u32, u32)>,
    ) {
        let (una, limited) = (self.unacknowledged, self.is_limited());
        let flight = self.board.pipe();
        let sacked_before = self.board.sacked();
        let advanced = position.saturating_sub(una);
        // RFC 3522: the first retransmission is younger than what is acknowledged now.
        let resent_at = self.before.and_then(|(_, clock)| clock);
        let original = match (echo, resent_at) {
            (Some((echo, _)), Some(clock)) => (echo.wrapping_sub(clock) as i32) < 0,
            _ => false,
        };
        let spurious = original && advanced > 0 && self.board.was_resent(una);

        let mut sample = None;
        let mut delivered = 0;
        let mut again = false;
        let (rack, rtt) = (&mut self.rack, &self.rtt);
        let mut on_delivery = |sent: Sent| {
            delivered += sent.len();
            rack.delivered(now, &sent, rtt, original);
            match sent.again {
                // RFC 6298 section 3 (Karn): not from what was sent twice.
                true => again = true,
                false => sample = sample.max(Some(sent.at)),
            }
        };
        self.board.acknowledge(position, &mut on_delivery);
        self.unacknowledged = self.unacknowledged.max(position);
        let blocks = if self.sack { segment.options.sack.as_slice() } else { &[] };
        let duplicate =
            take_blocks(&mut self.board, blocks, (position, segment.acknowledgement), self.next, on_delivery);
        if duplicate {
            self.rack.duplicate(position, self.next);
        }
        let sample = sample.map(|at| now.saturating_duration_since(at));
        if let Some(took) = sample {
            self.rtt.sample(now, took);
        } else if let (Some((echo, clock)), true) = (echo, advanced > 0 && again) {
            // RFC 7323 section 4.1: timestamps tell which transmission was answered.
            let took = clock.wrapping_sub(echo);
            if took < 0x0100_0000 {
                self.rtt.sample(now, Duration::from_millis(u64::from(took.max(1))));
            }
        }
        if advanced > 0 {
            self.backoff = 0;
            self.stalled = None;
            self.duplicates = 0;
        }
        if spurious {
            self.undo();
        }
        self.probe_answered(position, duplicate, advanced > 0, plain);
        let lost = self.find_losses(now, advanced, plain && delivered == 0);
        let ended = self.phase != Phase::Open && position >= self.recover && lost == 0;
        if ended {
            self.end_recovery();
        }
        if lost > 0 && self.phase == Phase::Open {
            self.enter_recovery(flight.max(sacked_before));
        }
        match self.phase {
            Phase::Recovery => self.reduce(delivered, lost),
            Phase::Open | Phase::Loss if advanced > 0 && !ended => {
                self.control.acknowledged(&Acknowledged {
                    now,
                    bytes: advanced,
                    rtt: self.rtt.smoothed.unwrap_or_default(),
                    sample,
                    position,
                    next: self.next,
                    limited: limited || self.phase == Phase::Loss,
                });
            }
            _ => {}
        }
        if advanced > 0 || delivered > 0 {
            self.arm(now);
        }
        #[cfg(debug_assertions)]
        self.board.check();
    }

    /// Bytes newly taken for lost.
    fn find_losses(&mut self, now: Instant, advanced: u64, duplicate: bool) -> u64 {
        let recovering = self.phase != Phase::Open;
        if self.sack {
            let (lost, again) = self.rack.detect(now, &mut self.board, &self.rtt, self.mss, recovering);
            self.reorder = again;
            return lost;
        }
        // RFC 6582: three duplicates, then one more segment with each partial acknowledgement.
        if advanced > 0 {
            let partial = self.phase == Phase::Recovery && self.unacknowledged < self.recover;
            if !partial {
                return 0;
            }
            // RFC 6582 section 3.2 step 3: it goes whatever the window.
            self.pressing = true;
            return self.board.lose_front(self.mss);
        }
        if duplicate && !self.board.is_empty() {
            self.duplicates += 1;
            // RFC 6582 section 3.2 step 2: not again for what was in flight then.
            let fresh = self.unacknowledged >= self.recover || self.recover == 0;
            if self.duplicates == DUP_THRESHOLD && self.phase == Phase::Open && fresh {
                return self.board.lose_front(self.mss);
            }
        }
        0
    }

    /// RACK's reordering timer: RFC 8985 section 6.2 step 5.
    pub(super) fn reordering_over(&mut self, now: Instant) {
        self.reorder = None;
        let flight = self.board.pipe();
        let lost = self.find_losses(now, 0, false);
        if lost > 0 {
            if self.phase == Phase::Open {
                self.enter_recovery(flight);
            }
            self.reduce(0, lost);
            self.arm(now);
        }
    }

    fn enter_recovery(&mut self, flight: u64) {
        self.before = Some((self.control.before(), None));
        self.control.lost(flight);
        self.phase = Phase::Recovery;
        self.recover = self.next;
        self.probe = None;
        self.reduction = Reduction { delivered: 0, out: 0, flight: (self.next - self.unacknowledged).max(1) };
    }

    /// Proportional rate reduction: RFC 6937 section 3, with the slow start bound.
    fn reduce(&mut self, delivered: u64, lost: u64) {
        if self.phase != Phase::Recovery {
            return;
        }
        let (pipe, threshold) = (self.board.pipe(), self.control.threshold);
        let reduction = &mut self.reduction;
        reduction.delivered += delivered;
        let send = if pipe > threshold {
            (u128::from(reduction.delivered) * u128::from(threshold)).div_ceil(u128::from(reduction.flight))
                as u64
        } else {
            let limit = match lost {
                0 => reduction.delivered.max(reduction.out + delivered) + self.mss,
                _ => reduction.delivered.max(reduction.out + delivered),
            };
            reduction.out + (threshold - pipe).min(limit.saturating_sub(reduction.out))
        };
        let mut send = send.saturating_sub(reduction.out);
        if reduction.out == 0 {
            // The first retransmission is not held back.
            send = send.max(self.mss);
        }
        self.control.window = (pipe + send).max(self.mss);
    }

    fn end_recovery(&mut self) {
        if self.phase == Phase::Recovery {
            self.control.window = self.control.threshold.max(self.mss);
            self.rack.recovered();
        }
        self.phase = Phase::Open;
        self.before = None;
        self.duplicates = 0;
    }

    /// The loss was none (RFC 3522, RFC 4015).
    fn undo(&mut self) {
        if let Some((before, _)) = self.before.take() {
            self.control.undo(before);
            self.board.unlose();
            self.phase = Phase::Open;
        }
    }

    /// The retransmission time-out has passed: RFC 6298 section 5.4 to 5.6, RFC 8985 section 6.3.
    pub(super) fn timed_out(&mut self, now: Instant) {
        if self.stalled.is_none() {
            self.stalled = self.board.front().map(|front| front.at);
        }
        // RFC 2018 section 8: a first record that is sacked means that the peer has changed its mind.
        if self.board.front().is_some_and(|front| front.sacked) {
            self.board.renege();
        }
        let flight = self.board.pipe();
        if self.phase != Phase::Loss {
            let before = match (self.phase, self.before) {
                (Phase::Recovery, Some((before, _))) => before,
                _ => self.control.before(),
            };
            self.before = Some((before, None));
            self.control.timed_out(flight);
        } else {
            self.control.restart();
        }
        match self.sack {
            true => self.rack.time_out(now, &mut self.board, &self.rtt, self.mss),
            false => self.board.detect(|_, _| Some(true)),
        };
        self.phase = Phase::Loss;
        self.pressing = true;
        self.recover = self.next;
        self.probe = None;
        self.probe_due = false;
        self.reorder = None;
        self.duplicates = 0;
        self.backoff += 1;
        self.retransmit = Some((now + self.rtt.rto(self.backoff), Kind::TimeOut));
    }

    /// The path takes smaller packets: what is larger was dropped, and not for congestion (RFC 1191, as Linux's
    /// `tcp_simple_retransmit`).
    pub(super) fn too_large(&mut self, now: Instant, mss: u64) {
        if self.board.detect(|sent, _| Some(sent.len() > mss)) > 0 {
            self.arm(now);
        }
    }

    /// RFC 8985 section 7.4: a probe that was a retransmission and was needed is a loss.
    fn probe_answered(&mut self, position: u64, duplicate: bool, advanced: bool, plain: bool) {
        let Some(probe) = self.probe.filter(|probe| position >= probe.end) else { return };
        if !advanced {
            // A duplicate: original and probe have both arrived.
            if plain || duplicate {
                self.probe = None;
            }
        } else if !probe.again || duplicate {
            self.probe = None;
        } else if position > probe.end {
            self.probe = None;
            if self.phase == Phase::Open {
                self.control.lost(self.board.pipe());
                self.control.window = self.control.window.min(self.control.threshold);
            }
        }
    }

    /// A probe was sent up to `end`.
    pub(super) fn probed(&mut self, end: u64, again: bool) {
        self.probe = Some(Probe { end, again });
        self.probe_due = false;
    }

    /// Bytes up to `end` were sent for the first time.
    pub(super) fn sent(&mut self, now: Instant, end: u64) {
        self.board.push(self.next..end, now);
        if self.phase == Phase::Recovery {
            self.reduction.out += end - self.next;
        }
        self.next = end;
        self.note_flight();
        self.last = Some(now);
        self.arm(now);
    }

    /// A range was sent again. `clock`: the timestamp it had.
    pub(super) fn resent(&mut self, now: Instant, range: std::ops::Range<u64>, clock: u32) {
        if self.phase == Phase::Recovery {
            self.reduction.out += range.end - range.start;
        }
        if let Some((_, first @ None)) = &mut self.before {
            *first = Some(clock);
        }
        self.board.resent(range, now);
        self.last = Some(now);
        if self.retransmit.is_none() {
            self.arm(now);
        }
    }

    fn note_flight(&mut self) {
        let pipe = self.board.pipe();
        if self.unacknowledged >= self.limited_until {
            self.limited_until = self.next;
            self.most_in_flight = pipe;
        }
        self.most_in_flight = self.most_in_flight.max(pipe);
    }

    /// Whether the congestion window is what keeps the flight small, as Linux's `tcp_is_cwnd_limited`.
    fn is_limited(&self) -> bool {
        match self.control.in_slow_start() {
            true => self.control.window < 2 * self.most_in_flight,
            false => self.most_in_flight + self.mss > self.control.window,
        }
    }

    /// Sets the retransmission timer anew: RFC 6298 sections 5.1 to 5.3, RFC 8985 section 7.2.
    pub(super) fn arm(&mut self, now: Instant) {
        if self.board.is_empty() {
            self.retransmit = None;
            self.reorder = None;
            return;
        }
        let rto = self.rtt.rto(self.backoff);
        let probes =
            self.sack && self.phase == Phase::Open && self.probe.is_none() && self.board.sacked() == 0;
        self.retransmit = Some(match self.rtt.smoothed.filter(|_| probes && self.backoff == 0) {
            Some(smoothed) => {
                let delay = if self.board.pipe() <= self.mss { MAX_ACK_DELAY } else { Duration::ZERO };
                let wait = (smoothed * 2 + delay).max(MIN_PROBE);
                // A time-out that would come first stays one, so that it can be seen as such.
                if wait < rto { (now + wait, Kind::Probe) } else { (now + rto, Kind::TimeOut) }
            }
            None => (now + rto, Kind::TimeOut),
        });
    }
}

/// Selective acknowledgements (RFC 2018); returns whether one reports a duplicate (RFC 2883 section 4). `acknowledged`:
/// position and number of the cumulative one.
fn take_blocks(
    board: &mut Scoreboard,
    blocks: &[(u32, u32)],
    (acknowledged, number): (u64, u32),
    next: u64,
    mut on_delivery: impl FnMut(Sent),
) -> bool {
    let position = |sequence: u32| acknowledged as i64 + i64::from(sequence.wrapping_sub(number) as i32);
    let mut duplicate = false;
    for (index, &(left, right)) in blocks.iter().enumerate() {
        let (left, right) = (position(left), position(right));
        if index == 0 {
            let within = blocks.get(1).is_some_and(|&(l, r)| position(l) <= left && right <= position(r));
            if left < right && (right <= acknowledged as i64 || within) {
                duplicate = true;
                continue;
            }
        }
        // What was never sent, or is acknowledged already, says nothing.
        let (left, right) = (left.max(acknowledged as i64), right.min(next as i64));
        if left < right {
            board.sack(left as u64..right as u64, &mut on_delivery);
        }
    }
    duplicate
}
