//! A ring in memory of this process, for what must run without a memfd (miri, the fuzzer).

use freena_shm_ring::{Channel, Words};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::atomic::AtomicU64;

/// Ring bytes and both words.
pub struct Heap {
    /// Its first byte.
    pub data: *mut u8,
    layout: Layout,
    /// Written by the producer.
    pub tail: AtomicU64,
    /// Written by the consumer.
    pub head: AtomicU64,
    /// Written by the producer.
    pub base: AtomicU64,
}

// SAFETY: the bytes are reached only through channels, whose users keep to one producer and one consumer.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty ring of `size` bytes, a power of two of at least 128.
    pub fn new(size: usize) -> Self {
        assert!(size.is_power_of_two() && size >= 128);
        let layout = Layout::from_size_align(size, 64).unwrap();
        // SAFETY: the layout is not empty.
        let data = unsafe { alloc_zeroed(layout) };
        if data.is_null() {
            handle_alloc_error(layout);
        }
        Heap { data, layout, tail: AtomicU64::new(0), head: AtomicU64::new(0), base: AtomicU64::new(0) }
    }

    /// The ring.
    pub fn channel(&self) -> Channel<'_> {
        // SAFETY: allocated with this size and an alignment of 64, freed when `self` is dropped; each test makes one
        // producer and one consumer.
        unsafe {
            let words = Words { tail: &self.tail, head: &self.head, base: &self.base };
            Channel::new(self.data, self.layout.size() as u64, words)
        }
    }

    /// Overwrites bytes of the ring behind the back of both sides.
    pub fn scribble(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.layout.size() && bytes.len() <= self.layout.size() - offset);
        // SAFETY: within the allocation by the assertion; the caller's producer and consumer are in the same thread.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data.add(offset), bytes.len()) }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; channels borrow `self` and are gone.
        unsafe { dealloc(self.data, self.layout) }
    }
}
