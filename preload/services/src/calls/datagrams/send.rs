//! sendmsg(2) and its like.

use super::{hold, look_after};
use crate::below::{self, Address};
use crate::calls::{UNTRACKED, wait};
use crate::datagrams::{Datagrams, Sent};
use crate::errno;
use core::ffi::{c_int, c_void};
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::Outcome;
use libc::{MSG_DONTWAIT, iovec, msghdr};

/// Flags that a datagram goes with, besides those of its route.
const KNOWN: c_int =
    MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_EOR | libc::MSG_CONFIRM | libc::MSG_DONTROUTE;

/// Sends one message, waiting as the socket would.
///
/// # Safety
/// The pointers of the header are the program's, and so are the buffers.
pub(crate) unsafe fn send(fd: c_int, message: &msghdr, buffers: &[iovec], flags: c_int) -> Outcome {
    if flags & !KNOWN != 0 {
        // A call is one datagram, and is copied. For MSG_ZEROCOPY a program is prepared to do without (send(2)).
        let zero_copy = flags & libc::MSG_ZEROCOPY != 0;
        return Err(errno(if zero_copy { libc::ENOBUFS } else { libc::EOPNOTSUPP }));
    }
    let length: usize = buffers.iter().map(|it| it.iov_len).sum();
    let mut since = None;
    loop {
        // SAFETY: the caller's.
        match unsafe { turn(fd, message, buffers, length, flags) }? {
            Sent::Done => return Ok(length as isize),
            Sent::Unchanged => return Err(UNTRACKED),
            // A service's pace, which no readiness of a socket shows.
            Sent::Until(at) => sys::sleep(at.saturating_sub(sys::monotonic()).min(10_000_000) as i64),
            Sent::Full if flags & MSG_DONTWAIT != 0 || below::is_nonblocking(fd) => {
                return Err(errno(libc::EAGAIN));
            }
            Sent::Full => {
                let since = *since.get_or_insert_with(sys::monotonic);
                wait(fd, libc::POLLOUT, libc::SO_SNDTIMEO, since, u64::MAX)?;
            }
        }
    }
}

/// # Safety
/// As [`send`].
unsafe fn turn(fd: c_int, message: &msghdr, buffers: &[iovec], length: usize, flags: c_int) -> Outcome<Sent> {
    // SAFETY: the program's.
    let to = unsafe { Address::given(message.msg_name.cast(), message.msg_namelen) };
    if to.is_none() && !message.msg_name.is_null() && message.msg_namelen > 0 {
        return Err(errno(libc::EINVAL));
    }
    // SAFETY: the program's.
    let control = unsafe { slice(message.msg_control, message.msg_controllen) };
    // SAFETY: the program's.
    if unsafe { is_segmented(message) } {
        return Err(errno(libc::EINVAL));
    }
    let held = hold(fd)?;
    let mut gathered = Vec::new();
    let bytes = match buffers {
        // SAFETY: the program's.
        [one] => unsafe { slice(one.iov_base, one.iov_len) },
        many => {
            gathered.reserve_exact(length.min(1 << 17));
            for buffer in many {
                // SAFETY: the program's.
                gathered.extend_from_slice(unsafe { slice(buffer.iov_base, buffer.iov_len) });
                if gathered.len() > usize::from(u16::MAX) {
                    return Err(errno(libc::EMSGSIZE));
                }
            }
            &gathered[..]
        }
    };
    let mut it = held.lock_any::<Datagrams>()?;
    let sent = it.send(fd, to.as_ref(), control, bytes, flags).map_err(|error| errno(Errno(error).0))?;
    look_after(fd, it);
    Ok(sent)
}

/// # Safety
/// There are so many bytes.
unsafe fn slice<'a>(start: *const c_void, length: usize) -> &'a [u8] {
    if start.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(start.cast(), length) }
}

/// Whether the kernel is asked to make several datagrams of the call (`UDP_SEGMENT`).
///
/// # Safety
/// The ancillary data are the program's.
unsafe fn is_segmented(message: &msghdr) -> bool {
    // SAFETY: the caller's; the macros keep to the length that the header says.
    unsafe {
        let mut at =
            if message.msg_control.is_null() { std::ptr::null_mut() } else { libc::CMSG_FIRSTHDR(message) };
        while let Some(it) = at.as_ref() {
            if it.cmsg_level == libc::SOL_UDP && it.cmsg_type == libc::UDP_SEGMENT {
                return true;
            }
            at = libc::CMSG_NXTHDR(message, it);
        }
    }
    false
}
