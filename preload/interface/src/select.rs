//! select(2) and pselect(2), like [`crate::poll`], with sets of bits.

use crate::outcome::{Error, Outcome, Reason, Stop};
use crate::poll::{discard_stale, hold, is_deaf, nap, prepare_one, readiness};
use crate::{table, token, watch};
use core::ffi::{c_int, c_short};
use core::ptr;
use freena_preload_control::next;
use freena_preload_control::sys::{self, Errno};
use libc::{FD_SETSIZE, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, fd_set, timeval};

const WORDS: usize = FD_SETSIZE / 64;

/// The three sets, read, write, except, as words; a set that was not given is empty.
#[derive(Clone, Copy)]
struct Sets([[u64; WORDS]; 3]);

/// Where the program has them.
#[derive(Clone, Copy)]
pub struct Places(pub [*mut fd_set; 3]);

impl Sets {
    const EMPTY: Sets = Sets([[0; WORDS]; 3]);

    fn words(count: c_int) -> usize {
        (count as usize).div_ceil(64)
    }

    /// Copies the program's sets.
    unsafe fn read(places: &Places, count: c_int) -> Self {
        let mut sets = Sets::EMPTY;
        for (set, place) in sets.0.iter_mut().zip(places.0) {
            if !place.is_null() {
                // SAFETY: the caller's: a set has at least `count` bits, in whole words.
                unsafe { ptr::copy_nonoverlapping(place.cast(), set.as_mut_ptr(), Self::words(count)) };
            }
        }
        let spare = Self::words(count) * 64 - count as usize;
        if let Some(last) = Self::words(count).checked_sub(1) {
            sets.0.iter_mut().for_each(|set| set[last] &= u64::MAX >> spare);
        }
        sets
    }

    /// Writes them to where the program has its own.
    unsafe fn write(&self, places: &Places, count: c_int) {
        for (set, place) in self.0.iter().zip(places.0) {
            if !place.is_null() {
                // SAFETY: as in `read`.
                unsafe { ptr::copy_nonoverlapping(set.as_ptr(), place.cast(), Self::words(count)) };
            }
        }
    }

    fn has(&self, which: usize, fd: c_int) -> bool {
        self.0[which][fd as usize / 64] & 1 << (fd % 64) != 0
    }

    fn put(&mut self, which: usize, fd: c_int, on: bool) {
        let (word, bit) = (&mut self.0[which][fd as usize / 64], 1 << (fd % 64));
        *word = if on { *word | bit } else { *word & !bit };
    }

    fn len(&self) -> usize {
        self.0.iter().flatten().map(|word| word.count_ones() as usize).sum()
    }

    /// Descriptors in any of the sets.
    fn members(&self) -> impl Iterator<Item = c_int> {
        (0..WORDS).flat_map(|word| {
            let mut bits = self.0[0][word] | self.0[1][word] | self.0[2][word];
            core::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some((word * 64) as c_int + bit as c_int)
            })
        })
    }

    /// What a member waits for, in the words of poll.
    fn events(&self, fd: c_int) -> c_short {
        let read = if self.has(0, fd) { POLLIN } else { 0 };
        let write = if self.has(1, fd) { POLLOUT } else { 0 };
        let except = if self.has(2, fd) { POLLPRI } else { 0 };
        read | write | except
    }

    /// Puts what framework sockets are ready for into `result`.
    fn look(&self, result: &mut Sets) {
        for fd in self.members() {
            if let Some(held) = hold(fd) {
                let ready = readiness(&held);
                // As the kernel's POLLIN_SET and POLLOUT_SET (fs/select.c).
                result.put(0, fd, self.has(0, fd) && ready & (POLLIN | POLLHUP | POLLERR) != 0);
                result.put(1, fd, self.has(1, fd) && ready & (POLLOUT | POLLERR) != 0);
                result.put(2, fd, self.has(2, fd) && ready & POLLPRI != 0);
            }
        }
    }

    /// Asks the kernel about all without waiting, then puts in what it cannot know.
    fn look_at_all(&self, count: c_int) -> Result<Sets, Errno> {
        let mut result = *self;
        let [read, write, except] = &mut result.0;
        let mut zero = timeval { tv_sec: 0, tv_usec: 0 };
        let before = sys::errno();
        // SAFETY: the sets are local and have `FD_SETSIZE` bits, of which `count` are looked at.
        let ready = unsafe {
            next::select(
                count,
                read.as_mut_ptr().cast(),
                write.as_mut_ptr().cast(),
                except.as_mut_ptr().cast(),
                &mut zero,
            )
        };
        if ready < 0 {
            let errno = sys::errno();
            sys::set_errno(before);
            return Err(Errno(errno));
        }
        self.look(&mut result);
        Ok(result)
    }
}

