//! Reasons in words, on stderr, without allocating.

use crate::{settings, sys};
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

fn write(words: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    let _ = line.write_str("freena: ");
    let _ = line.write_fmt(words);
    line.bytes[line.len] = b'\n';
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
