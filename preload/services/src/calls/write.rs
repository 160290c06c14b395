//! send(2) and its like.

use super::{UNTRACKED, datagrams, vectors, wait};
use crate::stream::Taken;
use crate::{below, courier, errno, table};
use core::ffi::{c_int, c_uint, c_void};
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::{Outcome, Stop};
use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t};
use std::io::IoSlice;

/// Flags that mean something to a stream with services.
const KNOWN: c_int =
    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_EOR | libc::MSG_CONFIRM;
/// Most bytes that are taken before the lock is given up.
const SHARE: usize = 256 * 1024;
/// How long a call that waits for the two ends to agree sleeps at most, in nanoseconds: the courier, or another thread, may
/// take the peer's agreement out of the queue first, and no readiness of the socket tells of it then.
const GLANCE: u64 = 2_000_000;

enum Turn {
    Taken(usize),
    Plain,
    Wait(i16, u64),
}

/// write(2).
///
/// # Safety
/// The pointer is the program's.
#[inline]
pub unsafe fn write(fd: c_int, bytes: *const c_void, len: size_t) -> Outcome {
    // SAFETY: the caller's.
    unsafe { send(fd, bytes, len, 0, std::ptr::null(), 0) }
}

/// send(2), sendto(2): the address of a stream is not looked at, as the kernel does with one that is connected.
///
/// # Safety
/// The pointer is the program's.
#[inline]
pub unsafe fn send(
    fd: c_int,
    bytes: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(not_inserted(flags));
    }
    let mut buffer = iovec { iov_base: bytes.cast_mut(), iov_len: len };
    if table::is_datagrams(fd) {
        let mut message = below::header(&mut buffer);
        (message.msg_name, message.msg_namelen) = (to.cast_mut().cast(), to_len);
        // SAFETY: the caller's.
        return unsafe { datagrams::send(fd, &message, vectors(message.msg_iov, 1)?, flags) };
    }
    // SAFETY: the caller's.
    unsafe { push(fd, vectors(&buffer, 1)?, flags) }
}

/// writev(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn writev(fd: c_int, buffers: *const iovec, count: c_int) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    let count = usize::try_from(count).map_err(|_| errno(libc::EINVAL))?;
    if table::is_datagrams(fd) {
        // SAFETY: the caller's; a header without anything else.
        return unsafe { datagrams::send(fd, &std::mem::zeroed(), vectors(buffers, count)?, 0) };
    }
    // SAFETY: the caller's.
    unsafe { push(fd, vectors(buffers, count)?, 0) }
}

/// sendmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(not_inserted(flags));
    }
    // SAFETY: the caller's.
    unsafe {
        let message = message.as_ref().ok_or_else(|| errno(libc::EFAULT))?;
        if table::is_datagrams(fd) {
            return datagrams::send(fd, message, vectors(message.msg_iov, message.msg_iovlen)?, flags);
        }
        push(fd, vectors(message.msg_iov, message.msg_iovlen)?, flags)
    }
}

/// sendmmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(not_inserted(flags));
    }
    let mut done = 0;
    while done < count as usize {
        // SAFETY: the caller's: `count` messages.
        let sent = unsafe {
            let entry = messages.add(done);
            sendmsg(fd, &raw const (*entry).msg_hdr, flags).inspect(|len| (*entry).msg_len = *len as c_uint)
        };
        match sent {
            Ok(_) => done += 1,
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done as isize)
}

/// Others send it, unless it would connect by sending, before there is a flow: a program connects first then (tcp(7)).
fn not_inserted(flags: c_int) -> Stop {
    if flags & libc::MSG_FASTOPEN != 0 && table::is_active() { errno(libc::EOPNOTSUPP) } else { UNTRACKED }
}

