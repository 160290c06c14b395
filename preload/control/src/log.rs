//! Reasons in words, on stderr, without allocating.

use crate::{confined, settings, sys};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// A line under construction; what does not fit is cut.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, words: &str) -> fmt::Result {
        // One byte is kept for the newline.
        let room = self.bytes.len() - 1 - self.len;
        let take = words.len().min(room);
        self.bytes[self.len..self.len + take].copy_from_slice(&words.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// Whether a peer reads what is written to the standard error: servers put their client's connection there (inetd(8), vsftpd), into
/// whose bytes ours must not come. A journal's socket is one of Unix.
fn is_talked_to() -> bool {
    if sys::mode(2).is_ok_and(|mode| mode & libc::S_IFMT != libc::S_IFSOCK) {
        return false;
    }
    // SAFETY: plain data, valid when zero.
    let mut address: libc::sockaddr_storage = unsafe { core::mem::zeroed() };
    confined::is_confined()
        || sys::getsockname(2, &mut address).is_err()
        || i32::from(address.ss_family) != libc::AF_UNIX
}

fn write(words: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    let _ = line.write_str("freena: ");
    let _ = line.write_fmt(words);
    line.bytes[line.len] = b'\n';
    if is_talked_to() {
        return;
    }
    let _ = sys::write(2, &line.bytes[..=line.len]);
}

/// Tells a decision where `FREENA_LOG=1` asks for it.
pub fn decision(words: fmt::Arguments<'_>) {
    if settings::get().log {
        write(words);
    }
}

/// Tells something that the user must know each time.
pub fn always(words: fmt::Arguments<'_>) {
    write(words);
}

/// Tells something that the user must know, once per process and `once`.
pub fn warning(once: &AtomicBool, words: fmt::Arguments<'_>) {
    if !once.swap(true, Ordering::Relaxed) {
        write(words);
    }
}
