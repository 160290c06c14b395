//! How a kernel socket becomes one of the framework.
//!
//! The kernel binds or connects first: it checks the rights, reserves the port, chooses addresses. Then the server gets
//! the socket as companion and hands out the application end, which takes the number of the kernel socket.

use crate::epoll;
use crate::outcome::{Outcome, Reason, Stop};
use crate::socket::{self, Held};
use crate::table::{self, Candidate, Entry};
use crate::{companion, names, options, token};
use core::ffi::c_int;
use core::mem::{size_of, zeroed};
use core::sync::atomic::{AtomicBool, Ordering};
use freena_preload_control::client::{self, Failure};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{log, next, process, settings};
use freena_shm_abi::app::status;
use freena_shm_abi::control::{Request, op, verdict};
use freena_shm_ring::SocketMapping;
use libc::{sockaddr, sockaddr_storage, sockaddr_un, socklen_t};
use std::os::fd::BorrowedFd;

static VERSION_TOLD: AtomicBool = AtomicBool::new(false);

/// How the server names the application ends: an abstract Unix address that begins so.
pub const NAME_PREFIX: &[u8] = b"\0freena-socket:";

/// After socket(2) has returned `fd`: notes it if it may become a framework socket.
pub fn created(fd: c_int, domain: c_int, kind: c_int, protocol: c_int) {
    if !settings::get().datagram || fd < 0 {
        return;
    }
    let plain = kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let udp = matches!(domain, libc::AF_INET | libc::AF_INET6)
        && plain == libc::SOCK_DGRAM
        && matches!(protocol, 0 | libc::IPPROTO_UDP);
    // A number that was closed behind the library's back may still be noted as something else.
    if !udp && !table::is_tracked(fd) || process::is_vfork_child() {
        return;
    }
    table::clear(fd);
    if udp {
        // The first one makes the connection, and tells the user where there is no server.
        if client::open().is_ok() {
            table::set_candidate(fd, Candidate::new(process::forks()));
        }
    }
}

/// bind(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> Outcome {
    match table::get(fd) {
        Entry::Untracked => Err(Stop::Bypass(Reason::Untracked)),
        _ if process::is_vfork_child() => Err(Stop::Bypass(Reason::VforkChild)),
        Entry::Framework(_) => {
            // The kernel has the answer: EINVAL for a second bind, unless disconnecting gave the port up.
            let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
            // SAFETY: the kernel checks the program's pointer.
            let bind = |kernel| Ok(unsafe { sys::bind_raw(kernel, address, len) }?);
            Ok(companion::change(fd, &held, bind)?)
        }
        Entry::Candidate(candidate) => {
            // SAFETY: the program's pointer, which the kernel checks; bind is no cancellation point.
            let mut result = unsafe { sys::bind_raw(fd, address, len) };
            if result == Err(Errno(libc::EADDRINUSE)) {
                // A socket that this program closed a moment ago may still have the port.
                if client::call(&Request::new(op::SYNC), &[]).is_ok() {
                    // SAFETY: as above.
                    result = unsafe { sys::bind_raw(fd, address, len) };
                }
            }
            result?;
            takeover(fd, candidate);
            Ok(0)
        }
    }
}

/// connect(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> Outcome {
    let candidate = match table::get(fd) {
        Entry::Untracked => return Err(Stop::Bypass(Reason::Untracked)),
        _ if process::is_vfork_child() => return Err(Stop::Bypass(Reason::VforkChild)),
        Entry::Framework(_) => {
            let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
            // SAFETY: the kernel checks the program's pointer.
            let connect = |kernel| Ok(unsafe { sys::connect_raw(kernel, address, len) }?);
            return Ok(companion::change(fd, &held, connect)?);
        }
        Entry::Candidate(candidate) => candidate,
    };
    let before = sys::errno();
    // SAFETY: the program's pointer; connect is a cancellation point, and no destructor is pending.
    if unsafe { next::connect(fd, address, len) } < 0 {
        let errno = sys::errno();
        sys::set_errno(before);
        return Err(Errno(errno).into());
    }
    // Disconnecting (AF_UNSPEC) leaves nothing to take over.
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let mut peer: sockaddr_storage = unsafe { zeroed() };
    if sys::getpeername(fd, &mut peer).is_ok() {
        takeover(fd, candidate);
    }
    Ok(0)
}

