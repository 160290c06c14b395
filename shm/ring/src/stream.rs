//! A ring of bytes without records, for streams, over the cursors below. Layout and rules: [`freena_shm_abi::stream`].
//!
//! Bytes are reached by position. The producer of a receive ring may also write *ahead* of its tail, where a segment that
//! arrived out of order belongs; the consumer of a transmit ring may read its bytes again until it releases them.

use crate::cursor::{Corrupt, REBASE_AT};
use crate::sync::{AtomicU64, Ordering};
use core::{marker::PhantomData, ptr};

/// The shared part of a stream's ring: its bytes and its three words.
#[derive(Clone, Copy, Debug)]
pub struct Pipe<'m> {
    data: *mut u8,
    size: u64,
    tail: &'m AtomicU64,
    head: &'m AtomicU64,
    base: &'m AtomicU64,
    memory: PhantomData<&'m [u8]>,
}

/// Some bytes of a ring, contiguous in memory.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Address of the first one.
    pub data: *mut u8,
    /// How many.
    pub len: usize,
}

/// The producer's private state.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriterCursor {
    /// End of what has been written, published or not.
    pub tail: u64,
    /// The consumer's head as last seen.
    pub cached_head: u64,
    /// Position of the byte at the start of the ring, modulo its size.
    pub base: u64,
}

/// The consumer's private state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReaderCursor {
    /// Start of what has not been released.
    pub head: u64,
    /// The producer's tail as last seen.
    pub tail: u64,
    /// The base that belongs to `tail`.
    pub base: u64,
}

impl<'m> Pipe<'m> {
    /// Describes a ring of `size` bytes at `data`.
    ///
    /// # Safety
    /// - `data..data + size` is mapped readable and writable for `'m` and cannot be made to fault;
    /// - `size` is a power of two;
    /// - within this process there is at most one producer and one consumer of the ring at a time, and nothing else
    ///   touches its bytes.
    pub const unsafe fn new(
        data: *mut u8,
        size: u64,
        tail: &'m AtomicU64,
        head: &'m AtomicU64,
        base: &'m AtomicU64,
    ) -> Self {
        debug_assert!(size.is_power_of_two());
        Pipe { data, size, tail, head, base, memory: PhantomData }
    }

    /// Bytes in the ring.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The shared tail.
    pub const fn tail(&self) -> &'m AtomicU64 {
        self.tail
    }

    /// The shared head.
    pub const fn head(&self) -> &'m AtomicU64 {
        self.head
    }

    /// The shared base.
    pub const fn base(&self) -> &'m AtomicU64 {
        self.base
    }

    /// Where `len` bytes from `position` on lie: the second span is empty unless they wrap around the end.
    ///
    /// # Panics
    /// If `len` is more than the ring has.
    pub fn spans(&self, base: u64, position: u64, len: usize) -> [Span; 2] {
        assert!(len as u64 <= self.size);
        let offset = position.wrapping_sub(base) & (self.size - 1);
        let first = len.min((self.size - offset) as usize);
        // SAFETY: the masked offset is below `size`, and `new` demands `size` mapped bytes.
        let data = unsafe { self.data.add(offset as usize) };
        [Span { data, len: first }, Span { data: self.data, len: len - first }]
    }

    /// Has the processor fetch the line at `position`, to be written soon. Where small pieces are written one by one, each to
    /// be visible before the next, the lines that the consumer has read last would else be waited for, one by one.
    #[inline]
    pub fn prefetch(&self, base: u64, position: u64) {
        let offset = position.wrapping_sub(base) & (self.size - 1);
        // SAFETY: the masked offset is below `size`, and `new` demands `size` mapped bytes.
        let line = unsafe { self.data.add(offset as usize) };
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint: it neither reads nor writes as far as the program can tell, and never faults.
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = line;
    }

    /// Copies `len` bytes at `from` to `position`. Publishes nothing.
    ///
    /// # Panics
    /// If `len` is more than the ring has.
    ///
    /// # Safety
    /// `from..from + len` must be readable and must not lie in this ring; the positions must be the producer's: not
    /// before its tail, and within a ring of the consumer's head.
    pub unsafe fn copy_in(&self, base: u64, position: u64, from: *const u8, len: usize) {
        let [first, second] = self.spans(base, position, len);
        // SAFETY: spans lie within the ring; the caller vouches for the source.
        unsafe {
            ptr::copy_nonoverlapping(from, first.data, first.len);
            ptr::copy_nonoverlapping(from.add(first.len), second.data, second.len);
        }
    }

    /// Copies `len` bytes from `position` on to `to`. A concurrent writer in another process can only make the copied
    /// values arbitrary bytes.
    ///
    /// # Panics
    /// If `len` is more than the ring has.
    ///
    /// # Safety
    /// `to..to + len` must be writable and must not lie in this ring.
    pub unsafe fn copy_out(&self, base: u64, position: u64, to: *mut u8, len: usize) {
        let [first, second] = self.spans(base, position, len);
        // SAFETY: spans lie within the ring; the caller vouches for the destination.
        unsafe {
            ptr::copy_nonoverlapping(first.data, to, first.len);
            ptr::copy_nonoverlapping(second.data, to.add(first.len), second.len);
        }
    }
}

