//! Where flows begin and end.

use crate::below::Address;
use crate::datagrams::Datagrams;
use crate::plan::{self, Chosen};
use crate::slot::{Content, Held, Slot};
use crate::stream::Stream;
use crate::{below, courier, errno, table};
use core::ffi::{c_int, c_uint};
use freena_preload_control::{log, process, sys};
use freena_preload_interface::outcome::{Outcome, Reason, Stop};
use freena_service_chain::Role;
use libc::{sockaddr, sockaddr_storage, socklen_t};

/// Smallest receive buffer, as setsockopt(2) takes it. A part of a frame stays in it until the rest is there, and the kernel
/// opens the window only by a whole segment, which on a loopback is 64 KiB.
pub(crate) const LEAST_RECEIVE_BUFFER: c_int = 128 * 1024;

fn is_of(fd: c_int, kind: c_int, protocol: c_int) -> bool {
    below::option(fd, libc::SOL_SOCKET, libc::SO_TYPE, 0) == Ok(kind)
        && below::option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, 0) == Ok(protocol)
}

fn is_stream(fd: c_int) -> bool {
    is_of(fd, libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

fn is_datagram(fd: c_int) -> bool {
    is_of(fd, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
}

/// After socket(2) has made `fd`: what it sends from the first datagram on passes the services.
pub fn made(fd: c_int, domain: c_int, kind: c_int) {
    created(fd);
    let of_ip = matches!(domain, libc::AF_INET | libc::AF_INET6);
    if table::is_active()
        && of_ip
        && kind & 0xf == libc::SOCK_DGRAM
        && plan::has_datagrams()
        && is_datagram(fd)
    {
        // A number beyond the table, or no memory: closed, as nothing may go in the clear.
        if insert_datagrams(fd).is_err() {
            log::always(format_args!("descriptor {fd} cannot have services, and is shut down"));
            below::shutdown(fd, libc::SHUT_RDWR);
        }
    }
}

fn insert_datagrams(fd: c_int) -> Result<(), c_int> {
    let content = Content::Datagrams(Box::new(Datagrams::new(below::peer(fd))));
    let held = Slot::make(content).ok_or(libc::ENOMEM)?;
    if table::set(fd, held) { Ok(()) } else { Err(libc::EMFILE) }
}

/// After connect(2) has returned `result`: 0, or -1 with `errno` set. What it returns instead.
///
/// # Safety
/// The address is what the program has called it with.
pub unsafe fn connected(fd: c_int, address: *const sockaddr, len: socklen_t, result: c_int) -> c_int {
    if result == 0 && table::is_datagrams(fd) {
        // SAFETY: the kernel has just read `len` bytes at `address`.
        let peer = unsafe { Address::given(address, len) }.filter(|it| it.ip().is_some());
        if let Some(mut it) = table::hold(fd).as_ref().and_then(|held| held.lock_any::<Datagrams>().ok()) {
            it.connect(peer);
        }
        return result;
    }
    let under_way = result == 0 || matches!(sys::errno(), libc::EINPROGRESS | libc::EINTR);
    if !table::is_active() || !under_way || len as usize > size_of::<sockaddr_storage>() || !is_stream(fd) {
        return result;
    }
    let before = sys::errno();
    // SAFETY: plain data, valid when zero; the kernel has just read `len` bytes at `address`.
    let peer = unsafe {
        let mut storage: sockaddr_storage = std::mem::zeroed();
        std::ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut storage).cast(), len as usize);
        below::address(&storage)
    };
    let Some(peer) = peer else { return result };
    let Some(local) = below::own_address(fd) else { return result };
    if let Some(held) = table::hold(fd) {
        // A second call to learn how the first went, unless that has failed.
        if held.lock().is_ok_and(|stream| stream.is_new_to(peer)) {
            return result;
        }
        drop_flow(fd);
    }
    let Some(chosen) = plan::choose(libc::IPPROTO_TCP as u8, Role::Client, local, peer) else {
        return result;
    };
    match insert(fd, &chosen) {
        Ok(()) => {
            sys::set_errno(before);
            result
        }
        Err(errno) => {
            below::shutdown(fd, libc::SHUT_RDWR);
            sys::set_errno(errno);
            -1
        }
    }
}

/// After accept(2) has returned `fd`, or -1. What it returns instead.
pub fn accepted(fd: c_int) -> c_int {
    if fd < 0 || !table::is_active() {
        return fd;
    }
    drop_flow(fd);
    match adopt(fd, Role::Server) {
        Ok(_) => fd,
        Err(errno) => {
            let _ = sys::close(fd);
            // accept(2): what a server is prepared for.
            log::decision(format_args!("a connection was refused by its services: errno {errno}"));
            sys::set_errno(libc::ECONNABORTED);
            -1
        }
    }
}

/// Whether a connected stream gets services.
fn adopt(fd: c_int, role: Role) -> Result<bool, c_int> {
    if !is_stream(fd) {
        return Ok(false);
    }
    let Some((local, peer)) = below::addresses(fd) else { return Ok(false) };
    match plan::choose(libc::IPPROTO_TCP as u8, role, local, peer) {
        Some(chosen) => insert(fd, &chosen).map(|()| true),
        None => Ok(false),
    }
}

fn insert(fd: c_int, chosen: &Chosen) -> Result<(), c_int> {
    let mut stream = Stream::new(fd, chosen, sys::monotonic())?;
    widen(fd);
    // A peer that is refused at once is told by the first call on the descriptor: servers end when accept(2) fails.
    let _ = stream.go_on(fd);
    let held = Slot::make(Content::Stream(Box::new(stream))).ok_or(libc::ENOMEM)?;
    if !table::set(fd, held) {
        return Err(libc::EMFILE);
    }
    Ok(())
}

/// Makes the receive buffer large enough.
fn widen(fd: c_int) {
    // The kernel makes room for what SO_RCVLOWAT asks for, and goes on adapting the buffer then, which it gives up after
    // SO_RCVBUF; but it keeps to a buffer that the program has set.
    let water = |bytes| below::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
    let _ = water(LEAST_RECEIVE_BUFFER).and_then(|()| water(1));
    let room = below::option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0).unwrap_or(c_int::MAX);
    if room < 2 * LEAST_RECEIVE_BUFFER {
        let _ = below::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, LEAST_RECEIVE_BUFFER);
    }
}

