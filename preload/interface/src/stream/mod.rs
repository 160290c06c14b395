//! Stream sockets: connections and listeners.
//!
//! - [`connect`], [`listen`], [`accept`]: how one comes to be;
//! - [`send`], [`receive`]: bytes into and out of the rings; [`file`]: files and pipes in the program's place;
//! - [`messages`], [`sctp`]: those that a program has opened as SCTP;
//! - [`options`], [`info`]: what the program may ask and tell;
//! - [`joined`]: what is done for the program at the other end of a connection on one host;
//! - [`close`]: the ends of a connection; [`readiness`]: what poll(2) reports.
//!
//! A connection needs no companion: its name, its options and its state are in its page. A listener's companion is the
//! kernel's own listener.

pub mod accept;
pub mod close;
pub mod connect;
pub mod file;
pub mod info;
pub(crate) mod joined;
pub mod listen;
pub mod messages;
pub mod options;
pub mod readiness;
pub mod receive;
pub(crate) mod sctp;
pub mod send;
mod vectors;

use crate::outcome::Error;
use crate::socket::Held;
use core::sync::atomic::Ordering;
use freena_preload_control::sys::Errno;
use freena_shm_abi::app::status;
use freena_shm_abi::control::MAX_PROTOCOLS;
use freena_shm_abi::stream::{Asked, Told, state};

/// The protocols of a socket that its program has opened as SCTP.
pub(crate) const SCTP_ALONE: [u8; MAX_PROTOCOLS] = {
    let mut protocols = [0; MAX_PROTOCOLS];
    protocols[0] = libc::IPPROTO_SCTP as u8;
    protocols
};

/// What the server tells of a socket.
#[inline]
pub(crate) fn told(held: &Held) -> &Told {
    &held.page().stream.told
}

/// What the program asks for.
#[inline]
pub(crate) fn asked(held: &Held) -> &Asked {
    &held.page().stream.asked
}

/// Where the connection is: over, if the server is gone.
#[inline]
pub(crate) fn phase(held: &Held) -> u32 {
    if held.app().status.load(Ordering::Relaxed) & status::DEAD != 0 {
        return state::CLOSED;
    }
    told(held).state.load(Ordering::Acquire)
}

/// Whether it is a listener, also after the server has gone.
#[inline]
pub(crate) fn is_listener(held: &Held) -> bool {
    // What a peer writes into the page of a joined connection must not make it a listener.
    held.is_stream() && !held.is_joined() && told(held).state.load(Ordering::Relaxed) == state::LISTEN
}

/// Whether a connection in this state has no way to the peer any more.
pub(crate) const fn is_over(state: u32) -> bool {
    matches!(state, state::CLOSED | state::TIME_WAIT)
}

/// Bytes that have arrived and were not read.
#[inline]
pub(crate) fn unread(held: &Held) -> u64 {
    let pipe = held.rx_pipe();
    pipe.tail().load(Ordering::Acquire).wrapping_sub(pipe.head().load(Ordering::Relaxed))
}

/// Whether there are bytes, but fewer than the program wants to be woken for (`SO_RCVLOWAT`), and more may come.
pub(crate) fn is_below_low_water(held: &Held) -> bool {
    let low = u64::from(held.app().stream.low_water.load(Ordering::Relaxed));
    low > 1 && (1..low).contains(&unread(held)) && !is_ended(held)
}

/// Bytes that the program has written since the connection is there.
#[inline]
pub(crate) fn written(held: &Held) -> u64 {
    held.page().tx_tail.0.load(Ordering::Relaxed)
}

/// Whether nothing will come behind what has arrived.
#[inline]
pub(crate) fn is_ended(held: &Held) -> bool {
    state::is_end_of_file(phase(held)) || held.app().shutdown.load(Ordering::Relaxed) & 1 != 0
}

/// Takes the pending error.
#[inline]
pub(crate) fn take_error(held: &Held) -> Result<(), Error> {
    let word = &held.page().error.0;
    if word.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    match word.swap(0, Ordering::Relaxed) {
        0 => Ok(()),
        errno if held.is_joined() => Err(Error::Kernel(joined::error(errno))),
        errno => Err(Error::Kernel(Errno(errno as i32))),
    }
}

/// Whether the open file description is nonblocking.
#[inline]
pub(crate) fn is_nonblocking(held: &Held) -> bool {
    held.app().status.load(Ordering::Relaxed) & status::NONBLOCK != 0
}
