//! The ends of a connection: shutdown(2), close(2) with `SO_LINGER`.

use super::{asked, is_listener, is_over, joined, phase};
use crate::outcome::{Error, Outcome};
use crate::send::used;
use crate::socket::Held;
use crate::{companion, table, token};
use core::ffi::c_int;
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::stream::{shut, state};

/// How often a lingering close looks.
const LOOK_NANOSECONDS: i64 = 1_000_000;
/// Looks after which a connection that does not even begin to end is taken to be shared with another process.
const GRACE: u32 = 200;

/// shutdown(2).
pub(crate) fn shutdown(fd: c_int, held: &Held, how: c_int) -> Outcome {
    let bits = match how {
        libc::SHUT_RD => shut::READ,
        libc::SHUT_WR => shut::WRITE,
        libc::SHUT_RDWR => shut::READ | shut::WRITE,
        _ => return Err(Error::Invalid.into()),
    };
    if is_listener(held) {
        // As inet_shutdown: only the receiving direction means something, and ends the listening.
        if bits & shut::READ != 0 {
            companion::with(fd, held, |kernel| Ok(sys::shutdown(kernel, how)?))?;
            held.app().shutdown.fetch_or(1, Ordering::Relaxed);
            let _ = sys::shutdown(fd, libc::SHUT_RD);
        }
        return Ok(0);
    }
    if is_over(phase(held)) {
        return Err(Error::NotConnected.into());
    }
    {
        // Behind everything that a thread is putting into the ring at this moment.
        let _side = held.lock_tx()?;
        asked(held).shut.fetch_or(bits, Ordering::Release);
    }
    held.app().shutdown.fetch_or(bits, Ordering::Relaxed);
    if bits & shut::READ != 0 {
        // Readable from now on, and whoever sleeps in a receive wakes up.
        let _ = sys::shutdown(fd, libc::SHUT_RD);
    }
    match held.peer_page() {
        Some(peer) if bits & shut::WRITE != 0 => joined::ended(fd, held, peer),
        _ => token::kick(fd, held),
    }
    Ok(0)
}

/// close(2) of the last number of a connection for which lingering is asked: waits, within the time given, until everything
/// has been acknowledged. `None`: there is nothing to wait for, and the number is still open.
pub(crate) fn linger(fd: c_int) -> Option<Outcome> {
    let held = table::hold(fd)?;
    if !held.is_stream() || is_listener(&held) || is_over(phase(&held)) || !held.is_last() {
        return None;
    }
    let seconds @ 1.. = asked(&held).linger.load(Ordering::Relaxed) else { return None };
    table::clear(fd);
    let result = sys::close(fd);
    let end = sys::monotonic().saturating_add(seconds as u64 * 1_000_000_000);
    let mut looks = 0;
    while sys::monotonic() < end && is_ending(&held, looks) {
        sys::sleep(LOOK_NANOSECONDS);
        looks += 1;
    }
    Some(result.map(|()| 0).map_err(|Errno(errno)| Errno(errno).into()))
}

fn is_ending(held: &Held, looks: u32) -> bool {
    match phase(held) {
        state::FIN_WAIT_1 | state::CLOSING | state::LAST_ACK => true,
        state::ESTABLISHED | state::CLOSE_WAIT => used(held) > 0 || looks < GRACE,
        _ => false,
    }
}
