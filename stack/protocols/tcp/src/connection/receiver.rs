//! The receiving half: the window, what has arrived ahead of it, and when it is acknowledged.

use freena_wire::tcp::SackBlocks;
use std::time::{Duration, Instant};

/// Most gaps that are kept; a segment that would make one more is dropped.
const MAX_RANGES: usize = 32;
/// Linux's `TCP_DELACK_MIN` (RFC 9293 section 3.8.6.3 allows 500 ms).
pub(super) const DELAY: Duration = Duration::from_millis(40);
/// Segments that are acknowledged at once when a connection is new, so that the peer's slow start is not held up.
const QUICK: u32 = 16;

/// A range that has arrived ahead of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    start: u64,
    end: u64,
    /// Which arrival touched it last.
    stamp: u32,
}

/// When what has arrived is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is nothing to acknowledge.
    No,
    /// At this moment, or with the next segment.
    At(Instant),
    /// As soon as possible.
    Now,
}

/// What became of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Bytes that can now be read.
    pub(super) in_order: u64,
    /// The peer has ended its direction, and all before that has arrived.
    pub(super) finished: bool,
}

#[derive(Debug)]
pub(super) struct Receiver {
    /// The peer's initial sequence number.
    pub(super) initial: u32,
    /// `RCV.NXT`; the FIN counts.
    pub(super) next: u64,
    /// What the program has read.
    read: u64,
    /// Size of the buffer.
    size: u64,
    /// The window is kept within it.
    clamp: u64,
    /// Our window scale.
    pub(super) scale: u8,
    /// Right edge of the window as the peer knows it.
    edge: u64,
    /// Position of the peer's FIN.
    fin: Option<u64>,
    ahead: Vec<Ahead>,
    stamp: u32,
    /// A range that came twice, to be reported (RFC 2883).
    duplicate: Option<(u64, u64)>,
    /// Largest payload of a segment.
    pub(super) mss: u32,
    /// `Last.ACK.sent` of RFC 7323.
    pub(super) acknowledged: u64,
    pub(super) due: Due,
    quick: u32,
    /// We answer what arrives: acknowledgements wait for the answer.
    answering: bool,
    /// When something arrived last.
    pub(super) last: Option<Instant>,
    /// `TS.Recent`, and when it was taken.
    pub(super) recent: (u32, Instant),
    /// Behind the urgent byte.
    urgent: u64,
}

impl Receiver {
    pub(super) fn new(now: Instant, size: u64, scale: u8) -> Self {
        Receiver {
            initial: 0,
            next: 0,
            read: 0,
            size,
            clamp: u64::MAX,
            scale,
            edge: 0,
            fin: None,
            ahead: Vec::new(),
            stamp: 0,
            duplicate: None,
            mss: 536,
            acknowledged: 0,
            due: Due::No,
            quick: QUICK,
            answering: false,
            last: None,
            recent: (0, now),
            urgent: 0,
        }
    }

    /// Sequence number of a position.
    #[inline]
    pub(super) fn sequence(&self, position: u64) -> u32 {
        self.initial.wrapping_add(1).wrapping_add(position as u32)
    }

    /// Where a sequence number lies, seen from [`Receiver::next`].
    #[inline]
    pub(super) fn offset(&self, sequence: u32) -> i64 {
        i64::from(sequence.wrapping_sub(self.sequence(self.next)) as i32)
    }

    /// Bytes that the peer may send.
    #[inline]
    pub(super) fn window(&self) -> u64 {
        self.edge.saturating_sub(self.next)
    }

    /// End of what can be read.
    pub(super) fn readable(&self) -> u64 {
        self.fin.map_or(self.next, |fin| self.next.min(fin))
    }

    /// Whether the peer has ended its direction.
    pub(super) fn finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Whether something has arrived ahead of a gap.
    pub(super) fn has_gap(&self) -> bool {
        !self.ahead.is_empty() || self.duplicate.is_some()
    }

    pub(super) fn set_clamp(&mut self, clamp: u32) {
        self.clamp = if clamp == 0 { u64::MAX } else { u64::from(clamp) };
    }

