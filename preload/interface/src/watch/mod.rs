//! Looking instead of being woken: connections of an epoll instance while the program does not sleep.
//!
//! A token costs a message from the server and one receive here for each arrival, and an event is then one of a few. A program
//! that serves many connections hardly ever sleeps: it needs no token, as long as epoll_wait(2) looks at the rings itself and
//! tells of all that it finds. So for the connections in an instance's *list* no token is asked for while the program is awake, and
//! epoll_ctl(2) is only noted. Before it sleeps, the kernel is told what has been noted and tokens are asked for: then everything
//! is as without a list.
//!
//! The list has who had events lately; the others are the kernel's affair. An instance without a list works as ever, and so does
//! one that was made before the library could see it, that several threads wait for, that a fork child has inherited, and that is
//! itself watched (poll, select, another instance, a duplicate). A connection that another process may hold, or whose
//! registration is of a kind that the kernel changes by itself, is never listed.

mod instance;
mod registration;

use crate::outcome::Outcome;
use crate::socket::{Held, Kind, Socket};
use crate::stream::is_listener;
use crate::token;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering, fence};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{process, settings};
use instance::{Instance, Locked};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, epoll_event};
pub(crate) use registration::Registration;

/// Instances that can have a list at a time.
const INSTANCES: usize = 16;
/// One look in so many begins with the kernel, so that what only it sees waits no longer.
const KERNELS_TURN: u32 = 4;

static ALL: [Instance; INSTANCES] = [const { Instance::new() }; INSTANCES];
/// Whether there has ever been one.
static USED: AtomicBool = AtomicBool::new(false);

/// Whether there has ever been an instance with a list.
#[inline]
pub(crate) fn is_used() -> bool {
    USED.load(Ordering::Relaxed)
}

fn find(epfd: c_int) -> Option<&'static Instance> {
    if !is_used() {
        return None;
    }
    ALL.iter().find(|instance| instance.is(epfd))
}

/// The instance that a registration belongs to, if it is there still.
fn owner(registration: &Registration) -> Option<&'static Instance> {
    let id = registration.instance.load(Ordering::Relaxed);
    let instance = ALL.get(registration.slot.load(Ordering::Relaxed) as usize)?;
    (id != 0 && instance.id() == id && !instance.is_free()).then_some(instance)
}

/// Sets up, once.
pub(crate) fn start() {
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(after_fork_child)) };
}

/// What both processes hold is the kernel's affair from now on.
extern "C" fn before_fork() {
    for instance in ALL.iter().filter(|instance| !instance.is_free()) {
        if let Some(locked) = instance.lock() {
            locked.leave_all();
        }
    }
}

extern "C" fn after_fork_child() {
    ALL.iter().for_each(instance::disown);
}

/// The program has made an epoll instance.
pub fn created(epfd: c_int) {
    if epfd < 0 || settings::get().look == 0 || process::is_vfork_child() {
        return;
    }
    closed(epfd);
    let free = ALL.iter().filter(|instance| instance.is_free());
    if let Some(locked) = free.filter_map(Instance::try_lock).find(|locked| locked.is_free()) {
        USED.store(true, Ordering::Relaxed);
        locked.begin(epfd);
    }
}

/// A descriptor is about to be closed, which may be an instance.
pub(crate) fn closed(epfd: c_int) {
    if let Some(locked) = find(epfd).and_then(Instance::lock) {
        locked.end();
    }
}

/// As [`closed`], of all from `first` to `last`.
pub(crate) fn closed_range(first: u32, last: u32) {
    if is_used() {
        let within = |instance: &&Instance| (first..=last).contains(&(instance.epfd() as u32));
        ALL.iter().filter(within).for_each(|instance| closed(instance.epfd()));
    }
}

/// Another program is about to take this process over, and the instances with it.
pub(crate) fn give_up_all() {
    ALL.iter().filter(|instance| !instance.is_free()).for_each(|instance| give_up(instance.epfd()));
}

