//! Every interleaving of the protocols, within bounds:
//! `LOOM_MAX_PREEMPTIONS=3 RUSTFLAGS="--cfg loom" cargo test -p freena-shm-ring --release --test loom`.
//!
//! A lost kick or token shows as a deadlock, which loom reports; a missing barrier as a wrong value.
#![cfg(loom)]

use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor, REBASE_AT};
use freena_shm_ring::{kick, wake};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex, Notify};
use loom::thread;

/// As much as makes starting anew worth it.
const SLOT: u64 = REBASE_AT;
const SIZE: u64 = 2 * SLOT;

/// A ring of two slots; the cells let loom see an access that no position guards.
struct Ring {
    slots: [UnsafeCell<u64>; 2],
    tail: AtomicU64,
    head: AtomicU64,
    base: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        Ring {
            slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            base: AtomicU64::new(0),
        }
    }

    fn slot(&self, base: u64, position: u64) -> &UnsafeCell<u64> {
        &self.slots[(position.wrapping_sub(base) / SLOT % 2) as usize]
    }

    /// Writes without publishing; false when full.
    fn put(&self, cursor: &mut ProducerCursor, value: u64) -> bool {
        if cursor.free(&self.head, SIZE, SLOT) < SLOT {
            return false;
        }
        // SAFETY: the slot is free, nobody reads it; loom checks that.
        self.slot(cursor.base, cursor.tail).with_mut(|slot| unsafe { *slot = value });
        cursor.tail += SLOT;
        true
    }

    /// Takes and gives back.
    fn get(&self, cursor: &mut ConsumerCursor) -> Option<u64> {
        if cursor.available(&self.tail, &self.base, SIZE).unwrap() == 0 {
            return None;
        }
        // SAFETY: the slot is published, nobody writes it; loom checks that.
        let value = self.slot(cursor.base, cursor.head).with(|slot| unsafe { *slot });
        cursor.head += SLOT;
        cursor.release(&self.head);
        Some(value)
    }

    fn is_empty(&self, cursor: &ConsumerCursor) -> bool {
        self.tail.load(Ordering::Acquire) == cursor.head
    }
}

#[test]
fn records_arrive_once_and_in_order_through_a_full_ring() {
    loom::model(|| {
        let ring = Arc::new(Ring::new());
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut cursor = ProducerCursor::default();
                for value in 1..=4 {
                    while !ring.put(&mut cursor, value) {
                        thread::yield_now();
                    }
                    // The second and third in one batch.
                    if value != 2 || cursor.free(&ring.head, SIZE, SLOT) < SLOT {
                        cursor.publish(&ring.tail);
                    }
                }
            })
        };
        let mut cursor = ConsumerCursor::default();
        for expected in 1..=4 {
            let value = loop {
                match ring.get(&mut cursor) {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(value, expected);
        }
        producer.join().unwrap();
    });
}

#[test]
fn records_arrive_once_and_in_order_where_the_producer_starts_anew() {
    loom::model(|| {
        let ring = Arc::new(Ring::new());
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut cursor = ProducerCursor::default();
                for value in 1..=4 {
                    loop {
                        cursor.rebase(&ring.head, &ring.base, SIZE);
                        if ring.put(&mut cursor, value) {
                            break;
                        }
                        thread::yield_now();
                    }
                    cursor.publish(&ring.tail);
                }
                cursor.base
            })
        };
        let mut cursor = ConsumerCursor::default();
        for expected in 1..=4 {
            let value = loop {
                match ring.get(&mut cursor) {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(value, expected);
        }
        let base = producer.join().unwrap();
        assert_eq!(ring.base.load(Ordering::Relaxed), base);
    });
}

/// The server's side: takes `records`, sleeps when there are none.
fn serve(ring: &Ring, kick: &AtomicU32, doorbell: &Notify, records: u64) {
    let mut cursor = ConsumerCursor::default();
    for _ in 0..records {
        while ring.get(&mut cursor).is_none() {
            kick::suspend(kick);
            if ring.is_empty(&cursor) {
                doorbell.wait();
            }
            kick::resume(kick);
        }
    }
}

