//! Sending.

use crate::ancillary::{self, Asked};
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::receive::not_ours;
use crate::socket::{Held, Kind};
use crate::{address, companion, errors, names, stream, table, takeover, token};
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::Ordering;
use freena_preload_control::route::{self, Query, Route};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{confined, next};
use freena_shm_abi::app::{options, status};
use freena_shm_abi::record::{Record, flags};
use freena_shm_abi::{Endpoint, endpoint};
use freena_shm_ring::Producer;
use freena_shm_ring::cursor::ProducerCursor;
use freena_shm_ring::ring::Refused;
use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t};

/// Largest UDP payload over IPv4: 65,535 less the IPv4 and UDP headers.
const MAX_V4: usize = 65_507;
/// Largest UDP payload over IPv6.
const MAX_V6: usize = 65_527;
/// Most segments in one send (`UDP_MAX_SEGMENTS`, udp(7)).
const MAX_SEGMENTS: usize = 64;
/// Most elements of an array of buffers (`UIO_MAXIOV`, writev(2)).
const MAX_VECTORS: usize = 1024;
/// Flags that the fast path understands. With any other the kernel sends.
const KNOWN_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_CONFIRM;

/// One datagram as the program gives it.
struct Datagram {
    vectors: *const iovec,
    count: usize,
    name: *const sockaddr,
    name_len: socklen_t,
    control: *const msghdr,
    flags: c_int,
}

/// How an attempt ended, other than in an error.
enum Attempt {
    /// In the ring.
    Queued(usize),
    /// The ring is full.
    Full,
    /// The kernel has to send it.
    ThroughKernel,
}

/// sendto(2), send(2), write(2).
///
/// # Safety
/// The pointers are the program's.
#[inline]
pub unsafe fn sendto(
    fd: c_int,
    bytes: *const c_void,
    len: size_t,
    flags: c_int,
    name: *const sockaddr,
    name_len: socklen_t,
) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::send::send(fd, bytes, len, flags) },
        // SAFETY: the caller's.
        Some(Kind::Messages) => return unsafe { stream::messages::send_one(fd, bytes, len, flags) },
        Some(Kind::Datagram) => {}
    }
    let vector = iovec { iov_base: bytes.cast_mut(), iov_len: len };
    let datagram = Datagram { vectors: &vector, count: 1, name, name_len, control: ptr::null(), flags };
    // SAFETY: the caller's.
    unsafe { send(fd, &datagram) }
}

/// writev(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::send::writev(fd, vectors, count) },
        Some(Kind::Messages) => {
            let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
            // SAFETY: the caller's.
            return unsafe { stream::messages::send(fd, vectors, count, 0) };
        }
        Some(Kind::Datagram) => {}
    }
    let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
    let datagram =
        Datagram { vectors, count, name: ptr::null(), name_len: 0, control: ptr::null(), flags: 0 };
    // SAFETY: the caller's.
    unsafe { send(fd, &datagram) }
}

/// sendmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::send::sendmsg(fd, message, flags) },
        // SAFETY: the caller's.
        Some(Kind::Messages) => return unsafe { stream::messages::sendmsg(fd, message, flags) },
        Some(Kind::Datagram) => {}
    }
    // SAFETY: the caller's.
    unsafe { send(fd, &Datagram::from_message(message, flags)?) }
}

