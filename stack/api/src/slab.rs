//! A table of values by small numbers, which are reused.

/// Values by index.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty one.
    pub fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    /// Slots in use, those whose value was taken but not freed included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a free slot, still empty.
    pub fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        })
    }

    /// Fills a reserved slot.
    pub fn fill(&mut self, index: u32, value: T) {
        self.slots[index as usize] = Some(value);
    }

    /// Puts a value into a free slot.
    pub fn insert(&mut self, value: T) -> u32 {
        let index = self.reserve();
        self.fill(index, value);
        index
    }

    /// Takes the value; the slot stays reserved.
    pub fn take(&mut self, index: u32) -> Option<T> {
        self.slots.get_mut(index as usize)?.take()
    }

    /// Lets an empty slot be used again.
    pub fn free(&mut self, index: u32) {
        debug_assert!(self.slots[index as usize].is_none());
        self.free.push(index);
    }

    /// Takes the value and frees the slot.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.take(index)?;
        self.free(index);
        Some(value)
    }

    /// The value.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// The value.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index as u32, slot.as_ref()?)))
    }
}
