//! An epoll instance whose connections the library looks at itself.

use super::registration::Registration;
use crate::lock::{self, Guard};
use crate::poll;
use crate::socket::{Held, Socket};
use crate::stream::phase;
use crate::token;
use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering, fence};
use freena_preload_control::process;
use freena_shm_abi::app::status;
use freena_shm_ring::wake;
use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLRDNORM, epoll_event};

/// Connections that are looked at in turn; what others have, the kernel tells.
const LISTED: usize = 256;
/// Rounds of an instance after which a connection without events is left to the kernel.
const PATIENCE: u32 = 2;
/// Looks that make a round where the program does not sleep.
const LOOKS: u32 = 1024;
const ALWAYS: u32 = (EPOLLERR | EPOLLHUP) as u32;
const READ: u32 = (EPOLLIN | EPOLLRDNORM) as u32;

pub(super) struct Instance {
    lock: AtomicU32,
    /// One more than its descriptor; 0: there is none here.
    epfd: AtomicI32,
    /// Its name: no other one has had it.
    id: AtomicU32,
    /// The process that made it.
    owner: AtomicU32,
    /// Threads that wait for it.
    pub(super) waiting: AtomicU32,
    /// Whether the one sleeps, so that tokens have to wake it.
    asleep: AtomicBool,
    round: AtomicU32,
    looks: AtomicU32,
    waits: AtomicU32,
    len: AtomicU32,
    list: [AtomicPtr<Socket>; LISTED],
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// The lock of an instance in hand. Under it a connection's receive lock may be taken, never the other way round.
pub(super) struct Locked {
    instance: &'static Instance,
    _guard: Guard<'static>,
}

impl core::ops::Deref for Locked {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        self.instance
    }
}

impl Instance {
    pub(super) const fn new() -> Self {
        Instance {
            lock: AtomicU32::new(0),
            epfd: AtomicI32::new(0),
            id: AtomicU32::new(0),
            owner: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            round: AtomicU32::new(0),
            looks: AtomicU32::new(0),
            waits: AtomicU32::new(0),
            len: AtomicU32::new(0),
            list: [const { AtomicPtr::new(ptr::null_mut()) }; LISTED],
        }
    }

    /// Whether it is this process's instance with the number `epfd`.
    #[inline]
    pub(super) fn is(&self, epfd: c_int) -> bool {
        self.epfd.load(Ordering::Relaxed) == epfd + 1 && self.owner.load(Ordering::Relaxed) == process::id()
    }

    pub(super) fn epfd(&self) -> c_int {
        self.epfd.load(Ordering::Relaxed) - 1
    }

    pub(super) fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    pub(super) fn is_free(&self) -> bool {
        self.epfd.load(Ordering::Relaxed) == 0
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Whether this is one wait in `turns`. Counts it.
    pub(super) fn is_kernels_turn(&self, turns: u32) -> bool {
        let waits = self.waits.load(Ordering::Relaxed).wrapping_add(1);
        self.waits.store(waits, Ordering::Relaxed);
        waits.is_multiple_of(turns)
    }

    /// Takes the lock if nobody has it.
    pub(super) fn try_lock(&'static self) -> Option<Locked> {
        lock::try_acquire(&self.lock).map(|guard| Locked { instance: self, _guard: guard })
    }

    /// Takes the lock. `None`: this thread has it, and was interrupted by a signal handler that calls again.
    pub(super) fn lock(&'static self) -> Option<Locked> {
        lock::acquire(&self.lock).ok().map(|guard| Locked { instance: self, _guard: guard })
    }

    fn at(&self, index: u32) -> &'static Socket {
        // SAFETY: entries below `len` are references to places of the slab, which is mapped for good.
        unsafe { &*self.list[index as usize].load(Ordering::Relaxed) }
    }
}