/// sendmmsg(2): the number of messages sent, an error only if there is none.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        // SAFETY: the caller's.
        Some(Kind::Stream) => return unsafe { stream::send::sendmmsg(fd, messages, count, flags) },
        // SAFETY: the caller's.
        Some(Kind::Messages) => return unsafe { stream::messages::sendmmsg(fd, messages, count, flags) },
        Some(Kind::Datagram) => {}
    }
    let mut sent = 0;
    let count = (count as usize).min(MAX_VECTORS);
    while sent < count {
        // What fits goes out under one lock, with one look at the kick word.
        // SAFETY: the caller's.
        sent += match unsafe { send_batch(fd, messages.wrapping_add(sent), count - sent, flags) } {
            Ok(queued) if queued > 0 => queued,
            Ok(_) => {
                // SAFETY: the caller's; `sent < count`.
                let result = unsafe {
                    let entry = messages.add(sent);
                    let message = &raw const (*entry).msg_hdr;
                    Datagram::from_message(message, flags)
                        .map_err(Stop::from)
                        .and_then(|datagram| send(fd, &datagram))
                        .map(|bytes| (*entry).msg_len = bytes as c_uint)
                };
                match result {
                    Ok(()) => 1,
                    Err(stop) if sent == 0 => return Err(stop),
                    Err(_) => break,
                }
            }
            Err(error) if sent == 0 => return Err(error.into()),
            Err(_) => break,
        };
    }
    Ok(sent as isize)
}

/// sendfile(2): on the companion for a datagram socket.
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> Outcome {
    refuse_messages(out)?;
    if table::kind(out) == Some(Kind::Stream) {
        // SAFETY: the caller's.
        return unsafe { stream::file::sendfile(out, from, offset, count) };
    }
    prepare(out)?;
    // SAFETY: the kernel checks the program's pointer.
    companion::forward(out, |kernel| unsafe { sys::sendfile(kernel, from, offset, count) })
}

/// splice(2): on the companion for a datagram socket.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn splice(
    from: c_int,
    from_offset: *mut i64,
    to: c_int,
    to_offset: *mut i64,
    len: size_t,
    flags: c_uint,
) -> Outcome {
    refuse_messages(to)?;
    refuse_messages(from)?;
    if table::kind(to) == Some(Kind::Stream) || table::kind(from) == Some(Kind::Stream) {
        // SAFETY: the caller's.
        return unsafe { stream::file::splice(from, from_offset, to, to_offset, len, flags) };
    }
    prepare(to)?;
    // SAFETY: the kernel checks the program's pointers.
    let splice = |kernel| unsafe { sys::splice(from, from_offset, kernel, to_offset, len, flags) };
    companion::forward(to, splice)
}

/// Files and pipes have no messages.
fn refuse_messages(fd: c_int) -> Outcome<()> {
    if table::kind(fd) == Some(Kind::Messages) { Err(Error::Invalid.into()) } else { Ok(()) }
}

/// Queues as many of the messages as go without waiting and without the kernel.
unsafe fn send_batch(fd: c_int, messages: *mut mmsghdr, count: usize, flags: c_int) -> Result<usize, Error> {
    let Some(held) = table::hold(fd) else { return Ok(0) };
    let mut queued = 0;
    while queued < count {
        // SAFETY: `queued < count` messages are the program's.
        let attempt = unsafe {
            let entry = messages.add(queued);
            let datagram = Datagram::from_message(&raw const (*entry).msg_hdr, flags);
            let attempt = datagram.and_then(|datagram| attempt(fd, &held, &datagram));
            if let Ok(Attempt::Queued(bytes)) = attempt {
                (*entry).msg_len = bytes as c_uint;
            }
            attempt
        };
        match attempt {
            Ok(Attempt::Queued(_)) => queued += 1,
            Err(error) if queued == 0 => return Err(error),
            _ => break,
        }
    }
    if queued > 0 {
        token::kick_if_needed(fd, &held);
    }
    Ok(queued)
}

