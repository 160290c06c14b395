//! poll(2) and select(2) where a socket for datagrams is asked about: what is in its queue may be nothing for the program, and a
//! call that receives would wait. It is looked at first, as the kernel does with wrong checksums (udp_poll); like the kernel's,
//! epoll tells of it all the same, and so does a non-blocking socket.

use super::{UNTRACKED, datagrams};
use crate::table;
use core::ffi::{c_int, c_short};
use freena_preload_control::sys;
use freena_preload_interface::outcome::Outcome;
use libc::{FD_SETSIZE, POLLIN, POLLRDNORM, fd_set, nfds_t, pollfd};

const READ: c_short = POLLIN | POLLRDNORM;

/// What is left of a time limit that began at `since`; `None` for ever.
fn left_of(limit: Option<u64>, since: u64) -> Option<u64> {
    limit.map(|limit| limit.saturating_sub(sys::monotonic() - since))
}

/// poll(2), ppoll(2): `ask` is the call without services, for so many nanoseconds.
///
/// # Safety
/// The entries are the program's.
pub unsafe fn poll(
    fds: *mut pollfd,
    count: nfds_t,
    limit: Option<u64>,
    ask: impl Fn(Option<u64>) -> c_int,
) -> Outcome {
    let reads = |entry: &pollfd| entry.events & READ != 0 && table::is_datagrams(entry.fd);
    // SAFETY: the caller's.
    let any = table::is_active()
        && !fds.is_null()
        && (0..count as usize).any(|index| reads(unsafe { &*fds.add(index) }));
    if !any {
        return Err(UNTRACKED);
    }
    let (since, before) = (sys::monotonic(), sys::errno());
    let mut left = limit;
    loop {
        let mut ready = ask(left);
        if ready <= 0 {
            return Ok(ready as isize);
        }
        for index in 0..count as usize {
            // SAFETY: the caller's.
            let entry = unsafe { &mut *fds.add(index) };
            if entry.revents & READ != 0 && reads(entry) && !datagrams::is_readable(entry.fd) {
                entry.revents &= !READ;
                ready -= c_int::from(entry.revents == 0);
            }
        }
        sys::set_errno(before);
        left = left_of(limit, since);
        if ready > 0 || left == Some(0) {
            return Ok(ready as isize);
        }
    }
}

/// select(2), pselect(2): `ask` is the call without services, for so many nanoseconds.
///
/// # Safety
/// The sets are the program's.
pub unsafe fn select(
    count: c_int,
    sets: [*mut fd_set; 3],
    limit: Option<u64>,
    ask: impl Fn(Option<u64>) -> c_int,
) -> Outcome {
    let [read, ..] = sets;
    if !table::is_active() || read.is_null() || !(0..=FD_SETSIZE as c_int).contains(&count) {
        return Err(UNTRACKED);
    }
    // SAFETY: the program's set has `count` bits.
    let asked: Vec<c_int> =
        (0..count).filter(|fd| unsafe { libc::FD_ISSET(*fd, read) } && table::is_datagrams(*fd)).collect();
    if asked.is_empty() {
        return Err(UNTRACKED);
    }
    let bytes = (count as usize).div_ceil(64) * 8;
    let mut kept = [[0u8; FD_SETSIZE / 8]; 3];
    for (kept, set) in kept.iter_mut().zip(sets).filter(|(_, set)| !set.is_null()) {
        // SAFETY: a set has at least `count` bits, in whole words.
        unsafe { std::ptr::copy_nonoverlapping(set.cast(), kept.as_mut_ptr(), bytes) };
    }
    let (since, before) = (sys::monotonic(), sys::errno());
    let mut left = limit;
    loop {
        let mut ready = ask(left);
        if ready <= 0 {
            return Ok(ready as isize);
        }
        for fd in &asked {
            // SAFETY: as above.
            unsafe {
                if libc::FD_ISSET(*fd, read) && !datagrams::is_readable(*fd) {
                    libc::FD_CLR(*fd, read);
                    ready -= 1;
                }
            }
        }
        sys::set_errno(before);
        left = left_of(limit, since);
        if ready > 0 || left == Some(0) {
            return Ok(ready as isize);
        }
        for (kept, set) in kept.iter().zip(sets).filter(|(_, set)| !set.is_null()) {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(kept.as_ptr(), set.cast(), bytes) };
        }
    }
}
