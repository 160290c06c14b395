//! epoll is left to the kernel. What is kept here are the registrations of candidates, since a takeover replaces the
//! socket behind the number, and the kernel knows registrations by socket.

use crate::outcome::{Outcome, Reason, Stop};
use crate::socket::Held;
use crate::table::{self, Entry};
use crate::{errors, token, watch};
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{exclusive, settings};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, epoll_event};

/// Registrations of candidates that can be kept at a time.
const MAX: usize = 1024;

/// A registration; free if `fd` is 0 (the number is stored plus one).
struct Registration {
    fd: AtomicI32,
    epfd: AtomicI32,
    events: AtomicU32,
    data: AtomicU64,
}

static REGISTRATIONS: [Registration; MAX] = [const {
    Registration {
        fd: AtomicI32::new(0),
        epfd: AtomicI32::new(0),
        events: AtomicU32::new(0),
        data: AtomicU64::new(0),
    }
}; MAX];
static IN_USE: AtomicU32 = AtomicU32::new(0);
/// Whether an instance was ever watched for edges by another one.
static NESTED: AtomicBool = AtomicBool::new(false);

fn of(fd: c_int) -> impl Iterator<Item = &'static Registration> {
    let any = IN_USE.load(Ordering::Relaxed) != 0;
    REGISTRATIONS.iter().filter(move |r| any && r.fd.load(Ordering::Relaxed) == fd + 1)
}

fn forget_one(registration: &Registration) {
    registration.fd.store(0, Ordering::Relaxed);
    IN_USE.fetch_sub(1, Ordering::Relaxed);
}

/// epoll_ctl(2). `plain`: nothing is between the program and the socket.
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event, plain: bool) -> Outcome {
    match table::get(fd) {
        Entry::Untracked if op != EPOLL_CTL_DEL && settings::get().is_active() => {
            // SAFETY: the kernel checks the program's pointer.
            unsafe { sys::epoll_ctl(epfd, op, fd, event) }?;
            watch::give_up(fd);
            // SAFETY: the kernel has just read it.
            if unsafe { event.as_ref() }.is_some_and(is_edge) && is_instance(fd, epfd) {
                nest();
            }
            Ok(0)
        }
        Entry::Untracked => Err(Stop::Bypass(Reason::Untracked)),
        Entry::Framework(_) => {
            if plain
                && let Some(held) = table::hold(fd)
                // SAFETY: the caller's.
                && let Some(done) = unsafe { watch::control(epfd, op, fd, &held, event) }
            {
                return done;
            }
            // SAFETY: the kernel checks the program's pointer.
            unsafe { sys::epoll_ctl(epfd, op, fd, event) }?;
            if (op == EPOLL_CTL_ADD || op == EPOLL_CTL_MOD)
                && let Some(held) = table::hold(fd)
            {
                // SAFETY: the kernel has just read it.
                watched(fd, &held, unsafe { event.as_ref() }.map_or(0, |event| event.events));
            }
            Ok(0)
        }
        Entry::Candidate(_) => {
            // SAFETY: the kernel checks the program's pointer.
            unsafe { sys::epoll_ctl(epfd, op, fd, event) }?;
            // SAFETY: the kernel has just read it.
            note(epfd, op, fd, unsafe { event.as_ref() });
            Ok(0)
        }
    }
}

fn is_edge(event: &epoll_event) -> bool {
    event.events & EPOLLET as u32 != 0
}

/// Whether `fd` is an epoll instance, not just any descriptor that `epfd` watches.
fn is_instance(fd: c_int, epfd: c_int) -> bool {
    // `epfd` cannot be in it, as that would be a loop: an instance says so (ENOENT), anything else that it is none (EINVAL).
    // SAFETY: no event is needed to remove one.
    let refused = unsafe { sys::epoll_ctl(fd, EPOLL_CTL_DEL, epfd, core::ptr::null()) };
    refused == Err(Errno(libc::ENOENT))
}

/// An instance is watched for edges by another one, which the kernel tells of each arrival at each socket of the inner one.
#[cold]
fn nest() {
    NESTED.store(true, Ordering::SeqCst);
    for fd in table::tracked(0, u32::MAX) {
        if let Some(held) = table::hold(fd)
            && held.app().polled.load(Ordering::Relaxed) != 0
        {
            token::make_eager(fd, &held);
        }
    }
}

/// A framework socket is watched for `events`.
pub(crate) fn watched(fd: c_int, held: &Held, events: u32) {
    if events & EPOLLET as u32 != 0 || NESTED.load(Ordering::Relaxed) {
        token::make_eager(fd, held);
    } else {
        token::make_exact(fd, held);
    }
}

