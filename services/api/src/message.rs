//! A message on its way through a service.

use crate::abi::FreenaServiceMessage;
use std::slice;

/// A message. Which of its views there is depends on the mode that the service has promised.
pub struct Message<'a>(&'a mut FreenaServiceMessage);

impl<'a> Message<'a> {
    /// # Safety
    /// `input` points to `input_length` readable bytes, `memory` to `capacity` writable ones that nobody else uses meanwhile, and
    /// does not overlap it; either may be null if its length is 0. The message begins and ends within `memory`.
    pub(crate) unsafe fn new(raw: &'a mut FreenaServiceMessage) -> Self {
        Self(raw)
    }

    /// What of the flow it is: `FREENA_SERVICE_DATA` and others of [`crate::abi`].
    pub fn kind(&self) -> u32 {
        self.0.kind
    }

    /// Nanoseconds on the clock of the set-up.
    pub fn now(&self) -> u64 {
        self.0.now
    }

    /// Says that [`crate::Service::extra_outbound`] or `extra_inbound` has something now.
    pub fn has_extra(&mut self) {
        self.0.extra = 1;
    }

    /// The message, in the modes that read it; else nothing.
    pub fn input(&self) -> &[u8] {
        if self.0.input.is_null() {
            return &[];
        }
        // SAFETY: as promised at `new`.
        unsafe { slice::from_raw_parts(self.0.input, self.0.input_length) }
    }

    /// The message in place.
    pub fn bytes(&mut self) -> &mut [u8] {
        let (start, length) = (self.0.start, self.0.length);
        &mut self.memory()[start..][..length]
    }

    /// Makes the message longer: the `head` bytes before it, itself, and the `tail` bytes behind. `None` if there is no room,
    /// which means that more was asked for than was promised.
    pub fn extend(&mut self, head: usize, tail: usize) -> Option<(&mut [u8], &mut [u8], &mut [u8])> {
        let start = self.0.start.checked_sub(head)?;
        let (length, capacity) = (self.0.length, self.0.capacity);
        if self.0.start + length + tail > capacity {
            return None;
        }
        self.0.start = start;
        self.0.length = head + length + tail;
        let (before, rest) = self.memory()[start..].split_at_mut(head);
        let (bytes, behind) = rest.split_at_mut(length);
        Some((before, bytes, &mut behind[..tail]))
    }

    /// Makes the message shorter. `false` if it is too short for that.
    pub fn shrink(&mut self, head: usize, tail: usize) -> bool {
        let enough = self.0.length >= head + tail;
        if enough {
            self.0.start += head;
            self.0.length -= head + tail;
        }
        enough
    }

    /// The message, and room for what is made of it. `write` tells how many bytes it has written.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn rewrite<E>(&mut self, write: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let start = self.0.start;
        let input: &[u8] = if self.0.input.is_null() {
            &[]
        } else {
            // SAFETY: as promised at `new`; it does not overlap the memory.
            unsafe { slice::from_raw_parts(self.0.input, self.0.input_length) }
        };
        let length = write(input, &mut self.memory()[start..])?;
        self.0.length = length;
        Ok(())
    }

    fn memory(&mut self) -> &mut [u8] {
        if self.0.memory.is_null() {
            return &mut [];
        }
        // SAFETY: as promised at `new`, and `self` is borrowed.
        unsafe { slice::from_raw_parts_mut(self.0.memory, self.0.capacity) }
    }
}
