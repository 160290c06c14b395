//! Where this process shows its flows to `freena status`: a file that `freena run` has made, mapped by all processes that come of
//! it. Showing is storing into memory: no call, no thread, and also in a process that has given up its rights.

use freena_preload_control::{log, process, sys};
use freena_service_chain::{Figure, FlowError, Role};
use freena_shm_abi::MAGIC;
use freena_shm_abi::flows::{ENV_FLOWS, FLOWS_VERSION, Head, RECORDS, Record, SIZE, TOLD_WORDS, Told, state};
use std::ffi::CString;
use std::fmt::{Display, Write};
use std::net::{IpAddr, SocketAddr};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// How far behind figures may be, in nanoseconds: what passed just before a pause may not be among them.
const EVERY: u64 = 10_000_000;
/// How often records of processes that are gone are looked for, in nanoseconds.
const SWEEP_EVERY: u64 = 1_000_000_000;

static HEAD: AtomicPtr<Head> = AtomicPtr::new(ptr::null_mut());
/// Where the next free record is looked for first.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static SWEPT: AtomicU64 = AtomicU64::new(0);
/// The program's name, asked for before it may confine itself (seccomp(2)).
static PROGRAM: OnceLock<[u8; 16]> = OnceLock::new();

fn head() -> Option<&'static Head> {
    // SAFETY: null, or a mapping of `SIZE` bytes that stays for good; what others write is atomic.
    unsafe { HEAD.load(Ordering::Acquire).as_ref() }
}

fn records() -> &'static [Record] {
    head().map_or(&[], |head| {
        // SAFETY: the records are behind the head in the mapping, and atomic throughout.
        unsafe { std::slice::from_raw_parts(ptr::from_ref(head).add(1).cast(), RECORDS) }
    })
}

/// Maps the file, where `freena run` has named one. A program whose file cannot be used goes on, and shows nothing.
pub(crate) fn start() {
    let Some(path) = std::env::var_os(ENV_FLOWS) else { return };
    if let Err(why) = map(&path) {
        log::decision(format_args!("flows are not shown in freena status: {why}"));
        return;
    }
    let mut name = [0; 16];
    // SAFETY: 16 bytes are what it writes, the last of them NUL.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let _ = PROGRAM.set(name);
    register();
    // SAFETY: the handler is a function of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(None, None, Some(register)) };
}

fn map(path: &std::ffi::OsStr) -> Result<(), String> {
    let name = CString::new(path.as_encoded_bytes()).map_err(|error| error.to_string())?;
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let fd = sys::open(name.as_ptr(), flags).map_err(|error| format!("{}: {error:?}", path.display()))?;
    // SAFETY: plain data, valid when zero, and a pointer to a local.
    let length = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut stat) == 0 { stat.st_size as usize } else { 0 }
    };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping touches no existing memory.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, libc::MAP_SHARED, fd, 0) };
    let _ = sys::close(fd);
    if mapped == libc::MAP_FAILED {
        return Err("it cannot be mapped".to_owned());
    }
    let head: *mut Head = mapped.cast();
    // SAFETY: the file has the head's bytes, which `freena run` has written before it started the program.
    let good = length == SIZE && unsafe { (*head).magic == MAGIC && (*head).version == FLOWS_VERSION };
    if !good {
        return Err(format!("{} is none of this version's", path.display()));
    }
    HEAD.store(head, Ordering::Release);
    Ok(())
}

