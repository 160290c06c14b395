//! Calls into protocol libraries that can be left when the library crashes or does not return.
//!
//! Fatal signals that arise in the library's own code, or in a leaf function that it has called, end the call instead of
//! the process, and so does the watchdog after [`PATIENCE`] of processor time. The engine that was called is not called
//! again. What cannot be left safely (a crash inside malloc, say) ends the process, in words that name the library.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Processor time that a call may take.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Time that a call may take on a clock, if it sleeps.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How often the watchdog looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often an interrupt is tried, while the call is where it cannot be left.
const TRIES: u32 = 2000;

/// Addresses of code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[repr(C)]
struct Text {
    ranges: *const Range,
    count: usize,
    stack: [usize; 2],
}

/// `struct freena_guard` of guard.h, without the last member: it is allocated by the size that guard.c tells.
#[repr(C)]
struct Raw {
    inside: AtomicU64,
    stuck: AtomicU64,
    hosted: AtomicU64,
    serial: u64,
    name: *const c_char,
    text: Text,
}

unsafe extern "C" {
    fn freena_guard_install() -> c_int;
    fn freena_guard_signal() -> c_int;
    fn freena_guard_size() -> usize;
    fn freena_guard_call(
        guard: *mut Raw,
        call: extern "C-unwind" fn(*mut c_void),
        argument: *mut c_void,
    ) -> c_int;
}

/// Why a call was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// By a fatal signal.
    Crashed(c_int),
    /// By the watchdog.
    Endless,
}

/// What one engine is called through.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    thread: Cell<Option<thread::ThreadId>>,
}

/// What the watchdog sees of it.
struct Shared {
    memory: UnsafeCell<Vec<u128>>,
    library: String,
    /// The thread that calls, 0 while there was none, and the clock of its processor time.
    caller: Mutex<Option<(libc::pthread_t, libc::clockid_t)>>,
    // What the raw parts point to.
    _name: CString,
    _ranges: Vec<Range>,
}

// SAFETY: the raw memory is written by the calling thread only, except for atomics; its pointers lead to what `Shared` owns.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn raw(&self) -> *mut Raw {
        // The vector is never resized.
        // SAFETY: a pointer is made, nothing is read.
        unsafe { (*self.memory.get()).as_mut_ptr().cast() }
    }

    fn caller(&self) -> MutexGuard<'_, Option<(libc::pthread_t, libc::clockid_t)>> {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inside(&self) -> &AtomicU64 {
        // SAFETY: the memory lives as long as `self`, and the field is atomic.
        unsafe { &(*self.raw()).inside }
    }

    fn stuck(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { &(*self.raw()).stuck }
    }
}

impl Guard {
    /// For calls into a library whose code lies in `ranges`.
    ///
    /// # Errors
    /// Handlers cannot be installed, or no thread can be made.
    pub(crate) fn new(library: &str, ranges: &[Range]) -> io::Result<Self> {
        install()?;
        // SAFETY: tells a size.
        let size = unsafe { freena_guard_size() };
        let name = CString::new(library).unwrap_or_default();
        let shared = Arc::new(Shared {
            memory: UnsafeCell::new(vec![0; size.div_ceil(size_of::<u128>())]),
            library: library.to_owned(),
            caller: Mutex::new(None),
            _name: name,
            _ranges: ranges.to_vec(),
        });
        let raw = shared.raw();
        // SAFETY: nobody else has it yet; zeroed memory is a valid `Raw` but for what is set here.
        unsafe {
            (*raw).name = shared._name.as_ptr();
            (*raw).text.ranges = shared._ranges.as_ptr();
            (*raw).text.count = shared._ranges.len();
        }
        watch(Arc::downgrade(&shared));
        Ok(Guard { shared, thread: Cell::new(None) })
    }

    /// Calls. What `call` owns is leaked if the call is left: it should own nothing.
    pub(crate) fn call<R: Copy>(&self, call: impl FnOnce() -> R + Copy) -> Result<R, Left> {
        let here = thread::current().id();
        if self.thread.replace(Some(here)) != Some(here) {
            self.enter_thread();
        }
        let mut job = Job { call, result: None };
        // SAFETY: the guard's memory is whole and this thread's; the job outlives the call, and has no destructor.
        let cause = unsafe {
            freena_guard_call(
                self.shared.raw(),
                trampoline::<_, R>(&raw const job.call),
                (&raw mut job).cast(),
            )
        };
        match (cause, job.result) {
            (0, Some(result)) => Ok(result),
            // SAFETY: tells a number.
            (signal, _) if signal == unsafe { freena_guard_signal() } => Err(Left::Endless),
            (signal, _) => Err(Left::Crashed(signal)),
        }
    }

    /// Where it is noted that the library has called back: see [`Hosted`].
    pub(crate) fn hosted(&self) -> &AtomicU64 {
        // SAFETY: the field is atomic, and the memory lives as long as the guard.
        unsafe { &(*self.shared.raw()).hosted }
    }

