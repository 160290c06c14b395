//! Locks in the memory of a socket, shared by the processes that hold it.
//!
//! A futex word with the owner's thread id. A process may die with it in hand: who waits looks after the owner every
//! ten milliseconds and takes the lock from a dead one. The rings need no repair then, since every operation loads their
//! positions from the shared words and publishes them last; for what else was in hand, [`Guard::inherited`] tells. (A thread id that was given to another thread meanwhile delays this; ids are
//! reused only after thousands of others.)

use crate::outcome::Error;
use core::sync::atomic::{AtomicU32, Ordering};
use freena_preload_control::{process, sys};

const WAITERS: u32 = 1 << 31;
/// How often a waiter looks whether the owner lives.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The lock in hand.
pub struct Guard<'l> {
    word: &'l AtomicU32,
    inherited: bool,
}

impl Guard<'_> {
    /// Whether the last owner died with the lock in hand.
    #[inline]
    pub fn inherited(&self) -> bool {
        self.inherited
    }
}

/// Takes a lock.
///
/// # Errors
/// [`Error::Reentered`]: this thread has it, and was interrupted by a signal handler that calls again.
#[inline]
pub fn acquire(word: &AtomicU32) -> Result<Guard<'_>, Error> {
    let tid = process::tid();
    match word.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Ok(Guard { word, inherited: false }),
        Err(_) => wait(word, tid),
    }
}

/// Takes a lock if nobody has it.
#[inline]
pub fn try_acquire(word: &AtomicU32) -> Option<Guard<'_>> {
    let taken = word.compare_exchange(0, process::tid(), Ordering::Acquire, Ordering::Relaxed);
    // Only then: a guard that is dropped gives the lock back.
    taken.is_ok().then(|| Guard { word, inherited: false })
}

#[cold]
fn wait(word: &AtomicU32, tid: u32) -> Result<Guard<'_>, Error> {
    for _ in 0..100 {
        core::hint::spin_loop();
        if word.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Guard { word, inherited: false });
        }
    }
    loop {
        let seen = word.load(Ordering::Relaxed);
        let owner = seen & !WAITERS;
        if owner == tid {
            return Err(Error::Reentered);
        }
        if owner == 0 || !sys::thread_exists(owner) {
            // Others may be waiting still: whoever gets the lock after a wait wakes one more than need be.
            if word.compare_exchange(seen, tid | WAITERS, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(Guard { word, inherited: owner != 0 });
            }
            continue;
        }
        if seen & WAITERS != 0
            || word.compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            sys::futex_wait(word, seen | WAITERS, Some(LOOK), true);
        }
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.word.swap(0, Ordering::Release) & WAITERS != 0 {
            sys::futex_wake(self.word, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn only_one_at_a_time() {
        let (word, counter) = (AtomicU32::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _guard = acquire(&word).expect("no thread takes it twice");
                        let seen = counter.load(Ordering::Relaxed);
                        counter.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counter.load(Ordering::Relaxed), 8000);
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn trying_in_vain_leaves_it_to_its_owner() {
        let word = AtomicU32::new(0);
        let guard = try_acquire(&word).expect("nobody has it");
        assert!(try_acquire(&word).is_none() && try_acquire(&word).is_none());
        drop(guard);
        assert!(try_acquire(&word).is_some());
    }

    #[test]
    fn taking_it_twice_is_an_error_and_no_deadlock() {
        let word = AtomicU32::new(0);
        let _guard = acquire(&word).expect("free");
        assert!(matches!(acquire(&word), Err(Error::Reentered)));
    }

    #[test]
    fn a_dead_owner_loses_it() {
        let dead = std::thread::spawn(sys::gettid).join().expect("thread");
        let word = AtomicU32::new(dead);
        let guard = acquire(&word).expect("taken over");
        assert!(guard.inherited());
        drop(guard);
        assert!(!acquire(&word).expect("free").inherited());
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }
}