/// Says that this process uses the file. Without room it is not told of, while its flows are.
pub(crate) extern "C" fn register() {
    let Some(head) = head() else { return };
    let own = sys::getpid();
    let place = |gone: bool| {
        head.processes.iter().any(|it| {
            let pid = it.load(Ordering::Relaxed);
            let free = if gone { pid != 0 && !sys::thread_exists(pid) } else { pid == 0 };
            free && it.compare_exchange(pid, own, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    };
    let _ = place(false) || place(true);
}

/// A flow on the board, as long as it goes on.
pub(crate) struct Shown {
    record: Option<&'static Record>,
    told: Box<Told>,
    /// When it was written last.
    written: u64,
}

impl Shown {
    /// Puts a flow on it: `services` is what was inserted, and by which rules.
    pub(crate) fn new(transport: u8, role: Role, ends: [SocketAddr; 2], services: &str, now: u64) -> Self {
        let bytes = |address: SocketAddr| match address.ip() {
            IpAddr::V4(it) => it.to_ipv6_mapped().octets(),
            IpAddr::V6(it) => it.octets(),
        };
        let mut told = Box::new(Told {
            begun: now,
            local: bytes(ends[0]),
            peer: bytes(ends[1]),
            local_port: ends[0].port(),
            peer_port: ends[1].port(),
            transport,
            role: u8::from(role == Role::Server),
            program: PROGRAM.get().copied().unwrap_or_default(),
            ..Told::default()
        });
        told.lengths[0] = put(&mut told.services, &services);
        let mut it = Self { record: claim(now), told, written: 0 };
        it.write(now);
        it
    }

    /// How far it is; whether that has changed. Figures are not asked for each time.
    pub(crate) fn show(&mut self, state: u8, now: u64, figures: impl FnOnce() -> Vec<Figure>) -> bool {
        let changed = state != self.told.state;
        if changed || now.saturating_sub(self.written) >= EVERY {
            self.told.state = state;
            self.tell_figures(&figures());
            self.write(now);
        }
        changed
    }

    /// A message was refused, of a flow that goes on.
    pub(crate) fn refuse(&mut self, why: &dyn Display, now: u64) {
        self.told.refused += 1;
        self.told.lengths[1] = put(&mut self.told.reason, why);
        self.write(now);
    }

    /// The flow is over.
    pub(crate) fn fail(&mut self, error: &FlowError, figures: &[Figure], now: u64) {
        self.told.refused += u64::from(matches!(error, FlowError::Damaged { .. }));
        (self.told.state, self.told.ended) = (state::FAILED, now);
        self.told.errno = error.errno() as u32;
        self.told.lengths[1] = put(&mut self.told.reason, error);
        self.tell_figures(figures);
        self.write(now);
    }

    fn tell_figures(&mut self, figures: &[Figure]) {
        let mut words = String::new();
        for it in figures {
            let between = if words.is_empty() { "" } else { "; " };
            let _ = write!(words, "{between}{}: {} {}", it.service, it.value, it.name);
        }
        self.told.lengths[2] = put(&mut self.told.figures, &words);
    }

    fn write(&mut self, now: u64) {
        self.written = now;
        let Some(record) = self.record else { return };
        // After a fork it is the process's that goes on with it.
        record.pid.store(process::id(), Ordering::Relaxed);
        let words: [u64; TOLD_WORDS] = zerocopy::transmute!(*self.told);
        record.sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in record.told.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        record.sequence.fetch_add(1, Ordering::Release);
    }

    /// The flow is gone from this process; `own`: it was this process's. One that has failed stays to be seen.
    pub(crate) fn withdraw(&mut self, own: bool) {
        let Some(record) = self.record.take().filter(|_| own) else { return };
        if self.told.state == state::FAILED {
            record.over.store(1, Ordering::Release);
        } else {
            record.pid.store(0, Ordering::Release);
        }
    }
}

/// `words` in as many bytes as there are; how many it took.
fn put(place: &mut [u8], words: &dyn Display) -> u16 {
    let words = words.to_string();
    let end = words.floor_char_boundary(place.len());
    place[..end].copy_from_slice(&words.as_bytes()[..end]);
    end as u16
}

/// A record for this process: a free one, or one of a flow or of a process that is gone.
fn claim(now: u64) -> Option<&'static Record> {
    let (head, records, own) = (head()?, records(), process::id());
    let first = NEXT.load(Ordering::Relaxed);
    let all = || (0..RECORDS).map(|it| &records[(first + it) % RECORDS]);
    let take = |it: &Record, from: u32| {
        it.pid.compare_exchange(from, own, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let free = all().find(|it| take(it, 0));
    let over = || {
        all().find(|it| {
            it.over.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok_and(|_| {
                it.pid.store(own, Ordering::Relaxed);
                true
            })
        })
    };
    let gone = || {
        let due = now.saturating_sub(SWEPT.swap(now, Ordering::Relaxed)) >= SWEEP_EVERY;
        let is_gone = |it: &&Record| {
            let pid = it.pid.load(Ordering::Relaxed);
            pid != 0 && !sys::thread_exists(pid) && take(it, pid)
        };
        if due { all().find(is_gone) } else { None }
    };
    let found = free.or_else(over).or_else(gone);
    match found {
        Some(record) => {
            NEXT.store((first + 1) % RECORDS, Ordering::Relaxed);
            record.over.store(0, Ordering::Relaxed);
        }
        None => {
            head.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
    found
}