    /// What the window can be at most. It is rounded up to the scale's step when it is written into a header, and must
    /// lie within the buffer even so.
    fn most(&self) -> u64 {
        let step = 1 << self.scale;
        (self.size - (step - 1).min(self.size)).min(self.clamp.max(step)).min(0xffff << self.scale)
    }

    /// The right edge that there is room for, in steps of the scale.
    fn possible_edge(&self) -> u64 {
        let free = self.most().saturating_sub(self.readable() - self.read);
        self.next + (free >> self.scale << self.scale)
    }

    /// Takes the receive window's value for a header, and remembers what was told. `scale`: 0 in a SYN.
    ///
    /// The edge never moves back (RFC 9293 section 3.8.6), and forward only by as much as is worth it (section
    /// 3.8.6.2.2).
    pub(super) fn advertise(&mut self, scale: u8) -> u16 {
        let possible = self.possible_edge();
        let worth = u64::from(self.mss).min(self.most() / 2).max(1);
        let edge = if possible >= self.edge + worth { possible } else { self.edge };
        let open = edge.saturating_sub(self.next);
        let mut field = open.div_ceil(1 << scale);
        if self.next + (field << scale) > self.read + self.size {
            // Rounded up from ever new positions, the edge would creep out of the buffer while nobody reads. What was
            // told before is still accepted (RFC 7323 section 2.4).
            field = open >> scale;
        }
        let field = field.min(0xffff);
        self.edge = self.edge.max(self.next + (field << scale));
        field as u16
    }

    /// The program has read; returns whether the peer ought to be told, as Linux decides it: the window is less than half
    /// of what it can be, and can double.
    pub(super) fn read(&mut self, position: u64) -> bool {
        self.read = position.clamp(self.read, self.readable());
        let (now, possible) = (self.window(), self.possible_edge().saturating_sub(self.next));
        now * 2 <= self.most() && possible >= (now * 2).max(u64::from(self.mss).min(self.most() / 2))
    }

    /// Whether the peer may be about to run into the window's edge.
    pub(super) fn wants_read(&self) -> bool {
        self.fin.is_none() && self.window() * 2 <= self.most() && self.readable() > self.read
    }

    /// Bytes of the payload that are new, stored, and what can be read then. `position` is that of the payload's first
    /// byte, seen from [`Receiver::next`]; `fin`: the peer ends its direction behind it.
    pub(super) fn take(
        &mut self,
        now: Instant,
        offset: i64,
        payload: &[u8],
        fin: bool,
        mut store: impl FnMut(u64, &[u8]),
    ) -> Taken {
        // What lies before the window came before, what lies behind it is not for now.
        let old = offset.min(0).unsigned_abs().min(payload.len() as u64);
        if offset < 0 && (old > 0 || fin) {
            let start = self.next.saturating_sub(offset.unsigned_abs());
            if old > 0 {
                self.duplicate = Some((start, start + old));
            }
            self.due = Due::Now;
            if old as i64 + offset < 0 {
                // Nothing of it is new.
                return Taken::default();
            }
        }
        let start = (self.next as i64 + offset.max(0)) as u64;
        let limit = self.fin.unwrap_or(u64::MAX).min(self.edge.max(self.next));
        let fresh = &payload[old as usize..];
        let room = limit.saturating_sub(start).min(fresh.len() as u64) as usize;
        let whole = room == fresh.len();
        let fresh = &fresh[..room];
        let end = start + room as u64;
        if !whole {
            self.due = Due::Now;
        }
        if fin && whole && self.fin.is_none() && self.ahead.last().is_none_or(|last| last.end <= end) {
            self.fin = Some(end);
        }
        let before = self.next;
        if start > self.next {
            self.due = Due::Now;
            if room > 0 && self.keep_ahead(start, end) {
                store(start, fresh);
            }
        } else if room > 0 {
            store(start, fresh);
            self.next = end;
            if !self.ahead.is_empty() {
                // RFC 5681 section 4.2: what fills a gap is acknowledged at once.
                self.due = Due::Now;
                let next = &mut self.next;
                self.ahead.retain(|range| {
                    let reached = range.start <= *next;
                    if reached {
                        *next = (*next).max(range.end);
                    }
                    !reached
                });
            }
        }
        let in_order = self.next - before;
        let mut finished = false;
        if self.fin == Some(self.next) {
            self.next += 1;
            finished = true;
            self.due = Due::Now;
        }
        self.last = Some(now);
        Taken { in_order, finished }
    }

