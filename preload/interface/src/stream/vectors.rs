//! The program's buffers, as readv(2) and writev(2) name them.

use super::send::MAX_BYTES;
use crate::outcome::Error;
use freena_preload_control::sys::Errno;
use libc::iovec;

/// Buffers of the program, and how far they have been used.
pub(crate) struct Vectors {
    vectors: *const iovec,
    count: usize,
    index: usize,
    offset: usize,
}

impl Vectors {
    pub(crate) fn new(vectors: *const iovec, count: usize) -> Self {
        Vectors { vectors, count, index: 0, offset: 0 }
    }

    /// Bytes in all, as far as one call goes.
    ///
    /// # Safety
    /// `count` vectors are readable.
    pub(crate) unsafe fn len(&self) -> usize {
        // SAFETY: the caller's.
        let lens = (0..self.count).map(|index| unsafe { (*self.vectors.add(index)).iov_len });
        lens.fold(0usize, usize::saturating_add).min(MAX_BYTES)
    }

    /// Goes on through the buffers by up to `len` bytes; `copy` is told where a piece is, how many bytes came before it in
    /// this call, and how long it is. Returns how many in all. `EFAULT` for a null buffer before any.
    ///
    /// # Safety
    /// `count` vectors are readable.
    pub(crate) unsafe fn each(
        &mut self,
        len: usize,
        mut copy: impl FnMut(*mut u8, usize, usize),
    ) -> Result<usize, Error> {
        let mut done = 0;
        while done < len && self.index < self.count {
            // SAFETY: the caller's. Another thread may change a length meanwhile, so it is bounded by what is asked for.
            let vector = unsafe { *self.vectors.add(self.index) };
            let take = vector.iov_len.saturating_sub(self.offset).min(len - done);
            if take > 0 && vector.iov_base.is_null() {
                return if done > 0 { Ok(done) } else { Err(Error::Kernel(Errno(libc::EFAULT))) };
            }
            copy(vector.iov_base.cast::<u8>().wrapping_add(self.offset), done, take);
            done += take;
            self.offset += take;
            if self.offset >= vector.iov_len {
                self.index += 1;
                self.offset = 0;
            }
        }
        Ok(done)
    }

    /// Begins anew.
    pub(crate) fn rewind(&mut self) {
        (self.index, self.offset) = (0, 0);
    }
}