/// Gives bytes of the program's to the services, waiting as the socket would.
///
/// # Safety
/// The buffers are the program's.
pub(super) unsafe fn push(fd: c_int, buffers: &[iovec], flags: c_int) -> Outcome {
    if flags & !KNOWN != 0 {
        // Urgent data do not pass services; for MSG_ZEROCOPY a program is prepared to do without (send(2)).
        let zero_copy = flags & libc::MSG_ZEROCOPY != 0;
        return Err(errno(if zero_copy { libc::ENOBUFS } else { libc::EOPNOTSUPP }));
    }
    let total: usize = buffers.iter().map(|it| it.iov_len).sum();
    let (mut done, mut since) = (0, None);
    while done < total {
        // SAFETY: the caller's.
        match unsafe { turn(fd, buffers, done, flags) } {
            Ok(Turn::Taken(count)) => done += count,
            // SAFETY: the caller's.
            Ok(Turn::Plain) if done == 0 => return unsafe { plain(fd, buffers, flags) },
            Ok(Turn::Plain) => break,
            Ok(Turn::Wait(events, deadline)) => {
                let waits = if events == 0 {
                    // A service's pace, which no readiness of a socket shows.
                    sys::sleep(deadline.saturating_sub(sys::monotonic()).min(10_000_000) as i64);
                    Ok(())
                } else if flags & libc::MSG_DONTWAIT != 0 || below::is_nonblocking(fd) {
                    Err(Errno(libc::EAGAIN))
                } else {
                    let since = *since.get_or_insert_with(sys::monotonic);
                    wait(fd, events, libc::SO_SNDTIMEO, since, deadline)
                };
                match waits {
                    Ok(()) => {}
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => {
                if error == libc::EPIPE && flags & libc::MSG_NOSIGNAL == 0 {
                    sys::raise(libc::SIGPIPE);
                }
                return Err(errno(error));
            }
        }
    }
    Ok(done as isize)
}

/// # Safety
/// The buffers are the program's.
unsafe fn turn(fd: c_int, buffers: &[iovec], done: usize, flags: c_int) -> Result<Turn, c_int> {
    let held = table::hold(fd).ok_or(libc::EBADF)?;
    let mut stream = held.lock().map_err(|Errno(errno)| errno)?;
    let (mut skip, mut room) = (done, SHARE);
    let mut slices = buffers.iter().filter_map(|it| {
        let start = skip.min(it.iov_len);
        skip -= start;
        let take = (it.iov_len - start).min(room);
        room -= take;
        // SAFETY: the program's buffer has `start + take` bytes.
        (take > 0).then(|| unsafe {
            IoSlice::new(std::slice::from_raw_parts(it.iov_base.cast::<u8>().add(start), take))
        })
    });
    let taken = match buffers {
        // What nearly all calls have is not gathered.
        [_] => stream.take(fd, slices.next().as_slice(), flags)?,
        _ => stream.take(fd, &slices.collect::<Vec<_>>(), flags)?,
    };
    let turn = match taken {
        Taken::Bytes(count) => Turn::Taken(count),
        Taken::Plain => Turn::Plain,
        Taken::Full => Turn::Wait(libc::POLLOUT, u64::MAX),
        Taken::Agreement => {
            let glance = sys::monotonic().saturating_add(GLANCE);
            Turn::Wait(libc::POLLIN | stream.interest(), stream.deadline().min(glance))
        }
        Taken::Until(at) => Turn::Wait(0, at),
    };
    let busy = stream.is_busy();
    drop(stream);
    if busy {
        courier::enrol(fd);
    }
    Ok(turn)
}

/// Without services after all.
///
/// # Safety
/// The buffers are the program's.
unsafe fn plain(fd: c_int, buffers: &[iovec], flags: c_int) -> Outcome {
    // SAFETY: plain data, valid when zero; the buffers are the program's; no destructor is pending.
    let sent = unsafe {
        let mut message: msghdr = std::mem::zeroed();
        message.msg_iov = buffers.as_ptr().cast_mut();
        message.msg_iovlen = buffers.len();
        match freena_preload_interface::send::sendmsg(fd, &message, flags) {
            Err(UNTRACKED) => next::sendmsg(fd, &message, flags),
            other => return other,
        }
    };
    if sent < 0 { Err(errno(sys::errno())) } else { Ok(sent) }
}
