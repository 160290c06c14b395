//! Socket options: a few are known by heart, the kernel's own socket answers for the rest.

use crate::outcome::{Outcome, Reason, Stop};
use crate::{companion, errors, stream, table, token};
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::app::{AppArea, options, status};
use libc::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_UDP, socklen_t};

// Of linux/udp.h, linux/in6.h and linux/net_tstamp.h.
const UDP_CORK: c_int = 1;
const IPV6_RECVORIGDSTADDR: c_int = 74;
const SO_NO_CHECK: c_int = 11;
const TIMESTAMPING_RX_SOFTWARE: c_int = 1 << 3;
const TIMESTAMPING_SOFTWARE: c_int = 1 << 4;

/// Options that are a bit in [`AppArea::options`]: level, name, bit.
const BITS: [(c_int, c_int, u32); 14] = [
    (SOL_IP, libc::IP_PKTINFO, options::PKTINFO),
    (SOL_IP, libc::IP_RECVTTL, options::TTL),
    (SOL_IP, libc::IP_RECVTOS, options::TOS),
    (SOL_IP, libc::IP_RECVORIGDSTADDR, options::ORIGDSTADDR),
    (SOL_IPV6, libc::IPV6_V6ONLY, options::V6ONLY),
    (SOL_IPV6, libc::IPV6_RECVPKTINFO, options::PKTINFO6),
    (SOL_IPV6, libc::IPV6_RECVHOPLIMIT, options::HOPLIMIT),
    (SOL_IPV6, libc::IPV6_RECVTCLASS, options::TCLASS),
    (SOL_IPV6, IPV6_RECVORIGDSTADDR, options::ORIGDSTADDR6),
    (SOL_SOCKET, libc::SO_TIMESTAMP, options::TIMESTAMP),
    (SOL_SOCKET, libc::SO_TIMESTAMPNS, options::TIMESTAMPNS),
    (SOL_SOCKET, SO_NO_CHECK, options::NO_CHECK),
    (SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE, options::SELECT_ERR_QUEUE),
    (SOL_UDP, libc::UDP_GRO, options::GRO),
];

/// An integer option of a kernel socket.
pub(crate) fn int(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    sys::get_option(fd, level, name, 0).ok()
}

/// Reads everything that shapes the fast path from the kernel's own socket.
pub fn load(app: &AppArea, companion: c_int) {
    let mut bits = 0;
    if int(companion, SOL_SOCKET, libc::SO_DOMAIN) == Some(libc::AF_INET6) {
        bits |= options::FAMILY6;
    }
    for (level, name, bit) in BITS {
        if int(companion, level, name).is_some_and(|value| value != 0) {
            bits |= bit;
        }
    }
    let timestamping = int(companion, SOL_SOCKET, libc::SO_TIMESTAMPING).unwrap_or(0);
    let software = TIMESTAMPING_RX_SOFTWARE | TIMESTAMPING_SOFTWARE;
    if timestamping & software == software {
        bits |= options::TIMESTAMPING;
    }
    if bits & options::TIMESTAMPNS != 0 {
        // With nanoseconds asked for the kernel reports SO_TIMESTAMP as set too, and sends only one of them.
        bits &= !options::TIMESTAMP;
    }
    let fields = |level, ttl, tos, discovery| {
        let field = |name| int(companion, level, name).unwrap_or(0).clamp(0, 255) as u32;
        field(ttl) | field(tos) << 8 | field(discovery) << 16
    };
    let v4 = fields(SOL_IP, libc::IP_TTL, libc::IP_TOS, libc::IP_MTU_DISCOVER);
    let v6 = fields(SOL_IPV6, libc::IPV6_UNICAST_HOPS, libc::IPV6_TCLASS, libc::IPV6_MTU_DISCOVER);
    app.header_fields_v4.store(v4, Ordering::Relaxed);
    app.header_fields.store(v6, Ordering::Relaxed);
    let segment = int(companion, SOL_UDP, libc::UDP_SEGMENT).unwrap_or(0).clamp(0, 0xffff);
    app.segment.store(segment as u32, Ordering::Relaxed);
    if is_corked(companion) {
        app.status.fetch_or(status::CORKED, Ordering::Relaxed);
    }
    app.options.store(bits, Ordering::Relaxed);
}

/// Whether a kernel socket is of family `AF_INET6`.
pub(crate) fn is_family6(fd: c_int) -> bool {
    int(fd, SOL_SOCKET, libc::SO_DOMAIN) == Some(libc::AF_INET6)
}

/// Whether a kernel socket of family `AF_INET6` refuses IPv4.
pub(crate) fn is_v6only(fd: c_int) -> bool {
    int(fd, SOL_IPV6, libc::IPV6_V6ONLY).is_some_and(|value| value != 0)
}

/// Whether `UDP_CORK` is set.
pub fn is_corked(companion: c_int) -> bool {
    int(companion, SOL_UDP, UDP_CORK).is_some_and(|value| value != 0)
}

