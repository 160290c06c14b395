//! The other side writes what it likes.
#![cfg(not(loom))]

mod support;

use freena_shm_abi::record::{MAX_PAYLOAD, Record, flags};
use freena_shm_ring::cursor::{ConsumerCursor, Corrupt, ProducerCursor};
use freena_shm_ring::ring::Refused;
use freena_shm_ring::{Consumer, Producer};
use std::sync::atomic::Ordering;
use support::heap::Heap;
use zerocopy::IntoBytes;

const SIZE: u64 = 4096;

/// A ring in which the producer published `headers` at their offsets and then `tail`.
fn ring(headers: &[(usize, Record)], tail: u64) -> Heap {
    let heap = Heap::new(SIZE as usize);
    for (offset, record) in headers {
        heap.scribble(*offset, record.as_bytes());
    }
    heap.tail.store(tail, Ordering::Release);
    heap
}

fn first(heap: &Heap, head: u64) -> Result<Option<Record>, Corrupt> {
    let mut cursor = ConsumerCursor { head, cached_tail: head, base: 0 };
    Consumer::new(heap.channel(), &mut cursor).next().map(|message| message.map(|message| message.record))
}

fn of_len(len: u32) -> Record {
    Record { len, ..Record::default() }
}

fn padding(len: u32) -> Record {
    Record { len, flags: flags::PAD, ..Record::default() }
}

#[test]
fn a_tail_behind_the_head() {
    assert_eq!(first(&ring(&[], 64), 128), Err(Corrupt::Tail { head: 128, tail: 64 }));
}

#[test]
fn a_tail_more_than_a_ring_ahead() {
    assert_eq!(first(&ring(&[], SIZE), 0), Ok(Some(of_len(0))));
    assert_eq!(first(&ring(&[], SIZE + 64), 0), Err(Corrupt::Tail { head: 0, tail: SIZE + 64 }));
    assert_eq!(first(&ring(&[], u64::MAX), 0), Err(Corrupt::Tail { head: 0, tail: u64::MAX }));
}

#[test]
fn a_tail_between_records() {
    for tail in [1, 63, 65, 100] {
        assert_eq!(first(&ring(&[], tail), 0), Err(Corrupt::Misaligned { position: tail }));
    }
}

#[test]
fn a_length_beyond_what_is_published() {
    assert_eq!(first(&ring(&[(0, of_len(64))], 128), 0), Ok(Some(of_len(64))));
    for len in [65, 4096, u32::MAX] {
        assert_eq!(first(&ring(&[(0, of_len(len))], 128), 0), Err(Corrupt::Length { position: 0, len }));
    }
}

#[test]
fn a_length_beyond_the_end_of_the_ring() {
    let head = SIZE - 128;
    assert_eq!(first(&ring(&[(head as usize, of_len(64))], head + SIZE), head), Ok(Some(of_len(64))));
    let heap = ring(&[(head as usize, of_len(65))], head + SIZE);
    assert_eq!(first(&heap, head), Err(Corrupt::Length { position: head, len: 65 }));
}

#[test]
fn a_length_beyond_the_largest_payload() {
    let heap = Heap::new(1 << 18);
    let len = MAX_PAYLOAD as u32 + 1;
    heap.scribble(0, of_len(len).as_bytes());
    heap.tail.store(1 << 18, Ordering::Release);
    assert_eq!(first(&heap, 0), Err(Corrupt::Length { position: 0, len }));
    heap.scribble(0, of_len(len - 1).as_bytes());
    assert_eq!(first(&heap, 0), Ok(Some(of_len(len - 1))));
}

#[test]
fn padding_that_does_not_reach_the_end() {
    assert_eq!(first(&ring(&[(0, padding(0))], 128), 0), Err(Corrupt::Padding { position: 0 }));
}

#[test]
fn padding_behind_padding() {
    // A chain of these would keep the consumer in one call for as long as the producer adds to it.
    let head = SIZE - 64;
    let heap = ring(&[(head as usize, padding(0)), (0, padding(SIZE as u32 - 128))], head + SIZE);
    assert_eq!(first(&heap, head), Err(Corrupt::Padding { position: SIZE }));
}

