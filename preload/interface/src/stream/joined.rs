//! A connection to a program on this host: what this library does for the other end, where the server has no part.
//!
//! Both ends read and write one memory ([`freena_shm_abi::joint`]). What the server does for a program whose peer is on a wire,
//! an end does for the other: it wakes it, makes it writable again, tells it of the end of a direction. For the first three it
//! has the *server's end* of its peer's descriptor, a socket; a process that has no number to spare for one asks the server,
//! which has both. What is left to the server in any case: that an end was closed, and a token for an end that finds itself in
//! need of one.
//!
//! The other program writes the memory as it likes. What is read from it here is a word that is compared, or a position that
//! [`freena_shm_ring::stream`] bounds.

use super::{is_over, told, unread};
use crate::send::used;
use crate::socket::Held;
use crate::token;
use core::ffi::c_int;
use core::sync::atomic::{Ordering, fence};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{client, confined};
use freena_shm_abi::control::{Request, op};
use freena_shm_abi::socket::SocketPage;
use freena_shm_abi::stream::state;
use freena_shm_ring::joint::end_direction;
use freena_shm_ring::{kick, wake};

const QUIET: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Messages of the other end that are read at a time.
const DRAINED: u32 = 16;

/// The errors that the other end, or the server for it, may leave; anything else is taken for a reset.
pub(super) fn error(errno: u32) -> Errno {
    match errno as i32 {
        known @ (libc::EPIPE | libc::ECONNABORTED) => Errno(known),
        _ => Errno(libc::ECONNRESET),
    }
}

/// Bytes were published: wakes the other end if it waits.
#[inline]
pub(super) fn published(fd: c_int, held: &Held, peer: &SocketPage) {
    fence(Ordering::SeqCst);
    let waits = &peer.rx_wake.0;
    if waits.token.load(Ordering::Relaxed) == wake::ARMED || waits.eager.load(Ordering::Relaxed) != 0 {
        wake_peer(fd, held, peer);
    }
    // Woken, it may have read everything, answered and gone before this line: that is no loss.
    if told(held).gone.load(Ordering::Acquire) != 0 && used(held) > 0 {
        reset(fd, held);
    }
}

/// The other end waits, or has the token exact: sends it one, once.
#[cold]
fn wake_peer(fd: c_int, held: &Held, peer: &SocketPage) {
    let waits = &peer.rx_wake.0;
    match held.peer_end() {
        Some(end) if wake::take_request(&waits.token) => send_token(end),
        Some(end) if waits.eager.load(Ordering::Relaxed) != 0 && wake::is_sent(&waits.token) => {
            // As the server does it: an event for each arrival.
            waits.edges.fetch_add(1, Ordering::Relaxed);
            send_token(end);
        }
        Some(_) => {}
        None => token::message(fd, held, b"k"),
    }
}

fn send_token(end: c_int) {
    // A full queue (EAGAIN) is readable already, and so is one that was shut down.
    let _ = sys::send(end, b"r", QUIET);
}

/// Nobody is there to read what was sent, which the kernel's loopback answers by a reset (tcp_reset: `EPIPE` behind the
/// peer's end of its direction).
#[cold]
fn reset(fd: c_int, held: &Held) {
    held.page().error.0.store(libc::EPIPE as u32, Ordering::Release);
    told(held).state.store(state::CLOSED, Ordering::Release);
    let _ = sys::shutdown(fd, libc::SHUT_RDWR);
}

/// Bytes were read: if the other end waits for room, and there is enough of it, makes its descriptor writable again.
#[inline]
pub(crate) fn took(fd: c_int, held: &Held, peer: &SocketPage) {
    if unread(held) <= u64::from(held.sizes().rx) / 2 && kick::needed(&told(held).rx_kick) {
        drain(fd, held, peer);
    }
}

/// Takes the messages that the other end has left, as the server would have done.
#[cold]
fn drain(fd: c_int, held: &Held, peer: &SocketPage) {
    let Some(end) = held.peer_end() else { return token::message(fd, held, b"k") };
    let (mut asked, mut forced) = (false, false);
    let mut message = [0u8; 8];
    for _ in 0..DRAINED {
        match sys::recv(end, &mut message, libc::MSG_DONTWAIT) {
            Ok(1..) => {
                asked |= message[0] != b'f';
                forced |= message[0] == b't';
            }
            _ => break,
        }
    }
    let pending = used(held) > 0
        || peer.error.0.load(Ordering::Relaxed) != 0
        || state::is_end_of_file(peer.stream.told.state.load(Ordering::Relaxed));
    if asked && pending && (wake::take_request(&peer.rx_wake.0.token) || forced) {
        send_token(end);
    }
}

/// The ring is full and the descriptor unwritable: the other end shall make it writable once it has read half of it.
pub(crate) fn filled(fd: c_int, held: &Held, peer: &SocketPage) {
    let word = &peer.stream.told.rx_kick;
    kick::suspend(word);
    let half = u64::from(held.sizes().tx) / 2;
    // Read meanwhile, without being asked: nobody would look again.
    if used(held) > half || word.swap(0, Ordering::Relaxed) != 1 || is_made_writable(fd) {
        return;
    }
    // The server cannot be asked: the other end, woken for nothing, finds that it is asked and takes the messages.
    kick::suspend(word);
    match held.peer_end() {
        Some(end) => {
            let _ = wake::take_request(&peer.rx_wake.0.token);
            send_token(end);
        }
        None => token::mark_dead(held),
    }
}

/// Has the server make a descriptor writable: not behind a filter of system calls, nor where its socket cannot be found (the
/// child of a program in a chroot).
fn is_made_writable(fd: c_int) -> bool {
    if confined::is_confined() {
        return false;
    }
    client::call(&Request::new(op::REFRESH), &[fd]).map(|reply| client::close_all(&reply.fds)).is_ok()
}

/// This end sends no more: the other one reads the end behind what was sent.
pub(super) fn ended(fd: c_int, held: &Held, peer: &SocketPage) {
    let (own, other) = end_direction(&told(held).state, &peer.stream.told.state);
    published(fd, held, peer);
    let how = if is_over(other) { libc::SHUT_RDWR } else { libc::SHUT_WR };
    match held.peer_end() {
        Some(end) => drop(sys::shutdown(end, how)),
        None => token::message(fd, held, b"k"),
    }
    if is_over(own) {
        let _ = sys::shutdown(fd, libc::SHUT_RDWR);
    }
}