/// A candidate sends to an address before it has one itself: binds it as the kernel would, and takes it over.
pub fn before_first_send(fd: c_int) -> Outcome<()> {
    let Entry::Candidate(candidate) = table::get(fd) else { return Ok(()) };
    if process::is_vfork_child() {
        return Err(Stop::Bypass(Reason::VforkChild));
    }
    // SAFETY: `sockaddr_storage` is plain data, valid when zero.
    let mut local: sockaddr_storage = unsafe { zeroed() };
    let len = sys::getsockname(fd, &mut local)?;
    // SAFETY: `local` has `len` bytes. sin_port and sin6_port lie at the same place.
    let port = unsafe { (*(&raw const local).cast::<libc::sockaddr_in>()).sin_port };
    if port == 0 {
        // The wildcard address, port 0: the kernel chooses an ephemeral one. Where it has none left the send says so.
        if sys::bind(fd, &local, len).is_err() {
            return Err(Stop::Bypass(Reason::Candidate));
        }
    }
    takeover(fd, candidate);
    Ok(())
}

/// Asks the server to carry a candidate that is bound, and puts the answer into effect. Where that fails the socket
/// stays with the kernel, and the reason is told.
fn takeover(fd: c_int, candidate: Candidate) {
    let stays = |reason: core::fmt::Arguments<'_>| {
        table::duplicates(candidate).for_each(table::clear);
        log::decision(format_args!("socket fd {fd} stays with the kernel: {reason}"));
    };
    if candidate.forks != process::forks() {
        return stays(format_args!("shared by fork before bind"));
    }
    let settings = settings::get();
    let request = Request {
        tx_size: settings.tx_size,
        rx_size: settings.rx_size,
        protocol: libc::IPPROTO_UDP as u32,
        ..Request::new(op::TAKEOVER)
    };
    // The connection holds the process's lock to the end: of two threads that come here with one socket, one does it.
    let mut connection = match client::open() {
        Ok(connection) => connection,
        Err(failure) => return stays(format_args!("{failure}")),
    };
    if !matches!(table::get(fd), Entry::Candidate(still) if still == candidate) {
        return;
    }
    let mut answer = connection.call(&request, &[fd]);
    if answer.as_ref().err() == Some(&Failure::Gone) {
        // The server was restarted since the last request.
        drop(connection);
        connection = match client::open() {
            Ok(connection) => connection,
            Err(failure) => return stays(format_args!("{failure}")),
        };
        answer = connection.call(&request, &[fd]);
    }
    let reply = match answer {
        Ok(reply) => reply,
        Err(failure) => {
            if let Failure::Version(_) = failure {
                log::warning(&VERSION_TOLD, format_args!("{failure}; datagram sockets stay with the kernel"));
            }
            return stays(format_args!("{failure}"));
        }
    };
    if reply.response.verdict != verdict::FAST {
        client::close_all(&reply.fds);
        return stays(format_args!("{}", reply.response.reason()));
    }
    let [end, memory] = reply.fds;
    let result = map(memory).and_then(|held| install(fd, candidate, end, held));
    let _ = sys::close(end);
    match result {
        Ok(()) => {
            let id = reply.response.socket_id;
            log::decision(format_args!(
                "socket fd {fd} is framework socket {id}: {}",
                reply.response.reason()
            ));
        }
        Err(errno) => stays(format_args!("it could not be put in place (errno {})", errno.0)),
    }
    drop(connection);
}

/// Maps a socket's memory and closes its descriptor.
fn map(memory: c_int) -> Result<Held, Errno> {
    if memory < 0 {
        return Err(Errno(libc::EPROTO));
    }
    // SAFETY: `memory` is open until the end of this function.
    let mapping = SocketMapping::open(unsafe { BorrowedFd::borrow_raw(memory) });
    let _ = sys::close(memory);
    let mapping = mapping.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EPROTO)))?;
    socket::insert(mapping).ok_or(Errno(libc::ENOMEM))
}

