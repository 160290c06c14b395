//! The readiness token: one message lies in the application end's receive queue while there is something to read, so
//! that the kernel's own poll, select and epoll tell the truth.
//!
//! States of the `rx_wake` word:
//!
//! | state | meaning |
//! |---|---|
//! | [`IDLE`] | nobody waits: the server sends no token, a receive costs no system call |
//! | [`ARMED`] | somebody waits, or the socket is in an epoll set: the next delivery sends a token |
//! | [`SENT`] | a token is in the queue, or just about to be |
//!
//! The program arms after it found the ring empty and looks once more; the server publishes and then looks at the word.
//! One of the two sees the other.

use crate::sync::{AtomicU32, Ordering, fence};

/// Nobody waits.
pub const IDLE: u32 = 0;
/// A token is wanted.
pub const ARMED: u32 = 1;
/// A token was sent.
pub const SENT: u32 = 2;

/// Server, after publishing a delivery (or an error): whether it has to send a token now.
pub fn take_request(wake: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    wake.load(Ordering::Relaxed) == ARMED
        && wake.compare_exchange(ARMED, SENT, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Server, after publishing data for which [`take_request`] saw no request: whether a token lies in the queue already. The
/// kernel's epoll tells no edge then, unless another message is sent.
pub fn is_sent(wake: &AtomicU32) -> bool {
    wake.load(Ordering::Relaxed) == SENT
}

/// Program: ask for a token with the next delivery, unless one is there already. The ring must be examined once more
/// afterwards. Returns the state before.
pub fn arm(wake: &AtomicU32) -> u32 {
    let before = match wake.compare_exchange(IDLE, ARMED, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => IDLE,
        Err(other) => other,
    };
    fence(Ordering::SeqCst);
    before
}

/// Program: the token has been taken out of the queue; `again` asks for the next one. The ring must be examined once
/// more afterwards if `again` is set.
pub fn token_taken(wake: &AtomicU32, again: bool) {
    wake.store(if again { ARMED } else { IDLE }, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Program: nobody waits any more. Returns whether a token is in the queue all the same.
pub fn disarm(wake: &AtomicU32) -> bool {
    match wake.compare_exchange(ARMED, IDLE, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(state) => state == SENT,
    }
}
