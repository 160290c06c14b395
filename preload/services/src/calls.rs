//! Calls of the program on a descriptor whose flow has services.

mod datagrams;
mod file;
mod options;
mod read;
mod ready;
mod write;

pub use file::{sendfile, splice};
pub use options::{getsockopt, ioctl, setsockopt};
pub use read::{read, readv, recv, recvmmsg, recvmsg};
pub use ready::{poll, select};
pub use write::{send, sendmmsg, sendmsg, write, writev};

use crate::{below, errno};
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::{Outcome, Reason, Stop};
use libc::iovec;

/// Most elements of an array of buffers (`UIO_MAXIOV`, readv(2)).
const MAX_VECTORS: usize = 1024;

const UNTRACKED: Stop = Stop::Bypass(Reason::Untracked);

/// Waits for `events`, until the socket's own patience (`SO_RCVTIMEO`, `SO_SNDTIMEO`) or `deadline` is over.
///
/// # Errors
/// `EAGAIN` when the patience is, `EINTR`.
fn wait(fd: c_int, events: i16, name: c_int, since: u64, deadline: u64) -> Result<(), Errno> {
    let now = sys::monotonic();
    let own = below::patience(fd, name).map(|patience| since.saturating_add(patience));
    if own.is_some_and(|end| end <= now) {
        return Err(Errno(libc::EAGAIN));
    }
    let end = own.unwrap_or(u64::MAX).min(deadline);
    let left = (end != u64::MAX).then(|| end.saturating_sub(now));
    match below::wait(fd, events, left) {
        Err(Errno(libc::EINTR)) if own.is_none() && restarts() => Ok(()),
        other => other.map(drop),
    }
}

/// Whether all handlers of signals are such that the kernel would have gone on with a send or receive (`SA_RESTART`): a wait
/// is interrupted by any.
fn restarts() -> bool {
    (1..=64).all(|signal| {
        // SAFETY: plain data, valid when zero; only asked for.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
                return true;
            }
            action
        };
        matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
            || action.sa_flags & libc::SA_RESTART != 0
    })
}

/// The program's buffers.
///
/// # Safety
/// They are.
unsafe fn vectors<'a>(vectors: *const iovec, count: usize) -> Outcome<&'a [iovec]> {
    if count > MAX_VECTORS {
        return Err(errno(libc::EMSGSIZE));
    }
    if count == 0 {
        return Ok(&[]);
    }
    if vectors.is_null() {
        return Err(errno(libc::EFAULT));
    }
    // SAFETY: the caller's.
    let vectors = unsafe { std::slice::from_raw_parts(vectors, count) };
    if vectors.iter().any(|it| it.iov_base.is_null() && it.iov_len > 0) {
        return Err(errno(libc::EFAULT));
    }
    Ok(vectors)
}
