//! sendfile(2) and splice(2): the bytes pass the services, so they pass this process's memory.

use super::{UNTRACKED, write};
use crate::{errno, table};
use core::ffi::{c_int, c_uint};
use freena_preload_control::sys;
use freena_preload_interface::outcome::Outcome;
use libc::{iovec, off_t, size_t};

/// Bytes of a file that are read at a time.
const PIECE: usize = 64 * 1024;

/// sendfile(2).
///
/// # Safety
/// The pointer is the program's.
pub unsafe fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> Outcome {
    if !table::is_inserted(out) {
        return Err(UNTRACKED);
    }
    if table::is_datagrams(out) {
        // As of what cannot be sent so: programs read and write instead (sendfile(2)).
        return Err(errno(libc::EINVAL));
    }
    // SAFETY: null, or the program's.
    let given = unsafe { offset.as_ref() }.copied();
    // The file's own position moves by what was sent, not by what was read.
    let start = match given {
        Some(place) => place,
        None => position(from, 0, libc::SEEK_CUR)?,
    };
    if start < 0 {
        return Err(errno(libc::EINVAL));
    }
    let mut piece = vec![0; count.min(PIECE)];
    let mut sent = 0;
    let result = loop {
        let wanted = piece.len().min(count - sent);
        let got = match sys::pread(from, &mut piece[..wanted], start as usize + sent) {
            Ok(0) => break Ok(()),
            Ok(got) => got,
            Err(error) => break Err(error.into()),
        };
        let buffer = iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: got };
        // SAFETY: the piece is readable.
        match unsafe { write::push(out, &[buffer], 0) } {
            Ok(done) => {
                sent += done as usize;
                if (done as usize) < got || sent == count {
                    break Ok(());
                }
            }
            Err(stop) => break Err(stop),
        }
    };
    match given {
        // SAFETY: not null, since something was given; the program's.
        Some(place) => unsafe { *offset = place + sent as off_t },
        None => {
            position(from, start + sent as off_t, libc::SEEK_SET)?;
        }
    }
    if sent > 0 { Ok(sent as isize) } else { result.map(|()| 0) }
}

fn position(fd: c_int, offset: off_t, whence: c_int) -> Outcome<off_t> {
    // SAFETY: plain numbers.
    let position = unsafe { libc::lseek(fd, offset, whence) };
    if position < 0 { Err(errno(sys::errno())) } else { Ok(position) }
}

/// splice(2): `EINVAL`, by which the kernel tells of what cannot be spliced, and programs read and write instead.
pub fn splice(from: c_int, to: c_int, _flags: c_uint) -> Outcome {
    if table::is_inserted(from) || table::is_inserted(to) { Err(errno(libc::EINVAL)) } else { Err(UNTRACKED) }
}