/// Waits. `timeout` in nanoseconds, `None` for ever; `sleep` is the kernel's call on the program's sets with the time
/// that is left.
///
/// # Safety
/// The sets are the program's, with at least `count` bits.
pub unsafe fn select(
    count: c_int,
    places: Places,
    timeout: Option<u64>,
    sleep: impl Fn(Option<u64>) -> c_int,
) -> Outcome {
    let bypass = Err(Stop::Bypass(Reason::Untracked));
    if count < 0 || table::is_empty() {
        return bypass;
    }
    if count as usize > FD_SETSIZE {
        // Larger sets than the C library knows: the kernel's view is made right for good, and it does the rest.
        for fd in table::tracked(0, count as u32) {
            if let Some(held) = table::hold(fd) {
                token::make_exact(fd, &held);
            }
        }
        return bypass;
    }
    // SAFETY: the caller's.
    let wanted = unsafe { Sets::read(&places, count) };
    if watch::is_used() {
        wanted.members().for_each(watch::give_up);
    }
    if !wanted.members().any(table::is_tracked) {
        return bypass;
    }
    // SAFETY: the caller's.
    let result = unsafe { wait(&wanted, count, places, timeout, sleep) }?;
    // SAFETY: the caller's.
    unsafe { result.write(&places, count) };
    Ok(result.len() as isize)
}

unsafe fn wait(
    wanted: &Sets,
    count: c_int,
    places: Places,
    timeout: Option<u64>,
    sleep: impl Fn(Option<u64>) -> c_int,
) -> Result<Sets, Error> {
    let end = timeout.map(|timeout| sys::monotonic().saturating_add(timeout));
    let mut result = wanted.look_at_all(count)?;
    if result.len() == 0 && timeout != Some(0) {
        token::spin(|| {
            result = wanted.look_at_all(count).unwrap_or(Sets::EMPTY);
            result.len() > 0 || end.is_some_and(|end| sys::monotonic() >= end)
        });
    }
    let before = sys::errno();
    while result.len() == 0 && timeout != Some(0) {
        let (mut ready, mut deaf) = (false, false);
        for fd in wanted.members() {
            if let Some(held) = hold(fd) {
                ready |= prepare_one(fd, &held, wanted.events(fd));
                deaf |= is_deaf(&held, wanted.events(fd));
            }
        }
        if ready {
            result = wanted.look_at_all(count)?;
            continue;
        }
        // SAFETY: the caller's.
        unsafe { wanted.write(&places, count) };
        let left = end.map(|end| end.saturating_sub(sys::monotonic()));
        let answer = sleep(nap(left, deaf));
        if answer < 0 {
            let errno = sys::errno();
            sys::set_errno(before);
            return Err(Error::Kernel(Errno(errno)));
        }
        // SAFETY: the caller's.
        result = unsafe { Sets::read(&places, count) };
        for fd in wanted.members() {
            if let (Some(held), true) = (hold(fd), result.has(0, fd)) {
                discard_stale(fd, &held, POLLIN);
            }
        }
        wanted.look(&mut result);
        if (answer == 0 && !deaf) || end.is_some_and(|end| sys::monotonic() >= end) {
            break;
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_every_set() {
        let mut sets = Sets::EMPTY;
        for (which, fd) in [(0, 0), (0, 63), (1, 64), (2, 1023), (1, 63)] {
            sets.put(which, fd, true);
        }
        assert_eq!(sets.members().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        assert_eq!(sets.len(), 5);
        assert_eq!(sets.events(63), POLLIN | POLLOUT);
        sets.put(1, 63, false);
        assert!(!sets.has(1, 63) && sets.has(0, 63));
    }

    #[test]
    fn bits_beyond_the_count_are_not_looked_at() {
        let mut words = [u64::MAX; WORDS];
        let places = Places([words.as_mut_ptr().cast(), ptr::null_mut(), ptr::null_mut()]);
        // SAFETY: the set has more than 70 bits.
        let sets = unsafe { Sets::read(&places, 70) };
        assert_eq!(sets.len(), 70);
    }
}
