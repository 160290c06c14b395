//! poll(2) and ppoll(2): framework sockets from their rings, the others from the kernel, sleeping in the kernel.

use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::Held;
use crate::{errors, send, stream, table, token, watch};
use core::ffi::{c_int, c_short};
use core::sync::atomic::Ordering;
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::app::{options, status};
use libc::{
    POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM, nfds_t, pollfd,
};

const READ: c_short = POLLIN | POLLRDNORM;
const WRITE: c_short = POLLOUT | POLLWRNORM | POLLWRBAND;

/// The framework socket behind a descriptor, if its readiness is not the kernel's own affair: a listener's queue is.
#[inline]
pub(crate) fn hold(fd: c_int) -> Option<Held> {
    table::hold(fd).filter(|held| !stream::is_listener(held))
}

/// What a framework socket is ready for, as udp_poll has it.
pub(crate) fn readiness(held: &Held) -> c_short {
    if held.is_stream() {
        return stream::readiness::readiness(held);
    }
    let app = held.app();
    if app.status.load(Ordering::Relaxed) & status::DEAD != 0 {
        return READ | WRITE | POLLERR | POLLHUP;
    }
    let mut ready = 0;
    let shut = app.shutdown.load(Ordering::Relaxed);
    if shut & 1 != 0 {
        ready |= READ | POLLRDHUP;
    }
    if shut == 3 {
        ready |= POLLHUP;
    }
    if held.has_data() {
        ready |= READ;
    }
    if errors::is_pending(held) {
        let also = app.options.load(Ordering::Relaxed) & options::SELECT_ERR_QUEUE != 0;
        ready |= POLLERR | if also { POLLPRI } else { 0 };
    }
    // At most half full, which is also when the server makes the descriptor writable again. Any datagram fits then.
    if send::used(held) <= u64::from(held.sizes().tx) / 2 {
        ready |= WRITE;
    }
    ready
}

/// How long the kernel sleeps at a time, in nanoseconds, where an error would not wake it.
const SLICE: u64 = 10_000_000;

/// Events that are reported whether asked for or not, poll(2).
const ALWAYS: c_short = POLLERR | POLLHUP;

/// Fills in `revents` of framework sockets; returns how many are ready, and whether there are other descriptors.
unsafe fn look(fds: *mut pollfd, count: usize) -> (usize, bool) {
    let (mut ready, mut others) = (0, false);
    for index in 0..count {
        // SAFETY: the caller's: `count` entries are the program's.
        let entry = unsafe { &mut *fds.add(index) };
        match hold(entry.fd) {
            Some(held) => {
                entry.revents = readiness(&held) & (entry.events | ALWAYS);
                ready += usize::from(entry.revents != 0);
            }
            None => others |= entry.fd >= 0,
        }
    }
    (ready, others)
}

/// Asks the kernel about all without waiting, then puts in what it cannot know. Returns how many are ready.
unsafe fn look_at_all(fds: *mut pollfd, count: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        if next::poll(fds, count as nfds_t, 0) < 0 {
            for index in 0..count {
                (*fds.add(index)).revents = 0;
            }
        }
        merge(fds, count)
    }
}

/// After the kernel has filled in everything: framework sockets anew; counts what is ready.
unsafe fn merge(fds: *mut pollfd, count: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        look(fds, count);
        (0..count).filter(|index| (*fds.add(*index)).revents != 0).count()
    }
}

/// Makes the kernel's view right before sleeping. Whether something is ready already.
unsafe fn prepare(fds: *mut pollfd, count: usize) -> bool {
    let mut ready = false;
    for index in 0..count {
        // SAFETY: the caller's.
        let entry = unsafe { &*fds.add(index) };
        if let Some(held) = hold(entry.fd) {
            ready |= prepare_one(entry.fd, &held, entry.events);
        }
    }
    ready
}

/// Makes the kernel's view of one socket right. Whether it is ready already.
pub(crate) fn prepare_one(fd: c_int, held: &Held, events: c_short) -> bool {
    if events & (READ | POLLPRI) != 0 && token::arm(fd, held).unwrap_or(true) {
        return true;
    }
    if events & WRITE != 0 && readiness(held) & WRITE == 0 {
        token::fill(fd, held);
    }
    readiness(held) & (events | ALWAYS) != 0
}

