//! Which process goes on with a flow after a fork.
//!
//! A fork copies keys and counters; if both processes used them, nonces would repeat. Each flow has a word that all of them
//! share: a generation and the process that has the flow. A fork raises the generation of what the process has and gives it
//! free; the first one to use it, of those that have the state as it was then, keeps it.

use crate::courier;
use crate::slot::Content;
use core::ffi::c_long;
use freena_preload_control::process;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words in a page.
const PER_PAGE: usize = 512;

/// Words that nobody uses, and the process that they are of: a fork child has none.
static FREE: Mutex<(u32, Vec<&'static AtomicU64>)> = Mutex::new((0, Vec::new()));

/// A flow's word, and the generation of the copy of the state in this process.
pub(crate) struct Owner {
    word: &'static AtomicU64,
    generation: AtomicU32,
}

pub(crate) fn start() {
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
}

/// As [`process::around_fork`], for flows too.
pub fn around_fork(fork: impl FnOnce() -> c_long) -> c_long {
    if !crate::table::is_active() {
        return process::around_fork(fork);
    }
    before_fork();
    let result = process::around_fork(fork);
    after_fork();
    if result == 0 {
        crate::board::register();
    }
    result
}

extern "C" fn after_fork() {
    courier::after_fork();
}

extern "C" fn before_fork() {
    courier::before_fork();
    crate::table::each(|slot| {
        // Nobody is at work on it then.
        let mut locked = slot.lock_own::<Content>();
        if let Ok(Content::Datagrams(datagrams)) = locked.as_deref_mut() {
            // What services have to do later is the affair of the process that uses it first, not of this one's courier.
            datagrams.enrolled = false;
        }
        slot.owner(Owner::share);
        drop(locked);
    });
}

const fn pack(generation: u32, pid: u32) -> u64 {
    (generation as u64) << 32 | pid as u64
}

impl Owner {
    /// For a new flow of this process. Words are never unmapped; `None` if there is no memory.
    pub(crate) fn new() -> Option<Self> {
        // Where a fork has copied a lock that is held there are new words.
        let mut spare = (0, Vec::new());
        let mut locked = FREE.try_lock();
        let (pid, free) = match &mut locked {
            Ok(locked) => &mut **locked,
            Err(_) => &mut spare,
        };
        if *pid != process::id() {
            free.clear();
            *pid = process::id();
        }
        if free.is_empty() {
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping touches no existing memory.
            let page = unsafe { libc::mmap(ptr::null_mut(), PER_PAGE * 8, access, flags, -1, 0) };
            if page == libc::MAP_FAILED {
                return None;
            }
            // SAFETY: the page is mapped for good, and zero is a valid word.
            free.extend((0..PER_PAGE).map(|index| unsafe { &*page.cast::<AtomicU64>().add(index) }));
        }
        let word = free.pop()?;
        let generation = (word.load(Ordering::Relaxed) >> 32) as u32;
        let it = Self { word, generation: AtomicU32::new(generation.wrapping_add(1)) };
        word.store(pack(generation.wrapping_add(1), process::id()), Ordering::Relaxed);
        Some(it)
    }

    /// Whether this process may use the flow; takes it if nobody has it.
    pub(crate) fn take(&self) -> bool {
        let (own, free) = (pack(self.generation(), process::id()), pack(self.generation(), 0));
        match self.word.compare_exchange(free, own, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(found) => found == own,
        }
    }

    /// Whether this process has the flow already.
    pub(crate) fn has(&self) -> bool {
        self.word.load(Ordering::Relaxed) == pack(self.generation(), process::id())
    }

    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Before a fork: nobody has it, and older copies are void.
    fn share(&self) {
        if self.has() {
            let next = self.generation().wrapping_add(1);
            self.generation.store(next, Ordering::Relaxed);
            self.word.store(pack(next, 0), Ordering::Relaxed);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Copies in other processes are of older generations than the next flow's. One that another process has is its own.
        if self.has()
            && let Ok(mut free) = FREE.try_lock()
            && free.0 == process::id()
        {
            free.1.push(self.word);
        }
    }
}
