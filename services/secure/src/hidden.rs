//! Memory for keys: in no core dump, wiped when it is given back.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::{io, slice};
use zeroize::Zeroize;

/// A value in pages of its own, which core dumps leave out (madvise(2), `MADV_DONTDUMP`, since Linux 3.4), and which are wiped
/// after it has been dropped.
pub struct Hidden<T> {
    value: NonNull<T>,
    bytes: usize,
}

// SAFETY: it owns the value, as a Box does.
unsafe impl<T: Send> Send for Hidden<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Hidden<T> {}

impl<T> Hidden<T> {
    /// Moves a value there.
    ///
    /// # Panics
    /// There is no memory, as with a Box; here it is a panic, which ends the flow and not the program.
    pub fn new(value: T) -> Self {
        const { assert!(align_of::<T>() <= 4096, "pages are aligned enough") };
        let bytes = size_of::<T>().max(1);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, wherever the kernel wants them.
        let pages = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        let pages = (pages != libc::MAP_FAILED).then(|| NonNull::new(pages)).flatten();
        let Some(pages) = pages else { panic!("no memory for keys: {}", io::Error::last_os_error()) };
        // SAFETY: the pages have just been made. Where the kernel does not know it the key is in dumps, as it would be in a Box.
        let _ = unsafe { libc::madvise(pages.as_ptr(), bytes, libc::MADV_DONTDUMP) };
        let place = pages.cast::<T>();
        // SAFETY: there are as many bytes, aligned to a page, and nothing is in them.
        unsafe { place.write(value) };
        Self { value: place, bytes }
    }
}

impl<T> std::fmt::Debug for Hidden<T> {
    /// Nothing of what is hidden.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

impl<T> Deref for Hidden<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` has put a value there, which lives as long as `self`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Hidden<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Hidden<T> {
    fn drop(&mut self) {
        let memory = self.value.as_ptr();
        // SAFETY: the value is dropped once; then its memory is only bytes, and given back by the size that it was made with.
        unsafe {
            ptr::drop_in_place(memory);
            slice::from_raw_parts_mut(memory.cast::<u8>(), self.bytes).zeroize();
            libc::munmap(memory.cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn core_dumps_leave_it_out() {
        let hidden = Hidden::new([7u8; 32]);
        let address = &raw const *hidden as usize;
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        // Where other tests have such pages beside these, the kernel makes one mapping of them.
        let holds = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            (number(start)?..number(end)?).contains(&address).then_some(())
        };
        let mut mapping = maps.lines().skip_while(|line| holds(line).is_none());
        let flags = mapping.find_map(|line| line.strip_prefix("VmFlags:")).expect("its mapping");
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert!(flags.contains(&"dd"), "{flags:?}");
        assert_eq!(*hidden, [7; 32]);
    }
}
