//! Before another program takes this process over.
//!
//! A program that will have this library finds its framework sockets by itself. One that will not (statically linked,
//! set-user-ID, an environment without the library) gets the kernel's own sockets back under the same numbers.

use crate::program::{self, Name};
use crate::table::{self, Entry};
use crate::{options, stream, watch};
use core::ffi::{c_char, c_int};
use freena_preload_control::{client, log, process, settings, sys};
use freena_shm_abi::control::{Request, op};

/// Before execve(2) and its like.
///
/// # Safety
/// The pointers are what the program passed.
pub unsafe fn before(name: Name, environment: *const *const c_char) {
    if !settings::get().is_active() || !table::tracked(0, u32::MAX).any(survives) {
        return;
    }
    if !process::is_vfork_child() {
        watch::give_up_all();
    }
    // SAFETY: the caller's.
    if let Some(why) = unsafe { program::without(name, environment) } {
        log::decision(format_args!("the new program goes without the framework: {}", why.words()));
        give_back();
    }
}

/// Whether a descriptor is a framework socket that an exec leaves open.
pub(crate) fn survives(fd: c_int) -> bool {
    is_framework(fd) && sys::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
}

/// Whether a descriptor is a framework socket.
pub(crate) fn is_framework(fd: c_int) -> bool {
    matches!(table::get(fd), Entry::Framework(_))
}

/// Puts the kernel's own sockets in the place of those that survive.
fn give_back() {
    let vforked = process::is_vfork_child();
    for fd in table::tracked(0, u32::MAX).filter(|fd| survives(*fd)) {
        if let Some(kernel) = lend(fd, vforked) {
            if sys::dup3(kernel, fd, 0).is_ok() && !vforked {
                table::clear(fd);
            }
            let _ = sys::close(kernel);
        }
    }
}

/// The kernel's own socket for a program that has none of the framework's, with the flags and the patience of `fd`.
pub(crate) fn lend(fd: c_int, vforked: bool) -> Option<c_int> {
    if table::hold(fd).is_some_and(|held| held.is_stream() && !stream::is_listener(&held)) {
        log::decision(format_args!(
            "connection fd {fd} will not work in the new program: the kernel has no part in it"
        ));
        return None;
    }
    let request = Request::new(op::COMPANION);
    // A vfork child runs in its parent's memory: it must not use, or lock, the parent's connection.
    let reply = if vforked { client::call_apart(&request, &[fd]) } else { client::call(&request, &[fd]) };
    match reply {
        Ok(reply) => {
            let kernel = Some(reply.fds[0]).filter(|kernel| *kernel >= 0)?;
            restore(fd, kernel);
            Some(kernel)
        }
        Err(failure) => {
            log::decision(format_args!("socket fd {fd} could not be given back: {failure}"));
            None
        }
    }
}

/// The server waits for nothing on this socket, whatever its flags; the program that gets it may want to wait.
fn restore(fd: c_int, kernel: c_int) {
    let flags = |fd| sys::fcntl(fd, libc::F_GETFL, 0);
    if let (Ok(wanted), Ok(now)) = (flags(fd), flags(kernel))
        && (wanted ^ now) & libc::O_NONBLOCK != 0
    {
        let _ = sys::fcntl(kernel, libc::F_SETFL, (now ^ libc::O_NONBLOCK) as usize);
    }
    options::copy_timeout(fd, kernel, libc::SO_RCVTIMEO);
    options::copy_timeout(fd, kernel, libc::SO_SNDTIMEO);
}
