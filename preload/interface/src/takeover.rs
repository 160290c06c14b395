//! How a kernel socket becomes one of the framework.
//!
//! The kernel binds or connects first: it checks the rights, reserves the port, chooses addresses. Then the server gets
//! the socket as companion and hands out the application end, which takes the number of the kernel socket.

use crate::epoll;
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{self, Held, Kind};
use crate::table::{self, Candidate, Entry};
use crate::{companion, names, options, stream, token};
use core::ffi::c_int;
use core::mem::{size_of, zeroed};
use core::sync::atomic::{AtomicBool, Ordering};
use freena_preload_control::client::{self, Failure};
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{exclusive, log, next, process, settings};
use freena_shm_abi::app::status;
use freena_shm_abi::control::{Request, Response, op, verdict};
use freena_shm_ring::SocketMapping;
use libc::{AF_INET, AF_INET6, sockaddr, sockaddr_storage, sockaddr_un, socklen_t};
use std::os::fd::BorrowedFd;

static VERSION_TOLD: AtomicBool = AtomicBool::new(false);

/// How the server names the application ends: an abstract Unix address that begins so.
pub const NAME_PREFIX: &[u8] = b"\0freena-socket:";

/// The protocol to call socket(2) with, where sockets are to be of another one of the kernel's than the program knows.
#[inline]
pub fn substitute(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let settings = settings::get();
    let plain = kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    match (domain, plain, protocol) {
        (AF_INET | AF_INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {
            settings.datagram.or_kernels(protocol)
        }
        (AF_INET | AF_INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => {
            settings.stream.or_kernels(protocol)
        }
        // What the server carries by SCTP holds its port by a socket of the kernel's TCP.
        (AF_INET | AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_SCTP) if carries_sctp() => libc::IPPROTO_TCP,
        _ => protocol,
    }
}

/// Whether the server is to carry SCTP.
fn carries_sctp() -> bool {
    let number = libc::IPPROTO_SCTP as u8;
    settings::get().stream.server().is_some_and(|protocols| protocols.contains(&number))
}

/// After socket(2) has returned `fd`: notes it if it may become a framework socket.
pub fn created(fd: c_int, domain: c_int, kind: c_int, protocol: c_int) {
    if !settings::get().is_active() || fd < 0 {
        return;
    }
    let plain = kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let settings = settings::get();
    let may_become = match (domain, plain, protocol) {
        (AF_INET | AF_INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP)
            if settings.datagram.server().is_some() =>
        {
            Some(Kind::Datagram)
        }
        (AF_INET | AF_INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP)
            if settings.stream.server().is_some() =>
        {
            Some(Kind::Stream)
        }
        (AF_INET | AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_SCTP) if carries_sctp() => Some(Kind::Messages),
        _ => None,
    };
    // A number that was closed behind the library's back may still be noted as something else.
    if may_become.is_none() && !table::is_tracked(fd) || process::is_vfork_child() {
        return;
    }
    table::clear(fd);
    // The first one makes the connection, and tells the user where there is no server. What must not be sent in the clear is
    // noted all the same, so that it fails.
    if let Some(kind) = may_become
        && (client::open().is_ok()
            || kind == Kind::Messages
            || kind == Kind::Stream && settings.seals_streams())
    {
        table::set_candidate(fd, Candidate::new(kind, process::forks()));
        if let Some(note) = table::note(fd).filter(|_| kind == Kind::Messages) {
            note.store(0, Ordering::Relaxed);
        }
    }
}

/// Makes a call that may find an address in use: once more after the server has finished with sockets that this program
/// closed a moment ago.
///
/// # Errors
/// Those of the call.
pub(crate) fn retry_in_use<T: PartialEq>(call: impl Fn() -> sys::Result<T>) -> sys::Result<T> {
    let result = call();
    if result == Err(Errno(libc::EADDRINUSE)) && client::call(&Request::new(op::SYNC), &[]).is_ok() {
        return call();
    }
    result
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
            if held.is_stream() {
                // One that is connected or listens is bound.
                return Err(Error::Invalid.into());
            }
            Ok(companion::change(fd, &held, bind)?)
        }
        Entry::Candidate(candidate) => {
            // SAFETY: the program's pointer, which the kernel checks; bind is no cancellation point.
            retry_in_use(|| unsafe { sys::bind_raw(fd, address, len) })?;
            // A stream socket is taken over when it listens or connects.
            if candidate.kind == Kind::Datagram {
                takeover(fd, candidate, &datagram_request());
            }
            Ok(0)
        }
    }
}

