//! Sending: bytes into the transmit ring.

use super::vectors::Vectors;
use super::{asked, is_nonblocking, joined, phase, take_error};
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::receive::not_ours;
use crate::send::{self, used};
use crate::socket::Held;
use crate::{table, token};
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_shm_abi::stream::{ask, shut, state};
use freena_shm_ring::stream::{Pipe, WriterCursor};
use libc::{iovec, mmsghdr, msghdr, size_t};

/// Most elements of an array of buffers (`UIO_MAXIOV`, writev(2)).
const MAX_VECTORS: usize = 1024;
/// Most bytes in one call (`MAX_RW_COUNT`, write(2)).
pub(crate) const MAX_BYTES: usize = 0x7fff_f000;

/// Bytes that count as a small piece of a stream, for which the ring is fetched so far ahead.
const SMALL: usize = 128;
const AHEAD: u64 = 1024;

/// Where in a ring some bytes go.
pub(crate) struct Room<'m> {
    pub(crate) pipe: Pipe<'m>,
    pub(crate) base: u64,
    pub(crate) position: u64,
    pub(crate) len: usize,
}

impl Room<'_> {
    /// Copies from the program's buffers into it; returns how many bytes. `EFAULT` for a null buffer before any.
    ///
    /// # Safety
    /// The buffers are readable, and outside the ring.
    unsafe fn fill(&self, from: &mut Vectors) -> Result<usize, Error> {
        let copy = |from: *mut u8, done: usize, take| {
            // SAFETY: the caller's; `each` stays within `self.len`.
            unsafe { self.pipe.copy_in(self.base, self.position.wrapping_add(done as u64), from, take) }
        };
        // SAFETY: the caller's.
        unsafe { from.each(self.len, copy) }
    }
}

/// send(2), sendto(2), write(2). An address is ignored, as the kernel does.
///
/// # Safety
/// The pointers are the program's.
#[inline]
pub unsafe fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> Outcome {
    let vector = iovec { iov_base: bytes.cast_mut(), iov_len: len };
    // SAFETY: the caller's.
    unsafe { gather(fd, &vector, 1, flags) }
}

/// writev(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> Outcome {
    let count = usize::try_from(count).ok().filter(|n| *n <= MAX_VECTORS).ok_or(Error::Invalid)?;
    // SAFETY: the caller's.
    unsafe { gather(fd, vectors, count, 0) }
}

/// sendmsg(2). Ancillary data asks for nothing that a stream has.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> Outcome {
    // SAFETY: the caller's.
    let header = unsafe { message.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
    if header.msg_iovlen > MAX_VECTORS {
        return Err(Error::TooLong.into());
    }
    // SAFETY: the caller's.
    unsafe { gather(fd, header.msg_iov, header.msg_iovlen, flags) }
}

/// sendmmsg(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome {
    let count = (count as usize).min(MAX_VECTORS);
    for sent in 0..count {
        // SAFETY: the caller's; `sent < count`.
        let result = unsafe {
            let entry = messages.add(sent);
            sendmsg(fd, &raw const (*entry).msg_hdr, flags).map(|bytes| (*entry).msg_len = bytes as c_uint)
        };
        match result {
            Ok(()) => {}
            Err(stop) if sent == 0 => return Err(stop),
            Err(_) => return Ok(sent as isize),
        }
    }
    Ok(count as isize)
}

unsafe fn gather(fd: c_int, vectors: *const iovec, count: usize, flags: c_int) -> Outcome {
    let mut from = Vectors::new(vectors, count);
    // SAFETY: the caller's.
    let total = unsafe { from.len() };
    // SAFETY: the caller's.
    push(fd, flags, total, |room| unsafe { room.fill(&mut from) })
}

