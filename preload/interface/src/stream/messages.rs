//! Sockets that a program has opened as SCTP (RFC 6458, one-to-one): messages instead of bytes.
//!
//! In the rings each message stands behind a head (`freena_shm_abi::message`). A message is written whole. What has arrived may lie
//! there in pieces, which are put together here. A piece that the program's buffer has no room for stays until all of it is read.

use super::receive::{Bytes, pull};
use super::sctp::{self, Beside};
use super::send::{Room, push_whole};
use super::vectors::Vectors;
use crate::outcome::{Error, Outcome, Stop};
use crate::receive::{damaged, not_ours};
use crate::socket::Held;
use crate::{address, names, table};
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::Errno;
use freena_shm_abi::app::options;
use freena_shm_abi::message::{HEAD, Head, flag};
use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t};
use zerocopy::{FromZeros, IntoBytes};

/// Most elements of an array of buffers (`UIO_MAXIOV`).
const MAX_VECTORS: usize = 1024;

/// send(2), write(2), writev(2): on stream 0.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn send(fd: c_int, vectors: *const iovec, count: usize, flags: c_int) -> Outcome {
    // SAFETY: the caller's.
    unsafe { send_with(fd, vectors, count, flags, &Beside::default()) }
}

/// sendmsg(2), with `SCTP_SNDRCV` or `SCTP_SNDINFO` beside it. A name is ignored: there is one peer.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> Outcome {
    // SAFETY: null, or the caller's.
    let header = unsafe { message.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
    if header.msg_iovlen > MAX_VECTORS {
        return Err(Error::TooLong.into());
    }
    // SAFETY: the caller's.
    unsafe {
        let beside = Beside::read(message)?;
        send_with(fd, header.msg_iov, header.msg_iovlen, flags, &beside)
    }
}

/// sendmmsg(2): the number of messages sent, an error only if there is none.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome {
    let count = (count as usize).min(MAX_VECTORS);
    for sent in 0..count {
        // SAFETY: the caller's; `sent < count`.
        let result = unsafe {
            let entry = messages.add(sent);
            sendmsg(fd, &raw const (*entry).msg_hdr, flags).map(|bytes| (*entry).msg_len = bytes as c_uint)
        };
        match result {
            Ok(()) => {}
            Err(stop) if sent == 0 => return Err(stop),
            Err(_) => return Ok(sent as isize),
        }
    }
    Ok(count as isize)
}

unsafe fn send_with(
    fd: c_int,
    vectors: *const iovec,
    count: usize,
    flags: c_int,
    beside: &Beside,
) -> Outcome {
    let mut from = Vectors::new(vectors, count);
    // SAFETY: the caller's.
    let length = unsafe { from.len() };
    {
        let held = table::hold(fd).ok_or(Stop::Bypass(not_ours(fd)))?;
        // Half of the ring: what waits for room is woken when that is free.
        if HEAD + length > held.sizes().tx as usize / 2 {
            return Err(Error::TooLong.into());
        }
        // While it connects it is not known how many there are.
        let streams = sctp::streams(&held).0;
        if streams != 0 && beside.stream >= streams {
            return Err(Error::Invalid.into());
        }
    }
    if length == 0 {
        // RFC 9260 section 3.3.1: there is no message without bytes.
        return if beside.ends { sctp::end(fd) } else { Err(Error::Invalid.into()) };
    }
    let head = Head {
        length: length as u32,
        payload_protocol: beside.protocol,
        stream: beside.stream,
        flags: flag::BEGIN | flag::END | if beside.unordered { flag::UNORDERED } else { 0 },
        ..Head::default()
    };
    // SAFETY: the caller's.
    let put = |room: &Room<'_>| unsafe { put(room, &head, &mut from, length) };
    // Nothing is to be sent at once or later, and no byte is urgent (RFC 6458 section 4.1).
    let sent = push_whole(fd, flags & !(libc::MSG_OOB | libc::MSG_MORE), HEAD + length, put)?;
    if beside.ends {
        sctp::end(fd)?;
    }
    Ok(sent - HEAD as isize)
}

