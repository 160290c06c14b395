//! Receiving: bytes out of the receive ring.

use super::vectors::Vectors;
use super::{is_ended, is_listener, is_nonblocking, joined, take_error, told, unread};
use crate::outcome::{Error, Outcome, Stop};
use crate::receive::{self, EMPTY_TRIES, look_again, not_ours};
use crate::socket::{Held, RxSide};
use crate::{table, token};
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::app::{options, status};
use freena_shm_ring::kick;
use freena_shm_ring::stream::{Pipe, ReaderCursor};
use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, timespec};

/// Most elements of an array of buffers (`UIO_MAXIOV`, readv(2)).
const MAX_VECTORS: usize = 1024;

/// Some bytes in a ring that may be taken.
pub(crate) struct Bytes<'m> {
    pub(crate) pipe: Pipe<'m>,
    pub(crate) base: u64,
    pub(crate) position: u64,
    pub(crate) len: usize,
}

impl Bytes<'_> {
    /// Copies them into the program's buffers; returns how many. `EFAULT` for a null buffer before any.
    ///
    /// # Safety
    /// The buffers are writable, and outside the ring.
    unsafe fn copy(&self, to: &mut Vectors) -> Result<usize, Error> {
        let copy = |to, done: usize, take| {
            // SAFETY: the caller's; `each` stays within `self.len`.
            unsafe { self.pipe.copy_out(self.base, self.position.wrapping_add(done as u64), to, take) }
        };
        // SAFETY: the caller's.
        unsafe { to.each(self.len, copy) }
    }
}

/// recv(2), recvfrom(2). A stream tells no address.
///
/// # Safety
/// The pointers are the program's.
#[inline]
pub unsafe fn recvfrom(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    wanted: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Outcome {
    let vector = iovec { iov_base: bytes, iov_len: len };
    // SAFETY: the caller's.
    let received = unsafe { scatter(fd, &vector, 1, wanted) }?;
    if !from.is_null() && !from_len.is_null() {
        // SAFETY: the caller's.
        unsafe { *from_len = 0 };
    }
    Ok(received)
}

/// read(2): nothing is asked for where there is no room for it.
///
/// # Safety
/// The pointer is the program's.
#[inline]
pub unsafe fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> Outcome {
    let vector = iovec { iov_base: bytes, iov_len: len };
    // SAFETY: the caller's.
    unsafe { readv(fd, &vector, 1) }
}

/// readv(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn readv(fd: c_int, vectors: *const iovec, count: c_int) -> Outcome {
    let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
    // SAFETY: the caller's.
    if unsafe { Vectors::new(vectors, count).len() } == 0 && table::hold(fd).is_some() {
        return Ok(0);
    }
    // SAFETY: the caller's.
    unsafe { scatter(fd, vectors, count, 0) }
}

/// recvmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmsg(fd: c_int, message: *mut msghdr, wanted: c_int) -> Outcome {
    // SAFETY: the caller's.
    let (vectors, count) = {
        // SAFETY: null, or the caller's.
        let header = unsafe { message.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
        if header.msg_iovlen > MAX_VECTORS {
            return Err(Error::TooLong.into());
        }
        (header.msg_iov, header.msg_iovlen)
    };
    // SAFETY: the caller's.
    let received = unsafe { scatter(fd, vectors, count, wanted) }?;
    // SAFETY: the caller's.
    unsafe {
        (*message).msg_namelen = 0;
        (*message).msg_controllen = 0;
        (*message).msg_flags = wanted & (libc::MSG_CMSG_CLOEXEC | libc::MSG_OOB);
    }
    Ok(received)
}

/// recvmmsg(2), with its timeout as it is: looked at only after each message.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    wanted: c_int,
    timeout: *mut timespec,
) -> Outcome {
    let count = (count as usize).min(MAX_VECTORS);
    // SAFETY: null, or the caller's.
    let limit = unsafe { timeout.as_ref() };
    let nanoseconds = |t: &timespec| t.tv_sec.max(0) as u64 * 1_000_000_000 + t.tv_nsec.max(0) as u64;
    let end = limit.map(|limit| sys::monotonic().saturating_add(nanoseconds(limit)));
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
        if end.is_some_and(|end| sys::monotonic() >= end) {
            return Ok(taken as isize + 1);
        }
    }
    Ok(count as isize)
}