#[test]
fn no_kick_is_lost() {
    loom::model(|| {
        let shared = Arc::new((Ring::new(), AtomicU32::new(1), Notify::new()));
        let program = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (ring, kick, doorbell) = &*shared;
                let mut cursor = ProducerCursor::default();
                for value in 1..=2 {
                    assert!(ring.put(&mut cursor, value));
                    cursor.publish(&ring.tail);
                    if kick::needed(kick) {
                        doorbell.notify();
                    }
                }
            })
        };
        let (ring, kick, doorbell) = &*shared;
        serve(ring, kick, doorbell, 2);
        program.join().unwrap();
    });
}

#[test]
fn no_kick_is_lost_between_two_senders() {
    // Two holders of the socket: they publish in turn (under the lock) and look at the word outside it.
    loom::model(|| {
        let shared =
            Arc::new((Ring::new(), AtomicU32::new(1), Notify::new(), Mutex::new(ProducerCursor::default())));
        let senders = [1, 2].map(|value| {
            let shared = shared.clone();
            thread::spawn(move || {
                let (ring, kick, doorbell, cursor) = &*shared;
                {
                    let mut cursor = cursor.lock().unwrap();
                    assert!(ring.put(&mut cursor, value));
                    cursor.publish(&ring.tail);
                }
                if kick::needed(kick) {
                    doorbell.notify();
                }
            })
        });
        let (ring, kick, doorbell, _) = &*shared;
        serve(ring, kick, doorbell, 2);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

/// The application end as far as readiness goes: the tokens in its receive queue, and kicks on their way to the server.
struct Descriptor {
    tail: AtomicU64,
    wake: AtomicU32,
    tokens: Mutex<u32>,
    readable: Condvar,
    kicks: Mutex<(u32, bool)>,
    kicked: Condvar,
}

impl Descriptor {
    fn new(state: u32) -> Arc<Self> {
        Arc::new(Descriptor {
            tail: AtomicU64::new(0),
            wake: AtomicU32::new(state),
            tokens: Mutex::new(0),
            readable: Condvar::new(),
            kicks: Mutex::new((0, false)),
            kicked: Condvar::new(),
        })
    }

    fn token(&self) {
        *self.tokens.lock().unwrap() += 1;
        self.readable.notify_all();
    }

    /// Server: delivers `count` datagrams, then answers kicks until the program is done.
    fn serve(&self, count: u64) {
        for delivered in 1..=count {
            self.tail.store(delivered, Ordering::Release);
            if wake::take_request(&self.wake) {
                self.token();
            }
        }
        loop {
            let mut kicks = self.kicks.lock().unwrap();
            while *kicks == (0, false) {
                kicks = self.kicked.wait(kicks).unwrap();
            }
            if kicks.0 == 0 {
                return;
            }
            kicks.0 -= 1;
            drop(kicks);
            // Something was delivered, or there would have been no kick.
            if wake::take_request(&self.wake) {
                self.token();
            }
        }
    }

    /// Program: sends a "k" message.
    fn kick(&self) {
        self.kicks.lock().unwrap().0 += 1;
        self.kicked.notify_one();
    }

    fn done(&self) {
        self.kicks.lock().unwrap().1 = true;
        self.kicked.notify_one();
    }

    /// Program: recv(MSG_PEEK) or epoll_wait.
    fn wait_readable(&self) {
        let mut tokens = self.tokens.lock().unwrap();
        while *tokens == 0 {
            tokens = self.readable.wait(tokens).unwrap();
        }
    }

    fn has_data(&self, taken: u64) -> bool {
        self.tail.load(Ordering::Acquire) != taken
    }

    /// Program, rings empty: takes the token out and, if `again`, asks for the next one. A token that was sent but has
    /// not arrived is left alone, state and all: it will be seen on a later call.
    fn settle(&self, again: bool, taken: u64) {
        if self.wake.load(Ordering::Relaxed) == wake::SENT {
            if std::mem::take(&mut *self.tokens.lock().unwrap()) == 0 {
                return;
            }
            wake::token_taken(&self.wake, again);
        } else if again {
            wake::arm(&self.wake);
        }
        if again && self.has_data(taken) && self.wake.load(Ordering::Relaxed) == wake::ARMED {
            self.kick();
        }
    }
}

#[test]
fn no_token_is_lost_for_a_blocking_receiver() {
    loom::model(|| {
        let descriptor = Descriptor::new(wake::IDLE);
        let server = {
            let descriptor = descriptor.clone();
            thread::spawn(move || descriptor.serve(2))
        };
        let mut taken = 0;
        while taken < 2 {
            if descriptor.has_data(taken) {
                taken += 1;
                if !descriptor.has_data(taken) {
                    descriptor.settle(false, taken);
                }
                continue;
            }
            wake::arm(&descriptor.wake);
            if !descriptor.has_data(taken) {
                descriptor.wait_readable();
                // A token of an earlier delivery may have woken us: with nothing to read it has to go.
                if !descriptor.has_data(taken) {
                    descriptor.settle(false, taken);
                }
            }
        }
        descriptor.done();
        server.join().unwrap();
    });
}

#[test]
fn no_token_is_lost_for_an_epoll_set() {
    // One datagram a call, each call only after the descriptor was readable: what a level-triggered program does.
    loom::model(|| {
        let descriptor = Descriptor::new(wake::ARMED);
        let server = {
            let descriptor = descriptor.clone();
            thread::spawn(move || descriptor.serve(2))
        };
        let mut taken = 0;
        while taken < 2 {
            descriptor.wait_readable();
            if descriptor.has_data(taken) {
                taken += 1;
            }
            if !descriptor.has_data(taken) {
                descriptor.settle(true, taken);
            }
        }
        descriptor.done();
        server.join().unwrap();
    });
}

#[test]
fn no_token_is_lost_between_two_receivers() {
    // Both take one datagram. Looking, arming and settling happen under the receive lock, and the one that settles asks
    // for another token if somebody waits: without that the other would sleep on a token that was taken from under it.
    loom::model(|| {
        let descriptor = Descriptor::new(wake::IDLE);
        let state = Arc::new(Mutex::new((0_u64, 0_u32)));
        let receive = |descriptor: Arc<Descriptor>, state: Arc<Mutex<(u64, u32)>>| {
            let mut waiting = false;
            loop {
                let mut guard = state.lock().unwrap();
                let (taken, waiters) = &mut *guard;
                if std::mem::take(&mut waiting) {
                    *waiters -= 1;
                }
                if descriptor.has_data(*taken) {
                    *taken += 1;
                    if !descriptor.has_data(*taken) {
                        descriptor.settle(*waiters > 0, *taken);
                    }
                    return;
                }
                descriptor.settle(*waiters > 0, *taken);
                waiting = true;
                *waiters += 1;
                wake::arm(&descriptor.wake);
                let look_again = descriptor.has_data(*taken);
                drop(guard);
                if !look_again {
                    descriptor.wait_readable();
                }
            }
        };
        let server = {
            let descriptor = descriptor.clone();
            thread::spawn(move || descriptor.serve(2))
        };
        let other = {
            let (descriptor, state) = (descriptor.clone(), state.clone());
            thread::spawn(move || receive(descriptor, state))
        };
        receive(descriptor.clone(), state);
        other.join().unwrap();
        descriptor.done();
        server.join().unwrap();
    });
}

#[test]
fn disarming_tells_of_a_token_on_its_way() {
    loom::model(|| {
        let descriptor = Descriptor::new(wake::ARMED);
        let server = {
            let descriptor = descriptor.clone();
            thread::spawn(move || {
                descriptor.tail.store(1, Ordering::Release);
                wake::take_request(&descriptor.wake)
            })
        };
        let on_its_way = wake::disarm(&descriptor.wake);
        let sent = server.join().unwrap();
        assert_eq!(on_its_way, sent);
    });
}