fn note(epfd: c_int, op: c_int, fd: c_int, event: Option<&epoll_event>) {
    let _lock = exclusive::enter();
    let known = of(fd).find(|r| r.epfd.load(Ordering::Relaxed) == epfd);
    match (op, event) {
        (EPOLL_CTL_DEL, _) => {
            if let Some(registration) = known {
                forget_one(registration);
            }
        }
        (EPOLL_CTL_ADD | EPOLL_CTL_MOD, Some(event)) => {
            let free = || REGISTRATIONS.iter().find(|r| r.fd.load(Ordering::Relaxed) == 0);
            let Some(registration) = known.or_else(free) else {
                // Better a kernel socket than one whose events get lost.
                table::clear(fd);
                return;
            };
            if known.is_none() {
                IN_USE.fetch_add(1, Ordering::Relaxed);
            }
            registration.fd.store(fd + 1, Ordering::Relaxed);
            registration.epfd.store(epfd, Ordering::Relaxed);
            registration.events.store(event.events, Ordering::Relaxed);
            registration.data.store(event.u64, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Before a takeover: takes the number out of the instances that it is in.
pub fn leave(fd: c_int) {
    for registration in of(fd) {
        let epfd = registration.epfd.load(Ordering::Relaxed);
        // SAFETY: no event is needed to remove one.
        let _ = unsafe { sys::epoll_ctl(epfd, EPOLL_CTL_DEL, fd, core::ptr::null()) };
    }
}

/// After a takeover: puts the number back, and forgets the registrations, which are the kernel's affair now. Returns the
/// events of all of them, if there were any.
pub fn enter_again(fd: c_int) -> Option<u32> {
    let mut watched = None;
    for registration in of(fd) {
        let epfd = registration.epfd.load(Ordering::Relaxed);
        let event = epoll_event {
            events: registration.events.load(Ordering::Relaxed),
            u64: registration.data.load(Ordering::Relaxed),
        };
        // SAFETY: `event` is readable.
        let _ = unsafe { sys::epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) };
        forget_one(registration);
        watched = Some(watched.unwrap_or(0) | event.events);
    }
    watched
}

/// A candidate, or an epoll instance, is closed.
pub fn forget(fd: c_int) {
    watch::closed(fd);
    if IN_USE.load(Ordering::Relaxed) != 0 {
        of(fd).for_each(forget_one);
        let gone =
            |r: &&Registration| r.fd.load(Ordering::Relaxed) != 0 && r.epfd.load(Ordering::Relaxed) == fd;
        REGISTRATIONS.iter().filter(gone).for_each(forget_one);
    }
}

/// epoll_wait(2): looks a few times before it sleeps. `ask` is the call, with no time to wait if its argument says so.
///
/// # Safety
/// `events` are the program's, with room for `room`, where `ask` puts what it finds.
pub unsafe fn wait(
    epfd: c_int,
    events: *mut epoll_event,
    room: c_int,
    timeout_is_zero: bool,
    ask: impl Fn(bool) -> c_int,
) -> Outcome {
    if !token::epoll_in_use() {
        return Err(Stop::Bypass(Reason::Untracked));
    }
    let before = sys::errno();
    let ask = |now| {
        let ready = ask(now);
        // SAFETY: the caller's: the kernel has filled in as many.
        unsafe { correct(epfd, events, ready) };
        ready
    };
    // SAFETY: the caller's.
    let watched = unsafe { watch::wait(epfd, events, room, timeout_is_zero, &ask) };
    let ready = watched.unwrap_or_else(|| {
        let mut ready = 0;
        if !timeout_is_zero {
            token::spin(|| {
                ready = ask(true);
                ready != 0
            });
        }
        if ready == 0 { ask(timeout_is_zero) } else { ready }
    });
    if ready < 0 {
        let errno = sys::errno();
        sys::set_errno(before);
        return Err(sys::Errno(errno).into());
    }
    Ok(ready as isize)
}

/// Puts right what the kernel has told.
///
/// # Safety
/// There are so many events.
unsafe fn correct(epfd: c_int, events: *mut epoll_event, ready: c_int) {
    // SAFETY: the caller's.
    let ended = |index: c_int| unsafe { (&raw const (*events.add(index as usize)).events).read_unaligned() };
    if (0..ready).any(|index| ended(index) & (EPOLLHUP | EPOLLERR) as u32 != 0) {
        token::note_hang_up();
    }
    if ready > 0 && errors::may_be_pending() {
        // SAFETY: as above.
        errors::show(epfd, unsafe { core::slice::from_raw_parts_mut(events, ready as usize) });
    }
}
