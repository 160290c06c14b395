//! Programs that allow themselves a few system calls only (seccomp(2)).
//!
//! A filter made for a socket that is only read and written knows nothing of the calls by which a framework socket is
//! waited for, and kills for them. So from the moment at which a program installs one, what is said on a socket's
//! descriptor goes by poll(2), read(2) and write(2), and nobody yields or sleeps.

use crate::process;
use crate::sys::{self, Errno};
use core::ffi::{c_int, c_short};
use core::sync::atomic::{AtomicBool, Ordering};
use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT};

static CONFINED: AtomicBool = AtomicBool::new(false);
/// Waits for ever.
pub const FOREVER: c_int = -1;

/// Before a filter is installed: asks for what is asked of the kernel once, while that is allowed.
pub fn prepare() {
    process::tid();
}

/// A filter has been installed.
pub fn enter() {
    CONFINED.store(true, Ordering::Relaxed);
}

/// Whether a filter has been installed.
#[inline]
pub fn is_confined() -> bool {
    CONFINED.load(Ordering::Relaxed)
}

/// Waits up to `timeout` milliseconds until a descriptor is ready for `events`; whether it is.
///
/// # Errors
/// `EPIPE`: the other end is gone. Others are poll(2)'s.
pub fn wait(fd: c_int, events: c_short, timeout: c_int) -> sys::Result<bool> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    sys::poll(&mut entry, timeout)?;
    if events & POLLOUT != 0 && entry.revents & (POLLHUP | POLLERR | POLLNVAL) != 0 {
        return Err(Errno(libc::EPIPE));
    }
    Ok(entry.revents != 0)
}

/// Sends a message without blocking and, as the other end is looked at first, without SIGPIPE.
pub(crate) fn send(fd: c_int, bytes: &[u8]) -> sys::Result<usize> {
    if wait(fd, POLLOUT, 0)? { sys::write(fd, bytes) } else { Err(Errno(libc::EAGAIN)) }
}

/// Receives a message without blocking.
pub(crate) fn receive(fd: c_int, bytes: &mut [u8]) -> sys::Result<usize> {
    if wait(fd, POLLIN, 0)? { sys::read(fd, bytes) } else { Err(Errno(libc::EAGAIN)) }
}