impl Locked {
    /// Makes it the instance `epfd`.
    pub(super) fn begin(&self, epfd: c_int) {
        self.id.store(NEXT_ID.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.owner.store(process::id(), Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        self.asleep.store(false, Ordering::Relaxed);
        self.len.store(0, Ordering::Relaxed);
        self.epfd.store(epfd + 1, Ordering::Relaxed);
    }

    /// Puts a connection into the list, which has a reference of its own then. Whether there is room.
    pub(super) fn list(&self, held: &Held) -> bool {
        let registration = held.registration();
        let len = self.len.load(Ordering::Relaxed);
        if registration.listed.load(Ordering::Relaxed) != 0 {
            return true;
        }
        if len as usize == LISTED {
            return false;
        }
        let socket = held.clone().keep();
        self.list[len as usize].store(ptr::from_ref(socket).cast_mut(), Ordering::Relaxed);
        registration.round.store(self.round.load(Ordering::Relaxed), Ordering::Relaxed);
        registration.listed.store(len + 1, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Takes a connection out of the list.
    pub(super) fn unlist(&self, registration: &Registration) {
        let Some(index) = registration.listed.load(Ordering::Relaxed).checked_sub(1) else { return };
        let (socket, last) = (self.at(index), self.len.load(Ordering::Relaxed) - 1);
        let other = self.at(last);
        self.list[index as usize].store(ptr::from_ref(other).cast_mut(), Ordering::Relaxed);
        self.len.store(last, Ordering::Relaxed);
        other.registration().listed.store(index + 1, Ordering::Relaxed);
        registration.listed.store(0, Ordering::Relaxed);
        socket.release();
    }

    fn each(&self) -> impl Iterator<Item = &'static Socket> {
        (0..self.len.load(Ordering::Relaxed)).map(|index| self.at(index))
    }

    /// Leaves a connection to the kernel.
    pub(super) fn leave(&self, held: &Held) {
        let registration = held.registration();
        let _ = registration.sync(self.epfd());
        self.unlist(registration);
        if registration.wanted().is_some_and(|wanted| wanted.events & EPOLLET as u32 != 0) {
            // Tokens may lie there that the word does not tell of.
            held.app().status.fetch_or(status::EXTRA, Ordering::Relaxed);
        }
        // Whoever settles sees that it is not in the list, or the token is right.
        fence(Ordering::SeqCst);
        token::expect(registration.fd.load(Ordering::Relaxed), held);
    }

    /// Leaves all connections to the kernel.
    pub(super) fn leave_all(&self) {
        while let Some(index) = self.len.load(Ordering::Relaxed).checked_sub(1) {
            match self.at(index).hold() {
                Some(held) => self.leave(&held),
                None => self.len.store(index, Ordering::Relaxed),
            }
        }
    }

    /// The instance is closed: forgets it.
    pub(super) fn end(&self) {
        while let Some(index) = self.len.load(Ordering::Relaxed).checked_sub(1) {
            let registration = self.at(index).registration();
            self.unlist(registration);
            registration.forget();
        }
        self.epfd.store(0, Ordering::Relaxed);
    }

    /// Before the kernel is asked: it must not tell what the program does not want any more.
    pub(super) fn freshen(&self) {
        for registration in self.each().map(Socket::registration).filter(|it| it.is_stale()) {
            let _ = registration.sync(self.epfd());
        }
    }

    /// Puts the events of up to `room` connections where `events` points to; returns how many.
    ///
    /// # Safety
    /// There is room.
    pub(super) unsafe fn look(&self, events: *mut epoll_event, room: usize) -> usize {
        let looks = self.looks.load(Ordering::Relaxed).wrapping_add(1);
        self.looks.store(looks, Ordering::Relaxed);
        if looks.is_multiple_of(LOOKS) {
            self.end_round();
        }
        let len = self.len.load(Ordering::Relaxed);
        let mut found = 0;
        // Where there is no room for all, they take turns.
        let first = looks.checked_rem(len).unwrap_or(0);
        for index in (first..len).chain(0..first) {
            if found == room {
                break;
            }
            let Some(held) = self.at(index).hold() else { continue };
            if let Some(event) = self.events_of(&held) {
                // SAFETY: the caller's; the structure may lie anywhere (it is packed on some architectures).
                unsafe { events.add(found).write_unaligned(event) };
                found += 1;
            }
        }
        found
    }

    /// What the program is to be told of a connection.
    fn events_of(&self, held: &Held) -> Option<epoll_event> {
        let registration = held.registration();
        let wanted = registration.wanted()?;
        let edge = wanted.events & EPOLLET as u32 != 0;
        // Before the events: what comes meanwhile is told again.
        let (tail, state) = (held.rx_pipe().tail().load(Ordering::Acquire), phase(held));
        let (told_tail, told_state) = &registration.told;
        if edge
            && tail == told_tail.load(Ordering::Relaxed)
            && state == told_state.load(Ordering::Relaxed)
            && !registration.fresh.load(Ordering::Relaxed)
        {
            return None;
        }
        let ready = poll::readiness(held) as u16;
        let events = u32::from(ready) & (wanted.events | ALWAYS);
        if edge {
            told_tail.store(tail, Ordering::Relaxed);
            told_state.store(state, Ordering::Relaxed);
            registration.fresh.store(false, Ordering::Relaxed);
        }
        if events == 0 {
            return None;
        }
        registration.round.store(self.round.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(epoll_event { events, u64: wanted.u64 })
    }

    /// Leaves those to the kernel that have had nothing for a while.
    fn end_round(&self) {
        let round = self.round.load(Ordering::Relaxed).wrapping_add(1);
        self.round.store(round, Ordering::Relaxed);
        let mut index = 0;
        while index < self.len.load(Ordering::Relaxed) {
            let socket = self.at(index);
            let last = socket.registration().round.load(Ordering::Relaxed);
            match socket.hold() {
                Some(held) if round.wrapping_sub(last) > PATIENCE => self.leave(&held),
                _ => index += 1,
            }
        }
    }

    /// Makes the kernel's view right before the program sleeps. Whether there is something already.
    pub(super) fn fall_asleep(&self) -> bool {
        self.end_round();
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut ready = false;
        for held in self.each().filter_map(Socket::hold) {
            let registration = held.registration();
            // What cannot be told by the kernel (ENOSPC, ENOMEM) is told late: by the next look.
            let _ = registration.sync(self.epfd());
            let Some(wanted) = registration.wanted() else { continue };
            if wanted.events & EPOLLET as u32 != 0 {
                wake::arm(&held.page().rx_wake.0.token);
                let (told_tail, told_state) = &registration.told;
                ready |= held.rx_pipe().tail().load(Ordering::Acquire) != told_tail.load(Ordering::Relaxed)
                    || phase(&held) != told_state.load(Ordering::Relaxed)
                    || registration.fresh.load(Ordering::Relaxed);
            } else if wanted.events & READ != 0 {
                let fd = registration.fd.load(Ordering::Relaxed);
                ready |= token::arm(fd, &held).unwrap_or(true);
            }
        }
        ready
    }

    /// The program looks again: nobody needs to wake it.
    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        for held in self.each().filter_map(Socket::hold) {
            // Where the program does not want events another thread may be waiting.
            if held.registration().wanted().is_some() {
                token::let_be(&held);
            }
        }
    }
}

/// In a fork child: these are the parent's.
pub(super) fn disown(instance: &Instance) {
    for index in 0..instance.len.swap(0, Ordering::Relaxed) {
        let socket = instance.at(index);
        socket.registration().forget();
        socket.release();
    }
    instance.lock.store(0, Ordering::Relaxed);
    instance.epfd.store(0, Ordering::Relaxed);
}
