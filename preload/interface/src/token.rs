//! Readiness that the kernel can see, and spinning before it is needed.
//!
//! The token protocol is that of [`freena_shm_ring::wake`]; messages on the socket's descriptor are
//!
//! | message | direction | meaning |
//! |---|---|---|
//! | `k` | to the server | look at the rings: something was published, or the token may be missing |
//! | `f`, 8 KiB long | to the server | the transmit ring is full; read this once it is half empty |
//! | `t` | to the server | send one more token: another thread waits and there is more to read |
//! | anything | from the server | a token |

use crate::outcome::Error;
use crate::socket::{Held, RxSide};
use crate::{errors, stream, watch};
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use freena_preload_control::{client, settings, sys};
use freena_shm_abi::app::status;
use freena_shm_abi::stream::state;
use freena_shm_ring::{kick, wake};
use sys::Errno;

/// Length of the message that says "full".
pub const FILL_LEN: usize = 8192;

static FILL: [u8; FILL_LEN] = {
    let mut bytes = [0; FILL_LEN];
    bytes[0] = b'f';
    bytes
};
const QUIET: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Messages that fill the send buffer for sure.
const FILL_TRIES: u32 = 8;
/// More messages than an honest peer leaves in a queue.
const TOKENS: u32 = 1024;
/// How often to yield while a token that was announced is on its way.
const TOKEN_TRIES: u32 = 1000;

/// How long a pause is asked to last; the kernel adds the timer's slack, by default 50 us (prctl(2)).
const PAUSE_NANOSECONDS: i64 = 20_000;
/// Pauses before the ordinary way of waiting.
const PAUSES: u32 = 2;

/// So many tokens sent for edges are worth looking whether the queue can do with fewer.
const MANY_EDGES: u32 = 64;

static EPOLL_IN_USE: AtomicBool = AtomicBool::new(false);

/// Whether a framework socket was ever given to an epoll instance.
pub fn epoll_in_use() -> bool {
    EPOLL_IN_USE.load(Ordering::Relaxed)
}

/// Counts the times that an epoll instance reported an end. It does not say whose, as only the program knows what its
/// events are about.
static HANG_UPS: AtomicU32 = AtomicU32::new(0);

/// An epoll instance has reported the end of some descriptor, which may be a socket whose server is gone.
pub(crate) fn note_hang_up() {
    HANG_UPS.fetch_add(1, Ordering::Relaxed);
}

/// Whether a socket that has nothing to read should be asked whether its server is there: such an end was reported since
/// it was last asked.
pub(crate) fn is_suspect(held: &Held) -> bool {
    held.note_hang_ups(HANG_UPS.load(Ordering::Relaxed))
}

