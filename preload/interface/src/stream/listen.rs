//! listen(2).

use super::is_listener;
use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::Kind;
use crate::table::{self, Entry};
use crate::{companion, takeover};
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_preload_control::{client, process, settings};
use freena_shm_abi::control::{Request, flag, op};

/// listen(2): the kernel's first, which checks the rights and reserves the port; then the server is asked to take over.
pub fn listen(fd: c_int, backlog: c_int) -> Outcome {
    let candidate = match table::get(fd) {
        Entry::Untracked => return Err(Stop::Bypass(Reason::Untracked)),
        _ if process::is_vfork_child() => return Err(Stop::Bypass(Reason::VforkChild)),
        Entry::Framework(_) => return again(fd, backlog),
        Entry::Candidate(candidate) => candidate,
    };
    if !candidate.kind.is_stream() {
        return Err(Stop::Bypass(Reason::Candidate));
    }
    takeover::retry_in_use(|| sys::listen(fd, backlog))?;
    let settings = settings::get();
    let has_messages = candidate.kind == Kind::Messages;
    let request = Request {
        flags: if has_messages { flag::MESSAGES } else { 0 },
        protocols: if has_messages {
            super::SCTP_ALONE
        } else {
            settings.stream.server().unwrap_or_default()
        },
        backlog: backlog.max(0) as u32,
        tx_size: settings.tx_size,
        rx_size: settings.rx_size,
        ..Request::new(op::TAKEOVER)
    };
    takeover::takeover(fd, candidate, &request);
    if (has_messages || settings::is_sealed(&request.protocols)) && table::hold(fd).is_none() {
        // The kernel would take peers that send in the clear, or that know of no messages. It stops listening (tcp_disconnect).
        let _ = sys::shutdown(fd, libc::SHUT_RDWR);
        table::set_candidate(fd, candidate);
        return Err(Errno(libc::EPROTONOSUPPORT).into());
    }
    Ok(0)
}

/// On a socket of the framework: another backlog for a listener, an error for any other.
fn again(fd: c_int, backlog: c_int) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    if !held.is_stream() {
        return Err(Errno(libc::EOPNOTSUPP).into());
    }
    if !is_listener(&held) {
        return Err(Error::Invalid.into());
    }
    companion::with(fd, &held, |kernel| Ok(sys::listen(kernel, backlog)?))?;
    let request = Request { backlog: backlog.max(1) as u32, ..Request::new(op::REFRESH) };
    client::close_all(&client::call(&request, &[fd])?.fds);
    Ok(0)
}