/// Puts `total` bytes into the ring, waiting for room as the flags say. `put` writes up to the room's length and says how
/// many; fewer than that end the call, except none at all while there is room, which is an error of its own.
pub(crate) fn push(
    fd: c_int,
    flags: c_int,
    total: usize,
    put: impl FnMut(&Room<'_>) -> Result<usize, Error>,
) -> Outcome {
    push_as::<false>(fd, flags, total, put)
}

/// As [`push`], all at once: `total` is at most half of the ring.
pub(crate) fn push_whole(
    fd: c_int,
    flags: c_int,
    total: usize,
    put: impl FnMut(&Room<'_>) -> Result<usize, Error>,
) -> Outcome {
    push_as::<true>(fd, flags, total, put)
}

fn push_as<const WHOLE: bool>(
    fd: c_int,
    flags: c_int,
    total: usize,
    mut put: impl FnMut(&Room<'_>) -> Result<usize, Error>,
) -> Outcome {
    let (mut done, mut spun, mut filled) = (0, false, false);
    loop {
        {
            let Some(held) = table::hold(fd) else {
                return if done > 0 { Ok(done as isize) } else { Err(Stop::Bypass(not_ours(fd))) };
            };
            if done > 0 && held.page().error.0.load(Ordering::Relaxed) != 0 {
                // What was taken is told now, and the error by the next call.
                return Ok(done as isize);
            }
            match attempt::<WHOLE>(&held, flags, total - done, &mut put) {
                Ok(Attempt { len, is_last }) => {
                    if len > 0 {
                        match held.peer_page() {
                            Some(peer) => joined::published(fd, &held, peer),
                            None => token::kick_if_needed(fd, &held),
                        }
                        (spun, filled) = (false, false);
                    }
                    done += len;
                    if done == total || is_last {
                        return Ok(done as isize);
                    }
                }
                Err(error) => {
                    drop(held);
                    return if done > 0 { Ok(done as isize) } else { Err(failed(error, flags)) };
                }
            }
            let nonblocking = flags & libc::MSG_DONTWAIT != 0 || is_nonblocking(&held);
            if !nonblocking && !spun {
                spun = true;
                let half = u64::from(held.sizes().tx / 2);
                if token::spin(|| can_go_on(&held, half)) {
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
                return if done > 0 { Ok(done as isize) } else { Err(Error::WouldBlock.into()) };
            }
        }
        if let Err(stop) = send::wait(fd) {
            return if done > 0 { Ok(done as isize) } else { Err(stop) };
        }
        filled = false;
    }
}

fn can_go_on(held: &Held, half: u64) -> bool {
    let state = phase(held);
    !state::is_connecting(state) && used(held) <= half
        || !matches!(state, state::ESTABLISHED | state::CLOSE_WAIT)
}

/// Without [`libc::MSG_NOSIGNAL`], `EPIPE` comes with a signal.
#[cold]
fn failed(error: Error, flags: c_int) -> Stop {
    if error == Error::ShutDown && flags & libc::MSG_NOSIGNAL == 0 {
        sys::raise(libc::SIGPIPE);
    }
    error.into()
}

/// How an attempt ended, other than in an error.
struct Attempt {
    /// Bytes put into the ring: 0 if there is no room, also while the connection is not there yet.
    len: usize,
    /// There was room for more than there was.
    is_last: bool,
}

/// Puts in what fits now.
#[inline]
fn attempt<const WHOLE: bool>(
    held: &Held,
    flags: c_int,
    want: usize,
    put: &mut impl FnMut(&Room<'_>) -> Result<usize, Error>,
) -> Result<Attempt, Error> {
    take_error(held)?;
    let page = held.page();
    let app = held.app();
    let asked = asked(held);
    match phase(held) {
        state::ESTABLISHED | state::CLOSE_WAIT if asked.shut.load(Ordering::Relaxed) & shut::WRITE == 0 => {}
        connecting if state::is_connecting(connecting) => {
            return Ok(Attempt { len: 0, is_last: false });
        }
        _ => return Err(Error::ShutDown),
    }
    let _side = held.lock_tx()?;
    let pipe = held.tx_pipe();
    let mut cursor = WriterCursor {
        tail: page.tx_tail.0.load(Ordering::Relaxed),
        cached_head: app.tx_cached_head.load(Ordering::Relaxed),
        base: asked.tx_base.load(Ordering::Relaxed),
    };
    cursor.rebase(&pipe);
    let room = cursor.room(&pipe, (want as u64).min(pipe.size()));
    let room_len = if WHOLE && (room as usize) < want { 0 } else { want.min(room as usize) };
    let result = match room_len {
        0 => Ok(0),
        len => put(&Room { pipe, base: cursor.base, position: cursor.tail, len }),
    };
    if let Ok(len @ 1..) = result {
        let tail = cursor.tail.wrapping_add(len as u64);
        if flags & libc::MSG_OOB != 0 && len == want {
            asked.tx_urgent.store(tail, Ordering::Relaxed);
            if let Some(peer) = held.peer_page() {
                peer.stream.told.rx_urgent.store(tail, Ordering::Relaxed);
            }
        }
        let more = asked.flags.load(Ordering::Relaxed);
        if (flags & libc::MSG_MORE != 0) != (more & ask::MORE != 0) {
            asked.flags.fetch_xor(ask::MORE, Ordering::Relaxed);
        }
        cursor.publish(&pipe, tail);
        if len <= SMALL {
            pipe.prefetch(cursor.base, tail.wrapping_add(AHEAD));
        }
    }
    app.tx_cached_head.store(cursor.cached_head, Ordering::Relaxed);
    Ok(Attempt { is_last: room_len > 0 && result.is_ok_and(|len| len < room_len), len: result? })
}

/// Whether a descriptor is a stream of the framework, for calls that know no other way.
pub(crate) fn is_framework(fd: c_int) -> Result<(), Stop> {
    match table::hold(fd) {
        Some(held) if held.is_stream() => Ok(()),
        _ => Err(Stop::Bypass(Reason::Untracked)),
    }
}
