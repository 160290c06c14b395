//! What a framework socket has in this process.
//!
//! Sockets live in a slab that is reserved at start and never given back, so that a thread that looks at one while
//! another closes it finds at worst a socket that says it is not in use.

use crate::lock::{self, Guard};
use crate::outcome::Error;
use crate::stream;
use crate::watch::Registration;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use freena_preload_control::route::{Query, Route};
use freena_preload_control::{client, own, process};
use freena_shm_abi::app::AppArea;
use freena_shm_abi::socket::{MAX_RX_RINGS, SocketPage};
use freena_shm_abi::stream::{ask, state};
use freena_shm_ring::SocketMapping;
use freena_shm_ring::cursor::ConsumerCursor;

/// Framework sockets that one process can have at a time.
pub const MAX: usize = 1 << 16;

static SLAB: AtomicPtr<Socket> = AtomicPtr::new(ptr::null_mut());
/// Places of the slab that were never used begin here.
static FRESH: AtomicU32 = AtomicU32::new(0);
/// The place that was given back last: one more than its number, 0 for none, below a count of changes, by which a thread
/// notices that others were there meanwhile. Used again first, so that a program has as many pages of the slab as it has
/// sockets at a time, however many it had one after the other.
static FREE: AtomicU64 = AtomicU64::new(0);

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SOCK_DGRAM`.
    Datagram,
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_STREAM` that the program has opened as SCTP: a stream of messages.
    Messages,
}

impl Kind {
    /// Whether it has connections.
    #[inline]
    pub fn is_stream(self) -> bool {
        self != Kind::Datagram
    }
}

/// A framework socket.
#[repr(C, align(64))]
pub struct Socket {
    /// One for each descriptor number and each call under way.
    refs: AtomicU32,
    /// While it is not in use: the place that was given back before it, as [`FREE`] has it.
    next: AtomicU32,
    /// The companion, borrowed for good because datagrams go through it; -1 for none, less by one, so that zeroed
    /// memory says none.
    companion: AtomicI32,
    /// The server's end of the peer of a joined connection, one more, as `companion`.
    peer_end: AtomicI32,
    /// Whether it is a stream, and one with messages.
    stream: AtomicBool,
    messages: AtomicBool,
    mapping: UnsafeCell<MaybeUninit<SocketMapping>>,
    route: UnsafeCell<Option<(Query, Route)>>,
    rings: UnsafeCell<[ConsumerCursor; MAX_RX_RINGS]>,
    /// Receives in a row that found nothing.
    empty: AtomicU32,
    /// Datagrams received since a receive last had to wait; of a joined connection see [`Held::note_wait`].
    streak: AtomicU32,
    /// What a joined connection had sent when a receive last had to wait.
    written: AtomicU64,
    /// Ends that epoll instances had reported when it was last looked whether the server is there.
    hang_ups: AtomicU32,
    /// How often the process had forked when it came.
    forks: AtomicU32,
    registration: Registration,
}

// SAFETY: `mapping` is written before `refs` becomes positive and dropped after it became zero; `route` is touched only
// under the transmit lock, `rings` only under the receive lock (see `TxSide`, `RxSide`).
unsafe impl Sync for Socket {}

/// A reference that keeps the socket's memory mapped. Not to be held while a call blocks.
pub struct Held(&'static Socket);

/// Reserves `len` bytes of zeros that take memory only where they are touched.
pub(crate) fn reserve(len: usize) -> Option<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping touches no existing memory.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    (base != libc::MAP_FAILED).then_some(base.cast())
}

/// Reserves the slab. Whether that worked.
pub(crate) fn start() -> bool {
    let Some(base) = reserve(MAX * size_of::<Socket>()) else { return false };
    SLAB.store(base.cast(), Ordering::Release);
    true
}

/// Puts a mapping into a free place of the slab, with the server's end of its peer if it has come, else -1, which becomes
/// the socket's in any case. What kind of socket it is the server has said in its page.
pub fn insert(mapping: SocketMapping, peer_end: i32) -> Option<Held> {
    let held = place(mapping);
    match &held {
        // Without one the server wakes the peer.
        Some(held) => {
            held.0.peer_end.store(own::keep_spare(peer_end).map_or(0, |fd| fd + 1), Ordering::Release)
        }
        None => client::close_all(&[peer_end]),
    }
    held
}

