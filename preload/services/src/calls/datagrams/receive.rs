//! recvmsg(2) and its like.

use super::{hold, look_after};
use crate::below::{self, Address};
use crate::datagrams::{Datagrams, Window};
use crate::errno;
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_preload_interface::outcome::{Outcome, Stop};
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, iovec, msghdr};

enum Turn {
    Done(usize),
    /// The next datagram is to be taken out of the queue.
    Take,
    /// There is none.
    Wait,
}

/// Receives one message. Datagrams that the services refuse are dropped meanwhile, as the kernel does with wrong checksums: a
/// call that waits goes on, another one gets `EAGAIN`.
///
/// # Safety
/// The pointers of the header are the program's, and so are the buffers.
pub(crate) unsafe fn receive(fd: c_int, message: &mut msghdr, buffers: &[iovec], flags: c_int) -> Outcome {
    if flags & libc::MSG_OOB != 0 {
        return Err(errno(libc::EOPNOTSUPP));
    }
    loop {
        // SAFETY: the caller's; no destructor is pending where it may wait.
        unsafe {
            match turn(fd, message, buffers, flags)? {
                Turn::Done(length) => return Ok(length as isize),
                Turn::Take => {
                    if let Some(length) = take(fd, message, buffers, flags)? {
                        return Ok(length as isize);
                    }
                }
                Turn::Wait if flags & MSG_DONTWAIT != 0 || below::is_nonblocking(fd) => {
                    return Err(errno(libc::EAGAIN));
                }
                Turn::Wait => {
                    let mut nothing = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
                    let mut header = below::header(&mut nothing);
                    below::recvmsg_waiting(fd, &mut header, MSG_PEEK)?;
                }
            }
        }
    }
}

/// # Safety
/// As [`receive`].
unsafe fn turn(fd: c_int, message: &mut msghdr, buffers: &[iovec], flags: c_int) -> Outcome<Turn> {
    let held = hold(fd)?;
    let mut it = held.lock_any::<Datagrams>()?;
    if let Some(error) = it.take_error() {
        return Err(errno(error));
    }
    if flags & MSG_PEEK != 0 {
        it.begin_to_look();
    }
    if !it.has_message() && !it.looks() {
        return Ok(Turn::Take);
    }
    let turn = loop {
        if it.has_message() {
            // SAFETY: the caller's.
            break Turn::Done(unsafe { it.deliver(fd, message, buffers, flags) });
        }
        match it.look(fd) {
            Ok(true) => {}
            Ok(false) => {
                end(message);
                break Turn::Done(0);
            }
            Err(Errno(libc::EAGAIN)) => break Turn::Wait,
            Err(error) => return Err(error.into()),
        }
    };
    look_after(fd, it);
    Ok(turn)
}

/// Takes the next datagram as the program's call would. `None` if nothing for the program came of it.
///
/// # Safety
/// As [`receive`]; no destructor is pending.
unsafe fn take(
    fd: c_int,
    message: &mut msghdr,
    buffers: &[iovec],
    flags: c_int,
) -> Result<Option<usize>, Stop> {
    let window = Window::lend();
    let mut from = Address::none();
    let mut buffer = window.buffer();
    let mut taken = below::header(&mut buffer);
    from.receive_into(&mut taken);
    (taken.msg_control, taken.msg_controllen) = (message.msg_control, message.msg_controllen);
    // SAFETY: the memory for ancillary data is the program's, the rest is the window and locals; no destructor is pending.
    let got = unsafe { below::recvmsg_waiting(fd, &mut taken, flags & !MSG_TRUNC) };
    from.length = taken.msg_namelen;
    let result = got.map_err(Stop::from).and_then(|got| {
        if got == 0 && from.length == 0 {
            end(message);
            return Ok(Some(0));
        }
        let held = hold(fd)?;
        let mut it = held.lock_any::<Datagrams>()?;
        // SAFETY: so many bytes were written; nobody else has the window.
        it.arrive(fd, unsafe { window.bytes(got) }, &from);
        if !it.has_message() {
            look_after(fd, it);
            return Ok(None);
        }
        // SAFETY: the caller's.
        let length = unsafe { it.hand_over(message, buffers, flags) };
        message.msg_controllen = taken.msg_controllen;
        message.msg_flags |= taken.msg_flags & (libc::MSG_CTRUNC | libc::MSG_CMSG_CLOEXEC);
        look_after(fd, it);
        Ok(Some(length))
    });
    // SAFETY: it is not used any more.
    unsafe { window.give_back() };
    result
}

/// Nobody sends any more: the program has shut the direction down.
fn end(message: &mut msghdr) {
    (message.msg_namelen, message.msg_controllen, message.msg_flags) = (0, 0, 0);
}

/// `FIONREAD`: the length of the next message, 0 if there is none (udp(7)).
pub(crate) fn next_length(fd: c_int) -> Outcome<usize> {
    let held = hold(fd)?;
    let mut it = held.lock_any::<Datagrams>()?;
    it.begin_to_look();
    let before = sys::errno();
    while !it.has_message() && it.look(fd).is_ok_and(|open| open) {}
    sys::set_errno(before);
    Ok(it.next_length())
}

/// Whether a call that receives would have something, where poll(2) says that the queue has. A socket that does not wait is
/// believed, as the kernel does, unless services restore messages, whose repairs are many.
pub(crate) fn is_readable(fd: c_int) -> bool {
    let Some(held) = crate::table::hold(fd) else { return true };
    let nonblocking = below::is_nonblocking(fd);
    let Ok(mut it) = held.lock_any::<Datagrams>() else { return true };
    if it.has_message() || nonblocking && !it.looks() {
        return true;
    }
    it.begin_to_look();
    loop {
        match it.look(fd) {
            Ok(true) if !it.has_message() => {}
            Err(Errno(libc::EAGAIN)) => return false,
            // An error and the end are told by the call.
            Ok(_) | Err(_) => return true,
        }
    }
}
