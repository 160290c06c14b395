//! Duplicating, closing and setting flags of descriptors.

use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{Held, Kind};
use crate::table::{self, Entry};
use crate::{companion, epoll, receive, send, stream, takeover, token, watch};
use core::ffi::{c_int, c_uint};
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{own, process};
use freena_shm_abi::app::status;

// Of asm-generic/ioctls.h and linux/sockios.h.
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIOASYNC: u32 = 0x5452;
const TIOCOUTQ: u32 = 0x5411;
const SIOCOUTQNSD: u32 = 0x894b;
const SIOCATMARK: u32 = 0x8905;
const FIOCLEX: u32 = 0x5451;
const FIONCLEX: u32 = 0x5450;
const CLOSE_RANGE_CLOEXEC: c_int = 1 << 2;

/// Before close(2): forgets the descriptor. Bypassed: the call itself is the kernel's.
#[inline]
pub fn close(fd: c_int) -> Outcome {
    if own::is_own(fd) && !process::is_vfork_child() {
        return Err(Error::Own.into());
    }
    match table::kind(fd) {
        None => epoll::forget(fd),
        Some(Kind::Stream | Kind::Messages) if !process::is_vfork_child() => {
            if let Some(outcome) = stream::close::linger(fd) {
                return outcome;
            }
            forget(fd);
        }
        Some(_) => forget(fd),
    }
    Err(Stop::Bypass(Reason::Untracked))
}

/// A tracked descriptor is about to be closed.
#[cold]
pub fn forget(fd: c_int) {
    if !process::is_vfork_child() {
        epoll::forget(fd);
        table::clear(fd);
    }
}

/// close_range(2) and closefrom(3), which leave the library's own descriptors alone.
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> Outcome {
    if flags & CLOSE_RANGE_CLOEXEC != 0 || first > last || process::is_vfork_child() {
        // The library's own are close-on-exec anyway.
        return Err(Stop::Bypass(Reason::Untracked));
    }
    watch::closed_range(first, last);
    table::tracked(first, last).for_each(forget);
    let mut from = first;
    while let Some(kept) = own::lowest_from(from).filter(|kept| *kept <= last) {
        if kept > from {
            sys::close_range(from, kept - 1, flags)?;
        }
        if kept == last {
            return Ok(0);
        }
        from = kept + 1;
    }
    sys::close_range(from, last, flags)?;
    Ok(0)
}

/// Before dup2(2) and dup3(2): makes the new number free of what the library has there. Bypassed: see [`duplicated`].
pub fn before_replace(old: c_int, new: c_int) -> Outcome {
    if old == new || process::is_vfork_child() {
        return Err(Stop::Bypass(Reason::Untracked));
    }
    if own::is_own(old) {
        return Err(Error::Own.into());
    }
    watch::closed(new);
    if own::is_own(new) {
        // The program may have the number. What was there is made anew when it is next needed.
        own::forget(new);
    }
    Err(Stop::Bypass(Reason::Untracked))
}

/// After a duplicate `new` of `old` was made.
#[inline]
pub fn duplicated(old: c_int, new: c_int) {
    watch::give_up(old);
    if new < 0 || old == new || !(table::is_tracked(old) || table::is_tracked(new)) {
        return;
    }
    note_duplicate(old, new);
}

#[cold]
fn note_duplicate(old: c_int, new: c_int) {
    if process::is_vfork_child() {
        return;
    }
    epoll::forget(new);
    match table::get(old) {
        Entry::Untracked => table::clear(new),
        Entry::Candidate(candidate) => table::set_candidate(new, candidate),
        Entry::Framework(_) => match table::hold(old) {
            Some(held) => table::set_framework(new, held),
            None => table::clear(new),
        },
    }
}

/// Before fcntl(2): `EBADF` for the library's own.
pub fn before_fcntl(fd: c_int) -> Outcome {
    if own::is_own(fd) && !process::is_vfork_child() {
        return Err(Error::Own.into());
    }
    Err(Stop::Bypass(Reason::Untracked))
}