/// At the start of a program: connections that it was given. One that nobody has used begins here as a server's; of one that
/// another program has used, the services' state is gone, and its first bytes are refused.
pub(crate) fn adopt_inherited() {
    for fd in 0..256 {
        if below::option(fd, libc::SOL_SOCKET, libc::SO_TYPE, 0).is_ok() {
            begin(fd);
        }
    }
}

/// A descriptor has come over a Unix socket, as [`adopt_inherited`] finds some. Where that cannot be, nothing goes over it.
pub fn arrived(fd: c_int) {
    if table::is_active() {
        drop_flow(fd);
        begin(fd);
    }
}

fn begin(fd: c_int) {
    let begun = match adopt(fd, Role::Server) {
        Ok(false) if is_datagram(fd) && plan::has_datagrams() => insert_datagrams(fd).map(|()| true),
        Ok(false) => adopt(fd, Role::Client),
        begun => begun,
    };
    if let Err(errno) = begun {
        log::decision(format_args!("a connection was refused by its services: errno {errno}"));
        below::shutdown(fd, libc::SHUT_RDWR);
    }
}

/// A number is no socket of ours any more, or never was.
#[inline]
pub fn created(fd: c_int) {
    if table::is_inserted(fd) {
        drop_flow(fd);
    }
}

fn drop_flow(fd: c_int) {
    drop(table::take(fd));
}

/// Before close(2): the flow ends, if this was its last descriptor. Always bypassed: the call itself is the others'.
#[inline]
pub fn close(fd: c_int) -> Outcome {
    if table::is_inserted(fd) && !process::is_vfork_child() {
        end(fd);
    }
    Err(Stop::Bypass(Reason::Untracked))
}

#[cold]
fn end(fd: c_int) {
    let Some((held, true)) = table::take(fd) else { return };
    // A copy that this process has not used is the other process's to end.
    if held.owner(crate::owner::Owner::has) != Some(true) {
        return;
    }
    if held.is_datagrams() {
        return end_datagrams(held, fd);
    }
    let linger =
        below::option(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 0, l_linger: 0 });
    let linger = linger.ok().filter(|linger| linger.l_onoff != 0).map(|linger| linger.l_linger.max(0) as u64);
    if linger == Some(0) {
        return;
    }
    let limit = linger.map(|seconds| sys::monotonic() + seconds * 1_000_000_000);
    loop {
        let Ok(mut stream) = held.lock() else { return };
        if !stream.close(fd) {
            return;
        }
        let events = stream.interest();
        drop(stream);
        match limit.map(|limit| limit.saturating_sub(sys::monotonic())) {
            Some(left @ 1..) => {
                let _ = below::wait(fd, events, Some(left.min(10_000_000)));
            }
            _ => return courier::finish(held, fd),
        }
    }
}

fn end_datagrams(held: Held, fd: c_int) {
    let Ok(mut it) = held.lock_any::<Datagrams>() else { return };
    if it.close(fd) {
        drop(it);
        courier::finish(held, fd);
    }
}

/// close_range(2), closefrom(3).
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> Outcome {
    const CLOSE_RANGE_CLOEXEC: c_int = 1 << 2;
    if table::is_active() && flags & CLOSE_RANGE_CLOEXEC == 0 && !process::is_vfork_child() {
        table::inserted(first, last).for_each(end);
    }
    Err(Stop::Bypass(Reason::Untracked))
}

/// Before dup2(2) puts something else behind `new`.
pub fn before_replace(old: c_int, new: c_int) {
    if old != new {
        let _ = close(new);
    }
}

/// After `new` was made a duplicate of `old`.
#[inline]
pub fn duplicated(old: c_int, new: c_int) {
    if new >= 0
        && old != new
        && (table::is_inserted(old) || table::is_inserted(new))
        && !process::is_vfork_child()
    {
        drop_flow(new);
        if let Some(held) = table::hold(old) {
            table::set(new, held);
        }
    }
}

/// Whether services are inserted into what the program does with a descriptor.
#[inline]
pub fn is_inserted(fd: c_int) -> bool {
    table::is_inserted(fd)
}

/// After epoll_ctl(2) has worked.
#[inline]
pub fn watched(epfd: c_int, fd: c_int) {
    if table::is_inserted(fd)
        && let Some(held) = table::hold(fd)
        && let Ok(mut stream) = held.lock_own::<Stream>()
    {
        stream.watch(epfd);
    }
}

/// At the end of the program: what it has written is sent, and the peers' programs get an end of file.
pub fn exit() {
    if table::is_active() && !process::is_vfork_child() {
        table::inserted(0, u32::MAX).for_each(end);
        courier::wait_for_all();
    }
}

/// shutdown(2).
pub fn shutdown(fd: c_int, how: c_int) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    if held.is_datagrams() {
        return Err(Stop::Bypass(Reason::Untracked));
    }
    if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
        return Err(errno(libc::EINVAL));
    }
    let mut stream = held.lock()?;
    if let Some(_failed) = stream.failure() {
        return Err(errno(libc::ENOTCONN));
    }
    stream.shut(fd, how);
    if stream.is_busy() {
        drop(stream);
        courier::enrol(fd);
    }
    Ok(0)
}