impl WriterCursor {
    /// Free bytes; looks at the shared word only if fewer than `need` seem free. A head that cannot be right is ignored:
    /// the room stays what it was.
    pub fn room(&mut self, pipe: &Pipe<'_>, need: u64) -> u64 {
        let free = |cursor: &Self| pipe.size.saturating_sub(cursor.tail.wrapping_sub(cursor.cached_head));
        if free(self) < need {
            let seen = pipe.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(seen) <= pipe.size {
                self.cached_head = seen;
            }
        }
        free(self)
    }

    /// Starts anew at the beginning of the ring if that is worth it and the ring is empty. To be called before something
    /// is written, and not while anything lies ahead of the tail.
    pub fn rebase(&mut self, pipe: &Pipe<'_>) {
        if self.tail.wrapping_sub(self.base) & (pipe.size - 1) < REBASE_AT {
            return;
        }
        if self.cached_head != self.tail {
            self.room(pipe, pipe.size);
        }
        if self.cached_head == self.tail {
            self.base = self.tail;
            // Made visible by the release of the tail that covers the next bytes.
            pipe.base.store(self.base, Ordering::Relaxed);
        }
    }

    /// Moves the tail and makes everything before it visible to the consumer.
    pub fn publish(&mut self, pipe: &Pipe<'_>, tail: u64) {
        self.tail = tail;
        pipe.tail.store(tail, Ordering::Release);
    }
}

impl ReaderCursor {
    /// Looks at the shared tail; returns how many bytes there are that have not been released.
    ///
    /// # Errors
    /// The published tail cannot be right: behind the last one seen, or more than a ring ahead of the head.
    pub fn available(&mut self, pipe: &Pipe<'_>) -> Result<u64, Corrupt> {
        let seen = pipe.tail.load(Ordering::Acquire);
        if seen != self.tail {
            let len = seen.wrapping_sub(self.head);
            if len > pipe.size || len < self.tail.wrapping_sub(self.head) {
                return Err(Corrupt::Tail { head: self.head, tail: seen });
            }
            self.tail = seen;
            // The base changes only while the ring is empty, so it is the one for all bytes up to `seen`.
            self.base = pipe.base.load(Ordering::Relaxed);
        }
        Ok(self.tail.wrapping_sub(self.head))
    }

