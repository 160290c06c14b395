//! sendfile(2) and splice(2): a file or a pipe where the program's buffer would be.

use super::receive::{Bytes, pull};
use super::send::{MAX_BYTES, Room, is_framework, push};
use crate::outcome::{Error, Outcome, Reason, Stop};
use core::ffi::{c_int, c_uint};
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use freena_shm_ring::stream::Span;
use libc::{off_t, size_t};

const SPLICE_F_NONBLOCK: c_uint = 2;
const SPLICE_F_MORE: c_uint = 4;
/// What a pipe that is writable at all takes without waiting (`PIPE_BUF`, pipe(7)).
const PIPE_UNIT: usize = 4096;
// Of asm-generic/ioctls.h.
const FIONREAD: usize = 0x541b;

/// Whether a descriptor is open on a file of one of these types (`S_IFMT`, inode(7)).
fn is_file_type(fd: c_int, types: &[libc::mode_t]) -> Result<bool, Errno> {
    Ok(types.contains(&(sys::mode(fd)? & libc::S_IFMT)))
}

/// sendfile(2) to a connection: the file is read straight into the ring.
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> Outcome {
    is_framework(out)?;
    if !is_file_type(from, &[libc::S_IFREG, libc::S_IFBLK])? {
        return Err(Error::Invalid.into());
    }
    // SAFETY: null, or the program's.
    let mut place = unsafe { offset.as_ref() }.copied();
    if place.is_some_and(|place| place < 0) {
        return Err(Error::Invalid.into());
    }
    let sent = push(out, 0, count.min(MAX_BYTES), |room| {
        read_into(room, |span, done| {
            // SAFETY: the span is room of the ring that nobody else uses.
            unsafe {
                match place {
                    Some(place) => sys::pread_raw(from, span.data, span.len, place as usize + done),
                    None => sys::read_raw(from, span.data, span.len),
                }
            }
        })
        .inspect(|len| place = place.map(|place| place + *len as off_t))
    });
    if let Some(place) = place {
        // SAFETY: not null, since there is a place; the program's.
        unsafe { *offset = place };
    }
    none_at_end(sent)
}

/// Fills the room by `read`, which gets a span and how many bytes came before it; an error only if nothing came.
fn read_into(
    room: &Room<'_>,
    mut read: impl FnMut(Span, usize) -> Result<usize, Errno>,
) -> Result<usize, Error> {
    let mut done = 0;
    for span in room.pipe.spans(room.base, room.position, room.len) {
        if span.len == 0 {
            break;
        }
        match read(span, done) {
            Ok(len) => {
                done += len;
                if len < span.len {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    if done == 0 { Err(Error::EndOfFile) } else { Ok(done) }
}

/// Nothing sent since there was nothing is no error.
fn none_at_end(outcome: Outcome) -> Outcome {
    outcome.or_else(|stop| if stop == Stop::Error(Error::EndOfFile) { Ok(0) } else { Err(stop) })
}

/// splice(2) between a pipe and a connection.
///
/// # Safety
/// The pointers are the program's.
pub unsafe fn splice(
    from: c_int,
    from_offset: *mut i64,
    to: c_int,
    to_offset: *mut i64,
    len: size_t,
    flags: c_uint,
) -> Outcome {
    let (source, sink) = (is_framework(from).is_ok(), is_framework(to).is_ok());
    if !source && !sink {
        return Err(Stop::Bypass(Reason::Untracked));
    }
    let pipe = if source { to } else { from };
    if source && sink || !is_file_type(pipe, &[libc::S_IFIFO])? {
        return Err(Error::Invalid.into());
    }
    if !from_offset.is_null() || !to_offset.is_null() {
        return Err(Errno(libc::ESPIPE).into());
    }
    let len = len.min(MAX_BYTES);
    if len == 0 {
        return Ok(0);
    }
    if source { from_connection(from, to, len, flags) } else { to_connection(from, to, len, flags) }
}

/// Waits until the pipe can be read or written; with `SPLICE_F_NONBLOCK` or `O_NONBLOCK`, `EAGAIN`.
fn wait_for_pipe(pipe: c_int, events: i16, flags: c_uint) -> Outcome<()> {
    let before = sys::errno();
    let nonblocking =
        flags & SPLICE_F_NONBLOCK != 0 || sys::fcntl(pipe, libc::F_GETFL, 0)? & libc::O_NONBLOCK != 0;
    let mut entry = libc::pollfd { fd: pipe, events, revents: 0 };
    // SAFETY: one entry; no destructor is pending here or in the callers.
    match unsafe { next::poll(&mut entry, 1, if nonblocking { 0 } else { -1 }) } {
        0 => Err(Error::WouldBlock.into()),
        1.. => Ok(()),
        _ => {
            let errno = sys::errno();
            sys::set_errno(before);
            Err(Errno(errno).into())
        }
    }
}

/// Bytes in a pipe.
fn in_pipe(pipe: c_int) -> usize {
    let mut len: c_int = 0;
    // SAFETY: the kernel writes an integer.
    let asked = unsafe { sys::ioctl(pipe, FIONREAD, (&raw mut len).expose_provenance()) };
    asked.map_or(0, |_| len.max(0) as usize)
}

fn to_connection(pipe: c_int, to: c_int, len: usize, flags: c_uint) -> Outcome {
    wait_for_pipe(pipe, libc::POLLIN, flags)?;
    let have = in_pipe(pipe);
    if have == 0 {
        // Nobody writes to it any more.
        return Ok(0);
    }
    let mut wanted = if flags & SPLICE_F_MORE != 0 { libc::MSG_MORE } else { 0 };
    if flags & SPLICE_F_NONBLOCK != 0 {
        wanted |= libc::MSG_DONTWAIT;
    }
    none_at_end(push(to, wanted, len.min(have), |room| {
        // SAFETY: the span is room of the ring that nobody else uses.
        read_into(room, |span, _| unsafe { sys::read_raw(pipe, span.data, span.len) })
    }))
}

fn from_connection(from: c_int, pipe: c_int, len: usize, flags: c_uint) -> Outcome {
    wait_for_pipe(pipe, libc::POLLOUT, flags)?;
    // An empty pipe takes as much as it has; one that is not full, a unit at least.
    let room = match in_pipe(pipe) {
        0 => sys::fcntl(pipe, libc::F_GETPIPE_SZ, 0)? as usize,
        _ => PIPE_UNIT,
    };
    let wanted = if flags & SPLICE_F_NONBLOCK != 0 { libc::MSG_DONTWAIT } else { 0 };
    pull(from, wanted, len.min(room), |bytes: &Bytes<'_>, _| {
        let mut done = 0;
        for span in bytes.pipe.spans(bytes.base, bytes.position, bytes.len) {
            if span.len == 0 {
                continue;
            }
            // SAFETY: the span holds bytes of the ring that belong to the caller of this function.
            match unsafe { sys::write_raw(pipe, span.data, span.len) } {
                Ok(len) => done += len,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    })
}
