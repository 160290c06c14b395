//! connect(2) of a stream socket, as tcp(7) and inet_stream_connect of the kernel have it.

use super::{is_nonblocking, phase, take_error};
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::{Held, Kind};
use crate::table::{self, Candidate, Entry};
use crate::{address, companion, options, receive, send, takeover, token};
use core::ffi::c_int;
use core::sync::atomic::Ordering;
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{client, process, settings};
use freena_shm_abi::Endpoint;
use freena_shm_abi::app::status;
use freena_shm_abi::control::{MAX_PROTOCOLS, Request, flag, op};
use freena_shm_abi::stream::state;
use libc::{sa_family_t, sockaddr, socklen_t};

/// connect(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> Outcome {
    if process::is_vfork_child() {
        return Err(Stop::Bypass(Reason::VforkChild));
    }
    if table::hold(fd).is_some() {
        // SAFETY: the caller's.
        if let Some(value) = unsafe { again(fd, address, len) }? {
            return Ok(value);
        }
    }
    let Entry::Candidate(candidate) = table::get(fd) else {
        return Err(Stop::Bypass(receive::not_ours(fd)));
    };
    // SAFETY: the caller's.
    let Some(peer) = (unsafe { destination(fd, address, len) }) else {
        // Disconnecting, another family, or something that is wrong: the kernel has the right answer.
        return Err(Stop::Bypass(Reason::Candidate));
    };
    if candidate.kind == Kind::Messages {
        return open_sctp(fd, candidate, peer);
    }
    let Some(protocols) = settings::get().connect.server() else {
        // What the program opens is the kernel's, what it accepts is not.
        table::duplicates(candidate).for_each(table::clear);
        return Err(Stop::Bypass(Reason::Candidate));
    };
    start(fd, candidate, peer, protocols, 0);
    let Some(held) = table::hold(fd) else {
        if settings::is_sealed(&protocols) && !peer.ip().is_loopback() {
            // The kernel's TCP would send in the clear what was to be encrypted: now, and when it is tried again.
            table::set_candidate(fd, candidate);
            return Err(Errno(libc::EPROTONOSUPPORT).into());
        }
        return Err(Stop::Bypass(Reason::Untracked));
    };
    let nonblocking = is_nonblocking(&held);
    if nonblocking && held.is_joined() {
        // It is there already; but no program has seen that at once, as the kernel's loopback never shows it.
        return Err(Errno(libc::EINPROGRESS).into());
    }
    drop(held);
    wait(fd, nonblocking, Errno(libc::EINPROGRESS))
}

/// Of a socket that its program has opened as SCTP: the kernel's TCP is no way for it.
fn open_sctp(fd: c_int, candidate: Candidate, peer: Endpoint) -> Outcome {
    start(fd, candidate, peer, super::SCTP_ALONE, flag::MESSAGES);
    let Some(held) = table::hold(fd) else {
        table::set_candidate(fd, candidate);
        let refused = if client::open().is_ok() { libc::ECONNREFUSED } else { libc::EPROTONOSUPPORT };
        return Err(Errno(refused).into());
    };
    let nonblocking = is_nonblocking(&held);
    if nonblocking && held.is_joined() {
        return Err(Errno(libc::EINPROGRESS).into());
    }
    drop(held);
    wait(fd, nonblocking, Errno(libc::EINPROGRESS))
}

unsafe fn destination(fd: c_int, address: *const sockaddr, len: socklen_t) -> Option<Endpoint> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    let peer = unsafe { address::destination(address, len, options::is_family6(fd)) }?;
    // A socket that is to speak IPv6 only, and an address that it cannot reach.
    let refused = peer.family == 6 && peer.ip().is_ipv4() && options::is_v6only(fd);
    (!refused).then_some(peer)
}

/// Asks the server to open the connection. Where it does not, the descriptor is no candidate any more.
fn start(fd: c_int, candidate: Candidate, peer: Endpoint, protocols: [u8; MAX_PROTOCOLS], flags: u16) {
    let settings = settings::get();
    let request = Request {
        peer,
        protocols,
        flags,
        stagger_ms: settings.stagger_ms,
        tx_size: settings.tx_size,
        rx_size: settings.rx_size,
        ..Request::new(op::CONNECT)
    };
    takeover::takeover(fd, candidate, &request);
}

/// On a socket of the framework: a value, an error, or none if it is a candidate now and connects anew.
unsafe fn again(fd: c_int, address: *const sockaddr, len: socklen_t) -> Outcome<Option<isize>> {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    let mut family: sa_family_t = 0;
    if address.is_null() {
        return Err(Errno(libc::EFAULT).into());
    }
    if len as usize >= size_of::<sa_family_t>() {
        // SAFETY: the caller's; a family fits.
        family = unsafe { address.cast::<sa_family_t>().read_unaligned() };
    }
    if i32::from(family) == libc::AF_UNSPEC {
        // The kernel resets the connection and has an unconnected socket afterwards (tcp_disconnect).
        super::asked(&held).linger.store(0, Ordering::Relaxed);
        give_back(fd, &held)?;
        return Ok(Some(0));
    }
    let status = held.app().status.load(Ordering::Relaxed);
    if status & status::FAILED != 0 {
        give_back(fd, &held)?;
        return Ok(None);
    }
    if status & status::CONNECTING == 0 {
        return Err(Errno(libc::EISCONN).into());
    }
    let nonblocking = is_nonblocking(&held);
    drop(held);
    wait(fd, nonblocking, Errno(libc::EALREADY)).map(Some)
}

/// Waits until it is known how the connecting has ended; `not_yet` for who does not want to wait.
fn wait(fd: c_int, nonblocking: bool, not_yet: Errno) -> Outcome {
    let mut spun = false;
    loop {
        {
            let held = table::hold(fd).ok_or(Error::Kernel(Errno(libc::EBADF)))?;
            if !state::is_connecting(phase(&held)) {
                return Ok(ended(&held)?);
            }
            if nonblocking {
                return Err(not_yet.into());
            }
            if !spun {
                spun = true;
                if token::spin(|| !state::is_connecting(phase(&held))) {
                    continue;
                }
            }
        }
        match send::wait(fd) {
            Ok(()) | Err(Stop::Error(Error::ServerGone | Error::ShutDown)) => {}
            // SO_SNDTIMEO has passed.
            Err(Stop::Error(Error::Kernel(Errno(libc::EAGAIN)))) => {
                return Err(Errno(libc::EINPROGRESS).into());
            }
            Err(stop) => return Err(stop),
        }
    }
}

/// Tells once how it has ended.
fn ended(held: &Held) -> Result<isize, Error> {
    let app = held.app();
    app.status.fetch_and(!status::CONNECTING, Ordering::Relaxed);
    let over = phase(held) == state::CLOSED;
    if over {
        app.status.fetch_or(status::FAILED, Ordering::Relaxed);
    }
    take_error(held)?;
    // Somebody else has asked for the error (SO_ERROR).
    if over { Err(Error::Kernel(Errno(libc::ECONNABORTED))) } else { Ok(0) }
}

/// Puts the kernel's own socket back under every number that the connection has in this process, as a candidate.
fn give_back(fd: c_int, held: &Held) -> Result<(), Error> {
    let kernel = companion::borrow(fd)?;
    let result = takeover::give_back(held, kernel);
    let _ = sys::close(kernel);
    result
}
