//! Positions in a single-producer single-consumer ring of bytes.
//!
//! A position counts bytes since the start and never wraps (2^64 bytes last 46 years at 100 Gb/s); its place in the
//! ring is its distance from the base modulo the size, a power of two. `head <= tail <= head + size` always holds between honest
//! sides.
//!
//! | word | written by | ordering | read by | ordering |
//! |---|---|---|---|---|
//! | `tail` | producer | Release: the bytes before it are written | consumer | Acquire |
//! | `head` | consumer | Release: the bytes before it are read | producer | Acquire |
//! | `base` | producer, while the ring is empty | Relaxed: before the tail | consumer | Relaxed: after the tail |
//!
//! Each side keeps its own position privately and the other's as last seen, so that a word is loaded from the other
//! side's cache only when the private copy says "full" or "empty".

use crate::sync::{AtomicU64, Ordering};

/// A producer starts anew at the beginning of an empty ring once it is this far into it, in bytes.
pub const REBASE_AT: u64 = 4096;

/// Why a position that the other side published cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// The tail is behind the head, or more than a ring ahead of it.
    Tail {
        /// Own head.
        head: u64,
        /// Tail that was read.
        tail: u64,
    },
    /// A position is not a multiple of the record alignment.
    Misaligned {
        /// Position that was read.
        position: u64,
    },
    /// A record's length points beyond the published bytes, the end of the ring, or the largest payload.
    Length {
        /// Position of the record.
        position: u64,
        /// Length that was read.
        len: u32,
    },
    /// Padding that does not end where the ring ends, or follows other padding.
    Padding {
        /// Position of the padding.
        position: u64,
    },
}

impl core::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Corrupt::Tail { head, tail } => write!(f, "tail {tail} is impossible with head {head}"),
            Corrupt::Misaligned { position } => write!(f, "position {position} is not a multiple of 64"),
            Corrupt::Padding { position } => {
                write!(f, "padding at {position} does not end where the ring ends")
            }
            Corrupt::Length { position, len } => {
                write!(f, "record at {position} has an impossible length of {len}")
            }
        }
    }
}

impl std::error::Error for Corrupt {}

/// The producer's private state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProducerCursor {
    /// End of what has been written, published or not.
    pub tail: u64,
    /// The consumer's head as last seen.
    pub cached_head: u64,
    /// Position of the byte at the start of the ring, modulo its size.
    pub base: u64,
}

impl ProducerCursor {
    /// Free bytes, as far as the cached head tells; looks at the shared word only if fewer than `need` seem free.
    pub fn free(&mut self, head: &AtomicU64, size: u64, need: u64) -> u64 {
        let free = size.saturating_sub(self.tail.wrapping_sub(self.cached_head));
        if free >= need {
            return free;
        }
        let seen = head.load(Ordering::Acquire);
        // A head beyond the tail, or one that goes back, is a lie; believing it would let this side overwrite what the
        // other has not read, which harms only the liar. It is ignored all the same, so that arithmetic stays simple.
        if self.tail.wrapping_sub(seen) <= size {
            self.cached_head = seen;
        }
        size.saturating_sub(self.tail.wrapping_sub(self.cached_head))
    }

    /// Starts anew at the beginning of the ring if the consumer has read everything and it is worth it; not between what has
    /// been written and its publication.
    pub fn rebase(&mut self, head: &AtomicU64, base: &AtomicU64, size: u64) {
        if self.tail.wrapping_sub(self.base) & (size - 1) >= REBASE_AT && self.free(head, size, size) == size
        {
            self.base = self.tail;
            // Published with the tail of the records that follow.
            base.store(self.base, Ordering::Relaxed);
        }
    }

    /// Publishes what has been written.
    pub fn publish(&self, tail: &AtomicU64) {
        tail.store(self.tail, Ordering::Release);
    }
}

/// The consumer's private state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsumerCursor {
    /// Start of what has not been read.
    pub head: u64,
    /// The producer's tail as last seen.
    pub cached_tail: u64,
    /// The base that belongs to it.
    pub base: u64,
}

impl ConsumerCursor {
    /// Bytes that may be read; looks at the shared word only if the private copy says there are none.
    ///
    /// # Errors
    /// The published tail cannot be right.
    pub fn available(&mut self, tail: &AtomicU64, base: &AtomicU64, size: u64) -> Result<u64, Corrupt> {
        if self.cached_tail == self.head {
            let seen = tail.load(Ordering::Acquire);
            if seen.wrapping_sub(self.head) > size {
                return Err(Corrupt::Tail { head: self.head, tail: seen });
            }
            if !seen.is_multiple_of(freena_shm_abi::record::ALIGN as u64) {
                return Err(Corrupt::Misaligned { position: seen });
            }
            self.cached_tail = seen;
            // The base changes only while the ring is empty, so it is the one for all records up to `seen`.
            self.base = base.load(Ordering::Relaxed);
        }
        Ok(self.cached_tail.wrapping_sub(self.head))
    }

    /// Gives back what has been read.
    pub fn release(&self, head: &AtomicU64) {
        head.store(self.head, Ordering::Release);
    }
}