impl Datagram {
    unsafe fn from_message(message: *const msghdr, flags: c_int) -> Result<Self, Error> {
        // SAFETY: the caller's.
        let header = unsafe { message.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
        if header.msg_iovlen > MAX_VECTORS {
            return Err(Error::TooLong);
        }
        Ok(Datagram {
            vectors: header.msg_iov,
            count: header.msg_iovlen,
            name: header.msg_name.cast(),
            name_len: if header.msg_name.is_null() { 0 } else { header.msg_namelen },
            control: if header.msg_control.is_null() || header.msg_controllen == 0 {
                ptr::null()
            } else {
                message
            },
            flags,
        })
    }

    /// Payload bytes. `EFAULT` for a null buffer; what other pointers lead to is found out by copying.
    unsafe fn len(&self) -> Result<usize, Error> {
        let mut sum = 0usize;
        for index in 0..self.count {
            // SAFETY: the caller's: `count` vectors are the program's.
            let vector = unsafe { *self.vectors.add(index) };
            if vector.iov_base.is_null() && vector.iov_len != 0 {
                return Err(Error::Kernel(Errno(libc::EFAULT)));
            }
            sum = sum.saturating_add(vector.iov_len);
        }
        Ok(sum)
    }

    /// Sends it on a kernel socket.
    unsafe fn send_on(&self, fd: c_int) -> sys::Result<isize> {
        // SAFETY: `msghdr` is plain data, valid when zero.
        let mut message: msghdr = unsafe { core::mem::zeroed() };
        message.msg_name = self.name.cast_mut().cast();
        message.msg_namelen = self.name_len;
        message.msg_iov = self.vectors.cast_mut();
        message.msg_iovlen = self.count as _;
        if !self.control.is_null() {
            // SAFETY: the program's message, with control data.
            unsafe {
                message.msg_control = (*self.control).msg_control;
                message.msg_controllen = (*self.control).msg_controllen;
            }
        }
        // SAFETY: the kernel checks the program's pointers.
        unsafe { sys::sendmsg(fd, &message, self.flags | libc::MSG_DONTWAIT) }.map(|sent| sent as isize)
    }
}

/// A candidate becomes a framework socket with its first unconnected send.
fn prepare(fd: c_int) -> Outcome<()> {
    if not_ours(fd) == Reason::Candidate && table::hold(fd).is_none() {
        takeover::before_first_send(fd)?;
    }
    Ok(())
}

unsafe fn send(fd: c_int, datagram: &Datagram) -> Outcome {
    let mut spun = false;
    let mut filled = false;
    loop {
        {
            let held = match table::hold(fd) {
                Some(held) => held,
                None if datagram.name.is_null() => return Err(Stop::Bypass(not_ours(fd))),
                None => {
                    prepare(fd)?;
                    table::hold(fd).ok_or(Stop::Bypass(not_ours(fd)))?
                }
            };
            // SAFETY: the caller's.
            match unsafe { attempt(fd, &held, datagram) }? {
                Attempt::Queued(bytes) => {
                    token::kick_if_needed(fd, &held);
                    return Ok(bytes as isize);
                }
                // SAFETY: the caller's.
                Attempt::ThroughKernel => match unsafe { through_kernel(fd, &held, datagram) } {
                    Err(Error::WouldBlock) if !is_nonblocking(&held, datagram) => {
                        let Some(kernel) = held.cached_companion() else { continue };
                        drop(held);
                        wait_for_companion(kernel)?;
                        continue;
                    }
                    result => return Ok(result?),
                },
                Attempt::Full => {}
            }
            let nonblocking = is_nonblocking(&held, datagram);
            if !nonblocking && !spun {
                spun = true;
                token::kick_if_needed(fd, &held);
                let half = u64::from(held.sizes().tx / 2);
                if token::spin(|| used(&held) <= half) {
                    continue;
                }
            }
            if !filled {
                // So that poll, select and epoll say the truth; and one more look, as it may have been emptied.
                token::fill(fd, &held);
                filled = true;
                continue;
            }
            if nonblocking {
                return Err(Error::WouldBlock.into());
            }
        }
        wait(fd)?;
        filled = false;
    }
}

fn is_nonblocking(held: &Held, datagram: &Datagram) -> bool {
    datagram.flags & libc::MSG_DONTWAIT != 0
        || held.app().status.load(Ordering::Relaxed) & status::NONBLOCK != 0
}

/// Bytes in the transmit ring.
pub(crate) fn used(held: &Held) -> u64 {
    let page = held.page();
    page.tx_tail.0.load(Ordering::Relaxed).wrapping_sub(page.tx_head.0.load(Ordering::Relaxed))
}

/// Sleeps in the kernel until the descriptor is writable, by sending a kick: `EINTR`, `SA_RESTART`, `SO_SNDTIMEO` and
/// cancellation are the kernel's and the libc's own. Nothing is held meanwhile.
pub(crate) fn wait(fd: c_int) -> Outcome<()> {
    match send_blocking(fd) {
        0 => Ok(()),
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => {
            let Some(held) = table::hold(fd) else { return Err(Error::ServerGone.into()) };
            token::nobody_listens(&held);
            // The next look at a connection says how it has ended.
            if held.is_stream() { Ok(()) } else { Err(Error::ServerGone.into()) }
        }
        errno => Err(Errno(errno).into()),
    }
}

/// Sends a kick, waiting for room; 0 or the errno.
fn send_blocking(fd: c_int) -> c_int {
    if confined::is_confined() {
        return confined::wait(fd, libc::POLLOUT, confined::FOREVER).map_or_else(|errno| errno.0, |_| 0);
    }
    let before = sys::errno();
    // SAFETY: one byte is readable; no destructor is pending in this function or in its callers.
    if unsafe { next::send(fd, c"k".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) } >= 0 {
        return 0;
    }
    let errno = sys::errno();
    sys::set_errno(before);
    errno
}

fn wait_for_companion(kernel: c_int) -> Outcome<()> {
    let before = sys::errno();
    let mut entry = libc::pollfd { fd: kernel, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry; no destructor is pending here or in the callers.
    if unsafe { next::poll(&mut entry, 1, -1) } >= 0 {
        return Ok(());
    }
    let errno = sys::errno();
    sys::set_errno(before);
    Err(Errno(errno).into())
}

/// Lets the kernel send it, through the companion.
#[cold]
unsafe fn through_kernel(fd: c_int, held: &Held, datagram: &Datagram) -> Result<isize, Error> {
    let mut kernel = companion::keep(fd, held)?;
    // SAFETY: the caller's.
    let mut result = unsafe { datagram.send_on(kernel) };
    if matches!(result, Err(Errno(libc::EBADF | libc::ENOTSOCK))) {
        // The program closed the number behind the library's back.
        held.drop_companion(kernel);
        kernel = companion::keep(fd, held)?;
        // SAFETY: the caller's.
        result = unsafe { datagram.send_on(kernel) };
    }
    let app = held.app();
    if datagram.flags & libc::MSG_MORE != 0 {
        app.status.fetch_or(status::CORKED, Ordering::Relaxed);
    } else if app.status.load(Ordering::Relaxed) & status::CORKED != 0 && !crate::options::is_corked(kernel) {
        app.status.fetch_and(!status::CORKED, Ordering::Relaxed);
    }
    if names::get(app).local.port == 0 {
        // The kernel has chosen a port, even if it then refused to send, for a socket that had given its own up by
        // disconnecting.
        companion::change(fd, held, |_| Ok(()))?;
    }
    match result {
        Err(Errno(libc::EAGAIN)) => Err(Error::WouldBlock),
        result => Ok(result?),
    }
}

/// Puts a datagram into the ring if it can go there now.
#[inline]
unsafe fn attempt(fd: c_int, held: &Held, datagram: &Datagram) -> Result<Attempt, Error> {
    let page = held.page();
    let app = held.app();
    let state = app.status.load(Ordering::Relaxed);
    if state & (status::DEAD | status::CORKED) != 0 || datagram.flags & !KNOWN_FLAGS != 0 {
        return if state & status::DEAD != 0 { Err(Error::ServerGone) } else { Ok(Attempt::ThroughKernel) };
    }
    if app.shutdown.load(Ordering::Relaxed) & 2 != 0 {
        return Err(Error::ShutDown);
    }
    if page.error.0.load(Ordering::Relaxed) != 0 {
        // The kernel reports a pending error with the next call, sending or receiving (socket(7), SO_ERROR).
        let errno = errors::take(fd, held);
        if errno != 0 {
            return Err(Error::Kernel(Errno(errno)));
        }
    }
    let names = names::get(app);
    if names.local.port == 0 {
        return Ok(Attempt::ThroughKernel);
    }
    let wanted = app.options.load(Ordering::Relaxed);
    let family6 = wanted & options::FAMILY6 != 0;
    let to = if datagram.name.is_null() {
        if !names.peer.is_some() {
            return Err(Error::NoDestination);
        }
        names.peer
    } else {
        // SAFETY: the caller's.
        match unsafe { address::destination(datagram.name, datagram.name_len, family6) } {
            Some(to) => to,
            None => return Ok(Attempt::ThroughKernel),
        }
    };
    let v4 = to.addr[..12] == endpoint::UNSPECIFIED_V4[..12];
    if v4 && wanted & options::V6ONLY != 0 {
        return Ok(Attempt::ThroughKernel);
    }
    let mut asked = Asked::default();
    if !datagram.control.is_null() {
        // SAFETY: the caller's.
        match unsafe { ancillary::asked(datagram.control) } {
            Some(found) if ancillary::same_family(&found.local, &to) => asked = found,
            _ => return Ok(Attempt::ThroughKernel),
        }
    }
    let fields = if v4 { &app.header_fields_v4 } else { &app.header_fields }.load(Ordering::Relaxed);
    // SAFETY: the caller's.
    let len = unsafe { datagram.len() }?;
    if len > if v4 { MAX_V4 } else { MAX_V6 } {
        return Err(Error::TooLong);
    }
    let mut side = held.lock_tx()?;
    let query = Query {
        to: to.addr,
        scope: to.scope,
        from: if asked.local != [0; 16] { asked.local } else { bound_address(&names.local) },
        ifindex: asked.ifindex,
    };
    let cached = side.route();
    let route = match cached {
        Some((known, route)) if route.epoch == route::epoch() && *known == query => *route,
        _ => {
            let Ok(route) = route::resolve(&query) else { return Ok(Attempt::ThroughKernel) };
            *cached = Some((query, route));
            route
        }
    };
    if !route.is_fast(to.port) {
        return Ok(Attempt::ThroughKernel);
    }
    let mut record = Record {
        len: len as u32,
        flags: 0,
        segment: 0,
        peer: to.addr,
        local: asked.local,
        peer_port: to.port,
        ttl: if asked.ttl != 0 { asked.ttl } else { fields as u8 },
        tos: asked.tos.unwrap_or((fields >> 8) as u8),
        ifindex: asked.ifindex,
        scope: to.scope,
        flow: 0,
        timestamp: 0,
    };
    limits(&mut record, &route, app, asked.segment, (fields >> 16) as c_int & 0xff, v4)?;
    if wanted & options::NO_CHECK != 0 && v4 {
        record.flags |= flags::NO_CHECKSUM;
    }
    // SAFETY: the caller's.
    unsafe { put(held, &record, datagram) }
}

/// The address that a socket is bound to, all zeros for a wildcard.
#[inline]
fn bound_address(local: &Endpoint) -> [u8; 16] {
    if local.addr == endpoint::UNSPECIFIED_V4 { [0; 16] } else { local.addr }
}

/// What the path and `UDP_SEGMENT` say about the length.
#[inline]
fn limits(
    record: &mut Record,
    route: &Route,
    app: &freena_shm_abi::app::AppArea,
    segment: Option<u16>,
    discovery: c_int,
    v4: bool,
) -> Result<(), Error> {
    let headers = if v4 { 28 } else { 48 };
    let room = (route.mtu as usize).saturating_sub(headers);
    let len = record.len as usize;
    let segment = usize::from(segment.unwrap_or_else(|| app.segment.load(Ordering::Relaxed) as u16));
    if segment != 0 && len > segment {
        if segment > room || len > segment * MAX_SEGMENTS {
            return Err(Error::Segments);
        }
        record.segment = segment as u16;
    }
    // IP_PMTUDISC_DO and _PROBE, ip(7); the values are the same for IPv6.
    if discovery == libc::IP_PMTUDISC_DO || discovery == libc::IP_PMTUDISC_PROBE {
        if record.segment == 0 && len > room {
            return Err(Error::TooLong);
        }
        record.flags |= flags::DONT_FRAGMENT;
    } else if v4 && discovery != libc::IP_PMTUDISC_WANT {
        // As `ip_dont_fragment` of Linux: without the bit in all modes but those two and _WANT.
        record.flags |= flags::MAY_FRAGMENT;
    }
    Ok(())
}

/// Copies it into the ring. Under the transmit lock.
#[inline]
unsafe fn put(held: &Held, record: &Record, datagram: &Datagram) -> Result<Attempt, Error> {
    let page = held.page();
    let app = held.app();
    let mut cursor = ProducerCursor {
        tail: page.tx_tail.0.load(Ordering::Relaxed),
        cached_head: app.tx_cached_head.load(Ordering::Relaxed),
        base: 0,
    };
    let mut producer = Producer::new(held.tx(), &mut cursor);
    let result = match producer.reserve(record) {
        Ok(mut slot) => {
            let mut done = 0;
            for index in 0..datagram.count {
                // SAFETY: the caller's: `count` vectors, each describing readable memory outside the ring. Another
                // thread of the program may change a length meanwhile, so it is bounded by what was reserved.
                unsafe {
                    let vector = *datagram.vectors.add(index);
                    let take = vector.iov_len.min(slot.len() - done);
                    slot.write_raw(done, vector.iov_base.cast(), take);
                    done += take;
                }
            }
            producer.publish();
            Ok(Attempt::Queued(slot.len()))
        }
        Err(Refused::Full) => Ok(Attempt::Full),
        Err(Refused::TooLong) => Err(Error::TooLong),
    };
    app.tx_cached_head.store(cursor.cached_head, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use freena_shm_abi::app::AppArea;

    fn limit(len: u32, segment: Option<u16>, discovery: c_int) -> Result<Record, Error> {
        let route = Route { way: route::Way::Server, mtu: 1500, epoch: 0 };
        let mut record = Record { len, ..Record::default() };
        limits(&mut record, &route, &AppArea::default(), segment, discovery, true).map(|()| record)
    }

    #[test]
    fn segments_are_bounded_as_the_kernel_bounds_them() {
        assert_eq!(limit(1000, Some(1000), 0).map(|r| r.segment), Ok(0), "one datagram");
        assert_eq!(limit(64 * 100, Some(100), 0).map(|r| r.segment), Ok(100));
        assert_eq!(limit(64 * 100 + 1, Some(100), 0), Err(Error::Segments), "too many");
        assert_eq!(limit(9000, Some(1473), 0), Err(Error::Segments), "longer than the path takes");
    }

    #[test]
    fn fragmentation_is_forbidden_only_where_asked() {
        assert_eq!(limit(1473, None, libc::IP_PMTUDISC_DO), Err(Error::TooLong));
        assert_eq!(limit(1472, None, libc::IP_PMTUDISC_DO).map(|r| r.flags), Ok(flags::DONT_FRAGMENT));
        assert_eq!(limit(60_000, None, libc::IP_PMTUDISC_WANT).map(|r| r.flags), Ok(0));
        assert_eq!(limit(100, None, libc::IP_PMTUDISC_DONT).map(|r| r.flags), Ok(flags::MAY_FRAGMENT));
        assert_eq!(limit(100, None, libc::IP_PMTUDISC_PROBE).map(|r| r.flags), Ok(flags::DONT_FRAGMENT));
    }
}
