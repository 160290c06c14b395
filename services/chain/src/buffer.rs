//! Memory that is filled at the end, taken from the beginning, and used again: it grows to what a flow needs, and no call
//! allocates after that.

/// Bytes on their way. Memory is zeroed once, when the buffer grows, and never for each message.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer without memory.
    pub const fn new() -> Self {
        Self { memory: Vec::new(), start: 0, end: 0 }
    }

    /// What is in it.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes the first `count` bytes out, or all if there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// At least `count` bytes behind the end, with anything in them. [`Buffer::commit`] makes them part of the contents.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        if self.memory.len() - self.end < count {
            if self.start > 0 {
                self.memory.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let needed = self.end + count;
            if self.memory.len() < needed {
                self.memory.resize(needed.next_power_of_two().max(4096), 0);
            }
        }
        &mut self.memory[self.end..]
    }

    /// The next `count` bytes behind the end, written through [`Buffer::room`], belong to the contents now.
    ///
    /// # Panics
    /// Where there was no such room.
    pub fn commit(&mut self, count: usize) {
        assert!(count <= self.memory.len() - self.end, "more than there is room for");
        self.end += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_stays_in_order() {
        let mut buffer = Buffer::new();
        let mut expected = std::collections::VecDeque::<u8>::new();
        for round in 0..200u32 {
            let bytes: Vec<u8> = (0..round * 7 % 997).map(|it| (it ^ round) as u8).collect();
            buffer.push(&bytes);
            expected.extend(&bytes);
            let take = (round as usize * 5) % (buffer.len() + 1);
            buffer.consume(take);
            expected.drain(..take);
            assert!(expected.iter().eq(buffer.as_slice()), "round {round}");
        }
    }
}