/// Somebody else may look at a descriptor, which may be an instance: it does without a list from now on.
pub fn give_up(epfd: c_int) {
    if let Some(locked) = find(epfd).and_then(Instance::lock) {
        locked.leave_all();
        locked.end();
    }
}

/// A connection is to be the kernel's affair for good.
pub(crate) fn never(held: &Held) {
    let registration = held.registration();
    registration.exact.store(true, Ordering::Relaxed);
    if let Some(locked) = owner(registration).and_then(Instance::lock)
        && registration.listed.load(Ordering::Relaxed) != 0
    {
        locked.leave(held);
    }
}

/// Whether no token is needed, since the program looks before it sleeps.
#[inline]
pub(crate) fn attends(held: &Held) -> bool {
    let registration = held.registration();
    if registration.listed.load(Ordering::Relaxed) != 0 {
        return owner(registration).is_some_and(|instance| !instance.is_asleep());
    }
    registration.instance.load(Ordering::Relaxed) != 0 && enter_list(held)
}

/// Puts a connection into its instance's list that has had something again.
fn enter_list(held: &Held) -> bool {
    let registration = held.registration();
    // Whoever has the lock may be waiting for the receive lock, which the caller has.
    let Some(locked) = owner(registration).and_then(Instance::try_lock) else { return false };
    may_list(held) && !locked.is_asleep() && registration.wanted().is_some() && locked.list(held)
}

fn may_list(held: &Held) -> bool {
    held.kind() == Kind::Stream
        && !held.registration().exact.load(Ordering::Relaxed)
        && held.forks() == process::forks()
        && !is_listener(held)
}

/// epoll_ctl(2) for a framework socket. `None`: the kernel's affair, and the socket's token has to be right.
///
/// # Safety
/// The pointer is null or the program's.
pub(crate) unsafe fn control(
    epfd: c_int,
    op: c_int,
    fd: c_int,
    held: &Held,
    event: *const epoll_event,
) -> Option<Outcome> {
    let instance = find(epfd)?;
    let registration = held.registration();
    let is_known = owner(registration).is_some();
    let is_this = is_known
        && registration.instance.load(Ordering::Relaxed) == instance.id()
        && registration.fd.load(Ordering::Relaxed) == fd;
    // SAFETY: the caller's; the structure may lie anywhere.
    let wanted = (!event.is_null()).then(|| unsafe { event.read_unaligned() });
    let wanted = if op == EPOLL_CTL_DEL { None } else { Some(wanted?) };
    let is_plain = wanted.is_none_or(|event| registration::is_plain(event.events));
    if !may_list(held) || !is_plain || is_known && !is_this || !is_known && op != EPOLL_CTL_ADD {
        return None;
    }
    let locked = instance.lock()?;
    let present = registration.wanted().is_some();
    match op {
        EPOLL_CTL_ADD if present => return Some(Err(Errno(libc::EEXIST).into())),
        EPOLL_CTL_MOD | EPOLL_CTL_DEL if !present => return Some(Err(Errno(libc::ENOENT).into())),
        EPOLL_CTL_ADD | EPOLL_CTL_MOD | EPOLL_CTL_DEL => {}
        _ => return None,
    }
    registration.slot.store(place_of(instance), Ordering::Relaxed);
    registration.fd.store(fd, Ordering::Relaxed);
    registration.instance.store(instance.id(), Ordering::Relaxed);
    registration.want(wanted);
    Some(note(&locked, held, wanted))
}

/// Has a registration, as the program wants it now, told by whoever tells its events.
fn note(locked: &Locked, held: &Held, wanted: Option<epoll_event>) -> Outcome {
    let registration = held.registration();
    let Some(wanted) = wanted else {
        if !registration.is_known() {
            locked.unlist(registration);
            registration.forget();
        } else if registration.listed.load(Ordering::Relaxed) == 0 || locked.is_asleep() {
            registration.sync(locked.epfd())?;
        }
        return Ok(0);
    };
    if wanted.events & EPOLLET as u32 != 0 {
        held.page().rx_wake.0.eager.store(1, Ordering::Relaxed);
    }
    held.app().polled.store(1, Ordering::SeqCst);
    token::note_epoll();
    let listed = locked.list(held);
    if !listed || locked.is_asleep() {
        registration.sync(locked.epfd())?;
        token::expect(registration.fd.load(Ordering::Relaxed), held);
    }
    Ok(0)
}