/// Puts the application end in the place of the kernel socket, under every number that it has.
fn install(fd: c_int, candidate: Candidate, end: c_int, held: Held) -> Result<(), Errno> {
    let app = held.app();
    options::load(app, fd);
    names::refresh(app, fd);
    options::copy_timeout(fd, end, libc::SO_RCVTIMEO);
    options::copy_timeout(fd, end, libc::SO_SNDTIMEO);
    // Small, so that one message makes the descriptor unwritable (see `token::fill`).
    let _ = sys::set_option(end, libc::SOL_SOCKET, libc::SO_SNDBUF, &(token::FILL_LEN as c_int));
    copy_status(fd, end, &held)?;
    let mut result = Err(Errno(libc::EBADF));
    for number in table::duplicates(candidate) {
        let Ok(cloexec) = sys::fcntl(number, libc::F_GETFD, 0) else {
            table::clear(number);
            continue;
        };
        let flags = if cloexec & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
        epoll::leave(number);
        match sys::dup3(end, number, flags) {
            Ok(()) => {
                table::set_framework(number, held.clone());
                epoll::enter_again(number, &held);
                result = Ok(());
            }
            Err(errno) => {
                epoll::enter_again(number, &held);
                result = result.or(Err(errno));
            }
        }
    }
    result
}

/// Copies `O_NONBLOCK`, `O_ASYNC` and who gets the signals.
fn copy_status(from: c_int, to: c_int, held: &Held) -> Result<(), Errno> {
    let flags = sys::fcntl(from, libc::F_GETFL, 0)?;
    if flags & libc::O_NONBLOCK != 0 {
        held.app().status.fetch_or(status::NONBLOCK, Ordering::Relaxed);
    }
    // F_GETOWN_EX and F_SETOWN_EX of fcntl(2): type and id.
    let mut owner = [0 as c_int; 2];
    let pointer = owner.as_mut_ptr() as usize;
    if sys::fcntl(from, 16, pointer).is_ok() && owner[1] != 0 {
        let _ = sys::fcntl(to, 15, pointer);
    }
    // F_GETSIG and F_SETSIG.
    if let Ok(signal @ 1..) = sys::fcntl(from, 11, 0) {
        let _ = sys::fcntl(to, 10, signal as usize);
    }
    sys::fcntl(to, libc::F_SETFL, flags as usize)?;
    if flags & libc::O_ASYNC != 0 {
        token::make_exact(to, held);
    }
    Ok(())
}

/// Whether a descriptor is an application end that some server made.
pub fn is_application_end(fd: c_int) -> bool {
    // SAFETY: `sockaddr_un` is plain data, valid when zero.
    let mut peer: sockaddr_un = unsafe { zeroed() };
    let Ok(len) = sys::getpeername(fd, &mut peer) else { return false };
    let name = len.saturating_sub(size_of::<libc::sa_family_t>());
    i32::from(peer.sun_family) == libc::AF_UNIX
        && name >= NAME_PREFIX.len()
        && peer.sun_path.iter().zip(NAME_PREFIX).all(|(have, want)| *have as u8 == *want)
}

/// Finds the framework socket behind a descriptor that came from elsewhere: inherited over exec, or received.
pub fn adopt(fd: c_int) {
    if fd < 0 || !settings::get().datagram || process::is_vfork_child() {
        return;
    }
    if table::is_tracked(fd) {
        // Closed behind the library's back, and the number given anew.
        table::clear(fd);
    }
    if !is_application_end(fd) {
        return;
    }
    let adopted = client::call(&Request::new(op::ADOPT), &[fd]).map_err(|failure| failure.into());
    let held = adopted.and_then(|reply| {
        let _ = reply.fds[1] >= 0 && sys::close(reply.fds[1]).is_ok();
        map(reply.fds[0]).map_err(Stop::from)
    });
    match held {
        Ok(held) => {
            if held.app().polled.load(Ordering::Relaxed) != 0 {
                token::make_exact(fd, &held);
            }
            table::set_framework(fd, held);
            log::decision(format_args!("socket fd {fd} was inherited or received"));
        }
        Err(_) => {
            log::decision(format_args!("socket fd {fd} was inherited or received, but its server is gone"))
        }
    }
}

/// Looks at the descriptors that this program was started with.
pub(crate) fn adopt_inherited() {
    let Ok(folder) = sys::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) else { return };
    let mut entries = [0u8; 1024];
    while let Ok(len @ 1..) = sys::getdents(folder, &mut entries) {
        let mut at = 0;
        // linux_dirent64 of getdents64(2): inode 8, offset 8, record length 2, type 1, name.
        while at + 19 < len {
            let record = usize::from(u16::from_ne_bytes([entries[at + 16], entries[at + 17]]));
            let name = &entries[at + 19..(at + record).min(len)];
            let digits = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let Some(fd) = core::str::from_utf8(digits).ok().and_then(|text| text.parse::<c_int>().ok()) {
                adopt(fd);
            }
            if record == 0 {
                break;
            }
            at += record;
        }
    }
    let _ = sys::close(folder);
}