/// Writes a message into the ring.
unsafe fn put(room: &Room<'_>, head: &Head, from: &mut Vectors, length: usize) -> Result<usize, Error> {
    let bytes = head.as_bytes();
    // SAFETY: the head lies in this process; there is room for all.
    unsafe { room.pipe.copy_in(room.base, room.position, bytes.as_ptr(), HEAD) };
    let copy = |from: *mut u8, done: usize, take| {
        let position = room.position.wrapping_add((HEAD + done) as u64);
        // SAFETY: the caller's; `each` stays within the length, for which there is room.
        unsafe { room.pipe.copy_in(room.base, position, from, take) }
    };
    // SAFETY: the caller's.
    let put = unsafe { from.each(length, copy) }?;
    // The program has changed its vectors meanwhile, or one is null.
    if put < length { Err(Error::Kernel(Errno(libc::EFAULT))) } else { Ok(HEAD + length) }
}

/// What a call has received.
#[derive(Default)]
struct Received {
    /// Bytes given to the program.
    len: usize,
    /// The head of the first piece.
    head: Option<Head>,
    /// The message ends with them.
    ends: bool,
}

/// recv(2), recvfrom(2), read(2), readv(2). The name is that of the peer.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvfrom(
    fd: c_int,
    vectors: *const iovec,
    count: usize,
    wanted: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Outcome {
    // SAFETY: the caller's.
    let received = unsafe { receive(fd, vectors, count, wanted) }?;
    if !from.is_null() && !from_len.is_null() {
        // SAFETY: the caller's.
        unsafe { name(fd, &received, from, from_len) }?;
    }
    Ok(received.len as isize)
}

/// recvmsg(2): `MSG_EOR` with the end of a message; beside it what the program has asked for.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmsg(fd: c_int, message: *mut msghdr, wanted: c_int) -> Outcome {
    // SAFETY: null, or the caller's.
    let header = unsafe { message.as_mut() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
    if header.msg_iovlen > MAX_VECTORS {
        return Err(Error::TooLong.into());
    }
    // SAFETY: the caller's.
    let received = unsafe { receive(fd, header.msg_iov, header.msg_iovlen, wanted) }?;
    if !header.msg_name.is_null() {
        // SAFETY: the caller's.
        unsafe { name(fd, &received, header.msg_name.cast(), &mut header.msg_namelen) }?;
    }
    header.msg_flags = if received.ends { libc::MSG_EOR } else { 0 };
    match (received.head, table::hold(fd)) {
        (Some(head), Some(held)) => {
            let told = held.app().stream.told.load(Ordering::Relaxed);
            // SAFETY: the caller's.
            header.msg_flags |= unsafe { sctp::give_beside(told, &head, message) };
        }
        _ => header.msg_controllen = 0,
    }
    Ok(received.len as isize)
}

/// recvmmsg(2), without its timeout, which is looked at only after each message.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, wanted: c_int) -> Outcome {
    let count = (count as usize).min(MAX_VECTORS);
    let mut flags = wanted & !libc::MSG_WAITFORONE;
    for taken in 0..count {
        // SAFETY: `taken < count` messages are the program's.
        let result = unsafe {
            let entry = messages.add(taken);
            recvmsg(fd, &raw mut (*entry).msg_hdr, flags).map(|len| (*entry).msg_len = len as c_uint)
        };
        match result {
            Ok(()) => {}
            Err(stop) if taken == 0 => return Err(stop),
            Err(_) => return Ok(taken as isize),
        }
        if wanted & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
    }
    Ok(count as isize)
}

/// Tells the peer's name, nothing at the end.
unsafe fn name(fd: c_int, received: &Received, to: *mut sockaddr, len: *mut socklen_t) -> Result<(), Error> {
    let Some(held) = table::hold(fd).filter(|_| received.head.is_some()) else {
        // SAFETY: the caller's.
        unsafe { *len = 0 };
        return Ok(());
    };
    let family6 = held.app().options.load(Ordering::Relaxed) & options::FAMILY6 != 0;
    // SAFETY: the caller's.
    unsafe { address::give(&names::get(held.app()).peer, family6, to, len) }
}