pub(crate) fn message(fd: c_int, held: &Held, bytes: &[u8]) {
    match sys::send(fd, bytes, QUIET) {
        Err(Errno(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => nobody_listens(held),
        // The peer holds the server's end too, and does not answer for it.
        Ok(_) if held.is_joined() && client::is_gone() => mark_dead(held),
        _ => {}
    }
}

/// The server is gone: says so to all holders of the socket. To a connection it is a reset.
pub fn mark_dead(held: &Held) {
    let before = held.app().status.fetch_or(status::DEAD, Ordering::Relaxed);
    if before & status::DEAD == 0 && held.is_stream() && !stream::is_listener(held) {
        let error = &held.page().error.0;
        let _ = error.compare_exchange(0, libc::ECONNRESET as u32, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The server does not take messages any more: the connection is over, or the server is gone.
pub(crate) fn nobody_listens(held: &Held) {
    if !(held.is_stream() && stream::is_over(stream::phase(held))) {
        mark_dead(held);
    }
}

/// The server's direction has ended: the peer's direction has, the program has shut it down, or the server is gone.
fn nobody_speaks(held: &Held) {
    let expected = held.app().shutdown.load(Ordering::Relaxed) & 1 != 0;
    if !(expected || held.is_stream() && state::is_end_of_file(stream::phase(held))) {
        mark_dead(held);
    }
}

/// Gets the server's attention, whether it looks or not. It has no part in what a joined connection does.
#[cold]
pub(crate) fn kick(fd: c_int, held: &Held) {
    if held.is_joined() {
        return;
    }
    message(fd, held, b"k");
}

/// After publishing: gets the server's attention if it does not look.
#[inline]
pub fn kick_if_needed(fd: c_int, held: &Held) {
    if kick::needed(&held.page().tx_kick.0) {
        message(fd, held, b"k");
    }
}

/// Makes the descriptor unwritable until the server has emptied half of the transmit ring.
pub fn fill(fd: c_int, held: &Held) {
    kick_if_needed(fd, held);
    // How much the kernel counts for one message depends on its version: more, until it takes no more.
    for _ in 0..FILL_TRIES {
        match sys::send(fd, &FILL, QUIET) {
            Ok(_) => {}
            Err(Errno(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => return nobody_listens(held),
            Err(_) => break,
        }
    }
    if let Some(peer) = held.peer_page() {
        stream::joined::filled(fd, held, peer);
    }
}

/// Lets another thread that waits have a token too.
fn wake_another(fd: c_int, held: &Held) {
    let app = held.app();
    if app.rx_waiters.load(Ordering::Relaxed) > 0
        && app.status.fetch_or(status::NOTIFIED, Ordering::Relaxed) & status::NOTIFIED == 0
    {
        app.status.fetch_or(status::EXTRA, Ordering::Relaxed);
        // In words too, since where the transmit ring is full the server leaves messages unread.
        wake::token_taken(&held.page().rx_wake.0.token, true);
        message(fd, held, b"t");
    }
}

/// Something was taken out of the rings, and more is left: lets another thread that waits have a token too, and keeps few
/// of those that were sent for edges.
pub(crate) fn leave(fd: c_int, held: &Held, _side: &RxSide<'_>) {
    wake_another(fd, held);
    let wake = &held.page().rx_wake.0;
    let edges = wake.edges.load(Ordering::Relaxed);
    if edges.wrapping_sub(wake.thinned.load(Ordering::Relaxed)) >= MANY_EDGES {
        wake.thinned.store(edges, Ordering::Relaxed);
        thin(fd);
    }
}

/// Takes all tokens but one: the queue holds no more than the server's send buffer allows, and an edge needs room in it.
#[cold]
fn thin(fd: c_int) {
    let mut count: c_int = 0;
    let mut byte = [0u8; 8];
    // A token is one byte, and FIONREAD of such a socket tells all that lies in the queue (unix_inq_len).
    // SAFETY: `count` is writable.
    if unsafe { sys::ioctl(fd, libc::FIONREAD as usize, (&raw mut count).addr()) }.is_ok() {
        for _ in 1..count {
            if sys::recv(fd, &mut byte, libc::MSG_DONTWAIT).is_err() {
                return;
            }
        }
    }
}

/// Whether the token has to be right at every moment, or at this one.
fn is_wanted(held: &Held) -> bool {
    let app = held.app();
    app.rx_waiters.load(Ordering::Relaxed) != 0
        || app.polled.load(Ordering::Relaxed) != 0 && !watch::attends(held)
}

/// Locks the receive rings.
///
/// A process that died in the middle of receiving may have taken the token without saying so, and nobody would ever get
/// another one: then a new one is asked for. One too many is found by whoever wakes up for nothing.
///
/// # Errors
/// [`Error::Reentered`].
#[inline]
pub fn lock_rx(fd: c_int, held: &Held) -> Result<RxSide<'_>, Error> {
    let side = held.lock_rx()?;
    if side.is_inherited() && held.page().rx_wake.0.token.load(Ordering::Relaxed) == wake::SENT {
        wake::token_taken(&held.page().rx_wake.0.token, true);
        if held.has_data() {
            message(fd, held, b"k");
        }
    }
    Ok(side)
}

/// The rings are empty: takes tokens that lie in the queue, asks for the next one if it is wanted. `force`: the queue
/// is known to hold one, whatever the word says. Returns whether something has arrived meanwhile.
pub fn settle(fd: c_int, held: &Held, _side: &RxSide<'_>, force: bool) -> bool {
    let word = &held.page().rx_wake.0.token;
    let mut state = word.load(Ordering::Relaxed);
    if state == wake::ARMED && watch::attends(held) && !is_wanted(held) {
        // A token that nobody needs would be told as something to read, after that has been read without it.
        state = if wake::disarm(word) { wake::SENT } else { wake::IDLE };
        fence(Ordering::SeqCst);
    }
    let extra =
        held.app().status.load(Ordering::Relaxed) & status::EXTRA != 0 && !held.registration().is_listed();
    if state == wake::SENT || force || extra {
        let taken = take_tokens(fd, held, state == wake::SENT);
        if taken && word.load(Ordering::Relaxed) == wake::SENT {
            wake::token_taken(word, is_wanted(held));
        }
        if let Some(peer) = held.peer_page() {
            stream::joined::took(fd, held, peer);
        }
    }
    if !is_wanted(held) {
        return held.has_data();
    }
    if word.load(Ordering::Relaxed) == wake::IDLE {
        wake::arm(word);
    }
    let arrived = held.has_data() || held.page().error.0.load(Ordering::Relaxed) != 0;
    if arrived && word.load(Ordering::Relaxed) == wake::ARMED {
        // It may have been published before the word was armed, so that the server did not see the request.
        message(fd, held, b"k");
    }
    arrived
}

/// No token is needed any more to wake who looks for events, only for others that wait.
pub(crate) fn let_be(held: &Held) {
    let (word, waiters) = (&held.page().rx_wake.0.token, &held.app().rx_waiters);
    if waiters.load(Ordering::Relaxed) == 0 && !wake::disarm(word) {
        fence(Ordering::SeqCst);
        if waiters.load(Ordering::Relaxed) > 0 {
            wake::arm(word);
        }
    }
}

/// Takes all messages out of the application end's queue; whether there was one.
fn take_tokens(fd: c_int, held: &Held, announced: bool) -> bool {
    let mut taken = false;
    let mut tries = 0;
    let mut byte = [0u8; 8];
    // The peer of a joined connection may go on sending for ever.
    for _ in 0..TOKENS {
        match sys::recv(fd, &mut byte, libc::MSG_DONTWAIT) {
            Ok(0) => {
                nobody_speaks(held);
                return true;
            }
            Ok(_) => taken = true,
            // ECONNRESET: the server ended with a message of ours unread, which is told once, before the end.
            Err(Errno(libc::EINTR | libc::ECONNRESET)) => {}
            Err(Errno(libc::EAGAIN)) if !taken && announced && tries < TOKEN_TRIES => {
                tries += 1;
                sys::sched_yield();
            }
            Err(_) => return taken,
        }
    }
    taken
}

/// Makes the token right for somebody who is about to wait in the kernel. Returns whether there is something already.
///
/// # Errors
/// [`Error::Reentered`].
pub fn arm(fd: c_int, held: &Held) -> Result<bool, Error> {
    let side = lock_rx(fd, held)?;
    let word = &held.page().rx_wake.0.token;
    let too_little = || held.is_stream() && stream::is_below_low_water(held);
    if too_little() && held.page().error.0.load(Ordering::Relaxed) == 0 {
        // The token for what is there would end the waiting at once.
        match word.load(Ordering::Relaxed) {
            wake::SENT => {
                take_tokens(fd, held, true);
                wake::token_taken(word, true);
            }
            _ => drop(wake::arm(word)),
        }
        return Ok(!too_little());
    }
    if held.has_data() || held.page().error.0.load(Ordering::Relaxed) != 0 {
        return Ok(true);
    }
    if settle(fd, held, &side, false) {
        return Ok(true);
    }
    if word.load(Ordering::Relaxed) == wake::IDLE {
        wake::arm(word);
    }
    Ok(held.has_data())
}

/// The socket has been given to an epoll instance, or to something else that only the kernel sees.
pub fn make_exact(fd: c_int, held: &Held) {
    note_epoll();
    if stream::is_listener(held) {
        // Its queue is what the kernel sees.
        return;
    }
    watch::never(held);
    expect(fd, held);
}

/// A framework socket is given to an epoll instance.
pub(crate) fn note_epoll() {
    EPOLL_IN_USE.store(true, Ordering::Relaxed);
}

/// Makes the token right from now on.
pub(crate) fn expect(fd: c_int, held: &Held) {
    held.app().polled.store(1, Ordering::SeqCst);
    let Ok(side) = lock_rx(fd, held) else { return };
    if held.has_data() || errors::is_pending(held) {
        wake::arm(&held.page().rx_wake.0.token);
        message(fd, held, b"k");
    } else {
        settle(fd, held, &side, false);
    }
}

/// As [`make_exact`], where each arrival has to be an event of its own: edge-triggered epoll, `O_ASYNC`.
pub fn make_eager(fd: c_int, held: &Held) {
    // Tokens may lie there that the word does not tell of.
    held.app().status.fetch_or(status::EXTRA, Ordering::Relaxed);
    held.page().rx_wake.0.eager.store(1, Ordering::SeqCst);
    make_exact(fd, held);
}

/// Looks again and again, for as long as the settings say, whether `ready`; gives way to other threads in between.
pub fn spin(mut ready: impl FnMut() -> bool) -> bool {
    let limit = u64::from(settings::get().spin_us) * 1000;
    if limit == 0 {
        return false;
    }
    let end = sys::monotonic() + limit;
    loop {
        if ready() {
            return true;
        }
        if sys::monotonic() >= end {
            return false;
        }
        sys::sched_yield();
    }
}

/// In a stream: sleeps for a moment, so that many datagrams have arrived when it ends, rather than switching to the
/// server and back for each few of them. Bounded by a few times the timer's slack.
pub fn pause(ready: impl Fn() -> bool) -> bool {
    (0..PAUSES).any(|_| {
        sys::sleep(PAUSE_NANOSECONDS);
        ready()
    })
}
