//! One alphabet of operations on a ring, run against a queue that cannot be wrong.

use super::heap::Heap;
use freena_shm_abi::record::{MAX_PAYLOAD, Record};
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor, REBASE_AT};
use freena_shm_ring::ring::Refused;
use freena_shm_ring::{Consumer, Producer};
use std::collections::VecDeque;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

/// A step of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Producer: reserve a record with this many payload bytes and fill it.
    Reserve(u32),
    /// Producer: begin a batch, where everything reserved is published.
    BeginBatch,
    /// Producer: publish everything reserved.
    Publish,
    /// Consumer: take a record.
    Next,
    /// Consumer: give back everything taken.
    Release,
    /// Consumer: go back to the n-th (modulo their number) of the places it may go back to.
    Rewind(u8),
}

/// The longest payload that [`parse`] asks for: beyond the limit, so that the limit is met.
pub const LONGEST: u32 = MAX_PAYLOAD as u32 + 200;

/// Reads a ring size and operations from arbitrary bytes; every input means something.
pub fn parse(bytes: &[u8]) -> (usize, Vec<Operation>) {
    let Some((&first, mut rest)) = bytes.split_first() else { return (128, Vec::new()) };
    let size = 128 << (first % 12);
    let mut operations = Vec::new();
    while let Some((&code, tail)) = rest.split_first() {
        rest = tail;
        operations.push(match code % 8 {
            0..=2 => {
                let Some((len, tail)) = rest.split_first_chunk::<2>() else { break };
                rest = tail;
                // The high bits of the code reach the lengths that two bytes do not.
                let len = u32::from(u16::from_le_bytes(*len)) + u32::from(code >> 3) * 7;
                Operation::Reserve(len.min(LONGEST))
            }
            3 if code & 0x80 != 0 => Operation::BeginBatch,
            3 => Operation::Publish,
            4 | 5 => Operation::Next,
            6 => Operation::Release,
            _ => Operation::Rewind(code >> 3),
        });
    }
    (size, operations)
}

/// Bytes without a period that a mistaken offset could hide in.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    // Under miri each byte costs microseconds, and its rings are small.
    std::iter::repeat_with(next).take(if cfg!(miri) { 4096 } else { LONGEST as usize + 4096 }).collect()
});

fn payload(number: u64, len: u32) -> &'static [u8] {
    let start = (number * 61 % 1024) as usize;
    &NOISE[start..start + len as usize]
}

/// A record as the reference knows it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    len: u32,
    /// Position behind it.
    end: u64,
}

impl Entry {
    /// Every field that is not the ring's own carries something that depends on the number.
    fn record(&self) -> Record {
        Record {
            len: self.len,
            peer_port: self.number as u16,
            ifindex: self.number as u32,
            timestamp: self.number,
            local: [self.number as u8; 16],
            ..Record::default()
        }
    }
}

/// Runs `operations` on a new ring of `size` bytes and on the reference.
///
/// # Panics
/// If they differ.
pub fn run(size: usize, operations: &[Operation]) {
    let heap = Heap::new(size);
    let (mut tail, mut head) = (ProducerCursor::default(), ConsumerCursor::default());
    let mut producer = Producer::new(heap.channel(), &mut tail);
    let mut consumer = Consumer::new(heap.channel(), &mut head);
    let size = size as u64;

    let mut number = 0;
    // Records by where they are: reserved, published, taken. Positions: end of the reserved, published, released.
    let (mut reserved, mut published, mut taken) =
        (Vec::<Entry>::new(), VecDeque::<Entry>::new(), Vec::<Entry>::new());
    let (mut end, mut published_end, mut released) = (0_u64, 0_u64, 0_u64);
    // Position of the byte at the start of the ring.
    let mut base = 0_u64;

    for &operation in operations {
        match operation {
            Operation::BeginBatch => {
                if reserved.is_empty() {
                    producer.begin_batch();
                    if end == released && (end - base) % size >= REBASE_AT {
                        base = end;
                    }
                }
            }
            Operation::Reserve(len) => {
                let need = 64 + u64::from(len).div_ceil(64) * 64;
                let left = size - (end - base) % size;
                let pad = if left < need { left } else { 0 };
                let expected = if len as usize > MAX_PAYLOAD || need * 2 > size {
                    Err(Refused::TooLong)
                } else if end - released + pad + need > size {
                    Err(Refused::Full)
                } else {
                    Ok(len as usize)
                };
                let entry = Entry { number, len, end: end + pad + need };
                let mut slot = producer.reserve(&entry.record());
                assert_eq!(slot.as_ref().map(|slot| slot.len()).map_err(|why| *why), expected);
                if let Ok(slot) = &mut slot {
                    // In two parts, for the offset.
                    let (front, back) = payload(number, len).split_at(len as usize / 3);
                    slot.write(front.len(), back);
                    slot.write(0, front);
                    reserved.push(entry);
                    number += 1;
                    end = entry.end;
                }
            }
            Operation::Publish => {
                producer.publish();
                published.extend(reserved.drain(..));
                published_end = end;
            }
            Operation::Next => {
                let message = consumer.next().expect("both sides are honest");
                let expected = published.pop_front();
                assert_eq!(message.map(|m| (m.record, m.end)), expected.map(|e| (e.record(), e.end)));
                if let (Some(message), Some(entry)) = (message, expected) {
                    let mut bytes = vec![0; entry.len as usize];
                    let (front, back) = bytes.split_at_mut(entry.len as usize / 2);
                    message.read(0, front);
                    message.read(front.len(), back);
                    assert!(
                        bytes == payload(entry.number, entry.len),
                        "payload of record {} changed",
                        entry.number
                    );
                    taken.push(entry);
                }
            }
            Operation::Release => {
                consumer.release();
                released = taken.drain(..).next_back().map_or(released, |entry| entry.end);
            }
            Operation::Rewind(choice) => {
                let keep = usize::from(choice) % (taken.len() + 1);
                consumer.rewind(if keep == 0 { released } else { taken[keep - 1].end });
                for entry in taken.drain(keep..).rev() {
                    published.push_front(entry);
                }
            }
        }
        assert_eq!(heap.tail.load(Ordering::Relaxed), published_end);
        assert_eq!(heap.head.load(Ordering::Relaxed), released);
        assert_eq!(heap.base.load(Ordering::Relaxed), base);
    }
}