unsafe fn scatter(fd: c_int, vectors: *const iovec, count: usize, wanted: c_int) -> Outcome {
    let mut to = Vectors::new(vectors, count);
    // SAFETY: the caller's.
    let total = unsafe { to.len() };
    if wanted & libc::MSG_ERRQUEUE != 0 && table::hold(fd).is_some() {
        return Err(Error::WouldBlock.into());
    }
    if wanted & libc::MSG_OOB != 0 {
        // SAFETY: the caller's.
        return urgent(fd, wanted, |bytes| unsafe { bytes.copy(&mut to) });
    }
    pull(fd, wanted, total, |bytes, again| {
        if again {
            to.rewind();
        }
        if wanted & libc::MSG_TRUNC != 0 {
            return Ok(bytes.len);
        }
        // SAFETY: the caller's.
        unsafe { bytes.copy(&mut to) }
    })
}

/// How an attempt ended, other than in an error.
#[derive(PartialEq, Eq)]
enum Attempt {
    /// There is no more, or no more is wanted.
    Done,
    /// More is wanted and not there yet.
    Empty,
}

/// One call, under way.
struct Call {
    wanted: c_int,
    total: usize,
    done: usize,
}

impl Call {
    fn peeks(&self) -> bool {
        self.wanted & libc::MSG_PEEK != 0
    }

    /// Bytes with which it is content.
    fn target(&self, held: &Held) -> usize {
        if self.wanted & libc::MSG_WAITALL != 0 {
            return self.total;
        }
        let low = held.app().stream.low_water.load(Ordering::Relaxed) as usize;
        low.clamp(1, self.total.max(1))
    }
}