fn place(mapping: SocketMapping) -> Option<Held> {
    let stream =
        mapping.is_joined() || mapping.page().stream.told.state.load(Ordering::Acquire) != state::NONE;
    let messages = stream && mapping.page().stream.asked.flags.load(Ordering::Relaxed) & ask::MESSAGES != 0;
    let base = SLAB.load(Ordering::Acquire);
    if base.is_null() {
        return None;
    }
    let index = take_freed(base).or_else(|| {
        let next = |fresh: u32| ((fresh as usize) < MAX).then_some(fresh + 1);
        FRESH.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()
    })?;
    // SAFETY: the slab has `MAX` elements, mapped for good; zero bytes are a socket that is not in use.
    let socket: &'static Socket = unsafe { &*base.add(index as usize) };
    // SAFETY: `refs` is zero and the place was taken for this call alone: nobody else looks at the cells.
    unsafe {
        (*socket.mapping.get()).write(mapping);
        *socket.route.get() = None;
        *socket.rings.get() = [ConsumerCursor::default(); MAX_RX_RINGS];
    }
    socket.companion.store(0, Ordering::Relaxed);
    socket.peer_end.store(0, Ordering::Relaxed);
    socket.stream.store(stream, Ordering::Relaxed);
    socket.messages.store(messages, Ordering::Relaxed);
    socket.forks.store(process::forks(), Ordering::Relaxed);
    socket.registration.clear();
    socket.refs.store(1, Ordering::Release);
    Some(Held(socket))
}

/// [`FREE`] after a change: another place on top.
fn changed(free: u64, top: u32) -> u64 {
    ((free >> 32).wrapping_add(1) << 32) | u64::from(top)
}

/// Takes the place that was given back last.
fn take_freed(base: *mut Socket) -> Option<u32> {
    let mut free = FREE.load(Ordering::Acquire);
    loop {
        let index = (free as u32).checked_sub(1)?;
        // SAFETY: a place that was used before lies within the slab, which is mapped for good. If another thread has just
        // taken it, what is read is not used: the count has changed.
        let next = unsafe { &*base.add(index as usize) }.next.load(Ordering::Relaxed);
        match FREE.compare_exchange_weak(free, changed(free, next), Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => return Some(index),
            Err(seen) => free = seen,
        }
    }
}

impl Socket {
    /// A further reference, unless the socket is not in use.
    #[inline]
    pub fn hold(&'static self) -> Option<Held> {
        let mut refs = self.refs.load(Ordering::Relaxed);
        while refs != 0 {
            match self.refs.compare_exchange_weak(refs, refs + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Held(self)),
                Err(seen) => refs = seen,
            }
        }
        None
    }

    /// What an epoll instance is told of it.
    #[inline]
    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Gives a reference back.
    #[inline]
    pub(crate) fn release(&self) {
        if self.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.destroy();
        }
    }

    #[cold]
    fn destroy(&self) {
        own::release(self.companion.swap(0, Ordering::Relaxed) - 1);
        own::release(self.peer_end.swap(0, Ordering::Relaxed) - 1);
        // SAFETY: `refs` is zero, so nobody else uses the cell, and `hold` refuses; it was written by `insert`.
        unsafe { (*self.mapping.get()).assume_init_drop() };
        let base = SLAB.load(Ordering::Acquire).addr();
        let own = ((&raw const *self).addr() - base) / size_of::<Socket>();
        let mut free = FREE.load(Ordering::Relaxed);
        loop {
            self.next.store(free as u32, Ordering::Relaxed);
            let top = changed(free, own as u32 + 1);
            match FREE.compare_exchange_weak(free, top, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => free = seen,
            }
        }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.0.refs.fetch_add(1, Ordering::Relaxed);
        Held(self.0)
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Deref for Held {
    type Target = SocketMapping;

    #[inline]
    fn deref(&self) -> &SocketMapping {
        // SAFETY: a reference exists, so the cell holds what `insert` wrote.
        unsafe { (*self.0.mapping.get()).assume_init_ref() }
    }
}

/// The right to produce into the transmit ring, and what goes with it.
pub struct TxSide<'s> {
    socket: &'s Held,
    _guard: Guard<'s>,
}

/// The right to consume from the receive rings, and what goes with it.
pub struct RxSide<'s> {
    socket: &'s Held,
    guard: Guard<'s>,
}

