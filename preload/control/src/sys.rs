//! System calls made directly.
//!
//! The library cannot call `libc::close` and its like: they lead to its own hooks. These wrappers go past them, leave
//! `errno` alone, are no cancellation points, and may be used in a signal handler and in a vfork child.

use crate::confined;
use core::ffi::{c_int, c_void};
use core::mem::{size_of, size_of_val};
use core::ptr;

/// An error number of errno(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// Result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

/// Makes system call `number` with six arguments; returns what the kernel returns: a value, or an errno negated.
///
/// # Safety
/// That of the system call.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 Linux convention: number in rax, arguments in rdi rsi rdx r10 r8 r9, rcx and r11 clobbered.
    // The caller vouches for what the call does.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => ret,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    ret
}

/// Makes system call `number` with six arguments; returns what the kernel returns: a value, or an errno negated.
///
/// # Safety
/// That of the system call.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the AArch64 Linux convention: number in x8, arguments in x0 to x5. The caller vouches for the call.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") args[0] => ret,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack)
        );
    }
    ret
}

/// Splits what the kernel returned.
pub fn check(ret: isize) -> Result<isize> {
    if (-4095..0).contains(&ret) { Err(Errno(-ret as c_int)) } else { Ok(ret) }
}

/// Calls the kernel with up to six arguments of any integer or pointer type.
macro_rules! call {
    ($number:ident $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let given = [$($arg as usize),*];
        args[..given.len()].copy_from_slice(&given);
        // SAFETY: each wrapper below says why its arguments are valid.
        check(unsafe { syscall(libc::$number, args) })
    }};
}

/// close(2).
pub fn close(fd: c_int) -> Result<()> {
    call!(SYS_close, fd).map(drop)
}

/// dup3(2); unlike dup2(2) it refuses `old == new`.
pub fn dup3(old: c_int, new: c_int, flags: c_int) -> Result<()> {
    call!(SYS_dup3, old, new, flags).map(drop)
}

/// fcntl(2) with an integer argument.
pub fn fcntl(fd: c_int, command: c_int, arg: usize) -> Result<c_int> {
    call!(SYS_fcntl, fd, command, arg).map(|v| v as c_int)
}

/// socket(2).
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int> {
    call!(SYS_socket, domain, kind, protocol).map(|v| v as c_int)
}

/// connect(2) to an address of `len` bytes.
pub fn connect<T>(fd: c_int, address: &T, len: usize) -> Result<()> {
    debug_assert!(len <= size_of::<T>());
    call!(SYS_connect, fd, ptr::from_ref(address), len).map(drop)
}

/// bind(2) to an address of `len` bytes.
pub fn bind<T>(fd: c_int, address: &T, len: usize) -> Result<()> {
    debug_assert!(len <= size_of::<T>());
    call!(SYS_bind, fd, ptr::from_ref(address), len).map(drop)
}

/// shutdown(2).
pub fn shutdown(fd: c_int, how: c_int) -> Result<()> {
    call!(SYS_shutdown, fd, how).map(drop)
}

/// getsockopt(2) of a plain value.
pub fn get_option<T: Copy>(fd: c_int, level: c_int, name: c_int, mut value: T) -> Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    call!(SYS_getsockopt, fd, level, name, ptr::from_mut(&mut value), ptr::from_mut(&mut len))?;
    Ok(value)
}

/// setsockopt(2) of a plain value.
pub fn set_option<T: Copy>(fd: c_int, level: c_int, name: c_int, value: &T) -> Result<()> {
    call!(SYS_setsockopt, fd, level, name, ptr::from_ref(value), size_of::<T>()).map(drop)
}

/// getsockopt(2) as the program asked for it.
///
/// # Safety
/// `value` and `len` are the program's own pointers; the kernel checks them.
pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut u32,
) -> Result<()> {
    call!(SYS_getsockopt, fd, level, name, value, len).map(drop)
}