/// Takes up to `total` bytes, waiting for the first as the flags say. `take` copies the bytes that it is shown and says how
/// many; its second argument: from the beginning again, since the bytes taken so far stay where they are (`MSG_PEEK`).
pub(crate) fn pull(
    fd: c_int,
    wanted: c_int,
    total: usize,
    mut take: impl FnMut(&Bytes<'_>, bool) -> Result<usize, Error>,
) -> Outcome {
    let mut call = Call { wanted, total, done: 0 };
    let mut waited: Option<Result<(), Errno>> = None;
    loop {
        {
            let held = table::hold(fd).ok_or(Stop::Bypass(not_ours(fd)))?;
            let app = held.app();
            if waited.is_some() {
                app.rx_waiters.fetch_sub(1, Ordering::Relaxed);
                app.status.fetch_and(!status::NOTIFIED, Ordering::Relaxed);
            }
            if call.peeks() {
                call.done = 0;
            }
            match attempt(fd, &held, &mut call, waited.is_some(), &mut take) {
                Ok(Attempt::Done) => return Ok(call.done as isize),
                Ok(Attempt::Empty) => {}
                // recv(2) knows no better word for "not now" than EAGAIN.
                Err(Error::Reentered) => return Err(Error::WouldBlock.into()),
                Err(error) => return Err(error.into()),
            }
            if let Some(Err(errno)) = waited {
                return ended_early(&call, errno.into());
            }
            if wanted & libc::MSG_DONTWAIT != 0 || is_nonblocking(&held) {
                return ended_early(&call, Error::WouldBlock.into());
            }
            if call.peeks() && unread(&held) > 0 {
                // Readiness says nothing about more.
                drop(held);
                match look_later(fd) {
                    Ok(()) => waited = None,
                    Err(errno) => return ended_early(&call, errno.into()),
                }
                continue;
            }
            if look_again(fd, &held) {
                waited = None;
                continue;
            }
        }
        waited = Some(receive::wait(fd));
    }
}

fn ended_early(call: &Call, stop: Stop) -> Outcome {
    if call.done > 0 { Ok(call.done as isize) } else { Err(stop) }
}

/// For `MSG_PEEK` with more wanted than there is: a millisecond, or until a signal.
fn look_later(fd: c_int) -> Result<(), Errno> {
    let before = sys::errno();
    let mut entry = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one entry; no destructor is pending here or in the callers.
    if unsafe { next::poll(&mut entry, 1, 1) } >= 0 {
        return Ok(());
    }
    let errno = sys::errno();
    sys::set_errno(before);
    Err(Errno(errno))
}

/// The reading end of the ring as the shared words have it.
fn cursor(held: &Held) -> ReaderCursor {
    let head = held.rx_pipe().head().load(Ordering::Relaxed);
    ReaderCursor { head, tail: head, base: 0 }
}

/// Position of the urgent byte if it has not been passed yet (RFC 6093 section 2).
fn urgent_mark(held: &Held, head: u64) -> Option<u64> {
    let end = told(held).rx_urgent.load(Ordering::Relaxed);
    (end != 0 && end.wrapping_sub(1).wrapping_sub(head) < u64::MAX / 2).then(|| end.wrapping_sub(1))
}

fn is_inline(held: &Held) -> bool {
    held.app().options.load(Ordering::Relaxed) & options::OOB_INLINE != 0
}

fn attempt(
    fd: c_int,
    held: &Held,
    call: &mut Call,
    force: bool,
    take: &mut impl FnMut(&Bytes<'_>, bool) -> Result<usize, Error>,
) -> Result<Attempt, Error> {
    if is_listener(held) {
        return Err(Error::NotConnected);
    }
    let side = token::lock_rx(fd, held)?;
    let pipe = held.rx_pipe();
    let mut reader = cursor(held);
    let first = reader.head;
    let result = take_available(fd, held, &side, call, &pipe, &mut reader, force, take);
    if reader.head != first {
        match held.peer_page() {
            Some(peer) => joined::took(fd, held, peer),
            None => {
                held.note_received(1);
                if kick::needed(&told(held).rx_kick) {
                    token::kick(fd, held);
                }
            }
        }
    }
    result
}

#[allow(clippy::too_many_arguments, reason = "one loop, taken out so that what follows it always happens")]
fn take_available(
    fd: c_int,
    held: &Held,
    side: &RxSide<'_>,
    call: &mut Call,
    pipe: &Pipe<'_>,
    reader: &mut ReaderCursor,
    force: bool,
    take: &mut impl FnMut(&Bytes<'_>, bool) -> Result<usize, Error>,
) -> Result<Attempt, Error> {
    let mut skipped = 0;
    loop {
        // Before the tail: what is behind the end has been published by then.
        let ended = is_ended(held) || held.page().error.0.load(Ordering::Acquire) != 0;
        let have = reader.available(pipe).map_err(|_| receive::damaged(held))?;
        let ahead = if call.peeks() { (call.done + skipped) as u64 } else { 0 };
        let position = reader.head.wrapping_add(ahead);
        let mut len = (have - ahead.min(have)) as usize;
        if let Some(mark) = urgent_mark(held, position) {
            let before = mark.wrapping_sub(position) as usize;
            if before == 0 && call.done > 0 {
                return Ok(Attempt::Done);
            }
            if before == 0 && !is_inline(held) && len > 0 {
                if call.peeks() {
                    skipped += 1;
                } else {
                    reader.release(pipe, position.wrapping_add(1));
                }
                continue;
            }
            if before > 0 {
                len = len.min(before);
            }
        }
        if len > 0 {
            let len = len.min(call.total - call.done);
            let again = call.peeks() && call.done == 0;
            let taken = take(&Bytes { pipe: *pipe, base: reader.base, position, len }, again)?;
            call.done += taken;
            if !call.peeks() {
                reader.release(pipe, position.wrapping_add(taken as u64));
            }
            if call.done == call.total || taken < len {
                held.note_empty(false);
                if unread(held) > 0 {
                    token::leave(fd, held, side);
                } else if !ended {
                    token::settle(fd, held, side, false);
                }
                return Ok(Attempt::Done);
            }
            // Less than was asked for tells the program that there is no more: that must be so.
            continue;
        }
        if ended {
            // EPIPE is of the other direction.
            if call.done == 0 && held.page().error.0.load(Ordering::Relaxed) != libc::EPIPE as u32 {
                take_error(held)?;
            }
            return Ok(Attempt::Done);
        }
        let content = call.done >= call.target(held);
        if call.peeks() && call.done > 0 {
            return Ok(if content { Attempt::Done } else { Attempt::Empty });
        }
        let often = call.done == 0
            && (held.note_empty(true) % EMPTY_TRIES == EMPTY_TRIES - 1 || token::is_suspect(held));
        if call.done > 0 {
            held.note_empty(false);
        }
        if !token::settle(fd, held, side, force || often) {
            return Ok(if content { Attempt::Done } else { Attempt::Empty });
        }
    }
}

/// recv(2) with `MSG_OOB`: the urgent byte, once.
fn urgent(fd: c_int, wanted: c_int, take: impl FnOnce(&Bytes<'_>) -> Result<usize, Error>) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(not_ours(fd)))?;
    let _side = token::lock_rx(fd, &held)?;
    let pipe = held.rx_pipe();
    let mut reader = cursor(&held);
    let have = reader.available(&pipe).map_err(|_| receive::damaged(&held))?;
    let end = told(&held).rx_urgent.load(Ordering::Relaxed);
    let taken = &held.app().stream.urgent_taken;
    // tcp_recv_urg: EINVAL where it is inline, was not announced, or was read; EAGAIN where it has not arrived.
    let mark = urgent_mark(&held, reader.head).ok_or(Error::Invalid)?;
    if is_inline(&held) || taken.load(Ordering::Relaxed) == end {
        return Err(Error::Invalid.into());
    }
    if mark.wrapping_sub(reader.head) >= have {
        return if is_ended(&held) { Ok(0) } else { Err(Error::WouldBlock.into()) };
    }
    let bytes = Bytes { pipe, base: reader.base, position: mark, len: 1 };
    let len = if wanted & libc::MSG_TRUNC != 0 { 1 } else { take(&bytes)? };
    if wanted & libc::MSG_PEEK == 0 {
        taken.store(end, Ordering::Relaxed);
    }
    Ok(len as isize)
}

/// Whether the urgent byte can be read with `MSG_OOB` (`POLLPRI`).
pub(crate) fn has_urgent(held: &Held) -> bool {
    let head = held.rx_pipe().head().load(Ordering::Relaxed);
    let end = told(held).rx_urgent.load(Ordering::Acquire);
    end != 0
        && held.app().stream.urgent_taken.load(Ordering::Relaxed) != end
        && urgent_mark(held, head).is_some_and(|mark| mark.wrapping_sub(head) < unread(held))
}

/// Bytes that can be read without waiting, up to the urgent byte (`FIONREAD`, tcp(7)).
pub(crate) fn readable(held: &Held) -> u64 {
    let head = held.rx_pipe().head().load(Ordering::Relaxed);
    let unread = unread(held);
    match urgent_mark(held, head) {
        Some(mark) if !is_inline(held) && mark != head => unread.min(mark.wrapping_sub(head)),
        Some(_) if !is_inline(held) => unread.saturating_sub(1),
        _ => unread,
    }
}

/// Whether the next byte to be read is the urgent one (`SIOCATMARK`, tcp(7)).
pub(crate) fn is_at_mark(held: &Held) -> bool {
    let head = held.rx_pipe().head().load(Ordering::Relaxed);
    urgent_mark(held, head) == Some(head)
}

/// Sets `SO_RCVLOWAT`.
pub(crate) fn set_low_water(held: &Held, value: c_int) {
    let value = if value < 0 { c_int::MAX } else { value.max(1) };
    held.app().stream.low_water.store(value as u32, Ordering::Relaxed);
}
