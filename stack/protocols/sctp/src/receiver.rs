//! What has arrived: sequence numbers, gaps, the window, when to acknowledge. RFC 9260 sections 6.2, 6.6 and 6.9.
//!
//! A program sees one stream of bytes: the user data of all chunks in the order of their sequence numbers, which is the order
//! in which the peer sent them. The fragments of a message are neighbours in it, so that there is nothing to put together.
//! What arrives ahead of a gap is kept here, since where its bytes belong is known only when the gap is filled.

use crate::sender::extend;
use crate::wire;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Section 6.2: an acknowledgement may wait for so long.
const DELAY: Duration = Duration::from_millis(200);
/// Most gap blocks told, and duplicates.
const MAX_BLOCKS: usize = 64;
const MAX_DUPLICATES: usize = 16;
/// What a chunk that is kept costs beside its bytes, when it is counted against the window.
const OVERHEAD: u64 = 64;

/// What has become of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its bytes are next: the caller stores them.
    Next,
    /// It is kept, or was known.
    Kept,
    /// There is no room for it.
    NoRoom,
}

/// The receiving half of an association.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// The last sequence number before the first gap.
    cumulative: u64,
    /// Bytes that have arrived in order.
    pub(crate) received: u64,
    /// Bytes that the program has read.
    pub(crate) read: u64,
    /// Size of the buffer.
    buffer: u64,
    /// `SO_RCVBUF`, 0 for none.
    pub(crate) clamp: u64,
    kept: BTreeMap<u64, Box<[u8]>>,
    kept_bytes: u64,
    /// The sequence numbers of those, joined.
    ranges: Vec<Range<u64>>,
    duplicates: Vec<u32>,
    /// Packets with data since the last acknowledgement.
    packets: u32,
    /// When an acknowledgement must be sent at the latest, and whether that is now.
    pub(crate) due: Option<Instant>,
    pub(crate) at_once: bool,
    /// The end of the window as it was told.
    told: u64,
    /// The largest chunk seen.
    pub(crate) largest: u16,
    pub(crate) chunks: u64,
}

impl Receiver {
    /// `sequence`: the peer's initial one.
    pub(crate) fn new(sequence: u32, buffer: u64) -> Self {
        Receiver {
            cumulative: (1 << 32) + u64::from(sequence) - 1,
            received: 0,
            read: 0,
            buffer,
            clamp: 0,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            ranges: Vec::new(),
            duplicates: Vec::new(),
            packets: 0,
            due: None,
            at_once: false,
            told: 0,
            largest: 0,
            chunks: 0,
        }
    }

    /// What the peer may send.
    pub(crate) fn window(&self) -> u64 {
        let size = if self.clamp == 0 { self.buffer } else { self.buffer.min(self.clamp) };
        size.saturating_sub(self.received - self.read + self.kept_bytes)
    }