/// setsockopt(2) as the program asked for it.
///
/// # Safety
/// `value` is the program's own pointer; the kernel checks it.
pub unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> Result<()> {
    call!(SYS_setsockopt, fd, level, name, value, len).map(drop)
}

/// ioctl(2).
///
/// # Safety
/// That of the request; where `arg` is a pointer the kernel checks it.
pub unsafe fn ioctl(fd: c_int, request: usize, arg: usize) -> Result<c_int> {
    call!(SYS_ioctl, fd, request, arg).map(|v| v as c_int)
}

/// getsockname(2); returns the length.
pub fn getsockname<T>(fd: c_int, address: &mut T) -> Result<usize> {
    let mut len = size_of::<T>() as libc::socklen_t;
    call!(SYS_getsockname, fd, ptr::from_mut(address), ptr::from_mut(&mut len))?;
    Ok(len as usize)
}

/// getpeername(2); returns the length.
pub fn getpeername<T>(fd: c_int, address: &mut T) -> Result<usize> {
    let mut len = size_of::<T>() as libc::socklen_t;
    call!(SYS_getpeername, fd, ptr::from_mut(address), ptr::from_mut(&mut len))?;
    Ok(len as usize)
}

/// sendmsg(2).
///
/// # Safety
/// What `message` points to must be readable.
pub unsafe fn sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> Result<usize> {
    call!(SYS_sendmsg, fd, message, flags).map(|v| v as usize)
}

/// recvmsg(2).
///
/// # Safety
/// What `message` points to must be writable.
pub unsafe fn recvmsg(fd: c_int, message: *mut libc::msghdr, flags: c_int) -> Result<usize> {
    call!(SYS_recvmsg, fd, message, flags).map(|v| v as usize)
}

/// send(2), on a socket's own descriptor.
pub fn send(fd: c_int, bytes: &[u8], flags: c_int) -> Result<usize> {
    if confined::is_confined() {
        return confined::send(fd, bytes);
    }
    call!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, 0, 0).map(|v| v as usize)
}

/// recv(2), on a socket's own descriptor.
pub fn recv(fd: c_int, bytes: &mut [u8], flags: c_int) -> Result<usize> {
    if confined::is_confined() {
        return confined::receive(fd, bytes);
    }
    call!(SYS_recvfrom, fd, bytes.as_mut_ptr(), bytes.len(), flags, 0, 0).map(|v| v as usize)
}

/// write(2).
pub fn write(fd: c_int, bytes: &[u8]) -> Result<usize> {
    call!(SYS_write, fd, bytes.as_ptr(), bytes.len()).map(|v| v as usize)
}

/// read(2).
pub fn read(fd: c_int, bytes: &mut [u8]) -> Result<usize> {
    call!(SYS_read, fd, bytes.as_mut_ptr(), bytes.len()).map(|v| v as usize)
}

/// poll(2) of one descriptor, with a limit in milliseconds, or none if it is negative.
pub fn poll(entry: &mut libc::pollfd, timeout: c_int) -> Result<usize> {
    #[cfg(target_arch = "x86_64")]
    let ready = call!(SYS_poll, ptr::from_mut(entry), 1, timeout);
    #[cfg(not(target_arch = "x86_64"))]
    let ready = {
        let limit = libc::timespec {
            tv_sec: (timeout.max(0) / 1000).into(),
            tv_nsec: i64::from(timeout.max(0) % 1000) * 1_000_000,
        };
        let limit = if timeout < 0 { ptr::null() } else { ptr::from_ref(&limit) };
        call!(SYS_ppoll, ptr::from_mut(entry), 1, limit, 0, 8)
    };
    ready.map(|v| v as usize)
}

/// Opens a file for reading, close-on-exec.
pub fn open(path: *const libc::c_char, flags: c_int) -> Result<c_int> {
    call!(SYS_openat, libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, 0).map(|v| v as c_int)
}

