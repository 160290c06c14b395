//! Memory for a datagram that is taken out of a queue, one piece for each thread. It is held over a call that may block, from
//! which a cancelled thread does not come back: then it stays unused, and nothing is to be dropped.

use std::cell::Cell;

/// Bytes of it: no datagram is longer.
const SIZE: usize = 65_536;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The memory, lent.
#[derive(Clone, Copy)]
pub(crate) struct Window(*mut u8);

impl Window {
    /// Takes the thread's; another piece where a signal handler has interrupted a call that uses it.
    pub(crate) fn lend() -> Self {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        let memory = spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Self(Box::into_raw(memory).cast())
    }

    /// As a buffer of a call.
    pub(crate) fn buffer(self) -> libc::iovec {
        libc::iovec { iov_base: self.0.cast(), iov_len: SIZE }
    }

    /// The first `length` bytes.
    ///
    /// # Safety
    /// It was not given back, and nobody writes to it meanwhile.
    pub(crate) unsafe fn bytes<'a>(self, length: usize) -> &'a [u8] {
        // SAFETY: there are `SIZE` bytes, zeroed when they were made.
        unsafe { std::slice::from_raw_parts(self.0, length.min(SIZE)) }
    }

    /// Gives it back.
    ///
    /// # Safety
    /// Once, and nobody uses it any more.
    pub(crate) unsafe fn give_back(self) {
        // SAFETY: made by `lend` from a box of this size.
        let memory = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.0, SIZE)) };
        let _ = SPARE.try_with(|spare| spare.set(Some(memory)));
    }
}
