//! Errors that wait to be asked for: the pending one (`SO_ERROR`), and those in the queue that `MSG_ERRQUEUE` reads.
//!
//! The kernel shows them as `POLLERR` (datagram_poll, net/core/datagram.c). A socket pair never does, so their token makes the
//! descriptor readable; poll and select are answered from the shared page, and what epoll has told is put right here. Which
//! of its events are a socket's only the kernel knows, by what the program gave it: it lists that in `/proc/self/fdinfo`.

use crate::outcome::{Outcome, Reason, Stop};
use crate::socket::Held;
use crate::{companion, poll, table, token};
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use freena_preload_control::sys::{self, Result};
use freena_preload_control::{client, confined};
use libc::{EPOLLERR, EPOLLIN, EPOLLRDNORM, POLLERR, POLLIN, POLLPRI, epoll_event};

/// Value of the server's counter of errors when sockets were last looked at.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// Whether a socket of this process may have an error that nobody has asked for yet.
static PENDING: AtomicBool = AtomicBool::new(false);

/// Whether an error waits to be asked for.
pub(crate) fn is_pending(held: &Held) -> bool {
    held.page().error.0.load(Ordering::Relaxed) != 0 || is_queued(held)
}

/// Whether one lies in the queue. Receiving takes nothing out of it.
pub(crate) fn is_queued(held: &Held) -> bool {
    held.page().rx_wake.0.queued.load(Ordering::Relaxed) != 0
}

/// Takes the pending error; 0 for none.
pub(crate) fn take(fd: c_int, held: &Held) -> c_int {
    let taken = held.page().error.0.swap(0, Ordering::Relaxed) as c_int;
    if taken != 0
        && held.app().polled.load(Ordering::Relaxed) != 0
        && !held.has_data()
        && let Ok(side) = token::lock_rx(fd, held)
    {
        // The token stood for the error alone.
        token::settle(fd, held, &side, false);
        keep_queue(fd, held);
    }
    taken
}

/// After tokens were taken: an epoll instance goes on telling of a queue that is not empty. Not to be called before sleeping
/// until something can be received, which a queue of errors does not end.
pub(crate) fn keep_queue(fd: c_int, held: &Held) {
    if is_queued(held) && held.app().polled.load(Ordering::Relaxed) != 0 {
        token::kick(fd, held);
    }
}

/// Makes a call that reads the queue of errors, which is the companion's.
pub(crate) fn read_queue(fd: c_int, call: impl FnOnce(c_int) -> Result<isize>) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    let (error, queued) = (&held.page().error.0, &held.page().rx_wake.0.queued);
    // With its message the error is no longer pending, and that of the next one is (sock_dequeue_err_skb): the server is told.
    let pending = error.swap(0, Ordering::Relaxed);
    let result = companion::with(fd, &held, |kernel| {
        let result = call(kernel);
        queued.store(0, Ordering::Relaxed);
        let mut entry = libc::pollfd { fd: kernel, events: 0, revents: 0 };
        if sys::poll(&mut entry, 0).is_ok() && entry.revents & POLLERR != 0 {
            queued.store(1, Ordering::Relaxed);
        }
        Ok(result?)
    });
    if result.is_err() {
        let _ = error.compare_exchange(0, pending, Ordering::Relaxed, Ordering::Relaxed);
    }
    if let (false, Ok(side)) = (held.has_data(), token::lock_rx(fd, &held)) {
        token::settle(fd, &held, &side, false);
        keep_queue(fd, &held);
    }
    Ok(result?)
}

/// Whether epoll may have told of sockets that have errors.
pub(crate) fn may_be_pending() -> bool {
    let Some(page) = client::server_page() else { return false };
    let count = page.errors.load(Ordering::Acquire);
    if SEEN.load(Ordering::Relaxed) != count {
        SEEN.store(count, Ordering::Relaxed);
        PENDING.store(true, Ordering::Relaxed);
    }
    PENDING.load(Ordering::Relaxed)
}

/// Puts `EPOLLERR` into the events of sockets that have errors, of those that `epfd` has reported.
pub(crate) fn show(epfd: c_int, events: &mut [epoll_event]) {
    if confined::is_confined() {
        return;
    }
    let mut pending = false;
    for fd in table::tracked(0, u32::MAX) {
        if let Some(held) = table::hold(fd).filter(|held| !held.is_stream() && is_pending(held)) {
            pending = true;
            registrations(epfd, |registered| {
                if registered.fd == fd {
                    show_one(epfd, &held, registered, events);
                }
            });
        }
    }
    if !pending {
        PENDING.store(false, Ordering::Relaxed);
    }
}

