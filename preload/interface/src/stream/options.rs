//! Socket options of connections and listeners.
//!
//! What the server's engine obeys is in the page and set there, within the kernel's own bounds (net/ipv4/tcp.c,
//! net/core/sock.c). The waiting times are those of the descriptor itself. The rest is the companion's.

use super::{asked, info, is_listener, phase, receive, told};
use crate::options::{give, give_bytes, int};
use crate::outcome::{Error, Outcome};
use crate::socket::Held;
use crate::{companion, token};
use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};
use freena_preload_control::client;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::app::{options, status};
use freena_shm_abi::control::{Request, op};
use freena_shm_abi::stream::{Asked, ask, congestion, state};
use libc::{
    IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SO_ACCEPTCONN, SO_DOMAIN, SO_ERROR, SO_KEEPALIVE, SO_LINGER,
    SO_OOBINLINE, SO_PROTOCOL, SO_RCVBUF, SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDBUF, SO_SNDTIMEO, SO_TYPE,
    SOL_SOCKET, TCP_CONGESTION, TCP_CORK, TCP_DEFER_ACCEPT, TCP_INFO, TCP_KEEPCNT, TCP_KEEPIDLE,
    TCP_KEEPINTVL, TCP_MAXSEG, TCP_NODELAY, TCP_QUICKACK, TCP_SYNCNT, TCP_USER_TIMEOUT, linger, socklen_t,
};
use zerocopy::IntoBytes;

// Of asm-generic/socket.h.
const SO_ZEROCOPY: c_int = 60;
/// Length of a congestion control's name (`TCP_CA_NAME_MAX`, linux/tcp.h).
const NAME_LEN: usize = 16;
const NAMES: [(u32, &[u8]); 2] = [(congestion::CUBIC, b"cubic"), (congestion::RENO, b"reno")];
/// Default segment size where nothing is known of the path (`TCP_MSS_DEFAULT`).
const MSS_DEFAULT: u32 = 536;

/// An option that is a number in [`Asked`].
struct Number {
    name: c_int,
    min: c_int,
    max: c_int,
    default: c_int,
    place: fn(&Asked) -> &AtomicU32,
}

/// Bounds: `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`, `MAX_TCP_SYNCNT` of linux/tcp.h; defaults: tcp(7).
const NUMBERS: [Number; 5] = [
    Number { name: TCP_KEEPIDLE, min: 1, max: 32767, default: 7200, place: |asked| &asked.keep_idle },
    Number { name: TCP_KEEPINTVL, min: 1, max: 32767, default: 75, place: |asked| &asked.keep_interval },
    Number { name: TCP_KEEPCNT, min: 1, max: 127, default: 9, place: |asked| &asked.keep_count },
    Number { name: TCP_SYNCNT, min: 1, max: 127, default: 6, place: |asked| &asked.syn_count },
    Number {
        name: TCP_USER_TIMEOUT,
        min: 0,
        max: c_int::MAX,
        default: 0,
        place: |asked| &asked.user_timeout,
    },
];

/// An option that is a bit of [`Asked::flags`].
const BITS: [(c_int, c_int, u32); 4] = [
    (IPPROTO_TCP, TCP_NODELAY, ask::NO_DELAY),
    (IPPROTO_TCP, TCP_CORK, ask::CORK),
    (IPPROTO_TCP, TCP_QUICKACK, ask::QUICK_ACK),
    (SOL_SOCKET, SO_KEEPALIVE, ask::KEEP_ALIVE),
];

/// Reads from the kernel's own socket what this side keeps. What the server's engine obeys the server has read itself.
pub(crate) fn load(held: &Held, kernel: c_int) {
    let app = held.app();
    let mut bits = 0;
    if int(kernel, SOL_SOCKET, SO_DOMAIN) == Some(libc::AF_INET6) {
        bits |= options::FAMILY6;
        if crate::options::is_v6only(kernel) {
            bits |= options::V6ONLY;
        }
    }
    if int(kernel, SOL_SOCKET, SO_OOBINLINE).is_some_and(|value| value != 0) {
        bits |= options::OOB_INLINE;
    }
    app.options.store(bits, Ordering::Relaxed);
    if let Some(low @ 2..) = int(kernel, SOL_SOCKET, SO_RCVLOWAT) {
        receive::set_low_water(held, low);
    }
}

