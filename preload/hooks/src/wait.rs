//! Waiting.

use crate::result::hook;
use core::ffi::c_int;
use core::ptr::{from_mut, from_ref, null};
use freena_preload_control::next;
use freena_preload_interface::outcome::{Outcome, Stop};
use freena_preload_interface::select::Places;
use freena_preload_interface::{epoll, poll, select, watch};
use freena_preload_services::calls;
use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

/// Milliseconds as the interface layer has them; negative is for ever.
fn milliseconds(timeout: c_int) -> Option<u64> {
    u64::try_from(timeout).ok().map(|timeout| timeout * 1_000_000)
}

/// Nanoseconds of a time limit; null is for ever.
unsafe fn nanoseconds(limit: *const timespec) -> Option<u64> {
    // SAFETY: null, or the program's.
    unsafe { limit.as_ref() }
        .map(|limit| limit.tv_sec.max(0) as u64 * 1_000_000_000 + limit.tv_nsec.max(0) as u64)
}

/// The time that is left as a `timespec`.
fn left_over(left: Option<u64>) -> Option<timespec> {
    left.map(|left| timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ })
}

fn pointer(limit: &Option<timespec>) -> *const timespec {
    limit.as_ref().map_or(null(), from_ref)
}

/// What the interface layer says, or else the kernel.
fn either(outcome: Outcome, kernel: impl FnOnce() -> c_int) -> c_int {
    match crate::result::verdict(outcome) {
        crate::result::Verdict::Return(value) => value as c_int,
        crate::result::Verdict::Next => kernel(),
    }
}

hook! {
    /// poll(2).
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int
        = {
            let sleep = |left: Option<u64>| {
                // Rounded up, as the kernel never wakes early.
                let left = left.map_or(-1, |left| left.div_ceil(1_000_000) as c_int);
                // SAFETY: the program's.
                unsafe { next::poll(fds, count, left) }
            };
            // SAFETY: the program's.
            let ask = |left| either(unsafe { poll::poll(fds, count, left, sleep) }, || sleep(left));
            match calls::poll(fds, count, milliseconds(timeout), ask) {
                Err(Stop::Bypass(_)) => poll::poll(fds, count, milliseconds(timeout), sleep),
                other => other,
            }
        };
    /// ppoll(2).
    fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int
        = {
            // SAFETY: the program's.
            let sleep = |left| unsafe { next::ppoll(fds, count, pointer(&left_over(left)), mask) };
            // SAFETY: the program's.
            let ask = |left| either(unsafe { poll::poll(fds, count, left, sleep) }, || sleep(left));
            match calls::poll(fds, count, nanoseconds(timeout), ask) {
                Err(Stop::Bypass(_)) => poll::poll(fds, count, nanoseconds(timeout), sleep),
                other => other,
            }
        };
    /// pselect(2).
    fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t) -> c_int
        = {
            let sets = [read, write, except];
            // SAFETY: the program's.
            let sleep = |left| unsafe { next::pselect(count, read, write, except, pointer(&left_over(left)), mask) };
            // SAFETY: the program's.
            let ask = |left| either(unsafe { select::select(count, Places(sets), left, sleep) }, || sleep(left));
            match calls::select(count, sets, nanoseconds(timeout), ask) {
                Err(Stop::Bypass(_)) => select::select(count, Places(sets), nanoseconds(timeout), sleep),
                other => other,
            }
        };
    /// epoll_wait(2).
    fn epoll_wait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int
        = epoll::wait(epfd, events, count, timeout == 0, |now| {
            // SAFETY: the program's.
            unsafe { next::epoll_wait(epfd, events, count, if now { 0 } else { timeout }) }
        });
    /// epoll_pwait(2).
    fn epoll_pwait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int
        = epoll::wait(epfd, events, count, timeout == 0, |now| {
            // SAFETY: the program's.
            unsafe { next::epoll_pwait(epfd, events, count, if now { 0 } else { timeout }, mask) }
        });
    /// epoll_pwait2(2).
    fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t)
        -> c_int
        = epoll::wait(epfd, events, count, nanoseconds(timeout) == Some(0), |now| {
            // SAFETY: the program's.
            unsafe {
                if now {
                    next::epoll_pwait(epfd, events, count, 0, mask)
                } else {
                    next::epoll_pwait2(epfd, events, count, timeout, mask)
                }
            }
        });
}

/// epoll_ctl(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    // SAFETY: the pointer is the program's.
    let result = unsafe {
        match crate::result::verdict(epoll::epoll_ctl(
            epfd,
            op,
            fd,
            event,
            !freena_preload_services::opened::is_inserted(fd),
        )) {
            crate::result::Verdict::Return(value) => value as c_int,
            crate::result::Verdict::Next => next::epoll_ctl(epfd, op, fd, event),
        }
    };
    if result == 0 && op == libc::EPOLL_CTL_ADD {
        freena_preload_services::opened::watched(epfd, fd);
    }
    result
}

/// epoll_create(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create(size: c_int) -> c_int {
    // SAFETY: a plain number.
    let epfd = unsafe { next::epoll_create(size) };
    watch::created(epfd);
    epfd
}

/// epoll_create1(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    // SAFETY: a plain number.
    let epfd = unsafe { next::epoll_create1(flags) };
    watch::created(epfd);
    epfd
}

/// select(2): Linux writes the time that is left into `timeout`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: null, or the program's.
    let limit = unsafe { timeout.as_ref() }
        .map(|limit| limit.tv_sec.max(0) as u64 * 1_000_000_000 + limit.tv_usec.max(0) as u64 * 1000);
    let start = freena_preload_control::sys::monotonic();
    let sets = [read, write, except];
    let places = Places(sets);
    let sleep = |left: Option<u64>| {
        let mut left = left.map(|left| timeval {
            tv_sec: (left / 1_000_000_000) as _,
            tv_usec: (left / 1000 % 1_000_000) as _,
        });
        let left = left.as_mut().map_or(core::ptr::null_mut(), from_mut);
        // SAFETY: the program's.
        unsafe { next::select(count, read, write, except, left) }
    };
    // SAFETY: the program's pointers, given for exactly this; no destructor is pending where it may block.
    unsafe {
        let ask = |left| either(select::select(count, places, left, sleep), || sleep(left));
        let outcome = match calls::select(count, sets, limit, ask) {
            Err(Stop::Bypass(_)) => select::select(count, places, limit, sleep),
            other => other,
        };
        match crate::result::verdict(outcome) {
            crate::result::Verdict::Next => next::select(count, read, write, except, timeout),
            crate::result::Verdict::Return(value) => {
                if let Some(limit) = limit {
                    let left = limit.saturating_sub(freena_preload_control::sys::monotonic() - start);
                    (*timeout).tv_sec = (left / 1_000_000_000) as _;
                    (*timeout).tv_usec = (left / 1000 % 1_000_000) as _;
                }
                value as c_int
            }
        }
    }
}

unsafe extern "C" {
    fn __chk_fail() -> !;
}

/// poll(2) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __poll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
    room: size_t,
) -> c_int {
    // SAFETY: the caller's; `__chk_fail` has no preconditions.
    unsafe {
        if room / size_of::<pollfd>() < count as usize {
            __chk_fail();
        }
        poll(fds, count, timeout)
    }
}

/// ppoll(2) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    // SAFETY: the caller's; `__chk_fail` has no preconditions.
    unsafe {
        if room / size_of::<pollfd>() < count as usize {
            __chk_fail();
        }
        ppoll(fds, count, timeout, mask)
    }
}
