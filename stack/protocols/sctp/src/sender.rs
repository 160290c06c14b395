//! What is on its way: outstanding chunks, the congestion window, the retransmission timer. RFC 9260 sections 6.1, 6.3, 7.2.
//!
//! Sequence numbers (TSN) are kept as 64 bits that never wrap; the low 32 are those of the wire.

use crate::messages::{Label, Messages, Unreadable};
use crate::wire::{DATA_HEADER, HEADER, Sack};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Section 16: RTO.Initial.
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// RTO.Min. Section 16 recommends 1 s, for the sake of clocks as coarse as those of its time; as TCP does in Linux, less is taken
/// (200 ms there), and more than the 200 ms that a peer may keep its acknowledgement back.
const RTO_MIN: Duration = Duration::from_millis(300);
/// Section 16: RTO.Max.
pub(crate) const RTO_MAX: Duration = Duration::from_secs(60);
/// How often a chunk must be reported missing to be taken for lost: section 7.2.4.
const MISSING: u8 = 3;

/// The number nearest to `near` with these low bits.
pub(crate) fn extend(near: u64, low: u32) -> u64 {
    near.wrapping_add_signed(i64::from(low.wrapping_sub(near as u32) as i32))
}

/// Round-trip times: section 6.3.1.
#[derive(Debug)]
pub(crate) struct RoundTrip {
    pub(crate) smoothed: Option<Duration>,
    pub(crate) variation: Duration,
    rto: Duration,
    /// Consecutive time-outs.
    pub(crate) backoff: u32,
}

impl RoundTrip {
    fn new() -> Self {
        RoundTrip { smoothed: None, variation: Duration::ZERO, rto: RTO_INITIAL, backoff: 0 }
    }

    pub(crate) fn sample(&mut self, took: Duration) {
        match &mut self.smoothed {
            None => {
                self.smoothed = Some(took);
                self.variation = took / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(took)) / 4;
                *smoothed = (*smoothed * 7 + took) / 8;
            }
        }
        let smoothed = self.smoothed.unwrap_or_default();
        self.rto = (smoothed + self.variation * 4).clamp(RTO_MIN, RTO_MAX);
    }

    /// The time-out, doubled for each one that has passed in vain.
    pub(crate) fn rto(&self) -> Duration {
        self.rto.saturating_mul(1 << self.backoff.min(16)).min(RTO_MAX)
    }
}

/// What is known of a chunk that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flying,
    /// To be sent again.
    Lost,
    /// Acknowledged by a gap block, which the peer may take back (section 6.2.1).
    Gapped,
}

/// A chunk that was sent, in the order of sequence numbers.
#[derive(Clone, Copy, Debug)]
struct Sent {
    start: u64,
    length: u16,
    label: Label,
    at: Instant,
    again: bool,
    /// It was retransmitted fast, and is not again: section 7.2.4.
    fast: bool,
    missing: u8,
    fate: Fate,
}

/// A chunk to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) sequence: u64,
    pub(crate) start: u64,
    pub(crate) length: u16,
    pub(crate) label: Label,
    pub(crate) again: bool,
}

/// What an acknowledgement has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// New bytes are acknowledged for good.
    pub(crate) advanced: bool,
    /// The peer acknowledges what was never sent.
    pub(crate) forged: bool,
}

/// The sending half of an association.
#[derive(Debug)]
pub(crate) struct Sender {
    /// End of what the program has written.
    pub(crate) written: u64,
    /// End of what was sent once.
    pub(crate) next: u64,
    /// End of what is acknowledged.
    pub(crate) acknowledged: u64,
    /// The sequence number of the next new chunk.
    pub(crate) sequence: u64,
    /// Those before it are acknowledged.
    first: u64,
    /// What is sent next belongs to.
    messages: Messages,
    chunks: VecDeque<Sent>,
    /// How many are to be sent again.
    lost: usize,
    /// How many are acknowledged by gap blocks.
    gapped: usize,
    /// Bytes that are taken to be in the network.
    pub(crate) flight: u64,
    pub(crate) window: u64,
    pub(crate) threshold: u64,
    /// `partial_bytes_acked`: section 7.2.2.
    partial: u64,
    /// Fast recovery lasts until this sequence number is acknowledged.
    recovery: Option<u64>,
    /// One lost chunk goes whatever the window: section 7.2.4 rule 3.
    pressing: bool,
    /// What the peer has room for beyond what is in flight.
    pub(crate) peer_window: u64,
    pub(crate) trip: RoundTrip,
    /// T3-rtx.
    pub(crate) timer: Option<Instant>,
    /// The largest packet, IP header not counted.
    pub(crate) room: u64,
    /// When something was last sent.
    pub(crate) last: Option<Instant>,
    pub(crate) retransmitted: u64,
    pub(crate) bytes_retransmitted: u64,
}

