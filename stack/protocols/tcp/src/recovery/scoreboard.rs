//! What is in flight: one record for each range of bytes that was sent at one time and has one fate.
//!
//! A super-packet is one record until a selective acknowledgement or a loss cuts it up, and neighbours that are
//! acknowledged selectively become one again; so there are about as many records as packets and holes, not segments.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

/// A range that was sent. Positions; the FIN is one behind the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When it was sent last.
    pub(crate) at: Instant,
    /// Acknowledged selectively.
    pub(crate) sacked: bool,
    /// Taken for lost, and not sent again since.
    pub(crate) lost: bool,
    /// Sent more than once.
    pub(crate) again: bool,
}

impl Sent {
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The records, without gaps between them.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    records: VecDeque<Sent>,
    sacked: u64,
    lost: u64,
    /// No lost record starts before it.
    first_lost: u64,
    /// End of the highest range that was sent again.
    again_end: u64,
}

impl Scoreboard {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes acknowledged selectively.
    #[inline]
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Bytes that wait to be sent again.
    #[inline]
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes in the network, as RFC 6675 section 4 (`SetPipe`) counts them.
    #[inline]
    pub(crate) fn pipe(&self) -> u64 {
        match (self.records.front(), self.records.back()) {
            (Some(first), Some(last)) => last.end - first.start - self.sacked - self.lost,
            _ => 0,
        }
    }

    /// The lowest record.
    pub(crate) fn front(&self) -> Option<&Sent> {
        self.records.front()
    }

    /// The highest record.
    pub(crate) fn back(&self) -> Option<&Sent> {
        self.records.back()
    }

    /// Whether [`Scoreboard::detect`] could find anything.
    #[inline]
    pub(crate) fn is_in_order(&self) -> bool {
        self.sacked == 0 && self.records.front().is_none_or(|front| front.start >= self.again_end)
    }

    /// Something new was sent.
    pub(crate) fn push(&mut self, range: Range<u64>, at: Instant) {
        debug_assert!(self.records.back().is_none_or(|last| last.end == range.start));
        let Range { start, end } = range;
        self.records.push_back(Sent { start, end, at, sacked: false, lost: false, again: false });
    }

    /// Everything before `position` has arrived; `delivered` is told of what was not known to have.
    pub(crate) fn acknowledge(&mut self, position: u64, mut delivered: impl FnMut(Sent)) {
        while let Some(front) = self.records.front_mut() {
            if front.start >= position {
                break;
            }
            let part = Sent { end: front.end.min(position), ..*front };
            if part.sacked {
                self.sacked -= part.len();
            } else {
                if part.lost {
                    self.lost -= part.len();
                }
                delivered(part);
            }
            if part.end == front.end {
                self.records.pop_front();
            } else {
                front.start = part.end;
            }
        }
    }

    /// A block of a selective acknowledgement; `delivered` is told of what was not known to have arrived.
    pub(crate) fn sack(&mut self, block: Range<u64>, mut delivered: impl FnMut(Sent)) {
        let Range { start, end } = block;
        let mut index = self.records.partition_point(|record| record.end <= start);
        while let Some(&record) = self.records.get(index) {
            if record.start >= end {
                break;
            }
            if record.sacked {
                index += 1;
                continue;
            }
            if record.start < start {
                self.split(index, start);
                index += 1;
            }
            if record.end > end {
                self.split(index, end);
            }
            let part = &mut self.records[index];
            self.sacked += part.len();
            if part.lost {
                self.lost -= part.len();
            }
            let was = *part;
            (part.sacked, part.lost) = (true, false);
            delivered(was);
            index = self.merge(index) + 1;
        }
    }

    /// Makes one record of a selectively acknowledged one and its neighbours of the same kind; returns its index.
    fn merge(&mut self, mut index: usize) -> usize {
        if let Some(next) = self.records.get(index + 1).copied().filter(|next| next.sacked) {
            self.records[index].end = next.end;
            self.records.remove(index + 1);
        }
        if index > 0 && self.records[index - 1].sacked {
            self.records[index - 1].end = self.records[index].end;
            self.records.remove(index);
            index -= 1;
        }
        index
    }

    /// Cuts a record in two at `position`, which lies within it.
    fn split(&mut self, index: usize, position: u64) {
        let record = &mut self.records[index];
        let rest = Sent { start: position, ..*record };
        record.end = position;
        self.records.insert(index + 1, rest);
    }

