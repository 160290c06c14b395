//! Getting the attention of a server that does not look at a transmit ring.
//!
//! The server looks at the rings of active sockets in every turn. Before it stops looking at one it says so in the
//! `tx_kick` word and looks once more; a program that publishes a record looks at the word afterwards. One of the two
//! sees the other (store, fence, load on both sides), so no record is left lying, and while the server looks, a send
//! costs no system call.

use crate::sync::{AtomicU32, Ordering, fence};

/// Server: stop looking. The ring must be examined once more afterwards; if something is in it, call [`resume`].
pub fn suspend(kick: &AtomicU32) {
    kick.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Server: looking again.
pub fn resume(kick: &AtomicU32) {
    kick.store(0, Ordering::Relaxed);
}

/// Program, after publishing: whether it is this caller who has to kick (by a message on the socket's descriptor).
pub fn needed(kick: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    kick.load(Ordering::Relaxed) == 1
        && kick.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}