/// Copies an option with a timeout to another socket.
pub fn copy_timeout(from: c_int, to: c_int, name: c_int) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    if let Ok(timeout) = sys::get_option(from, SOL_SOCKET, name, none) {
        let _ = sys::set_option(to, SOL_SOCKET, name, &timeout);
    }
}

/// getsockopt(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome {
    // SAFETY: the caller's.
    if let Some(outcome) = unsafe { stream::sctp::getsockopt(fd, level, name, value, len) } {
        return outcome;
    }
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    if held.is_stream() {
        // SAFETY: the caller's.
        return unsafe { stream::options::getsockopt(fd, &held, level, name, value, len) };
    }
    if level == SOL_SOCKET && name == libc::SO_ERROR {
        let taken = errors::take(fd, &held);
        let dead = held.app().status.load(Ordering::Relaxed) & status::DEAD != 0;
        // SAFETY: the caller's. What the kernel's socket has pending the server has taken from it.
        return unsafe { give(if taken == 0 && dead { libc::ENETDOWN } else { taken }, value, len) };
    }
    let known = match (level, name) {
        (SOL_SOCKET, libc::SO_TYPE) => Some(libc::SOCK_DGRAM),
        (SOL_SOCKET, libc::SO_PROTOCOL) => Some(libc::IPPROTO_UDP),
        (SOL_SOCKET, libc::SO_ACCEPTCONN) => Some(0),
        (SOL_SOCKET, libc::SO_DOMAIN) => {
            let bits = held.app().options.load(Ordering::Relaxed);
            Some(if bits & options::FAMILY6 != 0 { libc::AF_INET6 } else { libc::AF_INET })
        }
        _ => None,
    };
    if let Some(known) = known {
        // SAFETY: the caller's.
        return unsafe { give(known, value, len) };
    }
    let ask = |companion| {
        // SAFETY: the kernel checks the program's pointers.
        unsafe { sys::getsockopt(companion, level, name, value, len) }?;
        Ok(0)
    };
    Ok(companion::with(fd, &held, ask)?)
}

/// Gives an integer as the kernel does: cut to `*len`.
pub(crate) unsafe fn give(answer: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    // SAFETY: the caller's.
    unsafe { give_bytes(&answer.to_ne_bytes(), value, len) }
}

/// Gives a value as the kernel does: cut to `*len`.
pub(crate) unsafe fn give_bytes(answer: &[u8], value: *mut c_void, len: *mut socklen_t) -> Outcome {
    if value.is_null() || len.is_null() {
        return Err(Errno(libc::EFAULT).into());
    }
    // SAFETY: the caller's.
    unsafe {
        let room = *len;
        if room > i32::MAX as u32 {
            return Err(Errno(libc::EINVAL).into());
        }
        let take = (room as usize).min(answer.len());
        core::ptr::copy_nonoverlapping(answer.as_ptr(), value.cast(), take);
        *len = take as socklen_t;
    }
    Ok(0)
}

/// setsockopt(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Outcome {
    // SAFETY: the caller's.
    if let Some(outcome) = unsafe { stream::sctp::setsockopt(fd, level, name, value, len) } {
        return outcome;
    }
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    if held.is_stream() {
        // SAFETY: the caller's.
        return unsafe { stream::options::setsockopt(fd, &held, level, name, value, len) };
    }
    let result = companion::change(fd, &held, |companion| {
        // SAFETY: the kernel checks the program's pointer.
        unsafe { sys::setsockopt(companion, level, name, value, len) }?;
        if level == SOL_SOCKET && (name == libc::SO_RCVTIMEO || name == libc::SO_SNDTIMEO) {
            // The waiting is done on the descriptor itself.
            copy_timeout(companion, fd, name);
        }
        if level == SOL_UDP && name == UDP_CORK && !is_corked(companion) {
            held.app().status.fetch_and(!status::CORKED, Ordering::Relaxed);
        }
        Ok(0)
    });
    Ok(result?)
}

/// shutdown(2).
pub fn shutdown(fd: c_int, how: c_int) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    if held.is_stream() {
        return stream::close::shutdown(fd, &held, how);
    }
    let result = companion::with(fd, &held, |companion| Ok(sys::shutdown(companion, how)));
    let bits = match how {
        libc::SHUT_RD => 1,
        libc::SHUT_WR => 2,
        libc::SHUT_RDWR => 3,
        _ => return Err(Errno(libc::EINVAL).into()),
    };
    // The kernel shuts an unconnected socket down as well, and says ENOTCONN all the same (inet_shutdown).
    held.app().shutdown.fetch_or(bits, Ordering::Relaxed);
    if bits & 1 != 0 {
        // Readable from now on, and whoever sleeps in a receive wakes up. Only this direction: the way to the server
        // stays, and with it the socket.
        let _ = sys::shutdown(fd, libc::SHUT_RD);
    }
    token::kick_if_needed(fd, &held);
    result??;
    Ok(0)
}