    /// Where a chunk belongs.
    pub(crate) fn take(&mut self, sequence: u32, bytes: &[u8]) -> Verdict {
        let at = extend(self.cumulative, sequence);
        let length = bytes.len() as u64;
        if at <= self.cumulative || self.kept.contains_key(&at) {
            if self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(sequence);
            }
            self.at_once = true;
            return Verdict::Kept;
        }
        let used = self.received - self.read + self.kept_bytes;
        if at == self.cumulative + 1 {
            if self.received - self.read + length > self.buffer {
                self.at_once = true;
                return Verdict::NoRoom;
            }
            // What is kept gives way: it was never acknowledged for good.
            while self.received - self.read + self.kept_bytes + length > self.buffer && self.drop_last() {}
            self.note(length);
            self.cumulative = at;
            self.received += length;
            return Verdict::Next;
        }
        self.at_once = true;
        // Gap blocks reach no further than 16 bits.
        if used + length + OVERHEAD > self.buffer || at - self.cumulative > u64::from(u16::MAX) {
            return Verdict::NoRoom;
        }
        self.note(length);
        self.kept_bytes += length + OVERHEAD;
        self.kept.insert(at, bytes.into());
        self.mark(at);
        Verdict::Kept
    }

    fn note(&mut self, length: u64) {
        self.chunks += 1;
        self.largest = self.largest.max(length as u16);
    }

    /// What was kept and is next now: its position and bytes.
    pub(crate) fn pop(&mut self) -> Option<(u64, Box<[u8]>)> {
        let next = self.cumulative + 1;
        let bytes = self.kept.remove(&next)?;
        self.kept_bytes -= bytes.len() as u64 + OVERHEAD;
        self.cumulative = next;
        let position = self.received;
        self.received += bytes.len() as u64;
        match self.ranges.first_mut() {
            Some(first) if first.end == next + 1 => drop(self.ranges.remove(0)),
            Some(first) => first.start = next + 1,
            None => {}
        }
        Some((position, bytes))
    }

    fn mark(&mut self, at: u64) {
        let place = self.ranges.partition_point(|range| range.end < at);
        match self.ranges.get_mut(place) {
            Some(range) if range.end == at => {
                range.end += 1;
                if let Some(next) = self.ranges.get(place + 1).filter(|next| next.start == at + 1) {
                    self.ranges[place].end = next.end;
                    self.ranges.remove(place + 1);
                }
            }
            Some(range) if range.start == at + 1 => range.start = at,
            _ => self.ranges.insert(place, at..at + 1),
        }
    }

    fn drop_last(&mut self) -> bool {
        let Some((at, bytes)) = self.kept.pop_last() else { return false };
        self.kept_bytes -= bytes.len() as u64 + OVERHEAD;
        if let Some(last) = self.ranges.last_mut() {
            last.end = at;
            if last.start == last.end {
                self.ranges.pop();
            }
        }
        true
    }

    /// A packet with data has been taken: section 6.2, an acknowledgement for every second one. `immediate`: the peer asks
    /// for it.
    pub(crate) fn packet(&mut self, now: Instant, immediate: bool) {
        self.packets += 1;
        if self.packets >= 2 || immediate || !self.ranges.is_empty() {
            self.at_once = true;
        }
        self.due.get_or_insert(now + DELAY);
    }

    /// Whether there is something to acknowledge.
    pub(crate) fn owes(&self) -> bool {
        self.at_once || self.due.is_some()
    }

    /// Whether the peer will soon wait for more window than it was told.
    pub(crate) fn is_narrow(&self) -> bool {
        self.told.saturating_sub(self.received) < self.buffer / 2
    }

    /// The program has read: the window may open by enough to tell it.
    pub(crate) fn has_read(&mut self, position: u64) {
        self.read = position;
        let edge = self.received + self.window();
        if self.is_narrow() && edge.saturating_sub(self.told) >= self.buffer / 4 {
            self.at_once = true;
        }
    }

    /// The last sequence number before the first gap.
    pub(crate) fn cumulative(&self) -> u32 {
        self.cumulative as u32
    }

    /// Writes an acknowledgement.
    pub(crate) fn acknowledge(&mut self, to: &mut Vec<u8>) {
        let window = self.window().min(u32::MAX.into());
        let ranges = &self.ranges[..self.ranges.len().min(MAX_BLOCKS)];
        wire::put_sack(to, self.cumulative, window as u32, ranges, &self.duplicates);
        self.told = self.received + window;
        self.duplicates.clear();
        self.packets = 0;
        self.due = None;
        self.at_once = false;
    }

    /// The window was told in a handshake.
    pub(crate) fn has_told(&mut self, window: u64) {
        self.told = self.received + window;
    }
}

#[cfg(test)]
// A list of one range is what is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    /// The ranges that an acknowledgement would tell, as distances from the first sequence number.
    fn ranges(receiver: &Receiver) -> Vec<Range<u64>> {
        let base = (1 << 32) + 10;
        receiver.ranges.iter().map(|range| range.start - base..range.end - base).collect()
    }

    #[test]
    fn gaps_are_joined_and_filled_in_order() {
        let mut receiver = Receiver::new(10, 10_000);
        for at in [2, 4, 3, 8, 6] {
            assert_eq!(receiver.take(10 + at, &[at as u8; 10]), Verdict::Kept);
        }
        assert_eq!(ranges(&receiver), [2..5, 6..7, 8..9]);
        assert_eq!(receiver.take(12, &[0; 10]), Verdict::Kept);
        assert_eq!(receiver.duplicates, [12]);
        for at in [0, 1] {
            assert_eq!(receiver.take(10 + at, &[at as u8; 10]), Verdict::Next);
        }
        for (position, at) in [(20, 2), (30, 3), (40, 4)] {
            assert_eq!(receiver.pop(), Some((position, vec![at; 10].into())));
        }
        assert_eq!(receiver.pop(), None);
        assert_eq!((ranges(&receiver), receiver.received), (vec![6..7, 8..9], 50));
        assert_eq!(receiver.cumulative(), 14);
    }

    #[test]
    fn what_is_next_takes_the_room_of_what_is_kept() {
        let mut receiver = Receiver::new(10, 1000);
        assert_eq!(receiver.take(12, &[0; 400]), Verdict::Kept);
        assert_eq!(receiver.take(13, &[0; 400]), Verdict::Kept);
        assert_eq!(receiver.take(14, &[0; 400]), Verdict::NoRoom);
        assert_eq!(receiver.take(10, &[0; 500]), Verdict::Next);
        assert_eq!((ranges(&receiver), receiver.window()), (vec![2..3], 36));
        assert_eq!(receiver.take(11, &[0; 600]), Verdict::NoRoom);
        receiver.has_read(500);
        assert_eq!(receiver.take(11, &[0; 500]), Verdict::Next);
        assert_eq!(receiver.pop().map(|(position, _)| position), Some(1000));
    }
}