fn place_of(instance: &Instance) -> u32 {
    ALL.iter().position(|other| core::ptr::eq(other, instance)).unwrap_or(0) as u32
}

/// The number `fd` is about to be, or was, taken from a connection.
#[inline]
pub(crate) fn released(fd: c_int, socket: &'static Socket) {
    let registration = socket.registration();
    if registration.instance.load(Ordering::Relaxed) != 0 && registration.fd.load(Ordering::Relaxed) == fd {
        release(socket);
    }
}

fn release(socket: &'static Socket) {
    let registration = socket.registration();
    let Some(held) = socket.hold() else { return };
    let Some(locked) = owner(registration).and_then(Instance::lock) else { return };
    if registration.wanted().is_none() || !held.is_last() {
        // The kernel knows registrations by socket: others that hold it keep them.
        let _ = registration.sync(locked.epfd());
    }
    let listed = registration.listed.load(Ordering::Relaxed) != 0;
    locked.unlist(registration);
    registration.forget();
    registration.exact.store(true, Ordering::Relaxed);
    if listed && !held.is_last() {
        fence(Ordering::SeqCst);
        token::expect(registration.fd.load(Ordering::Relaxed), &held);
    }
}

/// epoll_wait(2) for an instance with a list. `ask` is the kernel's call, with no time to wait if its argument says so.
/// `None`: there is none, or not any more.
///
/// # Safety
/// There is room for `room` events.
pub(crate) unsafe fn wait(
    epfd: c_int,
    events: *mut epoll_event,
    room: c_int,
    timeout_is_zero: bool,
    ask: &impl Fn(bool) -> c_int,
) -> Option<c_int> {
    let instance = find(epfd).filter(|_| room > 0 && !events.is_null())?;
    let id = instance.id();
    if instance.waiting.fetch_add(1, Ordering::SeqCst) != 0 {
        // Another thread waits too, or did when it was cancelled.
        give_up(epfd);
        return None;
    }
    // SAFETY: the caller's.
    let ready = unsafe { wait_alone(instance, events, room, timeout_is_zero, ask) };
    if instance.id() == id {
        instance.waiting.store(0, Ordering::SeqCst);
    }
    Some(ready)
}

unsafe fn wait_alone(
    instance: &'static Instance,
    events: *mut epoll_event,
    room: c_int,
    timeout_is_zero: bool,
    ask: &impl Fn(bool) -> c_int,
) -> c_int {
    let id = instance.id();
    let freshen = || {
        if let Some(locked) = instance.lock() {
            locked.freshen();
        }
    };
    let look = || {
        // SAFETY: the caller's.
        instance.lock().map_or(0, |locked| unsafe { locked.look(events, room as usize) } as c_int)
    };
    if instance.is_kernels_turn(KERNELS_TURN) {
        freshen();
        let ready = ask(true);
        if ready != 0 {
            return ready;
        }
    }
    loop {
        let mut ready = 0;
        let mut both = || {
            ready = look();
            if ready == 0 {
                freshen();
                ready = ask(true);
            }
            ready != 0
        };
        if both() || timeout_is_zero || token::spin(both) {
            return ready;
        }
        match instance.lock().map(|locked| locked.fall_asleep()) {
            Some(false) => break,
            // Something has come, or another thread is at it.
            _ => wake_up(instance, id),
        }
    }
    let ready = ask(false);
    wake_up(instance, id);
    ready
}

fn wake_up(instance: &'static Instance, id: u32) {
    let before = sys::errno();
    if let Some(locked) = instance.lock()
        && locked.id() == id
    {
        locked.wake_up();
    }
    sys::set_errno(before);
}