/// pread(2).
pub fn pread(fd: c_int, bytes: &mut [u8], offset: usize) -> Result<usize> {
    call!(SYS_pread64, fd, bytes.as_mut_ptr(), bytes.len(), offset).map(|v| v as usize)
}

/// getdents64(2): fills `bytes` with directory entries.
pub fn getdents(fd: c_int, bytes: &mut [u8]) -> Result<usize> {
    call!(SYS_getdents64, fd, bytes.as_mut_ptr(), bytes.len()).map(|v| v as usize)
}

/// Registers with, changes, or removes from an epoll instance: epoll_ctl(2).
///
/// # Safety
/// `event` is null where the operation allows it, or readable.
pub unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *const libc::epoll_event) -> Result<()> {
    call!(SYS_epoll_ctl, epfd, op, fd, event).map(drop)
}

/// close_range(2), Linux 5.9.
pub fn close_range(first: u32, last: u32, flags: c_int) -> Result<()> {
    call!(SYS_close_range, first, last, flags).map(drop)
}

/// Waits while `*word == value`, at most `timeout`. `shared`: the word lies in memory shared with other processes.
pub fn futex_wait(
    word: &core::sync::atomic::AtomicU32,
    value: u32,
    timeout: Option<libc::timespec>,
    shared: bool,
) {
    let op = libc::FUTEX_WAIT | if shared { 0 } else { libc::FUTEX_PRIVATE_FLAG };
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let _ = call!(SYS_futex, word.as_ptr(), op, value, timeout);
}

/// Wakes one waiter of `word`.
pub fn futex_wake(word: &core::sync::atomic::AtomicU32, shared: bool) {
    let op = libc::FUTEX_WAKE | if shared { 0 } else { libc::FUTEX_PRIVATE_FLAG };
    let _ = call!(SYS_futex, word.as_ptr(), op, 1);
}

/// Gives the processor to another thread that wants it.
pub fn sched_yield() {
    if confined::is_confined() {
        return core::hint::spin_loop();
    }
    let _ = call!(SYS_sched_yield, 0);
}

/// Sleeps for less than a second, or until a signal was handled.
pub fn sleep(nanoseconds: i64) {
    if confined::is_confined() {
        return core::hint::spin_loop();
    }
    let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let _ = call!(SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, ptr::from_ref(&time), 0);
}

/// getpid(2), from the kernel.
pub fn getpid() -> u32 {
    call!(SYS_getpid, 0).unwrap_or(0) as u32
}

/// gettid(2), from the kernel.
pub fn gettid() -> u32 {
    call!(SYS_gettid, 0).unwrap_or(0) as u32
}

/// Whether a thread with this id exists.
pub fn thread_exists(tid: u32) -> bool {
    call!(SYS_kill, tid, 0) != Err(Errno(libc::ESRCH))
}

/// Replaces the calling thread's signal mask (64 signals); returns the old one.
pub fn set_signal_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    let _ = call!(
        SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        ptr::from_ref(&mask),
        ptr::from_mut(&mut old),
        size_of_val(&mask)
    );
    old
}

