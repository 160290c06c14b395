//! syscall(2): the calls that a program makes by number; and those by which it forbids itself others, or locks itself in.

use crate::{data, descriptors, wait};
use core::ffi::{c_char, c_int, c_long, c_uint};
use core::ptr::with_exposed_provenance_mut as pointer;
use freena_preload_control::{client, confined, next};

/// syscall(2): those that would touch a framework socket go to the hook of the same name, all others to the kernel
/// unchanged.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: the program's arguments, in the order of the system call (its man page).
    unsafe {
        if is_waiting(number) {
            return match number {
                #[cfg(target_arch = "x86_64")]
                libc::SYS_poll => c_long::from(wait::poll(pointer(a), b as _, c as c_int)),
                _ => next::syscall(number, a, b, c, d, e, f),
            };
        }
        if number == libc::SYS_seccomp || number == libc::SYS_prctl {
            let strict_or_filter = match number {
                libc::SYS_prctl => a as c_int == libc::PR_SET_SECCOMP,
                _ => a as c_uint <= libc::SECCOMP_SET_MODE_FILTER,
            };
            return confine(strict_or_filter, || next::syscall(number, a, b, c, d, e, f));
        }
        // A new stack is where the child goes on, which never comes back to here.
        if number == libc::SYS_clone && a as c_int & (libc::CLONE_VM | libc::CLONE_THREAD) == 0 && b == 0 {
            return freena_preload_services::around_fork(|| next::syscall(number, a, b, c, d, e, f));
        }
        if !concerns_framework(number, a) {
            return next::syscall(number, a, b, c, d, e, f);
        }
        let fd = a as c_int;
        let result = match number {
            libc::SYS_socket => data::socket(fd, b as c_int, c as c_int) as isize,
            libc::SYS_bind => data::bind(fd, pointer(b), c as c_uint) as isize,
            libc::SYS_connect => data::connect(fd, pointer(b), c as c_uint) as isize,
            libc::SYS_sendto => data::sendto(fd, pointer(b), c, d as c_int, pointer(e), f as c_uint),
            libc::SYS_recvfrom => data::recvfrom(fd, pointer(b), c, d as c_int, pointer(e), pointer(f)),
            libc::SYS_sendmsg => data::sendmsg(fd, pointer(b), c as c_int),
            libc::SYS_recvmsg => data::recvmsg(fd, pointer(b), c as c_int),
            libc::SYS_sendmmsg => data::sendmmsg(fd, pointer(b), c as c_uint, d as c_int) as isize,
            libc::SYS_recvmmsg => {
                data::recvmmsg(fd, pointer(b), c as c_uint, d as c_int, pointer(e)) as isize
            }
            libc::SYS_read => data::read(fd, pointer(b), c),
            libc::SYS_write => data::write(fd, pointer(b), c),
            libc::SYS_close => descriptors::close(fd) as isize,
            libc::SYS_close_range => descriptors::close_range(a as c_uint, b as c_uint, c as c_int) as isize,
            libc::SYS_dup => descriptors::dup(fd) as isize,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => descriptors::dup2(fd, b as c_int) as isize,
            libc::SYS_dup3 => descriptors::dup3(fd, b as c_int, c as c_int) as isize,
            _ => next::syscall(number, a, b, c, d, e, f) as isize,
        };
        result as c_long
    }
}

/// prctl(2): from the moment on at which a program installs a filter for its system calls, the library keeps to few.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
    // SAFETY: the program's arguments.
    let call = || c_long::from(unsafe { next::prctl(option, a, b, c, d) });
    confine(option == libc::PR_SET_SECCOMP, call) as c_int
}

/// chroot(2): the server's socket cannot be found from inside, so that the connection to it is made before.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chroot(path: *const c_char) -> c_int {
    client::prepare();
    // SAFETY: the program's argument.
    unsafe { next::chroot(path) }
}

fn confine(confines: bool, call: impl Fn() -> c_long) -> c_long {
    if confines {
        confined::prepare();
    }
    let result = call();
    if confines && result >= 0 {
        confined::enter();
    }
    result
}

fn is_waiting(number: c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    let waiting = number == libc::SYS_poll;
    #[cfg(not(target_arch = "x86_64"))]
    let waiting = number < 0;
    waiting
}

/// Whether the call makes or ends descriptors, or its first argument is one of the framework's.
fn concerns_framework(number: c_long, first: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_dup2 {
        return true;
    }
    match number {
        libc::SYS_socket | libc::SYS_close | libc::SYS_close_range | libc::SYS_dup | libc::SYS_dup3 => true,
        _ => i32::try_from(first).is_ok_and(crate::is_ours),
    }
}
