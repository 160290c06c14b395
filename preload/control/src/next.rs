//! The functions behind the hooks: the libc's own, or those of another library preloaded after this one.
//!
//! Looked up by the constructor. A hook that is called before (by another library's constructor, or by the allocator
//! that `dlsym` itself uses) makes the system call directly.

use crate::sys;
use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use libc::{
    epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, off_t, pid_t, pollfd, sigset_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec, timeval,
};

/// Returns as the libc's wrapper of a system call would.
pub fn returned(value: isize) -> isize {
    match sys::check(value) {
        Ok(value) => value,
        Err(errno) => {
            sys::set_errno(errno.0);
            -1
        }
    }
}

macro_rules! raw {
    ($number:ident $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let given = [$($arg as usize),*];
        args[..given.len()].copy_from_slice(&given);
        returned(sys::syscall(libc::$number, args))
    }};
}

macro_rules! next {
    ($( $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty { $early:expr } )*) => {
        #[allow(non_upper_case_globals)]
        mod pointers {
            use super::{AtomicPtr, c_void, ptr};
            $( pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut()); )*
        }

        /// Looks all of them up. For the constructor.
        pub fn resolve() {
            $(
                // SAFETY: the name is NUL-terminated.
                let found = unsafe { libc::dlsym(libc::RTLD_NEXT, concat!(stringify!($name), "\0").as_ptr().cast()) };
                pointers::$name.store(found, Ordering::Release);
            )*
        }

        $(
            #[doc = concat!("The next `", stringify!($name), "`.")]
            ///
            /// # Safety
            /// That of the function. A cancelled thread may be unwound from inside it: no destructors may be pending.
            #[inline]
            pub unsafe fn $name($($arg: $ty),*) -> $ret {
                let found = pointers::$name.load(Ordering::Relaxed);
                if found.is_null() {
                    #[allow(unused_unsafe)]
                    // SAFETY: the caller's contract is the system call's.
                    return unsafe { $early } as $ret;
                }
                // SAFETY: the symbol has this type (its man page), and lives as long as the libc.
                unsafe {
                    let function: unsafe extern "C-unwind" fn($($ty),*) -> $ret = core::mem::transmute(found);
                    function($($arg),*)
                }
            }
        )*
    };
}

/// For what has no single system call: as if the libc had no such function.
fn missing() -> isize {
    sys::set_errno(libc::ENOSYS);
    -1
}