/// Device and inode: what a descriptor is.
pub fn identity(fd: c_int) -> Result<(u64, u64)> {
    // SAFETY: `stat` is plain data, valid when zero.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    call!(SYS_fstat, fd, ptr::from_mut(&mut stat))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The soft limit of `RLIMIT_NOFILE`.
pub fn descriptor_limit() -> u32 {
    let mut limit = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    let _ = call!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, ptr::from_mut(&mut limit));
    limit.rlim_cur.min(u64::from(i32::MAX as u32)) as u32
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local. The vDSO answers; clock_gettime is not hooked.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The calling thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: the location is valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

/// recvfrom(2) as the program asked for it.
///
/// # Safety
/// The pointers are the program's own; the kernel checks them.
pub unsafe fn recvfrom_raw(
    fd: c_int,
    bytes: *mut c_void,
    len: usize,
    flags: c_int,
    from: *mut libc::sockaddr,
    from_len: *mut libc::socklen_t,
) -> Result<isize> {
    call!(SYS_recvfrom, fd, bytes, len, flags, from, from_len)
}

/// bind(2) as the program asked for it.
///
/// # Safety
/// `address` is the program's own pointer; the kernel checks it.
pub unsafe fn bind_raw(fd: c_int, address: *const libc::sockaddr, len: u32) -> Result<isize> {
    call!(SYS_bind, fd, address, len)
}

/// connect(2) as the program asked for it.
///
/// # Safety
/// `address` is the program's own pointer; the kernel checks it.
pub unsafe fn connect_raw(fd: c_int, address: *const libc::sockaddr, len: u32) -> Result<isize> {
    call!(SYS_connect, fd, address, len)
}

/// sendfile(2) as the program asked for it.
///
/// # Safety
/// `offset` is the program's own pointer; the kernel checks it.
pub unsafe fn sendfile(out: c_int, from: c_int, offset: *mut libc::off_t, count: usize) -> Result<isize> {
    call!(SYS_sendfile, out, from, offset, count)
}

/// splice(2) as the program asked for it.
///
/// # Safety
/// The pointers are the program's own; the kernel checks them.
pub unsafe fn splice(
    from: c_int,
    from_offset: *mut i64,
    to: c_int,
    to_offset: *mut i64,
    len: usize,
    flags: u32,
) -> Result<isize> {
    call!(SYS_splice, from, from_offset, to, to_offset, len, flags)
}

/// Whether a file has an extended attribute: fgetxattr(2).
pub fn has_attribute(fd: c_int, name: &core::ffi::CStr) -> bool {
    call!(SYS_fgetxattr, fd, name.as_ptr(), 0, 0).is_ok()
}

/// The file's mode bits.
pub fn mode(fd: c_int) -> Result<libc::mode_t> {
    // SAFETY: `stat` is plain data, valid when zero.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    call!(SYS_fstat, fd, ptr::from_mut(&mut stat))?;
    Ok(stat.st_mode)
}

/// Owner and mode of the file that the path leads to.
pub fn owner_and_mode(path: &core::ffi::CStr) -> Result<(libc::uid_t, libc::mode_t)> {
    // SAFETY: `stat` is plain data, valid when zero.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    call!(SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), ptr::from_mut(&mut stat), 0)?;
    Ok((stat.st_uid, stat.st_mode))
}

/// geteuid(2).
pub fn effective_user() -> libc::uid_t {
    call!(SYS_geteuid).map_or(libc::uid_t::MAX, |user| user as libc::uid_t)
}

/// listen(2).
pub fn listen(fd: c_int, backlog: c_int) -> Result<isize> {
    call!(SYS_listen, fd, backlog)
}

/// Sends a signal to the calling thread.
pub fn raise(signal: c_int) {
    let _ = call!(SYS_tgkill, getpid(), gettid(), signal);
}

/// read(2) to a place that the caller has.
///
/// # Safety
/// `bytes..bytes + len` is writable.
pub unsafe fn read_raw(fd: c_int, bytes: *mut u8, len: usize) -> Result<usize> {
    call!(SYS_read, fd, bytes, len).map(|v| v as usize)
}

/// pread(2) to a place that the caller has.
///
/// # Safety
/// `bytes..bytes + len` is writable.
pub unsafe fn pread_raw(fd: c_int, bytes: *mut u8, len: usize, offset: usize) -> Result<usize> {
    call!(SYS_pread64, fd, bytes, len, offset).map(|v| v as usize)
}

/// write(2) from a place that the caller has.
///
/// # Safety
/// `bytes..bytes + len` is readable.
pub unsafe fn write_raw(fd: c_int, bytes: *const u8, len: usize) -> Result<usize> {
    call!(SYS_write, fd, bytes, len).map(|v| v as usize)
}
