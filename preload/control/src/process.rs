//! Which process and thread this is.
//!
//! A page with `MADV_WIPEONFORK` (Linux 4.14) holds the process id. A fork child finds zero there, whichever way it was
//! forked, and starts afresh; a vfork child shares the parent's page, so the id differs from its own.

use crate::{client, exclusive, sys};
use core::cell::Cell;
use core::ffi::c_long;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
static FORKS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // The id, and the process it was asked in: a fork child keeps the parent's thread-local storage.
    static TID: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Sets up: called by the constructor, before anything else of this module. Again: nothing happens.
pub fn start() {
    if word().is_some() {
        return;
    }
    // SAFETY: a new anonymous mapping touches no existing memory.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return;
    }
    // SAFETY: the page has just been mapped. Without WIPEONFORK the fork handler below still tells most children.
    unsafe { libc::madvise(page, 4096, libc::MADV_WIPEONFORK) };
    // SAFETY: the page is mapped for good, aligned, and zero is a valid `AtomicU32`.
    unsafe { &*page.cast::<AtomicU32>() }.store(sys::getpid(), Ordering::Relaxed);
    PAGE.store(page.cast(), Ordering::Release);
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_parent), Some(after_fork_child)) };
}

fn word() -> Option<&'static AtomicU32> {
    // SAFETY: null or the page that `start` mapped for good.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// Process id as this process's memory has it; makes a fork child start afresh.
#[inline]
pub fn id() -> u32 {
    let Some(word) = word() else { return 0 };
    match word.load(Ordering::Relaxed) {
        0 => start_afresh(word),
        pid => pid,
    }
}

/// Whether this is a vfork child: it runs in its parent's memory, and must change none of it.
pub fn is_vfork_child() -> bool {
    id() != sys::getpid()
}

/// Thread id, asked of the kernel once per thread.
#[inline]
pub fn tid() -> u32 {
    let pid = id();
    TID.with(|cell| {
        let (tid, asked_in) = cell.get();
        if tid != 0 && asked_in == pid {
            return tid;
        }
        let tid = sys::gettid();
        cell.set((tid, pid));
        tid
    })
}

/// How often this process, or an ancestor that it was forked from, has forked. Sockets made before the latest fork are shared.
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

#[cold]
fn start_afresh(word: &AtomicU32) -> u32 {
    // The parent's connection must not be used by two processes. The thread that forked is the only one here.
    exclusive::reset();
    client::forget();
    let pid = sys::getpid();
    word.store(pid, Ordering::Relaxed);
    pid
}

/// Does around a clone(2) that forks what the C library does around a fork(2), which it does not know as one. `fork` gives 0 in
/// the child.
pub fn around_fork(fork: impl FnOnce() -> c_long) -> c_long {
    before_fork();
    let result = fork();
    if result == 0 {
        after_fork_child()
    } else {
        after_fork_parent()
    }
    result
}

extern "C" fn before_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    exclusive::before_fork();
}

extern "C" fn after_fork_parent() {
    exclusive::after_fork();
}

extern "C" fn after_fork_child() {
    let mask = exclusive::mask_before_fork();
    if let Some(word) = word() {
        start_afresh(word);
    }
    exclusive::restore(mask);
}