/// Receives of one message what there is room for.
unsafe fn receive(fd: c_int, vectors: *const iovec, count: usize, wanted: c_int) -> Result<Received, Stop> {
    let mut to = Vectors::new(vectors, count);
    // SAFETY: the caller's.
    let room = unsafe { to.len() };
    let mut received = Received::default();
    if wanted & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 && table::hold(fd).is_some() {
        return Err(Error::Kernel(Errno(libc::EOPNOTSUPP)).into());
    }
    let peeks = wanted & libc::MSG_PEEK != 0;
    // A message is all that a call waits for.
    pull(fd, wanted & !(libc::MSG_WAITALL | libc::MSG_TRUNC), usize::MAX / 2, |bytes, again| {
        if again {
            to.rewind();
            received = Received::default();
        }
        let held = table::hold(fd).ok_or(Error::NotConnected)?;
        if received.ends || received.head.is_some() && received.len == room {
            return Ok(0);
        }
        // SAFETY: the caller's.
        unsafe { take(&held, bytes, &mut to, room, peeks, &mut received) }
    })?;
    Ok(received)
}

/// Takes pieces of one message; returns how many bytes of the ring are done with.
unsafe fn take(
    held: &Held,
    bytes: &Bytes<'_>,
    to: &mut Vectors,
    room: usize,
    peeks: bool,
    received: &mut Received,
) -> Result<usize, Error> {
    let taken = &held.app().stream.taken;
    let mut at = 0;
    while at < bytes.len {
        let head = head(bytes, at).ok_or_else(|| damaged(held))?;
        // Of the first piece another call may have read some.
        let before = if received.head.is_none() { taken.load(Ordering::Relaxed) as usize } else { 0 };
        let left = (head.length as usize).checked_sub(before).ok_or_else(|| damaged(held))?;
        received.head.get_or_insert(head);
        let start = bytes.position.wrapping_add((at + HEAD + before) as u64);
        let copy = |to, done: usize, take| {
            // SAFETY: the caller's; `each` stays within the piece.
            unsafe { bytes.pipe.copy_out(bytes.base, start.wrapping_add(done as u64), to, take) }
        };
        // SAFETY: the caller's.
        let copied = unsafe { to.each(left.min(room - received.len), copy) }?;
        received.len += copied;
        if copied < left {
            if !peeks {
                taken.store((before + copied) as u32, Ordering::Relaxed);
            }
            return Ok(at);
        }
        if !peeks {
            taken.store(0, Ordering::Relaxed);
        }
        at += HEAD + head.length as usize;
        received.ends = head.flags & flag::END != 0;
        if received.ends {
            break;
        }
    }
    Ok(at)
}

/// The head of the piece at a place, if all of the piece is there.
fn head(bytes: &Bytes<'_>, at: usize) -> Option<Head> {
    let mut head = Head::new_zeroed();
    let left = (bytes.len - at).checked_sub(HEAD)?;
    let position = bytes.position.wrapping_add(at as u64);
    // SAFETY: the head lies in this process; so many bytes are in the ring.
    unsafe { bytes.pipe.copy_out(bytes.base, position, head.as_mut_bytes().as_mut_ptr(), HEAD) };
    (head.length as usize <= left).then_some(head)
}

/// send(2) of one buffer.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn send_one(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> Outcome {
    let vector = iovec { iov_base: bytes.cast_mut(), iov_len: len };
    // SAFETY: the caller's.
    unsafe { send(fd, &vector, 1, flags) }
}

/// recvfrom(2) into one buffer.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn receive_one(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    wanted: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Outcome {
    let vector = iovec { iov_base: bytes, iov_len: len };
    // SAFETY: the caller's.
    unsafe { recvfrom(fd, &vector, 1, wanted, from, from_len) }
}
