//! The sending half: blocks of messages, and their repairs.

use crate::adapt::Loss;
use crate::wire::{LENGTH, MAX_BLOCK, MAX_REPAIRS, Repair, Report, write_repair};
use freena_service_api::NEVER;
use reed_solomon_simd::ReedSolomonEncoder;

pub(crate) struct Sender {
    block: usize,
    preset: usize,
    adaptive: bool,
    delay: u64,
    loss: Loss,
    next: u32,
    /// Messages of the block, each with its length before it; the memory is used again.
    shards: Vec<Vec<u8>>,
    filled: usize,
    first: u32,
    due: u64,
    encoder: Option<ReedSolomonEncoder>,
    /// Repairs that are ready, and how many of them have gone.
    ready: Vec<Vec<u8>>,
    ready_block: (u32, usize, usize),
    gone: usize,
    pub(crate) sent: u64,
    pub(crate) repaired: u64,
    pub(crate) message_bytes: u64,
    pub(crate) repair_bytes: u64,
}

impl Sender {
    pub(crate) fn new(block: usize, preset: usize, adaptive: bool, delay: u64, first: u32) -> Self {
        Self {
            block,
            preset,
            adaptive,
            delay,
            loss: Loss::default(),
            next: first,
            shards: vec![Vec::new(); block.min(MAX_BLOCK)],
            filled: 0,
            first: 0,
            due: NEVER,
            encoder: None,
            ready: vec![Vec::new(); MAX_REPAIRS],
            ready_block: (0, 0, 0),
            gone: 0,
            sent: 0,
            repaired: 0,
            message_bytes: 0,
            repair_bytes: 0,
        }
    }

    /// Repairs for each block now.
    pub(crate) fn repairs(&self) -> usize {
        if !self.adaptive {
            return self.preset;
        }
        self.loss.repairs(self.block).unwrap_or(self.preset)
    }

    pub(crate) fn loss_millionths(&self) -> u64 {
        (self.loss.average().unwrap_or(0.0) * 1e6) as u64
    }

    /// A message goes; its number.
    pub(crate) fn add(&mut self, now: u64, message: &[u8]) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.sent += 1;
        self.message_bytes += message.len() as u64;
        if self.filled == 0 {
            self.first = number;
            self.due = now.saturating_add(self.delay);
        }
        if let (Some(shard), Ok(length)) = (self.shards.get_mut(self.filled), u16::try_from(message.len())) {
            shard.clear();
            shard.extend(length.to_be_bytes());
            shard.extend_from_slice(message);
            self.filled += 1;
        }
        if self.filled == self.block {
            self.finish();
        }
        number
    }

    pub(crate) fn heard(&mut self, report: Report) {
        self.loss.heard(report);
    }

    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    pub(crate) fn timer(&mut self, now: u64) {
        if now >= self.due {
            self.finish();
        }
    }

    /// Makes the repairs of the block. Those of the last one that have not gone by now are too late.
    fn finish(&mut self) {
        let (messages, repairs) = (self.filled, self.repairs().min(MAX_REPAIRS));
        (self.filled, self.due, self.gone) = (0, NEVER, 0);
        self.ready_block = (self.first, messages, 0);
        if messages == 0 || repairs == 0 {
            return;
        }
        let longest =
            self.shards[..messages].iter().map(Vec::len).max().unwrap_or(LENGTH).next_multiple_of(2);
        self.shards[..messages].iter_mut().for_each(|shard| shard.resize(longest, 0));
        if self.encode(messages, repairs, longest).is_ok() {
            self.ready_block = (self.first, messages, repairs);
        }
    }

    fn encode(
        &mut self,
        messages: usize,
        repairs: usize,
        length: usize,
    ) -> Result<(), reed_solomon_simd::Error> {
        let encoder = match &mut self.encoder {
            Some(encoder) => {
                encoder.reset(messages, repairs, length)?;
                encoder
            }
            none => none.insert(ReedSolomonEncoder::new(messages, repairs, length)?),
        };
        for shard in &self.shards[..messages] {
            encoder.add_original_shard(shard)?;
        }
        for (ready, made) in self.ready.iter_mut().zip(encoder.encode()?.recovery_iter()) {
            ready.clear();
            ready.extend_from_slice(made);
        }
        Ok(())
    }

    pub(crate) fn has_repairs(&self) -> bool {
        self.gone < self.ready_block.2
    }

    /// Writes the next repair, and tells its length; 0 if there is none.
    pub(crate) fn repair(&mut self, out: &mut [u8]) -> usize {
        let (first, messages, repairs) = self.ready_block;
        if self.gone >= repairs {
            return 0;
        }
        let repair = Repair { first, messages, repairs, index: self.gone, shard: &self.ready[self.gone] };
        self.gone += 1;
        let length = write_repair(&repair, out).unwrap_or(0);
        self.repaired += u64::from(length > 0);
        self.repair_bytes += length as u64;
        length
    }
}