impl Sender {
    /// `room`: the largest packet without its IP header. `sequence`: the initial sequence number. `framed`: what the program writes are
    /// messages behind heads.
    pub(crate) fn new(room: u64, sequence: u32, framed: bool) -> Self {
        // Above zero, so that what lies before it has a number too.
        let sequence = (1 << 32) + u64::from(sequence);
        let mut sender = Sender {
            written: 0,
            next: 0,
            acknowledged: 0,
            sequence,
            first: sequence,
            messages: Messages::new(framed),
            chunks: VecDeque::new(),
            lost: 0,
            gapped: 0,
            flight: 0,
            window: 0,
            threshold: u64::MAX,
            partial: 0,
            recovery: None,
            pressing: false,
            peer_window: 0,
            trip: RoundTrip::new(),
            timer: None,
            room,
            last: None,
            retransmitted: 0,
            bytes_retransmitted: 0,
        };
        sender.window = sender.initial_window();
        sender
    }

    /// Section 7.2.1.
    fn initial_window(&self) -> u64 {
        (4 * self.room).min((2 * self.room).max(4404))
    }

    /// Most payload bytes of a chunk.
    pub(crate) fn most(&self) -> u64 {
        (self.room - (HEADER + DATA_HEADER) as u64) & !3
    }

    /// The way carries packets of another size.
    pub(crate) fn set_room(&mut self, room: u64) {
        let is_fresh = self.window == self.initial_window();
        self.room = room;
        if is_fresh {
            self.window = self.initial_window();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether all that was written is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.chunks.is_empty() && self.next == self.written
    }

    /// Looks at what follows, where a message begins there. `streams`: those that there are. `load`: reads at a position.
    ///
    /// # Errors
    /// There is no message that could be sent.
    pub(crate) fn look(
        &mut self,
        streams: u16,
        load: impl FnOnce(u64, &mut [u8]) -> bool,
    ) -> Result<(), Unreadable> {
        self.next = self.messages.begin(self.next, self.written, streams, load)?;
        Ok(())
    }

    /// The next chunk to send: one that was lost, or a new one. `budget`: bytes of the packet that are left. `hold`: a new one
    /// that is not full waits while others are on their way. `cork`: it waits whatever is on its way.
    pub(crate) fn pick(&self, (hold, cork): (bool, bool), budget: usize) -> Option<Outgoing> {
        let budget = budget.checked_sub(DATA_HEADER)? as u64 & !3;
        if self.lost > 0 {
            let (at, sent) = self.chunks.iter().enumerate().find(|(_, sent)| sent.fate == Fate::Lost)?;
            let may = self.pressing || self.flight < self.window;
            // One that was cut for a larger packet goes alone.
            let fits = u64::from(sent.length) <= budget || budget >= self.most();
            return (fits && may).then_some(Outgoing {
                sequence: self.first + at as u64,
                start: sent.start,
                length: sent.length,
                label: sent.label,
                again: true,
            });
        }
        // All that may be sent, and of it the rest of a message.
        let queued = self.written - self.next;
        let left = self.messages.end(self.written) - self.next;
        let length = left.min(self.most()).min(budget);
        // What is left of a packet takes the end of the bytes, or a chunk of some size; a message is not cut without need.
        let is_small =
            length < left && (length < self.most() / 2 || self.messages.are_framed() && left <= self.most());
        if length == 0 || is_small || self.flight >= self.window {
            return None;
        }
        // Section 6.1 rule A: one chunk may be in flight whatever the peer has room for.
        if length > self.peer_window && !self.chunks.is_empty() {
            return None;
        }
        if queued < self.most() && (cork || hold && !self.chunks.is_empty()) {
            return None;
        }
        Some(Outgoing {
            sequence: self.sequence,
            start: self.next,
            length: length as u16,
            label: self.messages.label(length == left),
            again: false,
        })
    }

    /// A chunk has been sent.
    pub(crate) fn sent(&mut self, now: Instant, chunk: &Outgoing) {
        let length = u64::from(chunk.length);
        self.flight += length;
        self.peer_window = self.peer_window.saturating_sub(length);
        self.last = Some(now);
        if chunk.again {
            let sent = &mut self.chunks[(chunk.sequence - self.first) as usize];
            (sent.fate, sent.at, sent.again, sent.missing) = (Fate::Flying, now, true, 0);
            self.lost -= 1;
            self.pressing = false;
            self.retransmitted += 1;
            self.bytes_retransmitted += length;
            // Section 6.3.2 rule R2; section 7.2.4 rule 4 for the earliest one.
            if self.timer.is_none() || chunk.sequence == self.first {
                self.timer = Some(now + self.trip.rto());
            }
            return;
        }
        self.chunks.push_back(Sent {
            start: chunk.start,
            length: chunk.length,
            label: chunk.label,
            at: now,
            again: false,
            fast: false,
            missing: 0,
            fate: Fate::Flying,
        });
        self.sequence += 1;
        self.next += length;
        self.messages.sent(self.next);
        self.timer.get_or_insert(now + self.trip.rto());
    }

    /// A cumulative acknowledgement alone, as SHUTDOWN carries it. The peer's window stays as it was told.
    pub(crate) fn acknowledge(&mut self, now: Instant, cumulative: u32) -> Outcome {
        let window = self.peer_window + self.flight;
        self.take(now, cumulative, std::iter::empty(), window)
    }

    /// SACK: section 6.2.1.
    pub(crate) fn sack(&mut self, now: Instant, sack: &Sack<'_>) -> Outcome {
        self.take(now, sack.cumulative, sack.blocks(), sack.window.into())
    }

    fn take(
        &mut self,
        now: Instant,
        cumulative: u32,
        blocks: impl Iterator<Item = (u16, u16)>,
        window: u64,
    ) -> Outcome {
        // Everything up to and including this one has arrived.
        let cumulative = extend(self.first, cumulative);
        let end = cumulative + 1;
        if end < self.first {
            return Outcome::default();
        }
        if end > self.sequence {
            return Outcome { forged: true, ..Outcome::default() };
        }
        let limited = self.flight + self.room > self.window;
        let before = self.first;
        let mut newly = 0;
        let mut sample = None;
        while self.first < end
            && let Some(sent) = self.chunks.pop_front()
        {
            self.first += 1;
            self.acknowledged = sent.start + u64::from(sent.length);
            match sent.fate {
                Fate::Gapped => self.gapped -= 1,
                fate => {
                    newly += self.land(&sent, fate);
                    sample = sample.max(Some(sent.at).filter(|_| !sent.again));
                }
            }
        }
        let advanced = self.first > before;
        let (gapped, highest_new, highest) = self.take_blocks(blocks, &mut sample);
        newly += gapped;
        if let Some(at) = sample {
            self.trip.sample(now.saturating_duration_since(at));
        }
        if advanced {
            self.trip.backoff = 0;
            if self.recovery.is_some_and(|exit| self.first >= exit) {
                self.recovery = None;
            }
            self.grow(newly, limited);
        }
        // Section 7.2.4: the highest newly acknowledged one, or within fast recovery the highest of all.
        let up_to = if self.recovery.is_some() && advanced { highest } else { highest_new };
        self.count_missing(up_to);
        self.peer_window = window.saturating_sub(self.flight);
        if self.chunks.is_empty() {
            self.timer = None;
        } else if advanced || self.timer.is_none() {
            self.timer = Some(now + self.trip.rto());
        }
        Outcome { advanced, forged: false }
    }

    /// A chunk has arrived for the first time; returns its length.
    fn land(&mut self, sent: &Sent, fate: Fate) -> u64 {
        match fate {
            Fate::Flying => self.flight -= u64::from(sent.length),
            Fate::Lost => self.lost -= 1,
            Fate::Gapped => {}
        }
        sent.length.into()
    }

    /// Gap blocks. Returns the bytes that are newly acknowledged, the end of the highest of these chunks, and of the highest
    /// that is acknowledged at all.
    fn take_blocks(
        &mut self,
        blocks: impl Iterator<Item = (u16, u16)>,
        sample: &mut Option<Instant>,
    ) -> (u64, u64, u64) {
        let (mut newly, mut highest_new, mut highest) = (0, 0, 0);
        let mut last_end = 0;
        for (start, end) in blocks {
            // Distances from the cumulative number, which lies one before the first chunk.
            let (start, end) = (usize::from(start).max(1) - 1, usize::from(end).min(self.chunks.len()));
            if start >= end || start < last_end {
                continue;
            }
            self.unreport(last_end..start);
            last_end = end;
            for at in start..end {
                let sent = self.chunks[at];
                if sent.fate != Fate::Gapped {
                    newly += self.land(&sent, sent.fate);
                    self.chunks[at].fate = Fate::Gapped;
                    self.gapped += 1;
                    highest_new = self.first + at as u64 + 1;
                    *sample = (*sample).max(Some(sent.at).filter(|_| !sent.again));
                }
            }
            highest = self.first + end as u64;
        }
        self.unreport(last_end..self.chunks.len());
        (newly, highest_new, highest)
    }

    /// These chunks are not reported: what was acknowledged by gap blocks before is not any more (section 6.2.1 rule D iii).
    fn unreport(&mut self, range: std::ops::Range<usize>) {
        if self.gapped == 0 {
            return;
        }
        let mut count = 0;
        for sent in self.chunks.range_mut(range) {
            if sent.fate == Fate::Gapped {
                sent.fate = Fate::Flying;
                self.flight += u64::from(sent.length);
                count += 1;
            }
        }
        self.gapped -= count;
    }

    /// Sections 7.2.1 and 7.2.2. `limited`: the window was used up.
    fn grow(&mut self, newly: u64, limited: bool) {
        if self.window <= self.threshold {
            if limited && self.recovery.is_none() {
                self.window += newly.min(self.room);
            }
            return;
        }
        self.partial += newly;
        if self.partial >= self.window {
            self.partial -= self.window;
            if limited {
                self.window += self.room;
            }
        }
        if self.chunks.is_empty() {
            self.partial = 0;
        }
    }

    /// Fast retransmission: section 7.2.4.
    fn count_missing(&mut self, up_to: u64) {
        let mut found = false;
        let count = up_to.saturating_sub(self.first) as usize;
        for sent in self.chunks.range_mut(..count.min(self.chunks.len())) {
            if sent.fate != Fate::Flying {
                continue;
            }
            sent.missing = sent.missing.saturating_add(1);
            if sent.missing >= MISSING && !sent.fast {
                sent.fast = true;
                sent.fate = Fate::Lost;
                self.flight -= u64::from(sent.length);
                self.lost += 1;
                found = true;
            }
        }
        if found && self.recovery.is_none() {
            self.recovery = Some(self.sequence);
            self.halve();
            self.window = self.threshold;
            self.pressing = true;
        }
    }

    fn halve(&mut self) {
        self.threshold = (self.window / 2).max(4 * self.room);
        self.partial = 0;
    }

    /// T3-rtx has expired: section 6.3.3 and 7.2.3.
    pub(crate) fn timed_out(&mut self) {
        self.halve();
        self.window = self.room;
        self.trip.backoff += 1;
        self.recovery = None;
        self.timer = None;
        self.pressing = true;
        for sent in &mut self.chunks {
            if sent.fate == Fate::Flying {
                sent.fate = Fate::Lost;
                self.flight -= u64::from(sent.length);
                self.lost += 1;
            }
            // It may be retransmitted fast again.
            (sent.fast, sent.missing) = (false, 0);
        }
    }

    /// Section 7.2.1: the window falls back after an idle time.
    pub(crate) fn idle(&mut self, now: Instant) {
        let idle = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if self.chunks.is_empty() && idle > self.trip.rto() {
            let halvings = (idle.as_millis() / self.trip.rto().as_millis().max(1)).min(32) as u32;
            self.window = (self.window >> halvings).max(self.initial_window());
        }
    }

    /// Chunks that are taken for lost, and that are acknowledged ahead of a gap.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.lost as u32, self.gapped as u32)
    }