/// After fcntl(2) has done `command` and returned `result`.
#[inline]
pub fn after_fcntl(fd: c_int, command: c_int, arg: usize, result: c_int) {
    if result < 0 {
        return;
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, result),
        libc::F_SETFL => {
            if let Some(held) = table::hold(fd) {
                note_status(fd, &held, arg as c_int);
            }
        }
        _ => {}
    }
}

fn note_status(fd: c_int, held: &Held, flags: c_int) {
    let status = &held.app().status;
    if flags & libc::O_NONBLOCK != 0 {
        status.fetch_or(status::NONBLOCK, Ordering::Relaxed);
    } else {
        status.fetch_and(!status::NONBLOCK, Ordering::Relaxed);
    }
    if flags & libc::O_ASYNC != 0 {
        // The signal is sent when the kernel sees the token.
        token::make_eager(fd, held);
    }
}

/// ioctl(2).
///
/// # Safety
/// `arg` is what the program passed.
pub unsafe fn ioctl(fd: c_int, request: usize, arg: usize) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    let to = core::ptr::with_exposed_provenance_mut::<c_int>(arg);
    if held.is_stream()
        && let request @ (FIONREAD | TIOCOUTQ | SIOCOUTQNSD | SIOCATMARK) = request as u32
    {
        let answer = of_stream(&held, request)?;
        if to.is_null() {
            return Err(Errno(libc::EFAULT).into());
        }
        // SAFETY: not null; the program's.
        unsafe { to.write_unaligned(answer) };
        return Ok(0);
    }
    match request as u32 {
        FIONREAD | TIOCOUTQ if to.is_null() => Err(Errno(libc::EFAULT).into()),
        FIONREAD => {
            let next = receive::next_length(fd, &held)?;
            // SAFETY: not null; the program's.
            unsafe { to.write_unaligned(next as c_int) };
            Ok(0)
        }
        TIOCOUTQ => {
            // SAFETY: not null; the program's.
            unsafe { to.write_unaligned(send::used(&held) as c_int) };
            Ok(0)
        }
        FIONBIO | FIOASYNC | FIOCLEX | FIONCLEX => {
            // SAFETY: the kernel checks the program's pointer.
            let result = unsafe { sys::ioctl(fd, request, arg) }?;
            if let Ok(flags) = sys::fcntl(fd, libc::F_GETFL, 0) {
                note_status(fd, &held, flags);
            }
            Ok(result as isize)
        }
        _ => {
            // SAFETY: the kernel checks the program's pointer.
            let ask = |kernel| Ok(unsafe { sys::ioctl(kernel, request, arg) }? as isize);
            Ok(companion::with(fd, &held, ask)?)
        }
    }
}

/// What tcp(7) has an ioctl for.
fn of_stream(held: &Held, request: u32) -> Result<c_int, Error> {
    if stream::is_listener(held) && request != SIOCATMARK {
        return Err(Error::Invalid);
    }
    let page = held.page();
    Ok(match request {
        FIONREAD => stream::receive::readable(held) as c_int,
        // What the peer has in its memory counts as acknowledged.
        TIOCOUTQ | SIOCOUTQNSD if held.is_joined() => 0,
        TIOCOUTQ => send::used(held) as c_int,
        SIOCOUTQNSD => {
            let sent = page.stream.told.sent.load(Ordering::Relaxed);
            page.tx_tail.0.load(Ordering::Relaxed).saturating_sub(sent) as c_int
        }
        _ => c_int::from(stream::receive::is_at_mark(held)),
    })
}

/// After recvmsg(2) on a descriptor that is not the framework's: finds framework sockets among received descriptors, each of
/// which is shown to `arrived` too.
///
/// # Safety
/// `message` is what recvmsg(2) has just filled in.
pub unsafe fn received(message: *const libc::msghdr, arrived: impl Fn(c_int)) {
    // SAFETY: the caller's; the macros stay within what the kernel wrote.
    unsafe {
        if message.is_null() || (*message).msg_control.is_null() || (*message).msg_controllen == 0 {
            return;
        }
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let fds = libc::CMSG_DATA(header).cast::<c_int>();
                for index in 0..bytes / size_of::<c_int>() {
                    let fd = fds.add(index).read_unaligned();
                    takeover::adopt(fd);
                    arrived(fd);
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}
