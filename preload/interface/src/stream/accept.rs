//! accept(2) and accept4(2): one message out of the listener's queue.
//!
//! The queue is the kernel's, and so is the waiting: whichever of the processes that share a listener asks gets the next
//! connection, with the descriptors in the message.

use super::{asked, is_listener};
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{Held, Kind};
use crate::{address, names, options, receive, table, takeover, token};
use core::ffi::c_int;
use core::mem::{size_of, zeroed};
use core::ptr;
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{client, next, process};
use freena_shm_abi::app::{options as bits, status};
use freena_shm_abi::stream::{Accepted, accepted, ask};
use libc::{sockaddr, socklen_t};
use zerocopy::{FromZeros, IntoBytes};

/// The most descriptors that a connection brings.
const DESCRIPTORS: usize = 4;

/// Room for a control message with [`DESCRIPTORS`] descriptors, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// accept4(2); accept(2) with no flags.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> Outcome {
    match table::kind(fd) {
        None => return Err(Stop::Bypass(Reason::Untracked)),
        Some(Kind::Datagram) if table::hold(fd).is_some() => return Err(Errno(libc::EOPNOTSUPP).into()),
        Some(Kind::Datagram) => return Err(Stop::Bypass(Reason::Candidate)),
        Some(Kind::Stream | Kind::Messages) => {}
    }
    if process::is_vfork_child() {
        return Err(Stop::Bypass(Reason::VforkChild));
    }
    check(fd, flags)?;
    if !address.is_null() {
        // SAFETY: null, or the caller's.
        let room = unsafe { len.as_ref() }.ok_or(Error::Kernel(Errno(libc::EFAULT)))?;
        if *room > i32::MAX as u32 {
            return Err(Error::Invalid.into());
        }
    }
    loop {
        let mut message = Accepted::new_zeroed();
        let mut fds = [-1; DESCRIPTORS];
        let received = receive_one(fd, &mut message, &mut fds);
        let result = received.and_then(|()| finish(fd, &message, fds, flags));
        match result {
            Ok(new) => {
                if !address.is_null() {
                    let family6 = table::hold(fd).is_some_and(|held| is_family6(&held));
                    // SAFETY: the caller's; checked above.
                    unsafe { address::give(&message.peer, family6, address, len) }?;
                }
                return Ok(new as isize);
            }
            Err(Stop::Error(Error::Damaged)) => {}
            Err(stop) => return Err(stop),
        }
    }
}

/// What makes accept(2) fail before it waits.
fn check(fd: c_int, flags: c_int) -> Outcome<()> {
    let held = table::hold(fd).ok_or(Stop::Bypass(receive::not_ours(fd)))?;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 || !is_listener(&held) {
        return Err(Error::Invalid.into());
    }
    // Better no connection now than one that is taken from the queue and lost, since the message brings several
    // descriptors.
    let mut free = [-1; DESCRIPTORS];
    let taken = free.iter_mut().try_for_each(|place| {
        *place = sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)?;
        Ok(())
    });
    client::close_all(&free);
    taken
}

