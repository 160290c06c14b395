//! The socket's own address and its peer's, shared by all holders under a sequence lock.

use crate::address;
use crate::outcome::{Outcome, Reason, Stop};
use crate::{stream, table};
use core::ffi::c_int;
use core::mem::zeroed;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::Endpoint;
use freena_shm_abi::app::{AppArea, options};
use freena_shm_abi::stream::state;
use libc::{sockaddr, sockaddr_storage, socklen_t};

/// How often a reader or writer tries before it takes the holder of the sequence lock for dead.
const TRIES: u32 = 10_000;

/// Own address and peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Own address.
    pub local: Endpoint,
    /// Peer, or none.
    pub peer: Endpoint,
}

fn load(words: &[AtomicU64; 3]) -> Endpoint {
    zerocopy::transmute!(words.each_ref().map(|word| word.load(Ordering::Relaxed)))
}

fn store(words: &[AtomicU64; 3], endpoint: Endpoint) {
    let values: [u64; 3] = zerocopy::transmute!(endpoint);
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Reads both.
#[inline]
pub fn get(app: &AppArea) -> Names {
    for _ in 0..TRIES {
        let before = app.names_seq.load(Ordering::Acquire);
        let names = Names { local: load(&app.local), peer: load(&app.peer) };
        fence(Ordering::Acquire);
        if before & 1 == 0 && app.names_seq.load(Ordering::Relaxed) == before {
            return names;
        }
        core::hint::spin_loop();
    }
    // Whoever was writing has died. The next change puts it right.
    Names { local: load(&app.local), peer: load(&app.peer) }
}

/// Writes both.
pub fn set(app: &AppArea, names: &Names) {
    let mut sequence = app.names_seq.load(Ordering::Relaxed) & !1;
    for _ in 0..TRIES {
        match app.names_seq.compare_exchange_weak(
            sequence,
            sequence + 1,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => break,
            Err(seen) => sequence = seen & !1,
        }
    }
    fence(Ordering::Release);
    store(&app.local, names.local);
    store(&app.peer, names.peer);
    app.names_seq.store(sequence.wrapping_add(2), Ordering::Release);
}

/// Asks the kernel's own socket for both and stores them.
pub fn refresh(app: &AppArea, companion: c_int) {
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let (mut local, mut peer): (sockaddr_storage, sockaddr_storage) = unsafe { (zeroed(), zeroed()) };
    let local =
        sys::getsockname(companion, &mut local).map_or(Endpoint::NONE, |_| address::from_storage(&local));
    let peer =
        sys::getpeername(companion, &mut peer).map_or(Endpoint::NONE, |_| address::from_storage(&peer));
    set(app, &Names { local, peer });
}

/// getsockname(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn getsockname(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    // SAFETY: the caller's.
    unsafe { give(fd, to, len, |names| Ok(names.local)) }
}

/// getpeername(2): `ENOTCONN` where there is no peer.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn getpeername(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    // A connection that is over has no peer either (inet_getname).
    let is_over =
        || table::hold(fd).is_some_and(|held| held.is_stream() && stream::phase(&held) == state::CLOSED);
    let peer = |names: Names| match names.peer.is_some() && !is_over() {
        true => Ok(names.peer),
        false => Err(Errno(libc::ENOTCONN)),
    };
    // SAFETY: the caller's.
    unsafe { give(fd, to, len, peer) }
}

unsafe fn give(
    fd: c_int,
    to: *mut sockaddr,
    len: *mut socklen_t,
    which: impl Fn(Names) -> Result<Endpoint, Errno>,
) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    let app = held.app();
    let endpoint = which(get(app))?;
    if to.is_null() || len.is_null() {
        return Err(Errno(libc::EFAULT).into());
    }
    let family6 = app.options.load(Ordering::Relaxed) & options::FAMILY6 != 0;
    // SAFETY: the caller's.
    unsafe { address::give(&endpoint, family6, to, len) }?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_got_also_after_a_writer_died() {
        let app = AppArea::default();
        let local = Endpoint::new("10.0.0.1".parse().expect("valid"), 53, 0);
        let names = Names { local, peer: Endpoint::NONE };
        set(&app, &names);
        assert_eq!(get(&app), names);
        app.names_seq.fetch_add(1, Ordering::Relaxed);
        assert_eq!(get(&app), names);
        let peer = Endpoint::new("fe80::1".parse().expect("valid"), 1, 3);
        set(&app, &Names { local, peer });
        assert_eq!(get(&app).peer, peer);
        assert_eq!(app.names_seq.load(Ordering::Relaxed) & 1, 0);
    }
}