fn show_one(epfd: c_int, held: &Held, registered: &Registered, events: &mut [epoll_event]) {
    let ready = poll::readiness(held);
    // Who gives several descriptors the same data cannot tell them apart; then nothing is taken away.
    let mut alike = 0;
    registrations(epfd, |other| alike += usize::from(other.data == registered.data));
    for event in events.iter_mut().filter(|event| event.u64 == registered.data) {
        event.events |= EPOLLERR as u32 | registered.events & (ready & POLLPRI) as u32;
        if alike == 1 && ready & POLLIN == 0 {
            event.events &= !(EPOLLIN | EPOLLRDNORM) as u32;
        }
    }
}

/// What an epoll instance watches.
#[derive(Debug, Default, PartialEq, Eq)]
struct Registered {
    fd: c_int,
    events: u32,
    data: u64,
}

/// Visits all that `epfd` watches (proc_pid_fdinfo(5)). Nothing where `/proc` is not to be had.
fn registrations(epfd: c_int, mut visit: impl FnMut(&Registered)) {
    // Leading zeros are not for /proc, so the number's digits end where the name does.
    const FOLDER: &[u8] = b"/proc/self/fdinfo/";
    let digits = epfd.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
    let mut path = [0; FOLDER.len() + 11];
    path[..FOLDER.len()].copy_from_slice(FOLDER);
    let mut number = epfd.unsigned_abs();
    for digit in path[FOLDER.len()..][..digits].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let Ok(file) = sys::open(path.as_ptr().cast(), libc::O_RDONLY) else { return };
    let mut buffer = [0; 4096];
    let mut kept = 0;
    while let Ok(read @ 1..) = sys::read(file, &mut buffer[kept..]) {
        let filled = kept + read;
        let mut done = 0;
        while let Some(len) = buffer[done..filled].iter().position(|byte| *byte == b'\n') {
            if let Some(registered) = parse(&buffer[done..done + len]) {
                visit(&registered);
            }
            done += len + 1;
        }
        // A line is much shorter than the buffer.
        buffer.copy_within(done..filled, 0);
        kept = filled - done;
    }
    let _ = sys::close(file);
}

/// Reads a line such as `tfd:        5 events:       19 data:                5  pos:0 ino:1 sdev:2`.
fn parse(line: &[u8]) -> Option<Registered> {
    let line = core::str::from_utf8(line).ok()?;
    let (fd, rest) = line.strip_prefix("tfd:")?.split_once("events:")?;
    let (events, rest) = rest.split_once("data:")?;
    let data = rest.split_whitespace().next()?;
    Some(Registered {
        fd: fd.trim().parse().ok()?,
        events: u32::from_str_radix(events.trim(), 16).ok()?,
        data: u64::from_str_radix(data, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_others_are_not() {
        let line = b"tfd:       12 events: 8000001d data: ffffffff0000000c  pos:0 ino:a2b sdev:8";
        let expected = Registered { fd: 12, events: 0x8000_001d, data: 0xffff_ffff_0000_000c };
        assert_eq!(parse(line), Some(expected));
        for other in
            [&b"pos:\t0"[..], b"flags:\t02", b"", b"tfd: x events: 1 data: 2", b"tfd: 1 events: 1 data:"]
        {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no /proc of this process's")]
    fn all_registrations_of_an_instance_are_visited() {
        // SAFETY: plain system calls on descriptors that the test makes.
        let (epfd, ends) = unsafe {
            let epfd = libc::epoll_create1(0);
            let ends: [c_int; 200] = core::array::from_fn(|_| libc::eventfd(0, 0));
            for (index, end) in ends.iter().enumerate() {
                let mut event = epoll_event { events: EPOLLIN as u32, u64: 7 + index as u64 };
                assert_eq!(libc::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, *end, &mut event), 0);
            }
            (epfd, ends)
        };
        let mut seen = 0;
        registrations(epfd, |registered| {
            let index = (registered.data - 7) as usize;
            assert_eq!(registered.fd, ends[index]);
            assert_ne!(registered.events & EPOLLIN as u32, 0);
            seen += 1;
        });
        assert_eq!(seen, ends.len());
        for fd in ends.iter().chain([&epfd]) {
            // SAFETY: as above.
            unsafe { libc::close(*fd) };
        }
    }
}
