//! The socket underneath: the framework's, or the kernel's.

use core::ffi::{c_int, c_void};
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::{Outcome, Stop};
use freena_preload_interface::{descriptors, names, options, poll, receive, send, takeover};
use freena_service_chain::Wishes;
use libc::{iovec, msghdr, sockaddr, sockaddr_storage, socklen_t};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

/// What the interface says, or else the kernel.
fn either(outcome: Outcome, kernel: impl FnOnce() -> sys::Result<isize>) -> sys::Result<usize> {
    match outcome {
        Ok(value) => Ok(value as usize),
        Err(Stop::Bypass(_)) => kernel().map(|value| value as usize),
        Err(Stop::Error(error)) => Err(Errno(error.errno())),
    }
}

/// Shows the first bytes that have arrived, without waiting and without taking them.
///
/// # Errors
/// As recv(2).
pub fn peek(fd: c_int, bytes: &mut [u8]) -> sys::Result<usize> {
    receive(fd, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_PEEK)
}

/// Takes the first bytes out of the queue, without waiting.
///
/// # Errors
/// As recv(2).
pub fn receive_into(fd: c_int, bytes: &mut [u8]) -> sys::Result<usize> {
    receive(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0)
}

fn receive(fd: c_int, bytes: *mut c_void, len: usize, flags: c_int) -> sys::Result<usize> {
    let (flags, none) = (flags | libc::MSG_DONTWAIT, ptr::null_mut());
    // SAFETY: the callers' buffers; it does not wait.
    unsafe {
        either(receive::recvfrom(fd, bytes, len, flags, none, ptr::null_mut()), || {
            sys::recvfrom_raw(fd, bytes, len, flags, none, ptr::null_mut())
        })
    }
}

/// Takes what was shown out of the queue.
///
/// # Errors
/// As recv(2).
pub fn discard(fd: c_int, mut count: usize) -> sys::Result<()> {
    while count > 0 {
        // The kernel copies nothing (tcp(7)); the framework's TCP does as the kernel's.
        match receive(fd, ptr::null_mut(), count, libc::MSG_TRUNC) {
            Ok(0) => return Ok(()),
            Ok(done) => count -= done.min(count),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sends what there is room for, without waiting and without a signal.
///
/// # Errors
/// As send(2).
pub fn send(fd: c_int, bytes: &[u8], flags: c_int) -> sys::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice is readable; it does not wait.
    let outcome = unsafe { send::sendto(fd, bytes.as_ptr().cast(), bytes.len(), flags, ptr::null(), 0) };
    either(outcome, || sys::send(fd, bytes, flags).map(|count| count as isize))
}

/// Another number for a socket, `first` or higher, which the layers below know as they know the program's.
///
/// # Errors
/// As fcntl(2).
pub(crate) fn duplicate(fd: c_int, first: usize) -> sys::Result<c_int> {
    let own = sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, first)?;
    descriptors::duplicated(fd, own);
    Ok(own)
}

/// close(2), of a number that [`duplicate`] gave.
pub(crate) fn close(fd: c_int) {
    let _ = either(descriptors::close(fd), || sys::close(fd).map(|()| 0));
}

/// shutdown(2).
pub fn shutdown(fd: c_int, how: c_int) {
    let _ = either(options::shutdown(fd, how), || sys::shutdown(fd, how).map(|()| 0));
}

/// An option's value.
///
/// # Errors
/// As getsockopt(2).
pub fn option<T: Copy>(fd: c_int, level: c_int, name: c_int, mut value: T) -> sys::Result<T> {
    let mut len = size_of::<T>() as socklen_t;
    let (to, room) = ((&raw mut value).cast(), &raw mut len);
    // SAFETY: both pointers are to locals.
    unsafe {
        either(options::getsockopt(fd, level, name, to, room), || {
            sys::getsockopt(fd, level, name, to, room).map(|()| 0)
        })
    }?;
    Ok(value)
}

/// Sets an option.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option(fd: c_int, level: c_int, name: c_int, value: c_int) -> sys::Result<()> {
    let (from, len) = ((&raw const value).cast(), size_of::<c_int>() as socklen_t);
    // SAFETY: the pointer is to a local.
    unsafe {
        either(options::setsockopt(fd, level, name, from, len), || {
            sys::setsockopt(fd, level, name, from, len).map(|()| 0)
        })
    }
    .map(drop)
}

/// Own address and the peer's, if the socket has both and they are of IP.
pub fn addresses(fd: c_int) -> Option<(SocketAddr, SocketAddr)> {
    let ask = |peer: bool| {
        // SAFETY: `sockaddr_storage` is plain data, valid when zero.
        let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut len = size_of::<sockaddr_storage>() as socklen_t;
        let (to, room) = ((&raw mut storage).cast(), &raw mut len);
        // SAFETY: both pointers are to locals.
        let outcome =
            unsafe { if peer { names::getpeername(fd, to, room) } else { names::getsockname(fd, to, room) } };
        let kernel = || {
            if peer { sys::getpeername(fd, &mut storage) } else { sys::getsockname(fd, &mut storage) }
                .map(|len| len as isize)
        };
        either(outcome, kernel).ok()?;
        address(&storage)
    };
    Some((ask(false)?, ask(true)?))
}

