//! Receiving.

use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{Held, Kind, RxSide};
use crate::{address, ancillary, errors, stream, table, token};
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{confined, next};
use freena_shm_abi::app::{options, status};
use freena_shm_abi::record::flags;
use freena_shm_abi::{Endpoint, Record};
use freena_shm_ring::{Consumer, Message};
use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, timespec};

/// After this many receives in a row that found nothing, the kernel is asked whether the server still lives.
pub(crate) const EMPTY_TRIES: u32 = 16;
/// So many datagrams without waiting are a stream: the next ones are not worth a process switch each.
const STREAM: u32 = 8;
/// Most elements of an array of buffers (`UIO_MAXIOV`, readv(2)).
const MAX_VECTORS: usize = 1024;

/// One datagram in a ring.
pub(crate) struct View<'m> {
    message: Message<'m>,
    offset: usize,
    /// Its payload bytes.
    pub(crate) len: usize,
    /// Bytes per datagram where it holds several that arrived together (`UDP_GRO`), else 0.
    pub(crate) segment: u16,
}

impl View<'_> {
    /// The header of its record.
    pub(crate) fn record(&self) -> &Record {
        &self.message.record
    }

    /// Where it came from.
    fn source(&self) -> Endpoint {
        let record = self.record();
        Endpoint { addr: record.peer, scope: record.scope, port: record.peer_port, family: 6, pad: 0 }
    }

    /// Copies as much as fits; returns how much. `EFAULT` for a null buffer.
    unsafe fn scatter(&self, vectors: *const iovec, count: usize) -> Result<usize, Error> {
        let mut copied = 0;
        for index in 0..count {
            if copied == self.len {
                break;
            }
            // SAFETY: the caller's: `count` vectors, each describing writable memory outside the ring.
            unsafe {
                let vector = *vectors.add(index);
                let take = vector.iov_len.min(self.len - copied);
                if take > 0 && vector.iov_base.is_null() {
                    return Err(Error::Kernel(Errno(libc::EFAULT)));
                }
                self.message.read_raw(self.offset + copied, vector.iov_base.cast(), take);
                copied += take;
            }
        }
        Ok(copied)
    }

    /// `MSG_TRUNC` if `copied` is not all there was.
    fn truncation(&self, copied: usize) -> c_int {
        if copied < self.len || self.record().flags & flags::TRUNCATED != 0 { libc::MSG_TRUNC } else { 0 }
    }
}

/// What a receive returns: the bytes copied, or with `MSG_TRUNC` asked for the real length.
fn length(view: &View<'_>, copied: usize, wanted: c_int) -> isize {
    if wanted & libc::MSG_TRUNC != 0 { view.len as isize } else { copied as isize }
}

/// recvfrom(2), recv(2), read(2).
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
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        Some(Kind::Stream) => {
            // SAFETY: the caller's.
            return unsafe { stream::receive::recvfrom(fd, bytes, len, wanted, from, from_len) };
        }
        Some(Kind::Messages) => {
            // SAFETY: the caller's.
            return unsafe { stream::messages::receive_one(fd, bytes, len, wanted, from, from_len) };
        }
        Some(Kind::Datagram) => {}
    }
    let vector = iovec { iov_base: bytes, iov_len: len };
    let visit = |held: &Held, view: &View<'_>| {
        // SAFETY: the caller's.
        let copied = unsafe { view.scatter(&vector, 1) }?;
        if !from.is_null() && !from_len.is_null() {
            // SAFETY: the caller's.
            unsafe { address::give(&view.source(), is_family6(held), from, from_len) }?;
        }
        Ok(length(view, copied, wanted))
    };
    if wanted & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
        // SAFETY: the kernel checks the program's pointers.
        return errors::read_queue(fd, |kernel| unsafe {
            sys::recvfrom_raw(kernel, bytes, len, wanted | libc::MSG_DONTWAIT, from, from_len)
        });
    }
    receive(fd, wanted, visit)
}

/// read(2).
///
/// # Safety
/// The pointer is the program's.
#[inline]
pub unsafe fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> Outcome {
    if table::kind(fd) == Some(Kind::Stream) {
        // SAFETY: the caller's.
        return unsafe { stream::receive::read(fd, bytes, len) };
    }
    // SAFETY: the caller's.
    unsafe { recvfrom(fd, bytes, len, 0, core::ptr::null_mut(), core::ptr::null_mut()) }
}

