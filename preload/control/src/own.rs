//! Descriptors of the library itself.
//!
//! They live at numbers as high as the limit allows, close-on-exec, so that they neither take the numbers a program
//! expects nor fall into a loop that closes "everything from 3 on" without our noticing.

use crate::sys;
use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, Ordering};

/// How many can be kept: the control connection, one borrowed companion for each of the busiest sockets, and one end for
/// each of the first joined connections.
pub const MAX: usize = 4096;
/// Numbers at the upper end where they are looked for first.
const HIGH: u32 = 320;

static OWN: [AtomicI32; MAX] = [const { AtomicI32::new(-1) }; MAX];
/// No own descriptor was ever below this: spares [`is_own`] the search.
static LOWEST: AtomicI32 = AtomicI32::new(c_int::MAX);

/// Moves a descriptor to a high number and notes it. Returns the number it has then. Closes it where that fails.
///
/// # Errors
/// `EMFILE`: no number, or no place in the list, is free.
pub fn keep(fd: c_int) -> sys::Result<c_int> {
    let limit = sys::descriptor_limit();
    move_to(fd, &[limit.saturating_sub(HIGH), limit / 2, 3])
}

/// As [`keep`], of a descriptor that the library can do without: `None` where it would take what the program may need, which
/// has three quarters of all numbers to itself.
pub fn keep_spare(fd: c_int) -> Option<c_int> {
    if fd < 0 {
        return None;
    }
    let limit = sys::descriptor_limit();
    move_to(fd, &[limit - limit / 4]).ok()
}

fn move_to(fd: c_int, numbers: &[u32]) -> sys::Result<c_int> {
    let moved = numbers.iter().find_map(|from| sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, *from as usize).ok());
    let _ = sys::close(fd);
    let high = moved.ok_or(sys::Errno(libc::EMFILE))?;
    LOWEST.fetch_min(high, Ordering::Relaxed);
    for place in &OWN {
        if place.compare_exchange(-1, high, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Ok(high);
        }
    }
    let _ = sys::close(high);
    Err(sys::Errno(libc::EMFILE))
}

/// Closes a descriptor that [`keep`] returned.
pub fn release(fd: c_int) {
    if forget(fd) {
        let _ = sys::close(fd);
    }
}

/// Strikes a descriptor off the list; whether it was there.
pub fn forget(fd: c_int) -> bool {
    fd >= 0 && OWN.iter().any(|p| p.compare_exchange(fd, -1, Ordering::Relaxed, Ordering::Relaxed).is_ok())
}

/// Whether a descriptor is the library's own.
#[inline]
pub fn is_own(fd: c_int) -> bool {
    fd >= LOWEST.load(Ordering::Relaxed) && is_listed(fd)
}

fn is_listed(fd: c_int) -> bool {
    fd >= 0 && OWN.iter().any(|place| place.load(Ordering::Relaxed) == fd)
}

/// The lowest own descriptor at or above `from`.
pub fn lowest_from(from: u32) -> Option<u32> {
    OWN.iter().filter_map(|p| u32::try_from(p.load(Ordering::Relaxed)).ok()).filter(|fd| *fd >= from).min()
}