/// After sleeping: what the kernel saw on a framework socket that its rings do not confirm.
pub(crate) fn discard_stale(fd: c_int, held: &Held, seen: c_short) {
    if seen & POLLHUP != 0 && held.app().shutdown.load(Ordering::Relaxed) & 1 == 0 {
        token::nobody_listens(held);
    } else if seen & READ != 0
        && !held.has_data()
        && let Ok(side) = token::lock_rx(fd, held)
        && !held.has_data()
    {
        token::settle(fd, held, &side, true);
        errors::keep_queue(fd, held);
    }
}

/// Whether the kernel would sleep over an error of this socket: an error is told by a token, for which nobody asks who waits
/// for neither data nor anything else that a token makes ready.
pub(crate) fn is_deaf(held: &Held, events: c_short) -> bool {
    !held.is_stream() && events & READ == 0
}

/// How long the kernel sleeps of the time that is left: with a socket that [`is_deaf`] no longer than until the next look.
pub(crate) fn nap(left: Option<u64>, deaf: bool) -> Option<u64> {
    if deaf { Some(left.unwrap_or(SLICE).min(SLICE)) } else { left }
}

/// Waits. `timeout` in nanoseconds, `None` for ever; `sleep` is the kernel's call with the time that is left.
///
/// # Safety
/// `fds` are the program's.
pub unsafe fn poll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<u64>,
    sleep: impl Fn(Option<u64>) -> c_int,
) -> Outcome {
    let count = count as usize;
    if watch::is_used() && !fds.is_null() {
        // SAFETY: the caller's.
        (0..count).for_each(|index| watch::give_up(unsafe { (*fds.add(index)).fd }));
    }
    // SAFETY: the caller's.
    if fds.is_null() || !(0..count).any(|index| table::is_tracked(unsafe { (*fds.add(index)).fd })) {
        return Err(Stop::Bypass(Reason::Untracked));
    }
    // SAFETY: the caller's.
    let (ready, others) = unsafe { look(fds, count) };
    if ready == 0 && timeout != Some(0) {
        // SAFETY: the caller's.
        return unsafe { wait(fds, count, others, timeout, sleep) };
    }
    // SAFETY: the caller's.
    Ok(if others { unsafe { look_at_all(fds, count) } } else { ready } as isize)
}

unsafe fn wait(
    fds: *mut pollfd,
    count: usize,
    others: bool,
    timeout: Option<u64>,
    sleep: impl Fn(Option<u64>) -> c_int,
) -> Outcome {
    let end = timeout.map(|timeout| sys::monotonic().saturating_add(timeout));
    let mut ready = 0;
    token::spin(|| {
        // SAFETY: the caller's.
        ready = unsafe { if others { look_at_all(fds, count) } else { look(fds, count).0 } };
        ready > 0 || end.is_some_and(|end| sys::monotonic() >= end)
    });
    let before = sys::errno();
    while ready == 0 {
        // SAFETY: the caller's.
        if unsafe { prepare(fds, count) } {
            // SAFETY: the caller's.
            ready = unsafe { look_at_all(fds, count) };
            continue;
        }
        let left = end.map(|end| end.saturating_sub(sys::monotonic()));
        let deaf = (0..count).any(|index| {
            // SAFETY: the caller's.
            let entry = unsafe { *fds.add(index) };
            hold(entry.fd).is_some_and(|held| is_deaf(&held, entry.events))
        });
        let result = sleep(nap(left, deaf));
        if result < 0 {
            let errno = sys::errno();
            sys::set_errno(before);
            return Err(Error::Kernel(Errno(errno)).into());
        }
        for index in 0..count {
            // SAFETY: the caller's.
            let entry = unsafe { *fds.add(index) };
            if let Some(held) = hold(entry.fd) {
                discard_stale(entry.fd, &held, entry.revents);
            }
        }
        // SAFETY: the caller's.
        ready = unsafe { merge(fds, count) };
        if (result == 0 && !deaf) || end.is_some_and(|end| sys::monotonic() >= end) {
            break;
        }
    }
    Ok(ready as isize)
}