/// An address of IP.
pub fn address(storage: &sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: each cast is to the type that the family names, and a storage is as large as any.
    unsafe {
        match c_int::from(storage.ss_family) {
            libc::AF_INET => {
                let it = &*ptr::from_ref(storage).cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from_bits(u32::from_be(it.sin_addr.s_addr));
                Some(SocketAddr::new(ip.into(), u16::from_be(it.sin_port)))
            }
            libc::AF_INET6 => {
                let it = &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(it.sin6_addr.s6_addr);
                Some(SocketAddr::new(ip.into(), u16::from_be(it.sin6_port)))
            }
            _ => None,
        }
    }
}

/// What the socket is ready for now.
pub fn ready(fd: c_int, events: i16) -> i16 {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    let before = sys::errno();
    // SAFETY: one entry, a local; it does not wait.
    let _ = unsafe { wait_entry(&mut entry, Some(0)) };
    sys::set_errno(before);
    entry.revents
}

/// Waits until the socket is ready, at most `timeout` nanoseconds; `false` if it is not by then. Nothing is held meanwhile.
///
/// # Errors
/// `EINTR`.
pub fn wait(fd: c_int, events: i16, timeout: Option<u64>) -> sys::Result<bool> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    let before = sys::errno();
    // SAFETY: one entry, a local; no destructor is pending here or in the callers.
    let ready = unsafe { wait_entry(&mut entry, timeout) };
    ready.inspect_err(|_| sys::set_errno(before)).map(|ready| ready > 0)
}

unsafe fn wait_entry(entry: &mut libc::pollfd, timeout: Option<u64>) -> sys::Result<c_int> {
    let place: *mut libc::pollfd = entry;
    let milliseconds =
        |left: Option<u64>| left.map_or(-1, |left| left.div_ceil(1_000_000).min(c_int::MAX as u64) as c_int);
    // SAFETY: the caller's.
    unsafe {
        let sleep = |left| next::poll(place, 1, milliseconds(left));
        match poll::poll(place, 1, timeout, sleep) {
            Ok(ready) => Ok(ready as c_int),
            Err(Stop::Error(error)) => Err(Errno(error.errno())),
            Err(Stop::Bypass(_)) => {
                let ready = sleep(timeout);
                if ready < 0 { Err(Errno(sys::errno())) } else { Ok(ready) }
            }
        }
    }
}

/// Whether the program has made the socket non-blocking.
pub fn is_nonblocking(fd: c_int) -> bool {
    sys::fcntl(fd, libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_NONBLOCK != 0)
}

/// `SO_RCVTIMEO` or `SO_SNDTIMEO`, in nanoseconds; `None` for ever.
pub fn patience(fd: c_int, name: c_int) -> Option<u64> {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let it = option(fd, libc::SOL_SOCKET, name, none).unwrap_or(none);
    let nanoseconds = it.tv_sec as u64 * 1_000_000_000 + it.tv_usec as u64 * 1000;
    (nanoseconds > 0).then_some(nanoseconds)
}

/// Own address.
pub fn own_address(fd: c_int) -> Option<SocketAddr> {
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<sockaddr_storage>() as socklen_t;
    let (to, room) = ((&raw mut storage).cast(), &raw mut len);
    // SAFETY: both pointers are to locals.
    let outcome = unsafe { names::getsockname(fd, to, room) };
    either(outcome, || sys::getsockname(fd, &mut storage).map(|len| len as isize)).ok()?;
    address(&storage)
}

/// An address of a peer, as the kernel has it.
#[derive(Clone, Copy)]
pub struct Address {
    pub(crate) storage: sockaddr_storage,
    pub(crate) length: socklen_t,
}

impl Address {
    /// Room for one.
    pub(crate) fn none() -> Self {
        // SAFETY: plain data, valid when zero.
        Self { storage: unsafe { std::mem::zeroed() }, length: 0 }
    }

    /// One that the program has given; `None` without one, or if it is longer than any.
    ///
    /// # Safety
    /// There are `length` bytes, if the pointer is not null.
    pub(crate) unsafe fn given(address: *const sockaddr, length: socklen_t) -> Option<Self> {
        if address.is_null() || length as usize > size_of::<sockaddr_storage>() {
            return None;
        }
        let mut it = Self { length, ..Self::none() };
        // SAFETY: the caller's; the storage is as long as any.
        unsafe {
            let to = (&raw mut it.storage).cast::<u8>();
            to.copy_from_nonoverlapping(address.cast(), length as usize);
        }
        Some(it)
    }

    /// Has a receiving call write the sender's address here.
    pub(crate) fn receive_into(&mut self, header: &mut msghdr) {
        header.msg_name = (&raw mut self.storage).cast();
        header.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
    }

    /// Writes it where the program wants it, as far as there is room, and tells its length.
    ///
    /// # Safety
    /// Null, or the program's.
    pub(crate) unsafe fn write(&self, to: *mut c_void, room: socklen_t) -> socklen_t {
        if to.is_null() {
            return 0;
        }
        // SAFETY: the caller's; the storage is as long as any address.
        unsafe {
            let from = (&raw const self.storage).cast::<u8>();
            to.cast::<u8>().copy_from_nonoverlapping(from, self.length.min(room) as usize);
        }
        self.length
    }

