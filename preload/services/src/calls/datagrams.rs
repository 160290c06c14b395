//! Calls on a socket for datagrams.

mod receive;
mod send;

pub(super) use receive::{is_readable, next_length, receive};
pub(super) use send::send;

use super::UNTRACKED;
use crate::datagrams::Datagrams;
use crate::slot::{Held, Locked};
use crate::{courier, errno, table};
use core::ffi::c_int;
use freena_preload_interface::outcome::Outcome;
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, SOL_SOCKET};

/// `UDP_CORK`, `UDP_SEGMENT` and `UDP_GRO` (udp(7)): a call is one datagram where there are services.
const ONE_FOR_MANY: [c_int; 3] = [1, 103, 104];

fn hold(fd: c_int) -> Outcome<Held> {
    table::hold(fd).ok_or(UNTRACKED)
}

/// Unlocks a socket, and has the courier look after it if it needs that.
fn look_after(fd: c_int, mut it: Locked<'_, Datagrams>) {
    let wants = it.wants_courier();
    drop(it);
    if wants {
        courier::enrol(fd);
    }
}

/// setsockopt(2): what would have the kernel make one datagram of several, or several of one, is not there, as in kernels that
/// have not got it.
pub(super) fn set_option(level: c_int, name: c_int) -> Outcome {
    match (level, name) {
        (IPPROTO_UDP, name) if ONE_FOR_MANY.contains(&name) => Err(errno(libc::ENOPROTOOPT)),
        (SOL_SOCKET, libc::SO_ZEROCOPY | libc::SO_PEEK_OFF) => Err(errno(libc::EOPNOTSUPP)),
        _ => Err(UNTRACKED),
    }
}

/// By how much services shorten what getsockopt(2) tells; `None` for other options.
pub(super) fn shortened(fd: c_int, level: c_int, name: c_int) -> Option<usize> {
    // Of linux/in6.h.
    const IPV6_MTU: c_int = 24;
    match (level, name) {
        (IPPROTO_IP, libc::IP_MTU) | (IPPROTO_IPV6, IPV6_MTU) => {}
        _ => return None,
    }
    let growth = table::hold(fd)?.lock_any::<Datagrams>().ok()?.growth();
    (growth > 0).then_some(growth)
}