    /// Enters a range into the list; returns whether there is room for it.
    fn keep_ahead(&mut self, start: u64, end: u64) -> bool {
        let first = self.ahead.partition_point(|range| range.end < start);
        let behind = self.ahead.partition_point(|range| range.start <= end);
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        if first == behind {
            if self.ahead.len() == MAX_RANGES {
                return false;
            }
            self.ahead.insert(first, Ahead { start, end, stamp });
            return true;
        }
        let touched = &self.ahead[first..behind];
        if touched.iter().any(|range| range.start <= start && end <= range.end) {
            self.duplicate = Some((start, end));
        }
        let merged =
            Ahead { start: start.min(touched[0].start), end: end.max(touched[touched.len() - 1].end), stamp };
        self.ahead[first] = merged;
        self.ahead.drain(first + 1..behind);
        true
    }

    /// Decides when what has arrived is acknowledged (RFC 9293 section 3.8.6.3: every second full segment at least).
    pub(super) fn schedule(&mut self, now: Instant, always: bool) {
        if self.due == Due::Now {
            return;
        }
        let waiting = self.next - self.acknowledged;
        if waiting >= 2 * u64::from(self.mss) || always || (self.quick > 0 && !self.answering) {
            self.quick = self.quick.saturating_sub(1);
            self.due = Due::Now;
        } else if self.due == Due::No {
            self.due = Due::At(now + DELAY);
        }
    }

    /// The time of a delayed acknowledgement has come: no answer came with which it could have gone.
    pub(super) fn delay_over(&mut self) {
        if matches!(self.due, Due::At(_)) {
            self.due = Due::Now;
            self.answering = false;
        }
    }

    /// Data was sent: with it goes the acknowledgement.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answering |= self.last.is_some_and(|last| now.saturating_duration_since(last) < DELAY);
    }

    /// Nothing arrived for a time-out: the peer may be in slow start again.
    pub(super) fn requicken(&mut self) {
        self.quick = QUICK;
    }

    /// An acknowledgement is about to be sent.
    pub(super) fn acknowledge(&mut self) {
        self.due = Due::No;
        self.acknowledged = self.next;
    }

    /// The blocks to report (RFC 2018 section 4): a duplicate first, then the range that changed last, then the others
    /// by age.
    pub(super) fn blocks(&mut self, most: usize) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some((start, end)) = self.duplicate.take() {
            blocks.push((self.sequence(start), self.sequence(end)));
        }
        let mut below: Option<u32> = None;
        while blocks.as_slice().len() < most {
            let age = |range: &&Ahead| self.stamp.wrapping_sub(range.stamp);
            let next = self.ahead.iter().filter(|range| below.is_none_or(|below| age(range) > below));
            let Some(range) = next.min_by_key(age) else { break };
            below = Some(age(&range));
            blocks.push((self.sequence(range.start), self.sequence(range.end)));
        }
        blocks
    }

    /// An urgent pointer; returns the position if it is news.
    pub(super) fn urgent(&mut self, offset: i64, pointer: u16) -> Option<u64> {
        let position = self.next as i64 + offset + i64::from(pointer.max(1));
        let position = u64::try_from(position).ok()?;
        (position > self.urgent).then(|| {
            self.urgent = position;
            position
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stays_within_a_buffer_that_nobody_reads() {
        let now = crate::tests::epoch();
        for scale in [0, 7, 14] {
            let size = 16_384;
            let mut receiver = Receiver::new(now, size, scale);
            receiver.advertise(scale);
            while receiver.window() > 0 {
                let taken = receiver.take(now, 0, &[0; 3], false, |position, bytes| {
                    assert!(position + bytes.len() as u64 <= size, "{position} with scale {scale}");
                });
                assert!(taken.in_order > 0);
                receiver.advertise(scale);
                assert!(receiver.edge <= size, "{} with scale {scale}", receiver.edge);
            }
        }
    }
}
