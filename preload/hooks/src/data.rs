//! Data, names and options.

use crate::result::hook;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr::{null, null_mut};
use freena_preload_control::next;
use freena_preload_interface::outcome::Stop;
use freena_preload_interface::{descriptors, names, options, receive, send, takeover};
use freena_preload_services::{calls, opened};
use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};

/// socket(2): the kernel's own socket, of the protocol that the settings say, noted if it may become one of the framework.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let wanted = protocol;
    let protocol = takeover::substitute(domain, kind, wanted);
    // SAFETY: plain numbers.
    let fd = unsafe { next::socket(domain, kind, protocol) };
    if fd >= 0 {
        // What was opened as SCTP is that, whatever holds its port.
        let sctp = wanted == libc::IPPROTO_SCTP;
        takeover::created(fd, domain, kind, if sctp { wanted } else { protocol });
        if !sctp {
            // Services are inserted into streams of bytes.
            opened::made(fd, domain, kind);
        }
    }
    fd
}

/// recvmsg(2); descriptors that arrive on other sockets may be framework sockets.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the pointers are the program's, given for exactly this; no destructor is pending where it may block.
    unsafe {
        let outcome = match calls::recvmsg(fd, message, flags) {
            Err(Stop::Bypass(_)) => receive::recvmsg(fd, message, flags),
            other => other,
        };
        match crate::result::verdict(outcome) {
            crate::result::Verdict::Return(value) => value,
            crate::result::Verdict::Next => {
                let received = next::recvmsg(fd, message, flags);
                if received >= 0 {
                    descriptors::received(message, opened::arrived);
                }
                received
            }
        }
    }
}

/// connect(2); services begin where it has worked, or is under way.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the pointer is the program's, given for exactly this; no destructor is pending where it may block.
    unsafe {
        let result = match crate::result::verdict(takeover::connect(fd, address, len)) {
            crate::result::Verdict::Return(value) => value as c_int,
            crate::result::Verdict::Next => next::connect(fd, address, len),
        };
        opened::connected(fd, address, len, result)
    }
}

hook! {
    /// bind(2).
    fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int = takeover::bind(fd, address, len);
    /// shutdown(2).
    fn shutdown(fd: c_int, how: c_int) -> c_int = opened::shutdown(fd, how), else options::shutdown(fd, how);
    /// getsockname(2).
    fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int
        = names::getsockname(fd, address, len);
    /// getpeername(2).
    fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int
        = names::getpeername(fd, address, len);
    /// getsockopt(2).
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int
        = calls::getsockopt(fd, level, name, value, len), else options::getsockopt(fd, level, name, value, len);
    /// setsockopt(2).
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        = calls::setsockopt(fd, level, name, value, len), else options::setsockopt(fd, level, name, value, len);
    /// send(2).
    fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t
        = calls::send(fd, bytes, len, flags, null(), 0), else send::sendto(fd, bytes, len, flags, null(), 0);
    /// sendto(2).
    fn sendto(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, to_len: socklen_t)
        -> ssize_t = calls::send(fd, bytes, len, flags, to, to_len), else send::sendto(fd, bytes, len, flags, to, to_len);
    /// sendmsg(2).
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t = calls::sendmsg(fd, message, flags), else send::sendmsg(fd, message, flags);
    /// sendmmsg(2).
    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
        = calls::sendmmsg(fd, messages, count, flags), else send::sendmmsg(fd, messages, count, flags);
    /// write(2).
    fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t = calls::write(fd, bytes, len), else send::sendto(fd, bytes, len, 0, null(), 0);
    /// writev(2).
    fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t = calls::writev(fd, vectors, count), else send::writev(fd, vectors, count);
    /// sendfile(2).
    fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = calls::sendfile(out, from, offset, count), else send::sendfile(out, from, offset, count);
    /// sendfile(2), by the name that programs built for large files have.
    fn sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = calls::sendfile(out, from, offset, count), else send::sendfile(out, from, offset, count);
    /// splice(2).
    fn splice(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, len: size_t, flags: c_uint) -> ssize_t
        = calls::splice(from, to, flags), else send::splice(from, from_offset, to, to_offset, len, flags);
    /// recv(2).
    fn recv(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int) -> ssize_t
        = calls::recv(fd, bytes, len, flags, null_mut(), null_mut()), else receive::recvfrom(fd, bytes, len, flags, null_mut(), null_mut());
    /// recvfrom(2).
    fn recvfrom(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, from_len: *mut socklen_t)
        -> ssize_t = calls::recv(fd, bytes, len, flags, from, from_len), else receive::recvfrom(fd, bytes, len, flags, from, from_len);
    /// recvmmsg(2).
    fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int
        = calls::recvmmsg(fd, messages, count, flags, timeout), else receive::recvmmsg(fd, messages, count, flags, timeout);
    /// read(2).
    fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> ssize_t = calls::read(fd, bytes, len), else receive::read(fd, bytes, len);
    /// readv(2).
    fn readv(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t = calls::readv(fd, vectors, count), else receive::readv(fd, vectors, count);
}

unsafe extern "C" {
    /// Of the libc: tells of a buffer overflow and aborts.
    fn __chk_fail() -> !;
}

/// Where `_FORTIFY_SOURCE` knows the buffer's size: aborts as the libc does if more is asked for.
fn fortify(len: size_t, room: size_t) {
    if len > room {
        // SAFETY: it has no preconditions.
        unsafe { __chk_fail() }
    }
}

/// recv(2) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __recv_chk(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    fortify(len, room);
    // SAFETY: the caller's.
    unsafe { recv(fd, bytes, len, flags) }
}

/// recvfrom(2) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __recvfrom_chk(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    fortify(len, room);
    // SAFETY: the caller's.
    unsafe { recvfrom(fd, bytes, len, flags, from, from_len) }
}

/// read(2) under `_FORTIFY_SOURCE`.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __read_chk(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    room: size_t,
) -> ssize_t {
    fortify(len, room);
    // SAFETY: the caller's.
    unsafe { read(fd, bytes, len) }
}