    /// Asks of every record that is in the network whether it is lost; `None` ends the search. `limit` is a position
    /// behind which nothing was sent again.
    pub(crate) fn detect(&mut self, mut is_lost: impl FnMut(&Sent, bool) -> Option<bool>) -> u64 {
        let again_end = self.again_end;
        let mut found = 0;
        let mut first = None;
        for record in &mut self.records {
            if record.sacked || record.lost {
                continue;
            }
            match is_lost(record, record.start >= again_end) {
                None => break,
                Some(false) => {}
                Some(true) => {
                    record.lost = true;
                    found += record.len();
                    first.get_or_insert(record.start);
                }
            }
        }
        if let Some(first) = first {
            self.first_lost = if self.lost == 0 { first } else { self.first_lost.min(first) };
            self.lost += found;
        }
        found
    }

    /// Takes the first `len` bytes for lost, where they are in the network (RFC 6582: without SACK only the first
    /// segment is known to be missing).
    pub(crate) fn lose_front(&mut self, len: u64) -> u64 {
        let Some(front) = self.records.front().copied() else { return 0 };
        if front.sacked || front.lost {
            return 0;
        }
        if front.len() > len {
            self.split(0, front.start + len);
        }
        let front = &mut self.records[0];
        front.lost = true;
        let found = front.len();
        self.first_lost = front.start;
        self.lost += found;
        found
    }

    /// Nothing is taken for lost any more: the time-out or the loss was a mistake.
    pub(crate) fn unlose(&mut self) {
        self.records.iter_mut().for_each(|record| record.lost = false);
        self.lost = 0;
    }

    /// The peer may have dropped what it had acknowledged selectively (RFC 2018 section 8).
    pub(crate) fn renege(&mut self) {
        self.records.iter_mut().for_each(|record| record.sacked = false);
        self.sacked = 0;
    }

    /// The first contiguous range, of at most `most` bytes, that waits to be sent again.
    pub(crate) fn next_lost(&self, most: u64) -> Option<Range<u64>> {
        if self.lost == 0 {
            return None;
        }
        let from = self.records.partition_point(|record| record.end <= self.first_lost);
        let mut range: Option<Range<u64>> = None;
        for record in self.records.range(from..) {
            match &mut range {
                None if record.lost => range = Some(record.start..record.end),
                None => {}
                Some(range) if record.lost && range.end - range.start < most => range.end = record.end,
                Some(_) => break,
            }
        }
        range.map(|range| range.start..range.end.min(range.start + most))
    }

    /// A range was sent again.
    pub(crate) fn resent(&mut self, range: Range<u64>, at: Instant) {
        let Range { start, end } = range;
        let mut index = self.records.partition_point(|record| record.end <= start);
        if self.records.get(index).is_some_and(|record| record.start < start) {
            self.split(index, start);
            index += 1;
        }
        while let Some(&record) = self.records.get(index) {
            if record.start >= end {
                break;
            }
            if record.end > end {
                self.split(index, end);
            }
            let record = &mut self.records[index];
            if record.lost {
                self.lost -= record.len();
            }
            (record.lost, record.again, record.at) = (false, true, at);
            index += 1;
        }
        self.again_end = self.again_end.max(end);
        if start <= self.first_lost {
            self.first_lost = end;
        }
    }

    /// Whether the bytes from `start` on were sent again.
    pub(crate) fn was_resent(&self, start: u64) -> bool {
        let index = self.records.partition_point(|record| record.end <= start);
        self.records.get(index).is_some_and(|record| record.again)
    }

    /// Checks what must always hold.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        let mut last: Option<Sent> = None;
        let (mut sacked, mut lost) = (0, 0);
        for record in &self.records {
            assert!(record.start < record.end, "{record:?} is empty");
            assert!(last.is_none_or(|last| last.end == record.start), "a gap before {record:?}");
            assert!(!(record.sacked && record.lost), "{record:?}");
            assert!(
                !record.lost || record.start >= self.first_lost || record.end > self.first_lost,
                "{record:?}"
            );
            sacked += if record.sacked { record.len() } else { 0 };
            lost += if record.lost { record.len() } else { 0 };
            last = Some(*record);
        }
        assert_eq!((sacked, lost), (self.sacked, self.lost));
    }
}