impl Held {
    /// Hands the reference to the descriptor table.
    pub(crate) fn keep(self) -> &'static Socket {
        let socket = self.0;
        core::mem::forget(self);
        socket
    }

    /// Whether both are the same socket.
    pub fn is_same(&self, other: &Held) -> bool {
        ptr::eq(self.0, other.0)
    }

    /// What kind of socket it is.
    #[inline]
    pub fn kind(&self) -> Kind {
        match (self.is_stream(), self.0.messages.load(Ordering::Relaxed)) {
            (false, _) => Kind::Datagram,
            (true, false) => Kind::Stream,
            (true, true) => Kind::Messages,
        }
    }

    /// Whether it is a stream socket: a connection or a listener.
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.0.stream.load(Ordering::Relaxed)
    }

    /// Whether this is the only number and call in this process that uses the socket.
    pub fn is_last(&self) -> bool {
        self.0.refs.load(Ordering::Relaxed) <= 2 + u32::from(self.0.registration.is_listed())
    }

    /// How often the process had forked when the socket came.
    pub(crate) fn forks(&self) -> u32 {
        self.0.forks.load(Ordering::Relaxed)
    }

    /// What an epoll instance is told of it.
    #[inline]
    pub(crate) fn registration(&self) -> &Registration {
        self.0.registration()
    }

    /// The state shared by all processes that hold the socket.
    #[inline]
    pub fn app(&self) -> &AppArea {
        &self.own_page().app
    }

    /// The socket's page.
    #[inline]
    pub fn page(&self) -> &SocketPage {
        (**self).page()
    }

    /// Locks the transmit ring.
    ///
    /// # Errors
    /// [`Error::Reentered`].
    #[inline]
    pub fn lock_tx(&self) -> Result<TxSide<'_>, Error> {
        Ok(TxSide { _guard: lock::acquire(&self.app().tx_lock)?, socket: self })
    }

    /// Locks the receive rings. Callers that have the descriptor use [`crate::token::lock_rx`].
    ///
    /// # Errors
    /// [`Error::Reentered`].
    #[inline]
    pub fn lock_rx(&self) -> Result<RxSide<'_>, Error> {
        Ok(RxSide { guard: lock::acquire(&self.app().rx_lock)?, socket: self })
    }

    /// Whether something can be received, without a lock: an answer that may be old by the time it is returned. The end
    /// of a stream counts.
    #[inline]
    pub fn has_data(&self) -> bool {
        if self.is_stream() {
            return stream::unread(self) > 0 || stream::is_ended(self);
        }
        let page = self.page();
        page.rx[..self.sizes().rx_rings as usize]
            .iter()
            .any(|ring| ring.produced.0.tail.load(Ordering::Acquire) != ring.head.0.load(Ordering::Relaxed))
    }

    /// Counts datagrams received without waiting.
    #[inline]
    pub fn note_received(&self, count: usize) {
        let streak = self.0.streak.load(Ordering::Relaxed);
        // Under the receive lock, so nobody else adds.
        self.0.streak.store(streak.saturating_add(count as u32), Ordering::Relaxed);
    }

    /// A receive on a joined connection has to wait, which has sent up to `written`: how many have waited before it since the
    /// program last sent something. Whoever only receives, and never for long, reads a stream, and is better off coming
    /// late: looking at once for each few bytes, it would take the line with the tail from the sender each time.
    pub fn note_wait(&self, written: u64) -> u32 {
        let streak = &self.0.streak;
        if self.0.written.swap(written, Ordering::Relaxed) != written {
            streak.store(0, Ordering::Relaxed);
        }
        streak.fetch_add(1, Ordering::Relaxed)
    }

    /// A receive has to wait: how many did not, before it.
    pub fn end_streak(&self) -> u32 {
        self.0.streak.swap(0, Ordering::Relaxed)
    }

    /// Counts receives in a row that found nothing: notes one and returns how many before it, or starts anew.
    pub fn note_empty(&self, empty: bool) -> u32 {
        if empty {
            return self.0.empty.fetch_add(1, Ordering::Relaxed);
        }
        if self.0.empty.load(Ordering::Relaxed) != 0 {
            self.0.empty.store(0, Ordering::Relaxed);
        }
        0
    }

    /// Notes how many ends have been reported; whether these were fewer the last time.
    pub fn note_hang_ups(&self, count: u32) -> bool {
        let noted = &self.0.hang_ups;
        noted.load(Ordering::Relaxed) != count && noted.swap(count, Ordering::Relaxed) != count
    }

    /// The server's end of the peer, if this process has it.
    pub fn peer_end(&self) -> Option<i32> {
        Some(self.0.peer_end.load(Ordering::Acquire) - 1).filter(|fd| *fd >= 0)
    }

    /// The cached companion, if any.
    pub fn cached_companion(&self) -> Option<i32> {
        Some(self.0.companion.load(Ordering::Acquire) - 1).filter(|fd| *fd >= 0)
    }

    /// Caches a companion; one that another thread cached first is used instead and this one closed.
    pub fn cache_companion(&self, fd: i32) -> i32 {
        match self.0.companion.compare_exchange(0, fd + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fd,
            Err(first) => {
                own::release(fd);
                first - 1
            }
        }
    }

    /// Drops the cached companion if it is `fd`: it turned out not to be what it was.
    pub fn drop_companion(&self, fd: i32) {
        if self.0.companion.compare_exchange(fd + 1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            own::forget(fd);
        }
    }
}

impl TxSide<'_> {
    /// The route used last.
    #[inline]
    pub fn route(&mut self) -> &mut Option<(Query, Route)> {
        // SAFETY: only a `TxSide` leads here, there is one per process and socket, and it is borrowed.
        unsafe { &mut *self.socket.0.route.get() }
    }
}

impl RxSide<'_> {
    /// Whether a process died in the middle of receiving.
    pub fn is_inherited(&self) -> bool {
        self.guard.inherited()
    }

    /// The private cursor of a ring.
    #[inline]
    pub fn cursor(&mut self, ring: usize) -> &mut ConsumerCursor {
        // SAFETY: only an `RxSide` leads here, there is one per process and socket, and it is borrowed.
        unsafe { &mut (&mut *self.socket.0.rings.get())[ring % MAX_RX_RINGS] }
    }
}
