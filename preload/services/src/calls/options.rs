//! Options whose unit is a byte of the program's, and what services cannot do.

use super::{UNTRACKED, datagrams};
use crate::opened::LEAST_RECEIVE_BUFFER;
use crate::{below, errno, table};
use core::ffi::{c_int, c_void};
use freena_preload_interface::outcome::Outcome;
use libc::{SO_RCVBUF, SO_RCVBUFFORCE, SO_RCVLOWAT, SO_ZEROCOPY, SOL_SOCKET, socklen_t};

const FIONREAD: u32 = 0x541b;

/// # Safety
/// The pointer is the program's.
unsafe fn number(value: *const c_void, len: socklen_t) -> Outcome<c_int> {
    if (len as usize) < size_of::<c_int>() {
        return Err(errno(libc::EINVAL));
    }
    // SAFETY: the caller's; not null where there is something.
    unsafe { value.cast::<c_int>().as_ref() }.copied().ok_or_else(|| errno(libc::EFAULT))
}

/// setsockopt(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Outcome {
    if table::is_datagrams(fd) {
        return datagrams::set_option(level, name);
    }
    if level != SOL_SOCKET || !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    match name {
        SO_RCVLOWAT => {
            // SAFETY: the caller's.
            let wanted = unsafe { number(value, len) }?;
            let held = table::hold(fd).ok_or(UNTRACKED)?;
            // As sock_setsockopt.
            held.lock()?.own_low_water = if wanted < 0 { c_int::MAX } else { wanted.max(1) };
            Ok(0)
        }
        SO_RCVBUF | SO_RCVBUFFORCE => {
            // SAFETY: the caller's.
            let wanted = unsafe { number(value, len) }?;
            if wanted >= LEAST_RECEIVE_BUFFER {
                return Err(UNTRACKED);
            }
            below::set_option(fd, level, name, LEAST_RECEIVE_BUFFER)?;
            Ok(0)
        }
        SO_ZEROCOPY => Err(errno(libc::EOPNOTSUPP)),
        _ => Err(UNTRACKED),
    }
}

/// getsockopt(2).
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome {
    if table::is_datagrams(fd) {
        let growth = datagrams::shortened(fd, level, name).ok_or(UNTRACKED)?;
        let mtu = below::option(fd, level, name, 0 as c_int)?;
        // SAFETY: the caller's.
        return unsafe { tell(mtu.saturating_sub_unsigned(growth as u32), value, len) };
    }
    if level != SOL_SOCKET || name != SO_RCVLOWAT || !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    let held = table::hold(fd).ok_or(UNTRACKED)?;
    let own = held.lock()?.own_low_water;
    // SAFETY: the caller's.
    unsafe { tell(own, value, len) }
}

/// # Safety
/// The pointers are the program's.
unsafe fn tell(own: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    // SAFETY: the caller's.
    unsafe {
        let (Some(len), false) = (len.as_mut(), value.is_null()) else { return Err(errno(libc::EFAULT)) };
        let copy = (*len as usize).min(size_of::<c_int>());
        value.cast::<u8>().copy_from_nonoverlapping((&raw const own).cast(), copy);
        *len = copy as socklen_t;
    }
    Ok(0)
}

/// ioctl(2).
///
/// # Safety
/// `arg` is what the program passed.
pub unsafe fn ioctl(fd: c_int, request: usize, arg: usize) -> Outcome {
    if request as u32 != FIONREAD || !table::is_inserted(fd) {
        return Err(UNTRACKED);
    }
    let readable = if table::is_datagrams(fd) {
        datagrams::next_length(fd)?
    } else {
        let held = table::hold(fd).ok_or(UNTRACKED)?;
        let mut stream = held.lock()?;
        let _ = stream.look(fd);
        if stream.is_plain() {
            return Err(UNTRACKED);
        }
        stream.readable()
    };
    let to = core::ptr::with_exposed_provenance_mut::<c_int>(arg);
    if to.is_null() {
        return Err(errno(libc::EFAULT));
    }
    // SAFETY: not null; the program's.
    unsafe { to.write_unaligned(readable as c_int) };
    Ok(0)
}
