//! What a record costs, next to the same bytes through a `crossbeam` queue and a Unix socket pair in the same run.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use freena_shm_abi::record::Record;
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor};
use freena_shm_ring::{Consumer, Producer};
use std::hint::{black_box, spin_loop};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};
use support::heap::Heap;

/// A small and a full-sized datagram.
const SIZES: [usize; 2] = [64, 1472];
const LARGEST: usize = 1472;
const BATCH: u64 = 64;
const RING: usize = 256 << 10;

/// What the queue carries: the record by value, as large as the largest payload.
#[derive(Clone, Copy)]
struct Item {
    len: usize,
    bytes: [u8; LARGEST],
}

fn send(producer: &mut Producer<'_, '_>, payload: &[u8]) -> bool {
    let Ok(mut slot) = producer.reserve(&Record { len: payload.len() as u32, ..Record::default() }) else {
        return false;
    };
    slot.write(0, payload);
    true
}

fn receive(consumer: &mut Consumer<'_, '_>, to: &mut [u8]) -> bool {
    let Some(message) = consumer.next().expect("an honest ring") else { return false };
    message.read(0, &mut to[..message.record.len as usize]);
    true
}

/// Waits for the other side: a little, then it gets the processor.
fn wait(turns: &mut u32) {
    *turns += 1;
    if turns.is_multiple_of(64) { thread::yield_now() } else { spin_loop() }
}

/// Producing and consuming `batch` records in one thread.
fn same_thread(c: &mut Criterion, name: &str, batch: u64) {
    let mut group = c.benchmark_group(name);
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for size in SIZES {
        group.throughput(Throughput::Elements(batch));
        let payload = vec![1; size];
        let mut to = [0; LARGEST];

        let heap = Heap::new(RING);
        let (mut tail, mut head) = (ProducerCursor::default(), ConsumerCursor::default());
        let mut producer = Producer::new(heap.channel(), &mut tail);
        let mut consumer = Consumer::new(heap.channel(), &mut head);
        group.bench_function(BenchmarkId::new("ring", size), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    assert!(send(&mut producer, black_box(&payload)));
                }
                producer.publish();
                while receive(&mut consumer, &mut to) {}
                consumer.release();
                black_box(&to);
            });
        });

        let queue = ArrayQueue::new(128);
        group.bench_function(BenchmarkId::new("array_queue", size), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    let mut item = Item { len: size, bytes: [0; LARGEST] };
                    item.bytes[..size].copy_from_slice(black_box(&payload));
                    assert!(queue.push(item).is_ok());
                }
                while let Some(item) = queue.pop() {
                    to[..item.len].copy_from_slice(&item.bytes[..item.len]);
                }
                black_box(&to);
            });
        });

        let (near, far) = UnixDatagram::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        group.bench_function(BenchmarkId::new("socketpair", size), |b| {
            b.iter(|| {
                // net.unix.max_dgram_qlen lets fewer than a batch lie in the queue.
                for _ in 0..batch {
                    near.send(black_box(&payload)).unwrap();
                    far.recv(&mut to).unwrap();
                }
                black_box(&to);
            });
        });
    }
    group.finish();
}

fn one_record(c: &mut Criterion) {
    same_thread(c, "one record, same thread", 1);
}

fn batches(c: &mut Criterion) {
    same_thread(c, "batch of 64, same thread", BATCH);
}

/// `count` records from one thread to another.
fn across_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("across threads");
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500)).sample_size(20);
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let payload = vec![1; size];
        group.bench_function(BenchmarkId::new("ring", size), |b| {
            b.iter_custom(|count| ring_across(&payload, count))
        });
        group.bench_function(BenchmarkId::new("array_queue", size), |b| {
            b.iter_custom(|count| queue_across(&payload, count));
        });
        group.bench_function(BenchmarkId::new("socketpair", size), |b| {
            b.iter_custom(|count| sockets_across(&payload, count));
        });
    }
    group.finish();
}

fn ring_across(payload: &[u8], count: u64) -> Duration {
    let heap = Heap::new(RING);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut cursor = ProducerCursor::default();
            let mut producer = Producer::new(heap.channel(), &mut cursor);
            let mut turns = 0;
            for number in 1..=count {
                while !send(&mut producer, payload) {
                    producer.publish();
                    wait(&mut turns);
                }
                if number.is_multiple_of(BATCH) {
                    producer.publish();
                }
            }
            producer.publish();
        });
        let mut cursor = ConsumerCursor::default();
        let mut consumer = Consumer::new(heap.channel(), &mut cursor);
        let (mut to, mut turns, mut taken) = ([0; LARGEST], 0, 0);
        while taken < count {
            if receive(&mut consumer, &mut to) {
                taken += 1;
                if taken.is_multiple_of(BATCH) {
                    consumer.release();
                }
            } else {
                consumer.release();
                wait(&mut turns);
            }
        }
        black_box(&to);
    });
    start.elapsed()
}

fn queue_across(payload: &[u8], count: u64) -> Duration {
    let queue = ArrayQueue::new(128);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turns = 0;
            for _ in 0..count {
                let mut item = Item { len: payload.len(), bytes: [0; LARGEST] };
                item.bytes[..payload.len()].copy_from_slice(payload);
                while let Err(back) = queue.push(item) {
                    item = back;
                    wait(&mut turns);
                }
            }
        });
        let (mut to, mut turns, mut taken) = ([0; LARGEST], 0, 0);
        while taken < count {
            match queue.pop() {
                Some(item) => {
                    to[..item.len].copy_from_slice(&item.bytes[..item.len]);
                    taken += 1;
                }
                None => wait(&mut turns),
            }
        }
        black_box(&to);
    });
    start.elapsed()
}

fn sockets_across(payload: &[u8], count: u64) -> Duration {
    let (near, far) = UnixDatagram::pair().unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                near.send(payload).unwrap();
            }
        });
        let mut to = [0; LARGEST];
        for _ in 0..count {
            far.recv(&mut to).unwrap();
        }
        black_box(&to);
    });
    start.elapsed()
}

criterion_group!(benches, one_record, batches, across_threads);
criterion_main!(benches);
