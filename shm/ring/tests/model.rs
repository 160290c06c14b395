//! The ring against a reference queue: arbitrary operations, and the corners by hand.
#![cfg(not(loom))]

mod support;

use freena_shm_abi::record::{MAX_PAYLOAD, Record};
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor, REBASE_AT};
use freena_shm_ring::ring::Refused;
use freena_shm_ring::{Consumer, Producer};
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use support::heap::Heap;
use support::operation::{LONGEST, Operation, parse, run};

fn operation(longest: u32) -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..=longest).prop_map(Operation::Reserve),
        1 => (0..=256_u32.min(longest)).prop_map(Operation::Reserve),
        3 => Just(Operation::Publish),
        2 => Just(Operation::BeginBatch),
        4 => Just(Operation::Next),
        2 => Just(Operation::Release),
        1 => any::<u8>().prop_map(Operation::Rewind),
    ]
}

/// A ring and operations whose lengths suit it: most fit, some do not.
fn scenario() -> impl Strategy<Value = (usize, Vec<Operation>)> {
    // Miri interprets: small rings, few cases, and no file for failures.
    let (bits, steps) = if cfg!(miri) { (7..=10_u32, 40) } else { (7..=18_u32, 400) };
    bits.prop_flat_map(move |bits| {
        let size = 1_usize << bits;
        (Just(size), prop::collection::vec(operation((size as u32 / 2 + 100).min(LONGEST)), 0..steps))
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 6 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_as_a_queue((size, operations) in scenario()) {
        run(size, &operations);
    }

    #[test]
    fn any_bytes_are_operations(bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 40 } else { 600 })) {
        let (size, operations) = parse(&bytes);
        // The lengths of these operations reach far beyond miri's short noise.
        if !cfg!(miri) {
            run(size, &operations);
        }
    }
}

#[test]
fn wraps_around_many_times() {
    use Operation::{Next, Publish, Release, Reserve};
    let round = |len| [Reserve(len), Publish, Next, Release];
    let lens = [0, 1, 63, 64, 65, 128, 191, 192, 193, 400];
    let rounds = if cfg!(miri) { 3 } else { 1000 };
    let operations: Vec<_> = lens.into_iter().cycle().take(rounds * lens.len()).flat_map(round).collect();
    for size in [128, 256, 512, 1024] {
        run(size, &operations);
    }
}

/// A batch of `count` records of 100 bytes, each with its number.
fn batch(heap: &Heap, tail: &mut ProducerCursor, count: u64) {
    let mut producer = Producer::new(heap.channel(), tail);
    producer.begin_batch();
    for timestamp in 0..count {
        let record = Record { len: 100, timestamp, ..Record::default() };
        producer.reserve(&record).unwrap_or_else(|why| panic!("record {timestamp} of {count}: {why:?}"));
    }
    producer.publish();
}

#[test]
fn a_consumer_that_keeps_up_sees_the_start_of_the_ring_only() {
    const SIZE: u64 = 65_536;
    const FOOTPRINT: u64 = 192;
    let heap = Heap::new(SIZE as usize);
    let (mut tail, mut head) = (ProducerCursor::default(), ConsumerCursor::default());
    let mut consumer = Consumer::new(heap.channel(), &mut head);
    let start = heap.data.addr();
    let mut highest = 0;
    for _ in 0..200 {
        batch(&heap, &mut tail, 3);
        for _ in 0..3 {
            let message = consumer.next().expect("honest").expect("three records");
            highest = highest.max((message.as_ptr().addr() - start) as u64);
        }
        consumer.release();
    }
    assert!(highest < REBASE_AT + 3 * FOOTPRINT, "{highest}");
    // Wherever it stops, a whole ring can be written.
    for already in 0..20 {
        batch(&heap, &mut tail, already);
        std::iter::from_fn(|| consumer.next().expect("honest")).for_each(drop);
        consumer.release();
        // One less, since a record does not wrap.
        batch(&heap, &mut tail, SIZE / FOOTPRINT - 1);
        let left = std::iter::from_fn(|| consumer.next().expect("honest"));
        assert!(left.map(|message| message.record.timestamp).eq(0..SIZE / FOOTPRINT - 1), "{already}");
        consumer.release();
    }
}