/// connect(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> Outcome {
    if table::kind(fd).is_some_and(Kind::is_stream) {
        // SAFETY: the caller's.
        return unsafe { stream::connect::connect(fd, address, len) };
    }
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
        takeover(fd, candidate, &datagram_request());
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
    takeover(fd, candidate, &datagram_request());
    Ok(())
}

fn datagram_request() -> Request {
    let settings = settings::get();
    Request {
        tx_size: settings.tx_size,
        rx_size: settings.rx_size,
        ..Request::of(op::TAKEOVER, libc::IPPROTO_UDP as u8)
    }
}

/// Asks the server to carry a candidate, and puts the answer into effect. Where that fails the socket stays with the
/// kernel, and the reason is told.
pub(crate) fn takeover(fd: c_int, candidate: Candidate, request: &Request) {
    let stays = |reason: core::fmt::Arguments<'_>| {
        table::duplicates(candidate).for_each(table::clear);
        log::decision(format_args!("socket fd {fd} stays with the kernel: {reason}"));
    };
    if candidate.forks != process::forks() {
        let before = match candidate.kind {
            Kind::Datagram => "bind",
            Kind::Stream | Kind::Messages => "listen or connect",
        };
        return stays(format_args!("shared by fork before {before}"));
    }
    // The connection holds the process's lock to the end: of two threads that come here with one socket, one does it.
    let mut connection = match client::open() {
        Ok(connection) => connection,
        Err(failure) => return stays(format_args!("{failure}")),
    };
    if !matches!(table::get(fd), Entry::Candidate(still) if still == candidate) {
        return;
    }
    // Asked before the server has the socket: it makes a listener's nonblocking for itself, and flags are shared.
    let Ok(flags) = sys::fcntl(fd, libc::F_GETFL, 0) else { return };
    let mut answer = connection.call(request, &[fd]);
    if answer.as_ref().err() == Some(&Failure::Gone) {
        // The server was restarted since the last request.
        drop(connection);
        connection = match client::open() {
            Ok(connection) => connection,
            Err(failure) => return stays(format_args!("{failure}")),
        };
        answer = connection.call(request, &[fd]);
    }
    let reply = match answer {
        Ok(reply) => reply,
        Err(failure) => {
            if let Failure::Version(_) = failure {
                log::warning(&VERSION_TOLD, format_args!("{failure}; sockets stay with the kernel"));
            }
            return stays(format_args!("{failure}"));
        }
    };
    if reply.response.verdict != verdict::FAST {
        client::close_all(&reply.fds);
        return stays(format_args!("{}", reply.response.reason()));
    }
    let [end, memory, joint, peer_end] = reply.fds;
    let result = map(memory, joint, peer_end).and_then(|held| {
        copy_status(fd, flags, end, &held)?;
        install(fd, candidate, end, held, request, &reply.response)
    });
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

/// Maps a socket's memory, and the one that it shares with its peer if it is joined. The descriptors are used up: those of
/// the memories are closed, the server's end of the peer is kept with the socket.
pub(crate) fn map(memory: c_int, joint: c_int, peer_end: c_int) -> Result<Held, Errno> {
    let mapping = if memory < 0 {
        Err(Errno(libc::EPROTO))
    } else {
        // SAFETY: descriptors that came from the server, open until they are closed below.
        let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
        let opened = match joint {
            0.. => SocketMapping::open_joined(borrow(memory), borrow(joint)),
            _ => SocketMapping::open(borrow(memory)),
        };
        opened.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EPROTO)))
    };
    client::close_all(&[memory, joint]);
    match mapping {
        Ok(mapping) => socket::insert(mapping, peer_end).ok_or(Errno(libc::ENOMEM)),
        Err(errno) => {
            client::close_all(&[peer_end]);
            Err(errno)
        }
    }
}