    /// As one of IP.
    pub(crate) fn ip(&self) -> Option<SocketAddr> {
        address(&self.storage)
    }
}

/// A header with one buffer, without address and ancillary data.
pub(crate) fn header(buffer: &mut iovec) -> msghdr {
    // SAFETY: plain data, valid when zero.
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (buffer, 1);
    header
}

/// recvmsg(2), with a flag by which it does not wait.
///
/// # Errors
/// As recvmsg(2).
///
/// # Safety
/// What the header leads to can be written to.
pub(crate) unsafe fn recvmsg(fd: c_int, message: &mut msghdr, flags: c_int) -> sys::Result<usize> {
    // SAFETY: the caller's.
    unsafe {
        either(receive::recvmsg(fd, message, flags), || {
            sys::recvmsg(fd, message, flags).map(|count| count as isize)
        })
    }
}

/// recvmsg(2), which may wait: signals, `SO_RCVTIMEO` and cancellation are the socket's own.
///
/// # Errors
/// As recvmsg(2).
///
/// # Safety
/// What the header leads to can be written to; no destructor is pending.
pub(crate) unsafe fn recvmsg_waiting(fd: c_int, message: &mut msghdr, flags: c_int) -> sys::Result<usize> {
    // SAFETY: the caller's.
    unsafe {
        match receive::recvmsg(fd, message, flags) {
            Err(Stop::Bypass(_)) => {
                let got = next::recvmsg(fd, message, flags);
                if got < 0 { Err(Errno(sys::errno())) } else { Ok(got as usize) }
            }
            other => either(other, || Ok(0)),
        }
    }
}

/// sendmsg(2), with a flag by which it does not wait.
///
/// # Errors
/// As sendmsg(2).
///
/// # Safety
/// What the header leads to can be read.
pub(crate) unsafe fn sendmsg(fd: c_int, message: &msghdr, flags: c_int) -> sys::Result<usize> {
    // SAFETY: the caller's.
    unsafe {
        either(send::sendmsg(fd, message, flags), || {
            sys::sendmsg(fd, message, flags).map(|count| count as isize)
        })
    }
}

/// The peer of a socket that is connected.
pub(crate) fn peer(fd: c_int) -> Option<Address> {
    let mut it = Address::none();
    let mut length = size_of::<sockaddr_storage>() as socklen_t;
    let (to, room) = ((&raw mut it.storage).cast(), &raw mut length);
    // SAFETY: both pointers are to locals.
    let outcome = unsafe { names::getpeername(fd, to, room) };
    let got = either(outcome, || {
        let got = sys::getpeername(fd, &mut it.storage)?;
        length = got as socklen_t;
        Ok(0)
    });
    it.length = length;
    got.ok().and(it.ip()).map(|_| it)
}

/// An address of the family of `peer` that is no address, with port 0.
fn any(peer: &Address) -> Address {
    let mut any = Address { length: peer.length, ..Address::none() };
    any.storage.ss_family = peer.storage.ss_family;
    any
}

/// Has a socket get a port, as its first datagram would.
///
/// # Errors
/// As bind(2).
pub(crate) fn bind_to_any(fd: c_int, peer: &Address) -> sys::Result<()> {
    let any = any(peer);
    let (from, length) = ((&raw const any.storage).cast::<sockaddr>(), any.length);
    // SAFETY: the pointer is to a local.
    unsafe { either(takeover::bind(fd, from, length), || sys::bind_raw(fd, from, length)) }.map(drop)
}

/// The address that the kernel sends from to `peer`, as its routes are now.
pub(crate) fn source_to(peer: &Address) -> Option<SocketAddr> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let fd = sys::socket(peer.storage.ss_family.into(), kind, libc::IPPROTO_UDP).ok()?;
    let mut own = Address::none();
    let asked = sys::connect(fd, &peer.storage, peer.length as usize)
        .and_then(|()| sys::getsockname(fd, &mut own.storage));
    let _ = sys::close(fd);
    asked.ok()?;
    own.ip()
}

/// Does what services wish for of the socket. What the kernel refuses is left as it is.
pub(crate) fn apply(fd: c_int, wishes: &Wishes, ipv6: bool) {
    let number = |level, name, value: u32| {
        let _ = set_option(fd, level, name, value as c_int);
    };
    if let Some(dscp) = wishes.dscp {
        // Both, as a socket of IPv6 may talk to a peer of IPv4. The priority is set by IP_TOS too (ip(7)): it comes behind.
        number(libc::IPPROTO_IP, libc::IP_TOS, u32::from(dscp) << 2);
        if ipv6 {
            number(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, u32::from(dscp) << 2);
        }
    }
    if let Some(priority) = wishes.priority {
        number(libc::SOL_SOCKET, libc::SO_PRIORITY, priority.into());
    }
    if let Some(pacing) = wishes.pacing {
        number(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, pacing);
    }
}