#[test]
fn a_ring_that_is_not_empty_goes_on_where_it_is() {
    let heap = Heap::new(65_536);
    let (mut tail, mut head) = (ProducerCursor::default(), ConsumerCursor::default());
    batch(&heap, &mut tail, 100);
    let mut consumer = Consumer::new(heap.channel(), &mut head);
    for _ in 0..99 {
        consumer.next().expect("honest").expect("a hundred records");
    }
    consumer.release();
    batch(&heap, &mut tail, 1);
    assert_eq!(heap.base.load(Ordering::Relaxed), 0, "one is left");
    assert_eq!(std::iter::from_fn(|| consumer.next().expect("honest")).count(), 2);
    batch(&heap, &mut tail, 1);
    assert_eq!(heap.base.load(Ordering::Relaxed), 0, "taken but not released");
    consumer.release();
    assert!(consumer.next().expect("honest").is_some());
    consumer.release();
    batch(&heap, &mut tail, 1);
    assert_eq!(heap.base.load(Ordering::Relaxed), 102 * 192);
}

#[test]
fn the_smallest_real_ring_takes_two_of_the_largest_datagrams() {
    if cfg!(miri) {
        return;
    }
    use Operation::{Next, Publish, Release, Reserve};
    let largest = Reserve(MAX_PAYLOAD as u32);
    let size = freena_shm_abi::socket::MIN_RING as usize;
    run(
        size,
        &[
            Reserve(0),
            Publish,
            Next,
            Release,
            largest,
            largest,
            Publish,
            Next,
            Next,
            Release,
            largest,
            Publish,
        ],
    );
}

#[test]
fn too_long_is_exact() {
    let heap = Heap::new(1024);
    let mut cursor = ProducerCursor::default();
    let mut producer = Producer::new(heap.channel(), &mut cursor);
    let mut reserve = |len| producer.reserve(&Record { len, ..Record::default() }).map(|slot| slot.len());
    assert_eq!(reserve(449), Err(Refused::TooLong), "64 + 512 is more than half of 1024");
    assert_eq!(reserve(448), Ok(448), "64 + 448 is half");
    assert_eq!(reserve(448), Ok(448));
    assert_eq!(reserve(0), Err(Refused::Full));
    assert_eq!(reserve(u32::MAX), Err(Refused::TooLong));
}

#[test]
#[should_panic(expected = "offset <= self.len")]
fn a_slot_keeps_its_bounds() {
    let heap = Heap::new(1024);
    let mut cursor = ProducerCursor::default();
    let mut slot =
        Producer::new(heap.channel(), &mut cursor).reserve(&Record { len: 10, ..Record::default() }).unwrap();
    slot.write(8, &[0; 3]);
}

#[test]
fn two_threads_hand_over_every_record() {
    // Large enough to start anew in, small enough to be full.
    let heap = Heap::new(16_384);
    let records = if cfg!(miri) { 60 } else { 200_000_u64 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut cursor = ProducerCursor::default();
            let mut producer = Producer::new(heap.channel(), &mut cursor);
            for number in 0..records {
                let record = Record { len: (number % 200) as u32, timestamp: number, ..Record::default() };
                producer.begin_batch();
                let mut slot = loop {
                    match producer.reserve(&record) {
                        Ok(slot) => break slot,
                        Err(_) => std::thread::yield_now(),
                    }
                };
                slot.write(0, &[number as u8; 200][..record.len as usize]);
                producer.publish();
            }
        });
        let mut cursor = ConsumerCursor::default();
        let mut consumer = Consumer::new(heap.channel(), &mut cursor);
        let mut bytes = [0; 200];
        for number in 0..records {
            let message = loop {
                match consumer.next().unwrap() {
                    Some(message) => break message,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!((message.record.timestamp, u64::from(message.record.len)), (number, number % 200));
            let bytes = &mut bytes[..message.record.len as usize];
            message.read(0, bytes);
            assert!(bytes.iter().all(|byte| *byte == number as u8));
            consumer.release();
        }
    });
}
