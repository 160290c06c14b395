//! The process's one lock, under which everything slow happens: requests to the server, takeovers, closes.
//!
//! All signals are blocked while it is held, so no handler can come in between and wait for its own thread.

use crate::sys;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// 0: free, 1: held, 2: held and waited for.
static LOCK: AtomicU32 = AtomicU32::new(0);
static MASK_BEFORE_FORK: AtomicU64 = AtomicU64::new(0);

/// Held until dropped. Never held across a call that is a cancellation point.
pub struct Exclusive {
    mask: u64,
}

/// Takes the lock.
pub fn enter() -> Exclusive {
    let mask = sys::set_signal_mask(!0);
    lock();
    Exclusive { mask }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        unlock();
        sys::set_signal_mask(self.mask);
    }
}

fn lock() {
    if LOCK.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return;
    }
    while LOCK.swap(2, Ordering::Acquire) != 0 {
        sys::futex_wait(&LOCK, 2, None, false);
    }
}

fn unlock() {
    if LOCK.swap(0, Ordering::Release) == 2 {
        sys::futex_wake(&LOCK, false);
    }
}

/// Frees the lock in a fork child, where the thread that held it does not exist.
pub(crate) fn reset() {
    LOCK.store(0, Ordering::Relaxed);
}

/// Takes the lock for the time of a fork, so that the child's copy of what it guards is whole.
pub(crate) fn before_fork() {
    let mask = sys::set_signal_mask(!0);
    lock();
    MASK_BEFORE_FORK.store(mask, Ordering::Relaxed);
}

/// Undoes [`before_fork`] in the parent.
pub(crate) fn after_fork() {
    let mask = mask_before_fork();
    unlock();
    restore(mask);
}

/// The signal mask to restore after a fork.
pub(crate) fn mask_before_fork() -> u64 {
    MASK_BEFORE_FORK.load(Ordering::Relaxed)
}

/// Restores the signal mask.
pub(crate) fn restore(mask: u64) {
    sys::set_signal_mask(mask);
}
