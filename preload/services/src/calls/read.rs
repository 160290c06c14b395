//! recv(2) and its like.

use super::{UNTRACKED, datagrams, vectors, wait};
use crate::stream::Found;
use crate::{below, courier, errno, table};
use core::ffi::{c_int, c_uint, c_void};
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::Outcome;
use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

/// Flags that mean something to a stream with services.
const KNOWN: c_int = libc::MSG_DONTWAIT
    | libc::MSG_PEEK
    | libc::MSG_WAITALL
    | libc::MSG_TRUNC
    | libc::MSG_CMSG_CLOEXEC
    | libc::MSG_NOSIGNAL
    | libc::MSG_WAITFORONE;

/// What one look for the program came to.
enum Turn {
    Done(usize),
    Plain,
    /// Wait for so many bytes, until then.
    Wait(usize, u64),
}

/// read(2).
///
/// # Safety
/// The pointer is the program's.
#[inline]
pub unsafe fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> Outcome {
    if len == 0 {
        // As the kernel, which takes nothing then (sock_read_iter).
        return Err(UNTRACKED);
    }
    // SAFETY: the caller's.
    unsafe { recv(fd, bytes, len, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
}

/// recv(2), recvfrom(2), which tells no address of a stream.
///
/// # Safety
/// The pointers are the program's.
#[inline]
pub unsafe fn recv(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    let mut buffer = iovec { iov_base: bytes, iov_len: len };
    if table::is_datagrams(fd) {
        // SAFETY: the caller's.
        return unsafe { receive_from(fd, &mut buffer, flags, from, from_len) };
    }
    // SAFETY: the caller's.
    unsafe {
        let count =
            receive(fd, vectors(&buffer, 1).or_else(|stop| discards(flags, &buffer).ok_or(stop))?, flags)?;
        if let Some(len) = from_len.as_mut() {
            *len = 0;
        }
        Ok(count)
    }
}

/// # Safety
/// The pointers are the program's.
unsafe fn receive_from(
    fd: c_int,
    buffer: &mut iovec,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Outcome {
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(UNTRACKED);
    }
    let mut message = below::header(buffer);
    // SAFETY: the caller's.
    unsafe {
        if let (false, Some(room)) = (from.is_null(), from_len.as_ref()) {
            (message.msg_name, message.msg_namelen) = (from.cast(), *room);
        }
        let buffers = vectors(buffer, 1)?;
        let count = datagrams::receive(fd, &mut message, buffers, flags)?;
        if let (false, Some(room)) = (from.is_null(), from_len.as_mut()) {
            *room = message.msg_namelen;
        }
        Ok(count)
    }
}

/// A null buffer is none to be filled with `MSG_TRUNC`.
fn discards(flags: c_int, buffer: &iovec) -> Option<&[iovec]> {
    (flags & libc::MSG_TRUNC != 0).then(|| std::slice::from_ref(buffer))
}

/// readv(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn readv(fd: c_int, buffers: *const iovec, count: c_int) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    let count = usize::try_from(count).map_err(|_| errno(libc::EINVAL))?;
    if table::is_datagrams(fd) {
        // SAFETY: the caller's.
        unsafe {
            let buffers = vectors(buffers, count)?;
            let mut message: msghdr = std::mem::zeroed();
            return datagrams::receive(fd, &mut message, buffers, 0);
        }
    }
    // SAFETY: the caller's.
    unsafe { receive(fd, vectors(buffers, count)?, 0) }
}

/// recvmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> Outcome {
    // What the kernel tells of errors and times of sending is not of the stream's bytes.
    if !table::is_inserted(fd) || flags & libc::MSG_ERRQUEUE != 0 {
        return Err(UNTRACKED);
    }
    // SAFETY: the caller's.
    unsafe {
        let message = message.as_mut().ok_or_else(|| errno(libc::EFAULT))?;
        if table::is_datagrams(fd) {
            let buffers = vectors(message.msg_iov, message.msg_iovlen)?;
            return datagrams::receive(fd, message, buffers, flags & !libc::MSG_WAITFORONE);
        }
        let count = receive(fd, vectors(message.msg_iov, message.msg_iovlen)?, flags)?;
        message.msg_namelen = 0;
        message.msg_controllen = 0;
        message.msg_flags = 0;
        Ok(count)
    }
}

/// recvmmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    mut flags: c_int,
    timeout: *mut timespec,
) -> Outcome {
    if !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    // SAFETY: null, or the program's.
    let limit = unsafe { timeout.as_ref() }
        .map(|it| it.tv_sec.max(0) as u64 * 1_000_000_000 + it.tv_nsec.max(0) as u64)
        .map(|limit| sys::monotonic().saturating_add(limit));
    let (mut done, ends) = (0, !table::is_datagrams(fd));
    while done < count as usize {
        // SAFETY: the caller's: `count` messages.
        let got = unsafe {
            let entry = messages.add(done);
            recvmsg(fd, &raw mut (*entry).msg_hdr, flags).inspect(|len| (*entry).msg_len = *len as c_uint)
        };
        match got {
            Ok(0) if ends && done > 0 => break,
            Ok(_) => done += 1,
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        // Looked at after each message, as the kernel does (recvmmsg(2), "BUGS").
        if limit.is_some_and(|limit| sys::monotonic() >= limit) {
            break;
        }
    }
    Ok(done as isize)
}

/// # Safety
/// The buffers are the program's.
unsafe fn receive(fd: c_int, buffers: &[iovec], flags: c_int) -> Outcome {
    if flags & !KNOWN != 0 {
        // Urgent data do not pass services.
        return Err(errno(libc::EINVAL));
    }
    let room: usize = buffers.iter().map(|it| it.iov_len).sum();
    let (mut done, mut since) = (0, None);
    loop {
        // SAFETY: the caller's.
        match unsafe { turn(fd, buffers, room, &mut done, flags) } {
            Ok(Turn::Done(count)) => return Ok(count as isize),
            // SAFETY: the caller's.
            Ok(Turn::Plain) => return unsafe { plain(fd, buffers, flags) },
            Ok(Turn::Wait(need, deadline)) => {
                let before = sys::errno();
                let since = *since.get_or_insert_with(sys::monotonic);
                if let Err(error) = until_there(fd, need, since, deadline) {
                    sys::set_errno(before);
                    return if done > 0 { Ok(done as isize) } else { Err(error.into()) };
                }
            }
            Err(_) if done > 0 => return Ok(done as isize),
            Err(error) => return Err(errno(error)),
        }
    }
}

/// # Safety
/// The buffers are the program's.
unsafe fn turn(
    fd: c_int,
    buffers: &[iovec],
    room: usize,
    done: &mut usize,
    flags: c_int,
) -> Result<Turn, c_int> {
    let held = table::hold(fd).ok_or(libc::EBADF)?;
    let mut stream = held.lock().map_err(|Errno(errno)| errno)?;
    if room == 0 {
        return Ok(Turn::Done(0));
    }
    loop {
        // A look ahead takes nothing, and one that is to give more than there is goes on looking.
        let takes = flags & (libc::MSG_PEEK | libc::MSG_WAITALL) == 0 && stream.own_low_water <= 1;
        match stream.look_for(fd, if takes { room } else { 0 })? {
            Found::Plain => return Ok(Turn::Plain),
            Found::End => return Ok(Turn::Done(*done)),
            Found::Bytes => {
                // SAFETY: the caller's.
                *done += unsafe { stream.deliver(fd, buffers, *done, flags) };
                let peek = flags & libc::MSG_PEEK != 0;
                let all = flags & libc::MSG_WAITALL != 0 && !peek;
                let enough = if all { room } else { (stream.own_low_water as usize).clamp(1, room) };
                if peek || *done >= enough {
                    return Ok(Turn::Done(*done));
                }
            }
            Found::Nothing => break,
        }
    }
    let (busy, deadline, need) = (stream.is_busy(), stream.deadline(), stream.needs());
    drop(stream);
    if busy {
        courier::enrol(fd);
    }
    if flags & libc::MSG_DONTWAIT != 0 || below::is_nonblocking(fd) {
        return if *done > 0 { Ok(Turn::Done(*done)) } else { Err(libc::EAGAIN) };
    }
    Ok(Turn::Wait(need, deadline))
}

/// Waits until so many bytes have arrived. Where no deadline is near this is a receive of the kernel's that takes nothing, so
/// that signals, `SO_RCVTIMEO` and cancellation are its own.
fn until_there(fd: c_int, need: usize, since: u64, deadline: u64) -> Result<(), Errno> {
    if deadline != u64::MAX || freena_preload_interface::table::is_tracked(fd) {
        return wait(fd, libc::POLLIN, libc::SO_RCVTIMEO, since, deadline);
    }
    // SAFETY: with MSG_TRUNC nothing is copied (tcp(7)); no destructor is pending here or in the callers.
    let got = unsafe { next::recv(fd, std::ptr::null_mut(), need, libc::MSG_PEEK | libc::MSG_TRUNC) };
    if got < 0 { Err(Errno(sys::errno())) } else { Ok(()) }
}

/// Without services after all.
///
/// # Safety
/// The buffers are the program's.
unsafe fn plain(fd: c_int, buffers: &[iovec], flags: c_int) -> Outcome {
    // SAFETY: plain data, valid when zero; the buffers are the program's; no destructor is pending.
    let got: ssize_t = unsafe {
        let mut message: msghdr = std::mem::zeroed();
        message.msg_iov = buffers.as_ptr().cast_mut();
        message.msg_iovlen = buffers.len();
        match freena_preload_interface::receive::recvmsg(fd, &mut message, flags) {
            Err(UNTRACKED) => next::recvmsg(fd, &mut message, flags),
            other => return other,
        }
    };
    if got < 0 { Err(errno(sys::errno())) } else { Ok(got) }
}