#[test]
fn padding_with_nothing_behind_it() {
    let head = SIZE - 64;
    assert_eq!(first(&ring(&[(head as usize, padding(0))], SIZE), head), Ok(None));
}

#[test]
fn any_base_leads_into_the_ring() {
    for base in [0, 1, 63, 64, SIZE - 64, SIZE, u64::MAX, 1 << 63, u64::MAX - SIZE] {
        let heap = ring(&[], SIZE);
        heap.base.store(base, Ordering::Release);
        assert_eq!(first(&heap, 0), Ok(Some(of_len(0))), "{base}");
        // The last place in the ring has room for a header alone.
        let last = SIZE - 64;
        heap.scribble(last as usize, of_len(1).as_bytes());
        heap.base.store(base.wrapping_sub(last) & !63, Ordering::Release);
        heap.tail.store(base.wrapping_add(SIZE) & !63, Ordering::Release);
        let position = base & !63;
        assert_eq!(first(&heap, position), Err(Corrupt::Length { position, len: 1 }), "{base}");
    }
}

#[test]
fn a_message_is_what_was_checked() {
    let heap = ring(&[(0, of_len(64))], 128);
    let mut cursor = ConsumerCursor::default();
    let message = Consumer::new(heap.channel(), &mut cursor).next().unwrap().unwrap();
    heap.scribble(0, of_len(u32::MAX).as_bytes());
    assert_eq!(message.record.len, 64);
    message.read(0, &mut [0; 64]);
}

#[test]
fn a_head_that_lies_to_the_producer() {
    let heap = Heap::new(SIZE as usize);
    let mut cursor = ProducerCursor::default();
    for lie in [64, SIZE, 1 << 63, u64::MAX - SIZE] {
        heap.head.store(lie, Ordering::Release);
        let free = Producer::new(heap.channel(), &mut cursor).free(SIZE as usize + 1);
        assert_eq!(free, SIZE, "a head of {lie} beyond a tail of 0 is not believed");
    }
    heap.head.store(0, Ordering::Release);
    while Producer::new(heap.channel(), &mut cursor).reserve(&of_len(100)).is_ok() {}
    // Misaligned, then going back: the producer's own position stays where it was and aligned.
    let tail = cursor.tail;
    for lie in [tail - 1, 1, tail.wrapping_sub(SIZE), tail + 1] {
        heap.head.store(lie, Ordering::Release);
        let free = Producer::new(heap.channel(), &mut cursor).free(SIZE as usize + 1);
        assert!(free <= SIZE);
    }
    assert_eq!(cursor.tail, tail);
}

#[test]
fn cursors_from_shared_memory_stay_in_bounds() {
    // A program loads them from words that other holders of the socket write.
    let heap = Heap::new(SIZE as usize);
    for position in [1, 63, SIZE - 1, u64::MAX, u64::MAX - 64, 1 << 63] {
        for cached in [0, 1, position, u64::MAX, position.wrapping_sub(SIZE)] {
            let mut cursor = ProducerCursor { tail: position, cached_head: cached, base: cached };
            let mut producer = Producer::new(heap.channel(), &mut cursor);
            for len in [0, 1, 64, 1000, SIZE as u32 / 2 - 64] {
                if let Ok(mut slot) = producer.reserve(&of_len(len)) {
                    slot.write(0, &vec![1; len as usize]);
                }
            }
            heap.base.store(position.rotate_left(7), Ordering::Relaxed);
            let mut cursor = ConsumerCursor { head: position, cached_tail: cached, base: cached };
            let mut consumer = Consumer::new(heap.channel(), &mut cursor);
            for _ in 0..8 {
                if let Ok(Some(message)) = consumer.next() {
                    message.read(0, &mut vec![0; message.record.len as usize]);
                }
                consumer.rewind(position);
            }
        }
    }
    assert_eq!(
        Producer::new(heap.channel(), &mut ProducerCursor::default()).reserve(&of_len(SIZE as u32)).err(),
        Some(Refused::TooLong)
    );
}