    /// Moves the head and gives everything before it back to the producer.
    pub fn release(&mut self, pipe: &Pipe<'_>, head: u64) {
        self.head = head;
        pipe.head.store(head, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[repr(align(64))]
    struct Memory([u8; 64]);

    struct Ring {
        memory: Box<Memory>,
        tail: AtomicU64,
        head: AtomicU64,
        base: AtomicU64,
    }

    impl Ring {
        fn new() -> Self {
            let zero = || AtomicU64::new(0);
            Ring { memory: Box::new(Memory([0; 64])), tail: zero(), head: zero(), base: zero() }
        }

        fn pipe(&mut self) -> Pipe<'_> {
            // SAFETY: 64 bytes of this process's own, one producer and one consumer in this test.
            unsafe { Pipe::new(self.memory.0.as_mut_ptr(), 64, &self.tail, &self.head, &self.base) }
        }
    }

    proptest! {
        // Miri interprets, and has no file for failures.
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 6 } else { 512 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((any::<bool>(), 0usize..80), 1..200)) {
            let mut ring = Ring::new();
            let pipe = ring.pipe();
            let (mut writer, mut reader) = (WriterCursor::default(), ReaderCursor::default());
            let mut model = VecDeque::new();
            let mut next = 0u8;
            for (write, len) in steps {
                if write {
                    if pipe.head().load(Ordering::Relaxed) == writer.tail {
                        // What `rebase` does once it is far enough into a ring of the real size.
                        writer.base = writer.tail;
                        pipe.base().store(writer.base, Ordering::Relaxed);
                    }
                    let len = len.min(writer.room(&pipe, 64) as usize);
                    prop_assert_eq!(len, len.min(64 - model.len()));
                    let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    // SAFETY: `bytes` is readable, the room was asked for.
                    unsafe { pipe.copy_in(writer.base, writer.tail, bytes.as_ptr(), len) };
                    let tail = writer.tail + len as u64;
                    writer.publish(&pipe, tail);
                    model.extend(bytes);
                } else {
                    let have = reader.available(&pipe).expect("honest");
                    prop_assert_eq!(have as usize, model.len());
                    let len = len.min(have as usize);
                    let mut bytes = vec![0; len];
                    // SAFETY: `bytes` is writable for `len`.
                    unsafe { pipe.copy_out(reader.base, reader.head, bytes.as_mut_ptr(), len) };
                    let head = reader.head + len as u64;
                    reader.release(&pipe, head);
                    prop_assert_eq!(bytes, model.drain(..len).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn impossible_tails_are_told_and_impossible_heads_ignored() {
        let mut ring = Ring::new();
        let pipe = ring.pipe();
        let mut reader = ReaderCursor::default();
        for tail in [65, u64::MAX] {
            pipe.tail().store(tail, Ordering::Relaxed);
            assert_eq!(reader.available(&pipe), Err(Corrupt::Tail { head: 0, tail }));
        }
        pipe.tail().store(10, Ordering::Relaxed);
        assert_eq!(reader.available(&pipe), Ok(10));
        pipe.tail().store(9, Ordering::Relaxed);
        assert_eq!(
            reader.available(&pipe),
            Err(Corrupt::Tail { head: 0, tail: 9 }),
            "a tail never goes back"
        );
        let mut writer = WriterCursor { tail: 60, ..WriterCursor::default() };
        pipe.head().store(61, Ordering::Relaxed);
        assert_eq!(writer.room(&pipe, 64), 4, "nobody can have read what was not written");
    }

    #[test]
    fn an_empty_ring_starts_anew() {
        let zero = || AtomicU64::new(0);
        let (tail, head, base) = (zero(), zero(), zero());
        let mut bytes = vec![0u8; 8192];
        // SAFETY: 8192 bytes of this process's own.
        let pipe = unsafe { Pipe::new(bytes.as_mut_ptr(), 8192, &tail, &head, &base) };
        let mut writer = WriterCursor::default();
        writer.publish(&pipe, 4095);
        pipe.head().store(4095, Ordering::Relaxed);
        writer.rebase(&pipe);
        assert_eq!(writer.base, 0, "not worth it");
        writer.publish(&pipe, 5000);
        writer.rebase(&pipe);
        assert_eq!(writer.base, 0, "not empty");
        pipe.head().store(5000, Ordering::Relaxed);
        writer.rebase(&pipe);
        assert_eq!((writer.base, base.load(Ordering::Relaxed)), (5000, 5000));
        let [first, second] = pipe.spans(writer.base, 5000, 8192);
        assert_eq!((first.data.cast_const(), first.len, second.len), (bytes.as_ptr(), 8192, 0));
    }
}
