//! What poll(2) reports for a connection, as tcp_poll of the kernel has it.

use super::receive::has_urgent;
use super::{asked, is_over, phase, told, unread};
use crate::send::used;
use crate::socket::Held;
use core::ffi::c_short;
use core::sync::atomic::Ordering;
use freena_shm_abi::stream::{shut, state};
use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM};

const READ: c_short = POLLIN | POLLRDNORM;
const WRITE: c_short = POLLOUT | POLLWRNORM;

/// What a connection is ready for.
pub(crate) fn readiness(held: &Held) -> c_short {
    let state = phase(held);
    let error = if held.page().error.0.load(Ordering::Relaxed) != 0 { POLLERR } else { 0 };
    if state::is_connecting(state) {
        return error;
    }
    let ended = state::is_end_of_file(state) || held.app().shutdown.load(Ordering::Relaxed) & 1 != 0;
    let shut = is_over(state) || asked(held).shut.load(Ordering::Relaxed) & shut::WRITE != 0;
    let mut ready = error;
    if is_over(state) || ended && shut {
        ready |= POLLHUP;
    }
    if ended {
        ready |= READ | POLLRDHUP;
    }
    if unread(held) >= u64::from(held.app().stream.low_water.load(Ordering::Relaxed).max(1)) {
        ready |= READ;
    }
    // At most half full, which is also when the server makes the descriptor writable again.
    if shut || used(held) <= u64::from(held.sizes().tx) / 2 {
        ready |= WRITE;
    }
    if told(held).rx_urgent.load(Ordering::Relaxed) != 0 && has_urgent(held) {
        ready |= POLLPRI;
    }
    ready
}