// fcntl, ioctl, prctl and syscall are variadic in C. On the targets that `sys` supports a variadic function takes integer
// arguments in the same registers as any other, and may be called (and hooked) with its longest list.
next! {
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int { raw!(SYS_socket, domain, kind, protocol) }
    bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int { raw!(SYS_bind, fd, address, len) }
    connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int { raw!(SYS_connect, fd, address, len) }
    listen(fd: c_int, backlog: c_int) -> c_int { raw!(SYS_listen, fd, backlog) }
    accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int { raw!(SYS_accept4, fd, address, len, 0) }
    accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int
        { raw!(SYS_accept4, fd, address, len, flags) }
    shutdown(fd: c_int, how: c_int) -> c_int { raw!(SYS_shutdown, fd, how) }
    getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int { raw!(SYS_getsockname, fd, address, len) }
    getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int { raw!(SYS_getpeername, fd, address, len) }
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int
        { raw!(SYS_getsockopt, fd, level, name, value, len) }
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        { raw!(SYS_setsockopt, fd, level, name, value, len) }
    send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t
        { raw!(SYS_sendto, fd, bytes, len, flags, 0, 0) }
    sendto(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int, address: *const sockaddr, address_len: socklen_t)
        -> ssize_t { raw!(SYS_sendto, fd, bytes, len, flags, address, address_len) }
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t { raw!(SYS_sendmsg, fd, message, flags) }
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
        { raw!(SYS_sendmmsg, fd, messages, count, flags) }
    write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t { raw!(SYS_write, fd, bytes, len) }
    writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t { raw!(SYS_writev, fd, vectors, count) }
    sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        { raw!(SYS_sendfile, out, from, offset, count) }
    sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        { raw!(SYS_sendfile, out, from, offset, count) }
    splice(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, len: size_t, flags: c_uint) -> ssize_t
        { raw!(SYS_splice, from, from_offset, to, to_offset, len, flags) }
    recv(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int) -> ssize_t
        { raw!(SYS_recvfrom, fd, bytes, len, flags, 0, 0) }
    recvfrom(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t)
        -> ssize_t { raw!(SYS_recvfrom, fd, bytes, len, flags, address, address_len) }
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t { raw!(SYS_recvmsg, fd, message, flags) }
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int
        { raw!(SYS_recvmmsg, fd, messages, count, flags, timeout) }
    read(fd: c_int, bytes: *mut c_void, len: size_t) -> ssize_t { raw!(SYS_read, fd, bytes, len) }
    readv(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t { raw!(SYS_readv, fd, vectors, count) }
    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int { early::poll(fds, count, timeout) }
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int
        { early::ppoll(fds, count, timeout, mask) }
    select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int
        { early::select(count, read, write, except, timeout) }
    pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t) -> c_int { early::pselect(count, read, write, except, timeout, mask) }
    epoll_create(size: c_int) -> c_int { { let _ = size; raw!(SYS_epoll_create1, 0) } }
    epoll_create1(flags: c_int) -> c_int { raw!(SYS_epoll_create1, flags) }
    epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int
        { raw!(SYS_epoll_ctl, epfd, op, fd, event) }
    epoll_wait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int
        { raw!(SYS_epoll_pwait, epfd, events, count, timeout, 0, 8) }
    epoll_pwait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int
        { raw!(SYS_epoll_pwait, epfd, events, count, timeout, mask, 8) }
    epoll_pwait2(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t)
        -> c_int { raw!(SYS_epoll_pwait2, epfd, events, count, timeout, mask, 8) }
    fcntl(fd: c_int, command: c_int, arg: usize) -> c_int { raw!(SYS_fcntl, fd, command, arg) }
    fcntl64(fd: c_int, command: c_int, arg: usize) -> c_int { raw!(SYS_fcntl, fd, command, arg) }
    ioctl(fd: c_int, request: usize, arg: usize) -> c_int { raw!(SYS_ioctl, fd, request, arg) }
    dup(fd: c_int) -> c_int { raw!(SYS_dup, fd) }
    dup2(old: c_int, new: c_int) -> c_int
        { if old == new { raw!(SYS_fcntl, old, libc::F_GETFD).min(0) | new as isize } else { raw!(SYS_dup3, old, new, 0) } }
    dup3(old: c_int, new: c_int, flags: c_int) -> c_int { raw!(SYS_dup3, old, new, flags) }
    close(fd: c_int) -> c_int { raw!(SYS_close, fd) }
    _exit(status: c_int) -> c_int { raw!(SYS_exit_group, status) }
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int { raw!(SYS_close_range, first, last, flags) }
    fdopen(fd: c_int, mode: *const c_char) -> *mut libc::FILE { { let _ = (fd, mode); missing() + 1 } }
    chroot(path: *const c_char) -> c_int { raw!(SYS_chroot, path) }
    prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int { raw!(SYS_prctl, option, a, b, c, d) }
    vdprintf(fd: c_int, format: *const c_char, arguments: *mut c_void) -> c_int
        { { let _ = (fd, format, arguments); missing() } }
    __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, arguments: *mut c_void) -> c_int
        { { let _ = (fd, flag, format, arguments); missing() } }
    fclose(stream: *mut libc::FILE) -> c_int { { let _ = stream; missing() } }
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long
        { returned(sys::syscall(number, [a, b, c, d, e, f])) }
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        { raw!(SYS_execve, path, argv, envp) }
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        { { let _ = (file, argv, envp); missing() } }
    fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        { raw!(SYS_execveat, fd, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH) }
    posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        argv: *const *const c_char, envp: *const *const c_char) -> c_int
        { { let _ = (pid, path, actions, attributes, argv, envp); libc::ENOSYS as isize } }
    posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        argv: *const *const c_char, envp: *const *const c_char) -> c_int
        { { let _ = (pid, file, actions, attributes, argv, envp); libc::ENOSYS as isize } }
}

/// The waiting calls before the constructor has run, where the system call differs from the C function.
mod early {
    use super::*;

    pub(super) unsafe fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> isize {
        let limit = timespec {
            tv_sec: i64::from(timeout.max(0) / 1000),
            tv_nsec: i64::from(timeout.max(0) % 1000) * 1_000_000,
        };
        let limit = if timeout < 0 { ptr::null() } else { ptr::from_ref(&limit) };
        // SAFETY: the caller's.
        unsafe { ppoll(fds, count, limit, ptr::null()) }
    }

    pub(super) unsafe fn ppoll(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> isize {
        // The system call writes the remaining time back, the function does not.
        // SAFETY: null, or the caller's.
        let mut copy = unsafe { timeout.as_ref() }.copied();
        let limit = copy.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        // SAFETY: the caller's.
        unsafe { raw!(SYS_ppoll, fds, count, limit, mask, 8) }
    }

    pub(super) unsafe fn select(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *mut timeval,
    ) -> isize {
        // SAFETY: null, or the caller's.
        let limit = unsafe { timeout.as_ref() }.map(|t| timespec {
            tv_sec: t.tv_sec + t.tv_usec / 1_000_000,
            tv_nsec: t.tv_usec % 1_000_000 * 1000,
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the caller's.
        unsafe { pselect(count, read, write, except, limit, ptr::null()) }
    }

    pub(super) unsafe fn pselect(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> isize {
        // SAFETY: null, or the caller's.
        let mut copy = unsafe { timeout.as_ref() }.copied();
        let limit = copy.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        let packed = [mask as usize, 8];
        // SAFETY: the caller's; `packed` is what the system call wants as its sixth argument.
        unsafe { raw!(SYS_pselect6, count, read, write, except, limit, packed.as_ptr()) }
    }
}
