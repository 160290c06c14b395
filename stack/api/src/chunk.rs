//! Payload that lies in memory shared with a process that may be hostile.

use std::marker::PhantomData;

/// A span of payload bytes in memory that another process may be writing at this moment.
///
/// No reference to the bytes is ever made, since a reference promises that nobody else writes. They are copied out, or
/// handed to the kernel by address as an `iovec`. What is read may be torn; it is payload, never a length or an offset.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Chunk<'a> {
    // The layout of `struct iovec` (man 2 readv), so that a slice of chunks can be given to sendmsg.
    base: *const u8,
    len: usize,
    memory: PhantomData<&'a u8>,
}

// SAFETY: a chunk is a shared view, as `&'a [u8]` is, and its bytes are only ever copied.
unsafe impl Send for Chunk<'_> {}
// SAFETY: as above.
unsafe impl Sync for Chunk<'_> {}

impl<'a> Chunk<'a> {
    /// Wraps `len` bytes at `base`.
    ///
    /// # Safety
    /// `base..base + len` must lie within one mapping that stays mapped and readable for `'a`.
    pub const unsafe fn from_raw(base: *const u8, len: usize) -> Self {
        Chunk { base, len, memory: PhantomData }
    }

    /// Wraps memory that is this process's own.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Chunk { base: bytes.as_ptr(), len: bytes.len(), memory: PhantomData }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for an `iovec`.
    pub const fn as_ptr(&self) -> *const u8 {
        self.base
    }

    /// The part that starts at `offset`, `len` bytes long.
    ///
    /// # Panics
    /// If the part is not inside the chunk.
    pub const fn slice(&self, offset: usize, len: usize) -> Chunk<'a> {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: the assertion keeps the offset within the span that `from_raw` vouched for.
        Chunk { base: unsafe { self.base.add(offset) }, len, memory: PhantomData }
    }

    /// Copies the bytes out.
    ///
    /// # Panics
    /// If `to` is not as long as the chunk.
    pub fn copy_to(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.len);
        // SAFETY: `from_raw` vouched for the source; the destination is a unique reference of the same length, so they
        // cannot overlap. A concurrent writer in another process can only make the copied values arbitrary bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.base, to.as_mut_ptr(), self.len) }
    }
}
