//! The thread that goes on with what a program does not wait for: what a full socket has not taken, what was written before
//! the two ends agreed, and streams that the program has closed with such things in them. It is started when there is one.

use crate::slot::{Content, Held, Slot};
use crate::{below, table};
use core::ffi::c_int;
use freena_preload_control::{exclusive, process, sys};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How long a program that is at it itself is left alone, in nanoseconds.
const GRACE: u64 = 2_000_000;
/// How long the end of a program waits for a peer that takes nothing, in nanoseconds.
const LAST_PATIENCE: u64 = 10_000_000_000;

/// A stream with something to do.
struct Job {
    held: Held,
    fd: c_int,
    /// The program has closed it, and the number is the courier's own.
    closed: bool,
}

/// The jobs, guarded by the process's lock, which a fork leaves whole.
struct Jobs(UnsafeCell<Vec<Job>>);

// SAFETY: used by `with_jobs` alone, under the process's lock.
unsafe impl Sync for Jobs {}

static JOBS: Jobs = Jobs(UnsafeCell::new(Vec::new()));
/// The process that the thread is of.
static RUNS_IN: AtomicU32 = AtomicU32::new(0);
/// Streams that the program has closed and that are not finished.
static CLOSING: AtomicU32 = AtomicU32::new(0);

fn with_jobs<T>(use_them: impl FnOnce(&mut Vec<Job>) -> T) -> T {
    let _exclusive = exclusive::enter();
    // SAFETY: the process's lock is held, and `use_them` below do not come back here.
    use_them(unsafe { &mut *JOBS.0.get() })
}

/// Has the thread go on with a stream of the program's.
pub(crate) fn enrol(fd: c_int) {
    if let Some(held) = table::hold(fd) {
        add(Job { held, fd, closed: false });
    }
}

/// Has the thread finish a stream that the program closes. It is given a number of its own for it.
pub(crate) fn finish(held: Held, fd: c_int) {
    let first = (sys::descriptor_limit() / 2).min(512) as usize;
    if let Ok(own) = below::duplicate(fd, first) {
        add(Job { held, fd: own, closed: true });
    }
}

fn add(job: Job) {
    let own = process::id();
    let first = with_jobs(|jobs| {
        let first = RUNS_IN.swap(own, Ordering::Relaxed) != own;
        if first {
            // Those of the process that this one was forked from are its own business.
            jobs.drain(..).for_each(std::mem::forget);
            CLOSING.store(0, Ordering::Relaxed);
        }
        CLOSING.fetch_add(job.closed.into(), Ordering::Relaxed);
        let slot: *const Slot = &*job.held;
        if job.closed || !jobs.iter().any(|it| ptr::eq(&*it.held, slot) && !it.closed) {
            jobs.push(job);
        }
        first
    });
    if first {
        start();
    }
}

fn start() {
    // The program's signals are for its own threads.
    let mask = sys::set_signal_mask(!0);
    let thread = std::thread::Builder::new().name("freena-courier".into()).stack_size(256 * 1024).spawn(run);
    if thread.is_err() {
        RUNS_IN.store(0, Ordering::Relaxed);
    }
    sys::set_signal_mask(mask);
}

fn run() {
    let mut active = Vec::new();
    loop {
        with_jobs(|jobs| active.append(jobs));
        active.retain(go_on);
        match &active[..] {
            [] => sys::sleep(2 * GRACE as i64),
            [job] => wait(job),
            // A look now and then: which they are changes, and programs are mostly at it themselves.
            _ => sys::sleep(GRACE as i64),
        }
    }
}

/// Goes on with one; whether there is more to do.
fn go_on(job: &Job) -> bool {
    let _work = Work::begin();
    let busy = job.held.lock_left().is_ok_and(|mut content| {
        if job.closed {
            return match &mut *content {
                Content::Stream(stream) => stream.close(job.fd),
                Content::Datagrams(datagrams) => datagrams.close(job.fd),
            };
        }
        // Behind the lock: a program that closes it takes it out of the table, and then waits for the lock. The number may be
        // another stream's already.
        table::hold(job.fd).is_some_and(|held| ptr::eq(&*held, &*job.held))
            && match &mut *content {
                Content::Stream(stream) => stream.go_on(job.fd),
                Content::Datagrams(datagrams) => datagrams.go_on(job.fd),
            }
    });
    if !busy && job.closed {
        below::close(job.fd);
        CLOSING.fetch_sub(1, Ordering::Relaxed);
    }
    busy
}

/// Work on a stream, which never waits for anything: a fork comes before or after it, so that no child finds a stream locked by
/// a thread that it does not have.
struct Work;

/// Whether the courier is at work, or somebody forks.
static AT_WORK: AtomicBool = AtomicBool::new(false);

impl Work {
    fn begin() -> Self {
        while AT_WORK.swap(true, Ordering::Acquire) {
            sys::sched_yield();
        }
        Work
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        AT_WORK.store(false, Ordering::Release);
    }
}

/// Before a fork: has the courier pause.
pub(crate) fn before_fork() {
    std::mem::forget(Work::begin());
}

/// After a fork, in both processes.
pub(crate) fn after_fork() {
    drop(Work);
}

/// Waits until it can go on, shortly, but leaves the program the first try.
fn wait(job: &Job) {
    sys::sleep((GRACE / 4) as i64);
    let mut pause = GRACE;
    let events = job.held.lock_own::<Content>().map_or(0, |mut content| match &mut *content {
        Content::Stream(stream) => stream.interest(),
        Content::Datagrams(datagrams) if datagrams.is_full() => libc::POLLOUT,
        Content::Datagrams(datagrams) => {
            pause = datagrams.deadline().saturating_sub(sys::monotonic()).clamp(GRACE / 4, 4 * GRACE);
            0
        }
    });
    if events == 0 {
        sys::sleep(pause as i64);
    } else {
        let _ = below::wait(job.fd, events, Some(GRACE * 4));
    }
}

/// At the end of the program: waits until nothing is left, as the kernel would go on with what it has taken.
pub(crate) fn wait_for_all() {
    let end = sys::monotonic() + LAST_PATIENCE;
    while RUNS_IN.load(Ordering::Relaxed) == process::id()
        && CLOSING.load(Ordering::Relaxed) > 0
        && sys::monotonic() < end
    {
        sys::sleep(1_000_000);
    }
}
