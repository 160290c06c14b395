//! The receiving half: what has arrived, what can be restored, what is missed.

use crate::wire::{LENGTH, MAX_BLOCK, MAX_REPAIRS, Repair, Report, write_report};
use freena_service_api::NEVER;
use reed_solomon_simd::ReedSolomonDecoder;

/// Messages that are remembered.
const MESSAGES: usize = 512;
/// Repairs that are remembered.
const REPAIRS: usize = 128;
/// How often the peer is told, in nanoseconds.
const REPORT_EVERY: u64 = 1_000_000_000;
/// Most restored messages that wait for the program; blocks are no longer than this.
const WAITING: usize = MAX_BLOCK;

#[derive(Clone, Default)]
struct Message {
    number: Option<u32>,
    /// With its length before it, as in a block; the memory is used again.
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Kept {
    /// First message, messages, repairs, index; `None` when it is not needed any more.
    block: Option<(u32, usize, usize, usize)>,
    shard: Vec<u8>,
}

pub(crate) struct Receiver {
    messages: Vec<Message>,
    repairs: Vec<Kept>,
    next_repair: usize,
    decoder: Option<ReedSolomonDecoder>,
    waiting: Vec<u32>,
    newest: Option<u32>,
    /// Of this report's time.
    expected: u32,
    arrived: u32,
    report_due: u64,
    total_expected: u64,
    pub(crate) received: u64,
    pub(crate) restored_count: u64,
    pub(crate) doubled: u64,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            messages: vec![Message::default(); MESSAGES],
            repairs: vec![Kept::default(); REPAIRS],
            next_repair: 0,
            decoder: None,
            waiting: Vec::with_capacity(WAITING),
            newest: None,
            expected: 0,
            arrived: 0,
            report_due: NEVER,
            total_expected: 0,
            received: 0,
            restored_count: 0,
            doubled: 0,
        }
    }

    fn slot(&mut self, number: u32) -> &mut Message {
        &mut self.messages[number as usize % MESSAGES]
    }

    fn has(&self, number: u32) -> bool {
        self.messages[number as usize % MESSAGES].number == Some(number)
    }

    /// A message has arrived; whether it is new.
    pub(crate) fn source(&mut self, now: u64, number: u32, body: &[u8]) -> bool {
        self.received += 1;
        self.count(now, number);
        // Too old to tell: it is passed on, as a late datagram would be without this service.
        let behind = self.newest.map_or(0, |newest| newest.wrapping_sub(number));
        if (behind as usize) >= MESSAGES && behind < u32::MAX / 2 {
            return true;
        }
        if self.has(number) {
            self.doubled += 1;
            return false;
        }
        let Ok(length) = u16::try_from(body.len()) else { return true };
        let slot = self.slot(number);
        slot.number = Some(number);
        slot.bytes.clear();
        slot.bytes.extend(length.to_be_bytes());
        slot.bytes.extend_from_slice(body);
        let covering = |it: &Kept| {
            it.block.filter(|(first, messages, ..)| (number.wrapping_sub(*first) as usize) < *messages)
        };
        if let Some((first, messages, repairs, _)) = self.repairs.iter().find_map(covering) {
            self.restore(first, messages, repairs);
        }
        true
    }

    fn count(&mut self, now: u64, number: u32) {
        let ahead = match self.newest {
            None => 1,
            Some(newest) => number.wrapping_sub(newest),
        };
        if self.report_due == NEVER {
            self.report_due = now.saturating_add(REPORT_EVERY);
        }
        // A jump that loss cannot explain: the peer has begun anew.
        if ahead < u32::MAX / 2 {
            let ahead = if ahead > 1_000_000 { 1 } else { ahead };
            self.newest = Some(number);
            self.expected = self.expected.saturating_add(ahead);
            self.total_expected += u64::from(ahead);
        }
        self.arrived = self.arrived.saturating_add(1);
    }

    /// A repair has arrived.
    pub(crate) fn repair(&mut self, it: &Repair<'_>) {
        let block = (it.first, it.messages, it.repairs, it.index);
        let complete = (0..it.messages).all(|at| self.has(it.first.wrapping_add(at as u32)));
        if complete || self.repairs.iter().any(|kept| kept.block == Some(block)) {
            return;
        }
        let kept = &mut self.repairs[self.next_repair];
        self.next_repair = (self.next_repair + 1) % REPAIRS;
        kept.block = Some(block);
        kept.shard.clear();
        kept.shard.extend_from_slice(it.shard);
        self.restore(it.first, it.messages, it.repairs);
    }

    /// Restores what is missing of a block, if enough of it is there.
    fn restore(&mut self, first: u32, messages: usize, repairs: usize) {
        let number = |at: usize| first.wrapping_add(at as u32);
        let there = (0..messages).filter(|at| self.has(number(*at))).count();
        let mine =
            |it: &&Kept| matches!(it.block, Some((f, m, r, _)) if (f, m, r) == (first, messages, repairs));
        let kept = self.repairs.iter().filter(mine).count();
        if there < messages && there + kept < messages {
            return;
        }
        if there < messages && self.decode(first, messages, repairs).is_none() {
            return;
        }
        for it in &mut self.repairs {
            if matches!(it.block, Some((f, ..)) if f == first) {
                it.block = None;
            }
        }
    }

    fn decode(&mut self, first: u32, messages: usize, repairs: usize) -> Option<()> {
        let mine =
            |it: &&Kept| matches!(it.block, Some((f, m, r, _)) if (f, m, r) == (first, messages, repairs));
        let length = self.repairs.iter().find(mine)?.shard.len();
        let decoder = match &mut self.decoder {
            Some(decoder) => {
                decoder.reset(messages, repairs, length).ok()?;
                decoder
            }
            none => none.insert(ReedSolomonDecoder::new(messages, repairs, length).ok()?),
        };
        for at in 0..messages {
            let number = first.wrapping_add(at as u32);
            let slot = &mut self.messages[number as usize % MESSAGES];
            if slot.number == Some(number) {
                // One that is longer than the repair cannot be of its block.
                if slot.bytes.len() > length {
                    return None;
                }
                slot.bytes.resize(length, 0);
                decoder.add_original_shard(at, &slot.bytes).ok()?;
            }
        }
        for it in self.repairs.iter().filter(mine).filter(|it| it.shard.len() == length) {
            let (.., index) = it.block?;
            decoder.add_recovery_shard(index, &it.shard).ok()?;
        }
        let result = decoder.decode().ok()?;
        for (at, shard) in result.restored_original_iter() {
            let number = first.wrapping_add(at as u32);
            let length = shard.get(..LENGTH).map(|it| usize::from(u16::from_be_bytes([it[0], it[1]])));
            let length = length.filter(|length| LENGTH + length <= shard.len());
            let slot = &mut self.messages[number as usize % MESSAGES];
            if length.is_none() || self.waiting.len() >= WAITING {
                continue;
            }
            slot.number = Some(number);
            slot.bytes.clear();
            slot.bytes.extend_from_slice(shard);
            self.waiting.push(number);
            self.restored_count += 1;
        }
        Some(())
    }

    pub(crate) fn has_restored(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes the next restored message, and tells its length.
    pub(crate) fn restored(&mut self, out: &mut [u8]) -> Option<usize> {
        while !self.waiting.is_empty() {
            let number = self.waiting.remove(0);
            let slot = &self.messages[number as usize % MESSAGES];
            if slot.number != Some(number) {
                continue;
            }
            let length = usize::from(u16::from_be_bytes([slot.bytes[0], slot.bytes[1]]));
            out.get_mut(..length)?.copy_from_slice(slot.bytes.get(LENGTH..LENGTH + length)?);
            return Some(length);
        }
        None
    }

    pub(crate) fn has_report(&self, now: u64) -> bool {
        now >= self.report_due
    }

    pub(crate) fn due(&self) -> u64 {
        self.report_due
    }

    /// Writes a report if it is time, and tells its length.
    pub(crate) fn report(&mut self, now: u64, out: &mut [u8]) -> usize {
        if !self.has_report(now) {
            return 0;
        }
        let report = Report { expected: self.expected, received: self.arrived.min(self.expected) };
        (self.expected, self.arrived, self.report_due) = (0, 0, NEVER);
        write_report(report, out).unwrap_or(0)
    }

    /// Messages that have not arrived by themselves.
    pub(crate) fn missed(&self) -> u64 {
        (self.total_expected + self.doubled).saturating_sub(self.received)
    }
}

const _: () = assert!(MAX_REPAIRS < REPAIRS && MAX_BLOCK < MESSAGES / 4);
