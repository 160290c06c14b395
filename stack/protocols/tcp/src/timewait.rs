//! Connections in `TIME_WAIT`: a compact record each, for 60 s (RFC 9293 section 3.4.2; Linux's `TCP_TIMEWAIT_LEN`).

use crate::Flow;
use crate::segment::{Head, Segment};
use freena_stack_api::Slab;
use freena_wire::tcp::{self, flag};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const LENGTH: Duration = Duration::from_secs(60);

/// What is left of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    pub(crate) flow: Flow,
    pub(crate) send_next: u32,
    pub(crate) receive_next: u32,
    /// `TS.Recent`, where timestamps are in use.
    pub(crate) recent: Option<u32>,
    pub(crate) clock_offset: u32,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

#[derive(Debug)]
struct Entry {
    record: TimeWait,
    until: Instant,
    /// Tells a record from an earlier one in the same slot.
    serial: u64,
}

/// What to do with a segment for such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A new connection may begin: the record is to be forgotten, the initial number must be beyond this one.
    Reopen(u32),
    /// Acknowledge.
    Answer,
    /// Nothing.
    Ignore,
}

/// A record's place in the order of their ends.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: u32,
    serial: u64,
    due: Instant,
}

/// The records, oldest first in `order`.
#[derive(Debug)]
pub(crate) struct TimeWaits {
    entries: Slab<Entry>,
    order: VecDeque<Place>,
    serial: u64,
    most: usize,
}

impl TimeWaits {
    pub(crate) fn new(most: usize) -> Self {
        TimeWaits { entries: Slab::new(), order: VecDeque::new(), serial: 0, most: most.max(1) }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a record; returns its index, and what was forgotten to make room.
    pub(crate) fn insert(&mut self, now: Instant, record: TimeWait) -> (u32, Option<TimeWait>) {
        let forgotten = if self.entries.len() >= self.most { self.forget_oldest() } else { None };
        self.serial += 1;
        let index = self.entries.insert(Entry { record, until: now + LENGTH, serial: self.serial });
        self.order.push_back(Place { index, serial: self.serial, due: now + LENGTH });
        (index, forgotten)
    }

    /// The record at a place, unless it was removed.
    fn at(&self, place: &Place) -> Option<&Entry> {
        self.entries.get(place.index).filter(|entry| entry.serial == place.serial)
    }

    fn forget_oldest(&mut self) -> Option<TimeWait> {
        while let Some(place) = self.order.pop_front() {
            if self.at(&place).is_some() {
                return self.remove(place.index);
            }
        }
        None
    }

    /// Removes a record.
    pub(crate) fn remove(&mut self, index: u32) -> Option<TimeWait> {
        let entry = self.entries.remove(index)?;
        // The places of those that were removed early must not pile up.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            let lives = |place: &Place| entries.get(place.index).is_some_and(|it| it.serial == place.serial);
            self.order.retain(lives);
        }
        Some(entry.record)
    }

    /// When to look for records that are over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.front().map(|place| place.due)
    }

    /// Takes a record whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<TimeWait> {
        while let Some(place) = self.order.pop_front_if(|place| place.due <= now) {
            match self.at(&place).map(|entry| entry.until) {
                // Prolonged since.
                Some(until) if until > now => self.order.push_back(Place { due: until, ..place }),
                Some(_) => return self.remove(place.index),
                None => {}
            }
        }
        None
    }

    /// Whether a connection that we open may take the record's place; its initial number must be beyond this one. At once
    /// where timestamps tell old segments from new ones, as Linux has it for a port that the program has chosen
    /// (`tcp_twsk_unique`): port 20 of FTP. Other ports are not chosen again while the record is there.
    pub(crate) fn reuse(&self, index: u32) -> Option<u32> {
        let record = &self.entries.get(index)?.record;
        record.recent.is_some().then_some(record.send_next)
    }

    /// A segment for a connection in `TIME_WAIT`: RFC 9293 section 3.10.7.4, RFC 6191, RFC 1337.
    pub(crate) fn judge(&mut self, now: Instant, index: u32, segment: &Segment<'_>) -> Verdict {
        let Some(entry) = self.entries.get_mut(index) else { return Verdict::Ignore };
        let record = &entry.record;
        if segment.has(flag::RST) {
            // RFC 1337 section 3: a reset must not end this state.
            return Verdict::Ignore;
        }
        let newer = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
        if segment.has(flag::SYN) && !segment.has(flag::ACK) {
            // RFC 6191 section 2.
            let by_time = match (segment.options.timestamps, record.recent) {
                (Some((value, _)), Some(recent)) => newer(value, recent),
                _ => false,
            };
            return match by_time || newer(segment.sequence, record.receive_next.wrapping_sub(1)) {
                true => Verdict::Reopen(record.send_next),
                false => Verdict::Answer,
            };
        }
        if segment.has(flag::FIN) {
            entry.until = now + LENGTH;
            return Verdict::Answer;
        }
        // What the peer may have sent before it heard our last word.
        let silent = segment.len() == 0 && segment.sequence == record.receive_next;
        if silent { Verdict::Ignore } else { Verdict::Answer }
    }

    /// The acknowledgement that such a connection answers with.
    pub(crate) fn answer(&self, index: u32, clock: u32) -> Option<crate::Transmit> {
        let record = &self.entries.get(index)?.record;
        let timestamps = record.recent.map(|recent| (clock.wrapping_add(record.clock_offset), recent));
        let head = Head {
            sequence: record.send_next,
            acknowledgement: record.receive_next,
            flags: flag::ACK,
            window: 0xffff,
            urgent: 0,
            options: tcp::Options { timestamps, ..tcp::Options::default() },
        };
        Some(crate::Transmit { ttl: record.ttl, tos: record.tos, ..head.alone(record.flow) })
    }
}
