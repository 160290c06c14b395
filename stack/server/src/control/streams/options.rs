//! The options that a program has set on its kernel socket before the server got it.

use crate::sys;
use freena_shm_abi::stream::{Asked, ask, congestion};
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// `getsockopt` of the buffer sizes that were set: linux/socket.h `SO_BUF_LOCK`, Linux 5.14.
const SO_BUF_LOCK: i32 = 72;
const RECEIVE_LOCKED: i32 = 2;
/// What `TCP_MAXSEG` shows where nothing was set (`TCP_MSS_DEFAULT`).
const MSS_DEFAULT: i32 = 536;
/// What `TCP_SYNCNT` shows where nothing was set is the default of the system, usually this.
const SYN_COUNT: i32 = 6;

/// Bounds of the wait for a handshake's end in seconds (`TCP_TIMEOUT_INIT`, `TCP_RTO_MAX` of Linux).
const FIRST_WAIT: u32 = 1;
const LONGEST_WAIT: u32 = 120;

/// `TCP_DEFER_ACCEPT` of a listener as [`freena_tcp::Options::defer_accept`] has it.
pub(super) fn defer_accept(companion: &OwnedFd) -> u8 {
    let seconds = sys::get_option(companion, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT).unwrap_or(0);
    waits(seconds.max(0) as u32)
}

/// How many waits, each twice as long as the one before, it takes until so many seconds are over: `secs_to_retrans` of
/// net/ipv4/tcp.c.
fn waits(seconds: u32) -> u8 {
    let (mut count, mut wait, mut over) = (0, FIRST_WAIT, 0);
    while over < seconds && count < u8::MAX {
        count += 1;
        over += wait;
        wait = (2 * wait).min(LONGEST_WAIT);
    }
    count
}

/// Writes what the socket is set to into the page. `messages`: the program has opened it as SCTP.
pub(super) fn read(companion: &OwnedFd, ipv6: bool, messages: bool, asked: &Asked) {
    let get = |level, name| sys::get_option(companion, level, name).unwrap_or(0);
    let tcp = |name| get(libc::IPPROTO_TCP, name);
    let put = |word: &AtomicU32, value: i32| word.store(value.max(0) as u32, Ordering::Relaxed);
    let flag = |set: i32, bit: u32| if set != 0 { bit } else { 0 };
    let flags = flag(tcp(libc::TCP_NODELAY), ask::NO_DELAY)
        | flag(tcp(libc::TCP_CORK), ask::CORK)
        | flag(get(libc::SOL_SOCKET, libc::SO_KEEPALIVE), ask::KEEP_ALIVE)
        | flag(messages.into(), ask::MESSAGES);
    asked.flags.store(flags, Ordering::Relaxed);
    put(&asked.keep_idle, tcp(libc::TCP_KEEPIDLE));
    put(&asked.keep_interval, tcp(libc::TCP_KEEPINTVL));
    put(&asked.keep_count, tcp(libc::TCP_KEEPCNT));
    put(&asked.user_timeout, tcp(libc::TCP_USER_TIMEOUT));
    let unless = |value: i32, default: i32| if value == default { 0 } else { value };
    put(&asked.max_segment, unless(tcp(libc::TCP_MAXSEG), MSS_DEFAULT));
    put(&asked.syn_count, unless(tcp(libc::TCP_SYNCNT), SYN_COUNT));
    let linger = SockRef::from(companion).linger().ok().flatten();
    asked.linger.store(linger.map_or(-1, |time| time.as_secs() as i32), Ordering::Relaxed);
    if get(libc::SOL_SOCKET, SO_BUF_LOCK) & RECEIVE_LOCKED != 0 {
        // Shown is twice what was set.
        put(&asked.receive_buffer, get(libc::SOL_SOCKET, libc::SO_RCVBUF) / 2);
    }
    let (tos, ttl) = if ipv6 {
        (get(libc::IPPROTO_IPV6, libc::IPV6_TCLASS), get(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS))
    } else {
        (get(libc::IPPROTO_IP, libc::IP_TOS), get(libc::IPPROTO_IP, libc::IP_TTL))
    };
    put(&asked.header_fields, (tos & 0xff) | (ttl & 0xff) << 8);
    let word = match SockRef::from(companion).tcp_congestion().as_deref() {
        Ok([b'r', b'e', b'n', b'o', ..]) => congestion::RENO,
        // BBR too, which the engine does not have: what runs is what is told.
        _ => congestion::CUBIC,
    };
    asked.congestion.store(word, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows them after setsockopt(2): 1, 3, 7 s and so on.
    #[test]
    fn seconds_are_waits_that_double() {
        let shown = [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (5, 3),
            (7, 3),
            (8, 4),
            (127, 7),
            (128, 8),
            (i32::MAX as u32, 255),
        ];
        for (seconds, expected) in shown {
            assert_eq!(waits(seconds), expected, "{seconds} s");
        }
    }
}