/// Puts the application end in the place of the kernel socket, under every number that it has.
fn install(
    fd: c_int,
    candidate: Candidate,
    end: c_int,
    held: Held,
    request: &Request,
    response: &Response,
) -> Result<(), Errno> {
    let app = held.app();
    if held.kind() != candidate.kind {
        return Err(Errno(libc::EPROTO));
    }
    match candidate.kind {
        Kind::Datagram => options::load(app, fd),
        Kind::Stream | Kind::Messages => {
            stream::options::load(&held, fd);
            stream::options::note_timeouts(&held, fd);
        }
    }
    if let Some(note) = table::note(fd).filter(|_| candidate.kind == Kind::Messages) {
        app.stream.told.store(note.load(Ordering::Relaxed).into(), Ordering::Relaxed);
    }
    if request.op == op::CONNECT {
        app.status.fetch_or(status::CONNECTING, Ordering::Relaxed);
        names::set(app, &names::Names { local: response.local, peer: response.peer });
    } else {
        names::refresh(app, fd);
        shrink(end);
    }
    options::copy_timeout(fd, end, libc::SO_RCVTIMEO);
    options::copy_timeout(fd, end, libc::SO_SNDTIMEO);
    replace(end, table::duplicates(candidate), |number, polled| {
        table::set_framework(number, held.clone());
        if let Some(events) = polled {
            epoll::watched(number, &held, events);
        }
    })
}

/// Small, so that one message makes the descriptor unwritable (see `token::fill`).
pub(crate) fn shrink(end: c_int) {
    let _ = sys::set_option(end, libc::SOL_SOCKET, libc::SO_SNDBUF, &(token::FILL_LEN as c_int));
}

/// Notes an application end that came by itself, under its own number.
pub(crate) fn place(fd: c_int, held: Held) {
    table::set_framework(fd, held);
}

/// Puts `new` under each of the numbers, which keep their close-on-exec flag; `note` notes it, and for what
/// epoll instances watch it, if any does.
fn replace(
    new: c_int,
    numbers: impl Iterator<Item = c_int>,
    note: impl Fn(c_int, Option<u32>),
) -> Result<(), Errno> {
    let mut result = Err(Errno(libc::EBADF));
    for number in numbers {
        let Ok(cloexec) = sys::fcntl(number, libc::F_GETFD, 0) else {
            table::clear(number);
            continue;
        };
        let flags = if cloexec & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
        epoll::leave(number);
        let replaced = sys::dup3(new, number, flags);
        let polled = epoll::enter_again(number);
        if replaced.is_ok() {
            note(number, polled);
        }
        result = result.or(replaced);
    }
    result
}

/// Puts a kernel socket in the place of a connection that has failed or was given up, as a candidate again.
///
/// # Errors
/// No descriptor could be replaced.
pub(crate) fn give_back(held: &Held, kernel: c_int) -> Result<(), Error> {
    let status = if stream::is_nonblocking(held) { libc::O_NONBLOCK } else { 0 };
    let now = sys::fcntl(kernel, libc::F_GETFL, 0)?;
    sys::fcntl(kernel, libc::F_SETFL, (now & !libc::O_NONBLOCK | status) as usize)?;
    let candidate = Candidate::new(held.kind(), process::forks());
    let numbers =
        table::tracked(0, u32::MAX).filter(|fd| table::hold(*fd).is_some_and(|other| other.is_same(held)));
    let _lock = exclusive::enter();
    Ok(replace(kernel, numbers, |number, _| table::set_candidate(number, candidate))?)
}

/// Copies `O_NONBLOCK`, `O_ASYNC` (of `flags`) and who gets the signals.
fn copy_status(from: c_int, flags: c_int, to: c_int, held: &Held) -> Result<(), Errno> {
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
        token::make_eager(to, held);
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
    if fd < 0 || !settings::get().is_active() || process::is_vfork_child() {
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
        let [memory, joint, peer_end, surplus] = reply.fds;
        client::close_all(&[surplus]);
        map(memory, joint, peer_end).map_err(Stop::from)
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
