//! Duplicating, closing, flags.

use crate::result::hook;
use crate::stdio;
use core::ffi::{c_int, c_uint};
use freena_preload_control::next;
use freena_preload_interface::stream::{accept, listen};
use freena_preload_interface::{descriptors, table};
use freena_preload_services::{calls, opened};
use libc::{sockaddr, socklen_t};

hook! {
    /// close(2).
    fn close(fd: c_int) -> c_int = opened::close(fd), else descriptors::close(fd);
    /// close_range(2).
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int
        = opened::close_range(first, last, flags), else descriptors::close_range(first, last, flags);
    /// listen(2).
    fn listen(fd: c_int, backlog: c_int) -> c_int = listen::listen(fd, backlog);
    /// ioctl(2).
    fn ioctl(fd: c_int, request: usize, arg: usize) -> c_int
        = calls::ioctl(fd, request, arg), else descriptors::ioctl(fd, request, arg);
}

/// accept(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: the pointers are the program's; no destructor is pending where it may block.
    unsafe {
        let new = opened::accepted(match crate::result::verdict(accept::accept4(fd, address, len, 0)) {
            crate::result::Verdict::Return(value) => value as c_int,
            crate::result::Verdict::Next => next::accept(fd, address, len),
        });
        stdio::standard(new);
        new
    }
}

/// accept4(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn accept4(
    fd: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: the pointers are the program's; no destructor is pending where it may block.
    unsafe {
        let new = opened::accepted(match crate::result::verdict(accept::accept4(fd, address, len, flags)) {
            crate::result::Verdict::Return(value) => value as c_int,
            crate::result::Verdict::Next => next::accept4(fd, address, len, flags),
        });
        stdio::standard(new);
        new
    }
}

/// closefrom(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(first: c_int) {
    // SAFETY: plain numbers.
    unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) };
}

/// fclose(3): the libc closes the descriptor behind the hooks' back.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fclose(stream: *mut libc::FILE) -> c_int {
    // SAFETY: the program's stream.
    unsafe {
        if stdio::is_ours(stream) {
            // What it still has is written first; it closes by the hook.
            return next::fclose(stream);
        }
        let fd = libc::fileno(stream);
        let _ = opened::close(fd);
        if table::is_tracked(fd) {
            descriptors::forget(fd);
        }
        next::fclose(stream)
    }
}

/// dup(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: plain numbers.
    let new = unsafe { next::dup(fd) };
    descriptors::duplicated(fd, new);
    opened::duplicated(fd, new);
    stdio::standard(new);
    new
}

/// dup2(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if let crate::result::Verdict::Return(value) =
        crate::result::verdict(descriptors::before_replace(old, new))
    {
        return value as c_int;
    }
    opened::before_replace(old, new);
    // SAFETY: plain numbers.
    let result = unsafe { next::dup2(old, new) };
    descriptors::duplicated(old, result);
    opened::duplicated(old, result);
    stdio::standard(result);
    result
}

/// dup3(2).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    if let crate::result::Verdict::Return(value) =
        crate::result::verdict(descriptors::before_replace(old, new))
    {
        return value as c_int;
    }
    opened::before_replace(old, new);
    // SAFETY: plain numbers.
    let result = unsafe { next::dup3(old, new, flags) };
    descriptors::duplicated(old, result);
    opened::duplicated(old, result);
    stdio::standard(result);
    result
}

/// fcntl(2), and what it is called in programs built for large files.
macro_rules! fcntl {
    ($($name:ident)*) => {
        $(
            /// fcntl(2).
            ///
            /// # Safety
            /// That of the C function.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name(fd: c_int, command: c_int, arg: usize) -> c_int {
                if let crate::result::Verdict::Return(value) = crate::result::verdict(descriptors::before_fcntl(fd)) {
                    return value as c_int;
                }
                // SAFETY: what the program passed; no destructor is pending where it may block.
                let result = unsafe { next::$name(fd, command, arg) };
                descriptors::after_fcntl(fd, command, arg, result);
                if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
                    opened::duplicated(fd, result);
                }
                result
            }
        )*
    };
}

fcntl!(fcntl fcntl64);

/// _exit(2), which skips the library's destructor.
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    opened::exit();
    // SAFETY: plain number.
    unsafe {
        next::_exit(status);
    }
    loop {
        core::hint::spin_loop();
    }
}

/// _Exit(3).
///
/// # Safety
/// That of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the caller's.
    unsafe { _exit(status) }
}
