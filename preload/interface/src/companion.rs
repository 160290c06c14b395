//! The companion: the real kernel socket that owns the port. The server keeps it; the program borrows it for what the kernel must answer.

use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::socket::Held;
use crate::{names, options, table};
use core::ffi::c_int;
use freena_preload_control::{client, own, sys};
use freena_shm_abi::control::{Request, op};

/// Borrows the companion for the time of `call`.
///
/// # Errors
/// The server cannot be asked, or `call` fails.
pub fn with<T>(fd: c_int, held: &Held, call: impl FnOnce(c_int) -> Result<T, Error>) -> Result<T, Error> {
    if let Some(cached) = held.cached_companion() {
        return call(cached);
    }
    let companion = borrow(fd)?;
    let result = call(companion);
    let _ = sys::close(companion);
    result
}

/// Borrows it as [`with`] does, for a call that changes something: tells the server, and reads names and options anew.
///
/// # Errors
/// As [`with`].
pub fn change<T>(fd: c_int, held: &Held, call: impl FnOnce(c_int) -> Result<T, Error>) -> Result<T, Error> {
    with(fd, held, |companion| {
        let value = call(companion)?;
        let reply = client::call(&Request::new(op::REFRESH), &[fd])?;
        client::close_all(&reply.fds);
        names::refresh(held.app(), companion);
        options::load(held.app(), companion);
        Ok(value)
    })
}

/// Borrows it for good: datagrams go through it, and more will.
///
/// # Errors
/// The server cannot be asked, or no descriptor is free.
pub fn keep(fd: c_int, held: &Held) -> Result<c_int, Error> {
    match held.cached_companion() {
        Some(cached) => Ok(cached),
        None => Ok(held.cache_companion(own::keep(borrow(fd)?)?)),
    }
}

/// Makes a call on the companion of a framework socket; bypassed for any other descriptor.
///
/// # Errors
/// As [`with`].
pub fn forward(fd: c_int, call: impl FnOnce(c_int) -> sys::Result<isize>) -> Outcome {
    let held = table::hold(fd).ok_or(Stop::Bypass(Reason::Untracked))?;
    Ok(with(fd, &held, |companion| Ok(call(companion)?))?)
}

/// Asks the server for the companion of the socket behind `fd`.
///
/// # Errors
/// The server cannot be asked.
pub fn borrow(fd: c_int) -> Result<c_int, Error> {
    let reply = client::call(&Request::new(op::COMPANION), &[fd])?;
    match reply.fds[0] {
        -1 => Err(Error::ServerGone),
        companion => Ok(companion),
    }
}