/// Receives one message: `EAGAIN`, `EINTR`, `SO_RCVTIMEO` and cancellation are the kernel's and the libc's own.
fn receive_one(fd: c_int, message: &mut Accepted, fds: &mut [c_int; DESCRIPTORS]) -> Outcome<()> {
    let bytes = message.as_mut_bytes();
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: `msghdr` is plain data, valid when zero.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.0.as_mut_ptr().cast();
    header.msg_controllen = ancillary.0.len() as _;
    let before = sys::errno();
    // SAFETY: everything the message points to lives in this function; no destructor is pending here or in the callers.
    let received = unsafe { next::recvmsg(fd, &mut header, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        let errno = sys::errno();
        sys::set_errno(before);
        return Err(if errno == libc::ECONNRESET { ended(fd) } else { Errno(errno).into() });
    }
    // SAFETY: the kernel filled in the buffer that `header` describes; the macros stay within it.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&header);
        if !control.is_null()
            && (*control).cmsg_level == libc::SOL_SOCKET
            && (*control).cmsg_type == libc::SCM_RIGHTS
        {
            let bytes = ((*control).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let count = (bytes / size_of::<c_int>()).min(fds.len());
            ptr::copy_nonoverlapping(libc::CMSG_DATA(control).cast::<c_int>(), fds.as_mut_ptr(), count);
        }
    }
    if received == 0 {
        return Err(ended(fd));
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        client::close_all(fds);
        // Another thread was faster.
        return Err(Errno(libc::EMFILE).into());
    }
    Ok(())
}

/// The queue has ended: shut down by the program, or the server is gone.
fn ended(fd: c_int) -> Stop {
    let Some(held) = table::hold(fd) else { return Error::Invalid.into() };
    if held.app().shutdown.load(Ordering::Relaxed) & 1 != 0 {
        return Error::Invalid.into();
    }
    token::mark_dead(&held);
    Error::ServerGone.into()
}

/// Makes a descriptor for the program of what came in the message.
fn finish(listener: c_int, message: &Accepted, fds: [c_int; DESCRIPTORS], flags: c_int) -> Outcome<c_int> {
    let [new, memory, joint, peer_end] = fds;
    if new < 0 {
        client::close_all(&fds);
        return Err(Error::Damaged.into());
    }
    if message.kind == accepted::FRAMEWORK {
        // It closes the memories' descriptors.
        let registered = takeover::map(memory, joint, peer_end).map_err(Stop::from).and_then(|held| {
            let from = table::hold(listener).ok_or(Error::Kernel(Errno(libc::EBADF)))?;
            inherit(&from, listener, &held, new, message, flags);
            takeover::place(new, held);
            Ok(())
        });
        if let Err(stop) = registered {
            let _ = sys::close(new);
            return Err(stop);
        }
    } else {
        table::clear(new);
        client::close_all(&[memory, joint, peer_end]);
    }
    if flags & libc::SOCK_NONBLOCK != 0 {
        let now = sys::fcntl(new, libc::F_GETFL, 0).unwrap_or(0);
        let _ = sys::fcntl(new, libc::F_SETFL, (now | libc::O_NONBLOCK) as usize);
    }
    if flags & libc::SOCK_CLOEXEC == 0 {
        let _ = sys::fcntl(new, libc::F_SETFD, 0);
    }
    Ok(new)
}

/// What a connection has from its listener, or from the message. The server has copied what it must know.
fn inherit(from: &Held, listener: c_int, held: &Held, new: c_int, message: &Accepted, flags: c_int) {
    let (listening, app) = (from.app(), held.app());
    let inherited = bits::FAMILY6 | bits::V6ONLY | bits::OOB_INLINE;
    app.options.store(listening.options.load(Ordering::Relaxed) & inherited, Ordering::Relaxed);
    let (ours, theirs) = (&app.stream, &listening.stream);
    ours.low_water.store(theirs.low_water.load(Ordering::Relaxed), Ordering::Relaxed);
    ours.send_buffer.store(theirs.send_buffer.load(Ordering::Relaxed), Ordering::Relaxed);
    ours.receive_buffer.store(theirs.receive_buffer.load(Ordering::Relaxed), Ordering::Relaxed);
    ours.told.store(theirs.told.load(Ordering::Relaxed), Ordering::Relaxed);
    names::set(app, &names::Names { local: message.local, peer: message.peer });
    if held.is_joined() {
        asked(held).flags.fetch_or(ask::TAKEN, Ordering::Release);
    }
    if flags & libc::SOCK_NONBLOCK != 0 {
        app.status.fetch_or(status::NONBLOCK, Ordering::Relaxed);
    }
    if listening.status.load(Ordering::Relaxed) & status::TIMED != 0 {
        options::copy_timeout(listener, new, libc::SO_RCVTIMEO);
        options::copy_timeout(listener, new, libc::SO_SNDTIMEO);
        app.status.fetch_or(status::TIMED, Ordering::Relaxed);
    }
    takeover::shrink(new);
}

fn is_family6(held: &Held) -> bool {
    held.app().options.load(Ordering::Relaxed) & bits::FAMILY6 != 0
}
