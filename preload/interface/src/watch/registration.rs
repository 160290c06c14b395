//! What one epoll instance is told of a connection: by the program, and by the library to the kernel.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use freena_preload_control::sys::{self, Errno};
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP,
    EPOLLRDNORM, EPOLLWRNORM, epoll_event,
};

/// Bit of [`Interest::events`]: there is a registration. The kernel has no event there that [`is_plain`] lets through.
const PRESENT: u32 = 1 << 24;
const PLAIN: c_int =
    EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLERR | EPOLLHUP | EPOLLRDNORM | EPOLLWRNORM | EPOLLET;

/// Whether the library can tell these events: none that the kernel changes by telling (`EPOLLONESHOT`), or that concern other
/// waiters (`EPOLLEXCLUSIVE`).
pub(super) fn is_plain(events: u32) -> bool {
    events & !(PLAIN as u32) == 0
}

/// Events and the program's word for them. Changed under the instance's lock.
#[derive(Default)]
struct Interest {
    events: AtomicU32,
    data: AtomicU64,
}

impl Interest {
    fn get(&self) -> Option<epoll_event> {
        let events = self.events.load(Ordering::Relaxed);
        let data = self.data.load(Ordering::Relaxed);
        (events != 0).then_some(epoll_event { events: events & !PRESENT, u64: data })
    }

    fn set(&self, event: Option<epoll_event>) {
        let (events, data) = event.map_or((0, 0), |event| (event.events | PRESENT, event.u64));
        self.data.store(data, Ordering::Relaxed);
        self.events.store(events, Ordering::Relaxed);
    }
}

/// A connection's part. Zeroed it is a connection that no instance has.
#[derive(Default)]
pub(crate) struct Registration {
    /// Name of the instance, 0 for none.
    pub(super) instance: AtomicU32,
    /// Place of the instance.
    pub(super) slot: AtomicU32,
    /// Its number in the instance's list, plus one; 0 where it is not in there.
    pub(super) listed: AtomicU32,
    /// The descriptor by which it was registered.
    pub(super) fd: AtomicI32,
    /// The library cannot tell its events: the token has to be right at every moment.
    pub(super) exact: AtomicBool,
    /// The program has just registered it: what is there already is an event too.
    pub(super) fresh: AtomicBool,
    /// Up to where the events of an edge have been told: end of what had arrived, and state.
    pub(super) told: (AtomicU64, AtomicU32),
    /// The round of the instance in which it last had events.
    pub(super) round: AtomicU32,
    wanted: Interest,
    known: Interest,
}

impl Registration {
    /// As a new socket has it.
    pub(crate) fn clear(&self) {
        self.forget();
        self.exact.store(false, Ordering::Relaxed);
    }

    /// No instance has it.
    pub(super) fn forget(&self) {
        self.instance.store(0, Ordering::Relaxed);
        self.listed.store(0, Ordering::Relaxed);
        self.wanted.set(None);
        self.known.set(None);
    }

    /// Whether it is in an instance's list, which has a reference to the socket.
    #[inline]
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed) != 0
    }

    /// What the program wants to know.
    pub(super) fn wanted(&self) -> Option<epoll_event> {
        self.wanted.get()
    }

    pub(super) fn want(&self, event: Option<epoll_event>) {
        self.wanted.set(event);
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// Whether the kernel has a registration.
    pub(super) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    /// Whether the kernel has one that is not what the program wants.
    pub(super) fn is_stale(&self) -> bool {
        let same = |known: epoll_event, wanted: epoll_event| {
            (known.events, known.u64) == (wanted.events, wanted.u64)
        };
        match (self.known.get(), self.wanted.get()) {
            (None, _) => false,
            (Some(known), Some(wanted)) => !same(known, wanted),
            (Some(_), None) => true,
        }
    }

    /// Has the kernel know what the program wants. What the kernel refuses it is told again the next time.
    pub(super) fn sync(&self, epfd: c_int) -> Result<(), Errno> {
        let fd = self.fd.load(Ordering::Relaxed);
        let wanted = self.wanted.get();
        let op = match (self.is_known(), &wanted) {
            (false, None) => return Ok(()),
            (false, Some(_)) => EPOLL_CTL_ADD,
            (true, Some(_)) if !self.is_stale() => return Ok(()),
            (true, Some(_)) => EPOLL_CTL_MOD,
            (true, None) => EPOLL_CTL_DEL,
        };
        let event = wanted.unwrap_or(epoll_event { events: 0, u64: 0 });
        // SAFETY: `event` is readable.
        unsafe { sys::epoll_ctl(epfd, op, fd, &event) }?;
        self.known.set(wanted);
        Ok(())
    }
}