/// Whether a time limit is set on a socket that is being taken over, which connections will inherit.
pub(crate) fn note_timeouts(held: &Held, fd: c_int) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let limited = |name| {
        sys::get_option(fd, SOL_SOCKET, name, none).is_ok_and(|time| time.tv_sec != 0 || time.tv_usec != 0)
    };
    if limited(SO_RCVTIMEO) || limited(SO_SNDTIMEO) {
        held.app().status.fetch_or(status::TIMED, Ordering::Relaxed);
    }
}

/// getsockopt(2).
///
/// # Safety
/// The pointers are the program's.
pub(crate) unsafe fn getsockopt(
    fd: c_int,
    held: &Held,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome {
    if let Some(known) = known(held, level, name) {
        // SAFETY: the caller's.
        return unsafe { give(known, value, len) };
    }
    // SAFETY: the caller's.
    unsafe {
        match (level, name) {
            (IPPROTO_TCP, TCP_INFO) => give_bytes(info::get(held).as_bytes(), value, len),
            (IPPROTO_TCP, TCP_CONGESTION) => {
                let mut text = [0u8; NAME_LEN];
                let chosen = asked(held).congestion.load(Ordering::Relaxed);
                let name = NAMES.iter().find(|(number, _)| *number == chosen).unwrap_or(&NAMES[0]).1;
                text[..name.len()].copy_from_slice(name);
                give_bytes(&text, value, len)
            }
            (SOL_SOCKET, SO_LINGER) => {
                let seconds = asked(held).linger.load(Ordering::Relaxed);
                let answer = [c_int::from(seconds >= 0), seconds.max(0)];
                give_bytes(answer.as_bytes(), value, len)
            }
            // The waiting is done on the descriptor itself.
            (SOL_SOCKET, SO_RCVTIMEO | SO_SNDTIMEO) => {
                sys::getsockopt(fd, level, name, value, len)?;
                Ok(0)
            }
            _ => {
                let ask = |kernel| {
                    sys::getsockopt(kernel, level, name, value, len)?;
                    Ok(0)
                };
                Ok(companion::with(fd, held, ask)?)
            }
        }
    }
}

/// Options that are integers and known here.
fn known(held: &Held, level: c_int, name: c_int) -> Option<c_int> {
    let asked = asked(held);
    let app = held.app();
    if let Some((_, _, bit)) = BITS.iter().find(|(of, which, _)| (*of, *which) == (level, name)) {
        return Some(c_int::from(asked.flags.load(Ordering::Relaxed) & bit != 0));
    }
    if level == IPPROTO_TCP
        && let Some(number) = NUMBERS.iter().find(|number| number.name == name)
    {
        let set = (number.place)(asked).load(Ordering::Relaxed) as c_int;
        return Some(if set == 0 { number.default } else { set });
    }
    let fields = asked.header_fields.load(Ordering::Relaxed);
    let size = |set: &AtomicU32, default: u32| match set.load(Ordering::Relaxed) {
        0 => default as c_int,
        set => set as c_int,
    };
    Some(match (level, name) {
        (SOL_SOCKET, SO_ERROR) => held.page().error.0.swap(0, Ordering::Relaxed) as c_int,
        (SOL_SOCKET, SO_TYPE) => libc::SOCK_STREAM,
        (SOL_SOCKET, SO_PROTOCOL) => told(held).protocol.load(Ordering::Relaxed) as c_int,
        (SOL_SOCKET, SO_ACCEPTCONN) => c_int::from(is_listener(held)),
        (SOL_SOCKET, SO_DOMAIN) if is_family6(held) => libc::AF_INET6,
        (SOL_SOCKET, SO_DOMAIN) => libc::AF_INET,
        (SOL_SOCKET, SO_OOBINLINE) => {
            c_int::from(app.options.load(Ordering::Relaxed) & options::OOB_INLINE != 0)
        }
        (SOL_SOCKET, SO_RCVLOWAT) => app.stream.low_water.load(Ordering::Relaxed).max(1) as c_int,
        (SOL_SOCKET, SO_RCVBUF) => size(&app.stream.receive_buffer, held.sizes().rx),
        (SOL_SOCKET, SO_SNDBUF) => size(&app.stream.send_buffer, held.sizes().tx),
        (IPPROTO_TCP, TCP_MAXSEG) => segment(held) as c_int,
        (IPPROTO_IP, libc::IP_TOS) | (IPPROTO_IPV6, libc::IPV6_TCLASS) => (fields & 0xff) as c_int,
        (IPPROTO_IP, libc::IP_TTL) | (IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => match fields >> 8 & 0xff {
            0 => 64,
            ttl => ttl as c_int,
        },
        _ => return None,
    })
}

/// Largest segment: what is sent on a connection, what was set on any other socket.
fn segment(held: &Held) -> u32 {
    let set = asked(held).max_segment.load(Ordering::Relaxed);
    let sent = told(held).info.send_mss.load(Ordering::Relaxed);
    match phase(held) {
        state::LISTEN | state::CLOSED if set != 0 => set,
        _ if sent != 0 => sent,
        _ => MSS_DEFAULT,
    }
}

fn is_family6(held: &Held) -> bool {
    held.app().options.load(Ordering::Relaxed) & options::FAMILY6 != 0
}

/// setsockopt(2).
///
/// # Safety
/// The pointer is the program's.
pub(crate) unsafe fn setsockopt(
    fd: c_int,
    held: &Held,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Outcome {
    // SAFETY: the caller's.
    let number = || unsafe { read_int(value, len) };
    let asked = asked(held);
    if let Some((_, _, bit)) = BITS.iter().find(|(of, which, _)| (*of, *which) == (level, name)) {
        if number()? != 0 {
            asked.flags.fetch_or(*bit, Ordering::Relaxed);
        } else {
            asked.flags.fetch_and(!*bit, Ordering::Relaxed);
        }
        // What was held back may go out now.
        token::kick(fd, held);
        return Ok(0);
    }
    if level == IPPROTO_TCP
        && let Some(known) = NUMBERS.iter().find(|known| known.name == name)
    {
        let value = number()?;
        if !(known.min..=known.max).contains(&value) {
            return Err(Error::Invalid.into());
        }
        (known.place)(asked).store(value as u32, Ordering::Relaxed);
        token::kick(fd, held);
        return Ok(0);
    }
    match (level, name) {
        (SOL_SOCKET, SO_LINGER) => {
            // SAFETY: the caller's.
            let wanted: linger = unsafe { read_plain(value, len) }?;
            let seconds = if wanted.l_onoff != 0 { wanted.l_linger.clamp(0, c_int::MAX) } else { -1 };
            asked.linger.store(seconds, Ordering::Relaxed);
        }
        (SOL_SOCKET, SO_OOBINLINE) => {
            let bits = &held.app().options;
            if number()? != 0 {
                bits.fetch_or(options::OOB_INLINE, Ordering::Relaxed);
            } else {
                bits.fetch_and(!options::OOB_INLINE, Ordering::Relaxed);
            }
        }
        (SOL_SOCKET, SO_RCVLOWAT) => receive::set_low_water(held, number()?),
        (SOL_SOCKET, SO_RCVTIMEO | SO_SNDTIMEO) => {
            // SAFETY: the kernel checks the program's pointer. The waiting is done on the descriptor itself.
            unsafe { sys::setsockopt(fd, level, name, value, len) }?;
            held.app().status.fetch_or(status::TIMED, Ordering::Relaxed);
        }
        // Nobody would tell when the buffer is free again.
        (SOL_SOCKET, SO_ZEROCOPY) => return Err(Errno(libc::EOPNOTSUPP).into()),
        (IPPROTO_TCP, TCP_CONGESTION) => {
            // SAFETY: the caller's.
            let chosen = unsafe { read_name(value, len) }?;
            asked.congestion.store(chosen, Ordering::Relaxed);
            token::kick(fd, held);
        }
        _ => {
            companion::with(fd, held, |kernel| {
                // SAFETY: the kernel checks the program's pointer.
                unsafe { sys::setsockopt(kernel, level, name, value, len) }?;
                take_over(held, kernel, level, name);
                Ok(())
            })?;
            if (level, name) == (IPPROTO_TCP, TCP_DEFER_ACCEPT) && is_listener(held) {
                // What the server's engine has of the kernel's socket it reads when it is told.
                client::close_all(&client::call(&Request::new(op::REFRESH), &[fd])?.fds);
            }
            token::kick(fd, held);
        }
    }
    Ok(0)
}

/// Notes what the kernel has made of an option that the page has too.
fn take_over(held: &Held, kernel: c_int, level: c_int, name: c_int) {
    let (asked, app) = (asked(held), &held.app().stream);
    let Some(value) = int(kernel, level, name).map(|value| value.max(0) as u32) else { return };
    let field = |shift: u32| {
        let now = asked.header_fields.load(Ordering::Relaxed);
        asked.header_fields.store(now & !(0xff << shift) | (value & 0xff) << shift, Ordering::Relaxed);
    };
    match (level, name) {
        (SOL_SOCKET, SO_RCVBUF) => {
            app.receive_buffer.store(value, Ordering::Relaxed);
            asked.receive_buffer.store(value, Ordering::Relaxed);
        }
        (SOL_SOCKET, SO_SNDBUF) => app.send_buffer.store(value, Ordering::Relaxed),
        (IPPROTO_TCP, TCP_MAXSEG) => asked.max_segment.store(value, Ordering::Relaxed),
        (IPPROTO_IP, libc::IP_TOS) | (IPPROTO_IPV6, libc::IPV6_TCLASS) => field(0),
        (IPPROTO_IP, libc::IP_TTL) | (IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => field(8),
        _ => {}
    }
}

/// Reads an integer; `EINVAL` for a shorter one, `EFAULT` for null.
unsafe fn read_int(value: *const c_void, len: socklen_t) -> Result<c_int, Error> {
    // SAFETY: the caller's.
    unsafe { read_plain(value, len) }
}

unsafe fn read_plain<T: Copy>(value: *const c_void, len: socklen_t) -> Result<T, Error> {
    if (len as usize) < size_of::<T>() || len > i32::MAX as u32 {
        return Err(Error::Invalid);
    }
    if value.is_null() {
        return Err(Error::Kernel(Errno(libc::EFAULT)));
    }
    // SAFETY: the caller's: `len` bytes are readable.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

/// Reads a congestion control's name; `ENOENT` for one that is not known.
unsafe fn read_name(value: *const c_void, len: socklen_t) -> Result<u32, Error> {
    if len == 0 || len > i32::MAX as u32 {
        return Err(Error::Invalid);
    }
    if value.is_null() {
        return Err(Error::Kernel(Errno(libc::EFAULT)));
    }
    let mut text = [0u8; NAME_LEN];
    let take = (len as usize).min(NAME_LEN - 1);
    // SAFETY: the caller's: `len` bytes are readable.
    unsafe { core::ptr::copy_nonoverlapping(value.cast::<u8>(), text.as_mut_ptr(), take) };
    let name = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let found = NAMES.iter().find(|(_, known)| *known == name);
    found.map(|(number, _)| *number).ok_or(Error::Kernel(Errno(libc::ENOENT)))
}