    /// From now on this thread calls.
    fn enter_thread(&self) {
        // SAFETY: plain calls about this thread; the attributes are initialised by the first and destroyed by the last.
        unsafe {
            let own = libc::pthread_self();
            let mut clock = 0;
            let known = libc::pthread_getcpuclockid(own, &mut clock) == 0;
            *self.shared.caller() = known.then_some((own, clock));
            let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
            if libc::pthread_getattr_np(own, &mut attributes) == 0 {
                let (mut low, mut size) = (std::ptr::null_mut(), 0);
                if libc::pthread_attr_getstack(&attributes, &mut low, &mut size) == 0 {
                    (*self.shared.raw()).text.stack = [low as usize, low as usize + size];
                }
                libc::pthread_attr_destroy(&mut attributes);
            }
        }
    }
}

/// The library has called back.
pub(crate) struct Hosted<'a>(&'a AtomicU64);

impl<'a> Hosted<'a> {
    /// From now on, as long as the result lives.
    pub(crate) fn new(word: &'a AtomicU64) -> Self {
        word.store(1, Ordering::Relaxed);
        Hosted(word)
    }
}

impl Drop for Hosted<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

struct Job<F, R> {
    call: F,
    result: Option<R>,
}

/// The function that runs a job of this type.
fn trampoline<F: FnOnce() -> R + Copy, R: Copy>(_: *const F) -> extern "C-unwind" fn(*mut c_void) {
    extern "C-unwind" fn run<F: FnOnce() -> R + Copy, R: Copy>(job: *mut c_void) {
        // SAFETY: `Guard::call` passes a job of this type.
        let job = unsafe { &mut *job.cast::<Job<F, R>>() };
        job.result = Some((job.call)());
    }
    run::<F, R>
}

fn install() -> io::Result<()> {
    static DONE: Once = Once::new();
    static FAILED: AtomicU64 = AtomicU64::new(0);
    DONE.call_once(|| {
        // SAFETY: installs handlers that pass on what is not theirs.
        if unsafe { freena_guard_install() } != 0 {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            FAILED.store(errno as u64, Ordering::Relaxed);
        }
    });
    match FAILED.load(Ordering::Relaxed) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno as i32)),
    }
}

/// Has the watchdog look at a guard as long as it lives.
fn watch(guard: Weak<Shared>) {
    static WATCHED: OnceLock<Mutex<Vec<Weak<Shared>>>> = OnceLock::new();
    static STARTED: Once = Once::new();
    let watched = WATCHED.get_or_init(Mutex::default);
    watched.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    STARTED.call_once(|| {
        let started = thread::Builder::new().name("freena-watchdog".to_owned()).spawn(|| {
            let mut suspects = Vec::new();
            loop {
                thread::sleep(LOOK_EVERY);
                let guards: Vec<Arc<Shared>> = {
                    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                    watched.retain(|guard| guard.strong_count() > 0);
                    watched.iter().filter_map(Weak::upgrade).collect()
                };
                look_at(&guards, &mut suspects);
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no watchdog: an endless loop in a protocol library would go unnoticed");
        }
    });
}

/// A call that was under way when the watchdog looked.
struct Suspect {
    guard: *const Shared,
    call: u64,
    since: Instant,
    cpu: Duration,
}

fn look_at(guards: &[Arc<Shared>], suspects: &mut Vec<Suspect>) {
    let mut still = Vec::new();
    for guard in guards {
        let call = guard.inside().load(Ordering::Acquire);
        // The thread may be gone only when it is in no call: while it is, it lives.
        let Some((caller, clock)) = (*guard.caller()).filter(|_| call != 0) else { continue };
        let Some(cpu) = time_of(clock) else { continue };
        let known = suspects.iter().find(|it| std::ptr::eq(it.guard, &**guard) && it.call == call);
        let Some(known) = known else {
            still.push(Suspect { guard: Arc::as_ptr(guard), call, since: Instant::now(), cpu });
            continue;
        };
        let used = cpu.saturating_sub(known.cpu);
        if used >= PATIENCE || known.since.elapsed() >= LONG_PATIENCE {
            end_call(guard, call, caller);
        } else {
            still.push(Suspect { ..*known });
        }
    }
    *suspects = still;
}

/// Ends a call, or the process.
fn end_call(guard: &Shared, call: u64, caller: libc::pthread_t) {
    guard.stuck().store(call, Ordering::Release);
    for _ in 0..TRIES {
        if guard.inside().load(Ordering::Acquire) != call {
            return;
        }
        // SAFETY: the thread is in the call, or was a moment ago; threads that call live as long as the server.
        unsafe { libc::pthread_kill(caller, freena_guard_signal()) };
        thread::sleep(Duration::from_millis(1));
    }
    eprintln!(
        "freena-stack: protocol library {} does not return from a call, and is where it cannot be interrupted: nothing can go on",
        guard.library
    );
    std::process::abort();
}

fn time_of(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time.
    let known = unsafe { libc::clock_gettime(clock, &mut time) } == 0;
    known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