/// readv(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn readv(fd: c_int, vectors: *const iovec, count: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::receive::readv(fd, vectors, count) },
        Some(Kind::Messages) => {
            let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
            let none = core::ptr::null_mut();
            // SAFETY: the caller's.
            return unsafe { stream::messages::recvfrom(fd, vectors, count, 0, none, core::ptr::null_mut()) };
        }
        Some(Kind::Datagram) => {}
    }
    let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
    // SAFETY: the caller's.
    receive(fd, 0, |_, view| Ok(unsafe { view.scatter(vectors, count) }? as isize))
}

/// recvmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn recvmsg(fd: c_int, message: *mut msghdr, wanted: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::receive::recvmsg(fd, message, wanted) },
        // SAFETY: the caller's.
        Some(Kind::Messages) => return unsafe { stream::messages::recvmsg(fd, message, wanted) },
        Some(Kind::Datagram) => {}
    }
    if wanted & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
        return errors::read_queue(fd, |kernel| {
            // SAFETY: the kernel checks the program's pointers.
            unsafe { sys::recvmsg(kernel, message, wanted | libc::MSG_DONTWAIT) }.map(|n| n as isize)
        });
    }
    // SAFETY: the caller's.
    unsafe { check(message) }?;
    // SAFETY: the caller's.
    receive(fd, wanted, |held, view| unsafe { fill_message(held, view, message, wanted) })
}

/// recvmmsg(2), with its timeout as it is: looked at only after each datagram.
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
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        Some(Kind::Stream) => {
            // SAFETY: the caller's.
            return unsafe { stream::receive::recvmmsg(fd, messages, count, wanted, timeout) };
        }
        // SAFETY: the caller's.
        Some(Kind::Messages) => return unsafe { stream::messages::recvmmsg(fd, messages, count, wanted) },
        Some(Kind::Datagram) => {}
    }
    let count = (count as usize).min(MAX_VECTORS);
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: null, or the caller's.
    let limit = unsafe { timeout.as_ref() };
    let nanoseconds = |t: &timespec| t.tv_sec.max(0) as u64 * 1_000_000_000 + t.tv_nsec.max(0) as u64;
    let end = limit.map(|limit| sys::monotonic().saturating_add(nanoseconds(limit)));
    for index in 0..count {
        // SAFETY: `count` messages are the program's.
        unsafe { check(&raw mut (*messages.add(index)).msg_hdr) }?;
    }
    let mut done = 0;
    let mut one = |held: &Held, view: &View<'_>| {
        // SAFETY: `done < count` messages are the program's.
        unsafe {
            let entry = messages.add(done);
            (*entry).msg_len = fill_message(held, view, &raw mut (*entry).msg_hdr, wanted)? as c_uint;
        }
        done += 1;
        Ok(0)
    };
    // The first one waits as the flags say. Of the others, what is there is taken under one lock.
    let mut flags = wanted & !libc::MSG_WAITFORONE;
    let mut result = receive_many(fd, flags, count, &mut one);
    if wanted & libc::MSG_WAITFORONE != 0 {
        flags |= libc::MSG_DONTWAIT;
    }
    let mut taken = *result.as_ref().unwrap_or(&0) as usize;
    while result.is_ok() && taken < count && end.is_none_or(|end| sys::monotonic() < end) {
        result = receive_many(fd, flags, count - taken, &mut one);
        match result {
            Ok(0) => break,
            Ok(more) => taken += more as usize,
            Err(_) => {}
        }
    }
    if let (Some(end), false) = (end, timeout.is_null()) {
        let left = end.saturating_sub(sys::monotonic());
        // SAFETY: the caller's.
        unsafe {
            *timeout = timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ };
        }
    }
    match result {
        Err(stop) if taken == 0 => Err(stop),
        _ => Ok(taken as isize),
    }
}