    /// Bytes sent and not acknowledged.
    pub(crate) fn outstanding(&self) -> u64 {
        self.next - self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 1480;
    const INITIAL: u32 = 0xffff_fffe;

    /// A sender that has sent `count` full chunks across the end of the 32-bit numbers, and the time.
    fn sent(count: u64) -> (Sender, Instant) {
        let now = crate::tests::epoch();
        let mut sender = Sender::new(ROOM, INITIAL, false);
        (sender.window, sender.peer_window) = (1 << 20, 1 << 20);
        sender.written = count * sender.most();
        while let Some(next) = sender.pick((false, false), ROOM as usize - HEADER) {
            sender.sent(now, &next);
        }
        assert_eq!(sender.flight, sender.written);
        (sender, now)
    }

    fn take(sender: &mut Sender, now: Instant, count: u32, blocks: &[(u16, u16)]) -> Outcome {
        let cumulative = INITIAL.wrapping_add(count).wrapping_sub(1);
        sender.take(now, cumulative, blocks.iter().copied(), 1 << 20)
    }

    #[test]
    fn three_reports_send_again_and_halve_once() {
        let (mut sender, now) = sent(20);
        // The third chunk is missing; each report tells one more behind it.
        for (reports, end) in [2, 3].into_iter().enumerate() {
            take(&mut sender, now, 2, &[(2, end)]);
            assert_eq!(sender.counts(), (0, reports as u32 + 1));
        }
        take(&mut sender, now, 2, &[(2, 4)]);
        assert_eq!((sender.counts(), sender.window), ((1, 3), (1 << 20) / 2));
        let again = sender.pick((false, false), ROOM as usize - HEADER).expect("what was lost");
        assert!(again.again && again.start == 2 * sender.most());
        sender.sent(now, &again);
        // Within the same window nothing is halved again, and nothing is sent fast twice.
        for end in 5..12 {
            take(&mut sender, now, 2, &[(2, end)]);
        }
        assert_eq!((sender.counts().0, sender.window), (0, (1 << 20) / 2));
        assert!(take(&mut sender, now, 20, &[]).advanced);
        assert!(sender.is_done() && sender.flight == 0 && sender.timer.is_none());
    }

    #[test]
    fn a_peer_may_take_gap_blocks_back() {
        let (mut sender, now) = sent(5);
        let most = sender.most();
        take(&mut sender, now, 1, &[(2, 4)]);
        assert_eq!((sender.flight, sender.counts()), (most, (0, 3)));
        take(&mut sender, now, 1, &[]);
        assert_eq!((sender.flight, sender.counts()), (4 * most, (0, 0)));
    }

    #[test]
    fn a_time_out_sends_one_packet_and_doubles() {
        let (mut sender, now) = sent(5);
        let rto = sender.trip.rto();
        assert_eq!(sender.timer, Some(now + rto));
        sender.timed_out();
        assert_eq!((sender.counts(), sender.flight, sender.window), ((5, 0), 0, ROOM));
        assert_eq!(sender.trip.rto(), 2 * rto);
        let budget = ROOM as usize - HEADER;
        let first = sender.pick((false, false), budget).expect("the first");
        assert_eq!(first.start, 0);
        sender.sent(now, &first);
        let second =
            sender.pick((false, false), budget).expect("the window is a packet, of which a little is left");
        sender.sent(now, &second);
        assert_eq!(sender.pick((false, false), budget), None);
        assert!(take(&mut sender, now, 1, &[]).advanced);
        assert_eq!(sender.trip.rto(), rto, "what was sent twice tells no time, but the backoff is over");
    }

    #[test]
    fn the_time_out_outlasts_a_delayed_acknowledgement_and_no_more() {
        let mut trip = RoundTrip::new();
        (0..50).for_each(|_| trip.sample(Duration::from_millis(1)));
        assert_eq!(trip.rto(), Duration::from_millis(300));
    }

    #[test]
    fn what_was_never_sent_cannot_be_acknowledged() {
        let (mut sender, now) = sent(2);
        assert!(take(&mut sender, now, 3, &[]).forged);
        assert_eq!(take(&mut sender, now, 0, &[(1, 9)]), Outcome::default());
        assert_eq!((sender.acknowledged, sender.flight), (0, 0), "gap blocks beyond the end are cut");
        assert_eq!(take(&mut sender, now, u32::MAX - 5, &[]), Outcome::default());
    }

    #[test]
    fn a_window_of_nothing_lets_one_chunk_out() {
        let now = crate::tests::epoch();
        let mut sender = Sender::new(ROOM, 1, false);
        sender.written = 10_000;
        let first = sender.pick((false, false), ROOM as usize - HEADER).expect("a probe");
        sender.sent(now, &first);
        assert_eq!(sender.pick((false, false), ROOM as usize - HEADER), None);
    }
}