/// What of a message header the kernel would refuse.
unsafe fn check(message: *const msghdr) -> Result<(), Error> {
    // SAFETY: the caller's.
    let message = unsafe { message.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
    if message.msg_iovlen > MAX_VECTORS {
        return Err(Error::TooLong);
    }
    if message.msg_namelen > i32::MAX as u32 {
        return Err(Error::Invalid);
    }
    Ok(())
}

unsafe fn fill_message(
    held: &Held,
    view: &View<'_>,
    message: *mut msghdr,
    wanted: c_int,
) -> Result<isize, Error> {
    // SAFETY: the caller's: checked by `check`, and the program's memory.
    unsafe {
        let copied = view.scatter((*message).msg_iov, (*message).msg_iovlen)?;
        if !(*message).msg_name.is_null() {
            let name_len = &raw mut (*message).msg_namelen;
            address::give(&view.source(), is_family6(held), (*message).msg_name.cast(), name_len)?;
        }
        let truncated = ancillary::give(held.app(), view, message);
        (*message).msg_flags = view.truncation(copied) | truncated | wanted & libc::MSG_CMSG_CLOEXEC;
        Ok(length(view, copied, wanted))
    }
}

fn is_family6(held: &Held) -> bool {
    held.app().options.load(Ordering::Relaxed) & options::FAMILY6 != 0
}

/// Receives one datagram; `visit` copies it out and says what to return.
#[inline]
fn receive(
    fd: c_int,
    wanted: c_int,
    mut visit: impl FnMut(&Held, &View<'_>) -> Result<isize, Error>,
) -> Outcome {
    let mut value = 0;
    receive_many(fd, wanted, 1, &mut |held: &Held, view: &View<'_>| {
        value = visit(held, view)?;
        Ok(value)
    })?;
    Ok(value)
}

/// Receives at least one datagram and at most `max`; returns how many: 0 if the receiving direction was shut down.
#[inline]
fn receive_many(
    fd: c_int,
    wanted: c_int,
    max: usize,
    visit: &mut impl FnMut(&Held, &View<'_>) -> Result<isize, Error>,
) -> Outcome {
    let mut waited: Option<Result<(), Errno>> = None;
    loop {
        {
            let held = table::hold(fd).ok_or(Stop::Bypass(not_ours(fd)))?;
            let app = held.app();
            if waited.is_some() {
                app.rx_waiters.fetch_sub(1, Ordering::Relaxed);
                app.status.fetch_and(!status::NOTIFIED, Ordering::Relaxed);
            }
            match take(fd, &held, wanted & libc::MSG_PEEK != 0, waited.is_some(), max, visit) {
                Ok(0) => {}
                Ok(taken) => return Ok(taken as isize),
                // recv(2) knows no better word for "not now" than EAGAIN.
                Err(Error::Reentered) => return Err(Error::WouldBlock.into()),
                Err(error) => return Err(error.into()),
            }
            if let Some(Err(errno)) = waited {
                return Err(errno.into());
            }
            if app.shutdown.load(Ordering::Relaxed) & 1 != 0 {
                return Ok(0);
            }
            let state = app.status.load(Ordering::Relaxed);
            if state & status::DEAD != 0 {
                return Err(Error::ServerGone.into());
            }
            if wanted & libc::MSG_DONTWAIT != 0 || state & status::NONBLOCK != 0 {
                errors::keep_queue(fd, &held);
                return Err(Error::WouldBlock.into());
            }
            if look_again(fd, &held) {
                waited = None;
                continue;
            }
        }
        waited = Some(wait(fd));
    }
}

/// Before a call sleeps: spins for a while, then has itself counted among those who wait, and the token armed. Returns
/// whether there is something already; it is not counted then.
#[inline]
pub(crate) fn look_again(fd: c_int, held: &Held) -> bool {
    let ready = || held.has_data() || held.page().error.0.load(Ordering::Relaxed) != 0;
    let streak = if held.is_joined() { held.note_wait(stream::written(held)) } else { held.end_streak() };
    if streak >= STREAM && token::pause(ready) || token::spin(ready) {
        return true;
    }
    held.end_streak();
    let waiters = &held.app().rx_waiters;
    waiters.fetch_add(1, Ordering::Relaxed);
    let there = token::arm(fd, held).unwrap_or(false);
    if there {
        waiters.fetch_sub(1, Ordering::Relaxed);
    }
    there
}

/// Sleeps in the kernel until the descriptor is readable: `EINTR`, `SA_RESTART`, `SO_RCVTIMEO` and cancellation are the
/// kernel's and the libc's own. Nothing is held meanwhile.
pub(crate) fn wait(fd: c_int) -> Result<(), Errno> {
    if confined::is_confined() {
        return confined::wait(fd, libc::POLLIN, confined::FOREVER).map(drop);
    }
    let before = sys::errno();
    let mut byte = 0u8;
    // SAFETY: one byte is writable at `byte`; no destructor is pending in this function or in its callers.
    let got = unsafe { next::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
    if got >= 0 {
        return Ok(());
    }
    let errno = sys::errno();
    sys::set_errno(before);
    // The server ended with a message of ours unread: the next look at the descriptor finds its end.
    if errno == libc::ECONNRESET { Ok(()) } else { Err(Errno(errno)) }
}

/// Why a descriptor has no framework socket.
#[cold]
pub(crate) fn not_ours(fd: c_int) -> Reason {
    if table::is_tracked(fd) { Reason::Candidate } else { Reason::Untracked }
}

/// Takes up to `max` datagrams that are there; leaves the token as it has to be.
fn take(
    fd: c_int,
    held: &Held,
    peek: bool,
    force: bool,
    max: usize,
    visit: &mut impl FnMut(&Held, &View<'_>) -> Result<isize, Error>,
) -> Result<usize, Error> {
    let mut side = token::lock_rx(fd, held)?;
    loop {
        let error = &held.page().error.0;
        if error.load(Ordering::Relaxed) != 0 {
            let errno = error.swap(0, Ordering::Relaxed);
            if errno != 0 {
                if !held.has_data() {
                    token::settle(fd, held, &side, false);
                    errors::keep_queue(fd, held);
                }
                return Err(Error::Kernel(Errno(errno as c_int)));
            }
        }
        let taken = take_from_rings(held, &mut side, peek, max, visit)?;
        if taken > 0 {
            held.note_empty(false);
            held.note_received(taken);
            if held.has_data() {
                token::leave(fd, held, &side);
            } else {
                token::settle(fd, held, &side, false);
                errors::keep_queue(fd, held);
            }
            return Ok(taken);
        }
        let often = held.note_empty(true) % EMPTY_TRIES == EMPTY_TRIES - 1 || token::is_suspect(held);
        if !token::settle(fd, held, &side, force || often) {
            return Ok(0);
        }
    }
}

fn take_from_rings(
    held: &Held,
    side: &mut RxSide<'_>,
    peek: bool,
    max: usize,
    visit: &mut impl FnMut(&Held, &View<'_>) -> Result<isize, Error>,
) -> Result<usize, Error> {
    let rings = held.sizes().rx_rings as usize;
    let app = held.app();
    let first = app.rx_next.load(Ordering::Relaxed) as usize % rings;
    let mut taken = 0;
    for step in 0..rings {
        let ring = (first + step) % rings;
        while taken < max && take_one(held, side, ring, peek, visit)? {
            taken += 1;
            if peek {
                return Ok(taken);
            }
        }
        if taken == max {
            if rings > 1 {
                app.rx_next.store((ring as u32 + 1) % rings as u32, Ordering::Relaxed);
            }
            break;
        }
    }
    Ok(taken)
}

#[inline]
fn take_one(
    held: &Held,
    side: &mut RxSide<'_>,
    ring: usize,
    peek: bool,
    visit: &mut impl FnMut(&Held, &View<'_>) -> Result<isize, Error>,
) -> Result<bool, Error> {
    let app = held.app();
    let channel = held.rx(ring);
    let cursor = side.cursor(ring);
    let head = channel.head().load(Ordering::Relaxed);
    if cursor.head != head {
        // Another process received meanwhile, or the last record was left in place.
        if cursor.cached_tail.wrapping_sub(head) > channel.size() {
            cursor.cached_tail = head;
        }
        cursor.head = head;
    }
    let mut consumer = Consumer::new(channel, cursor);
    let Some(message) = consumer.next().map_err(|_| damaged(held))? else { return Ok(false) };
    let len = message.record.len as usize;
    let segment = usize::from(message.record.segment);
    let position = message.end - Record::footprint(len) as u64;
    let mut view = View { message, offset: 0, len, segment: 0 };
    let mut rest = 0;
    if segment != 0 && len > segment {
        let taken = app.rx_taken[ring].load(Ordering::Relaxed);
        if taken >> 16 == position & (u64::MAX >> 16) {
            view.offset = ((taken & 0xffff) as usize).min(len - 1);
        }
        view.len = len - view.offset;
        if app.options.load(Ordering::Relaxed) & options::GRO == 0 {
            view.len = view.len.min(segment);
            rest = len - view.offset - view.len;
        } else if view.len > segment {
            view.segment = message.record.segment;
        }
    }
    let result = visit(held, &view);
    if peek {
        consumer.rewind(position);
    } else if rest > 0 {
        app.rx_taken[ring].store(position << 16 | (len - rest) as u64, Ordering::Relaxed);
        consumer.rewind(position);
    } else {
        consumer.release();
    }
    result.map(|_| true)
}

#[cold]
pub(crate) fn damaged(held: &Held) -> Error {
    token::mark_dead(held);
    Error::ServerGone
}

/// Payload bytes of the next datagram, 0 if there is none (`FIONREAD`, udp(7)).
pub(crate) fn next_length(fd: c_int, held: &Held) -> Result<usize, Error> {
    let mut len = 0;
    let mut side = token::lock_rx(fd, held)?;
    take_from_rings(held, &mut side, true, 1, &mut |_: &Held, view: &View<'_>| {
        len = view.len;
        Ok(0)
    })?;
    Ok(len)
}
