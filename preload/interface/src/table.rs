//! What each descriptor number is to the library.
//!
//! One word per number in an array that is reserved at start and touched where it is used. Zero, which is what almost
//! every descriptor has, costs a hook one load and a comparison.

use crate::socket::{self, Held, Kind, Socket};
use crate::watch;
use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Numbers that can be tracked; a socket with a higher one stays with the kernel.
pub const SIZE: usize = 1 << 20;

static BASE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static NOTES: AtomicPtr<AtomicU8> = AtomicPtr::new(ptr::null_mut());
/// One more than the highest number that was ever tracked.
static END: AtomicU32 = AtomicU32::new(0);
static NEXT_CANDIDATE: AtomicU32 = AtomicU32::new(1);

/// Bit of a word: a candidate, not a framework socket.
const CANDIDATE: u64 = 1 << 0;
/// Bit of a word: a stream socket. Sockets in the slab are aligned to more than this.
const STREAM: u64 = 1 << 1;
/// Bit of a word, beside that of streams: one with messages.
const MESSAGES: u64 = 1 << 2;
const FLAGS: u64 = CANDIDATE | STREAM | MESSAGES;
/// Bits of a word below a candidate's number.
const BELOW_ID: u32 = FLAGS.count_ones();

/// A kernel socket that the framework may take over: what its table word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it may become.
    pub kind: Kind,
    /// The same for all duplicates of one socket, 29 bits.
    pub id: u32,
    /// [`freena_preload_control::process::forks`] when it was made, the lower 32 bits.
    pub forks: u32,
}

/// A table word, decoded.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Nothing of ours.
    Untracked,
    /// A socket that may become one of the framework.
    Candidate(Candidate),
    /// A socket of the framework.
    Framework(&'static Socket),
}

impl Candidate {
    /// A new one.
    pub fn new(kind: Kind, forks: u32) -> Self {
        Candidate { kind, id: NEXT_CANDIDATE.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> BELOW_ID), forks }
    }

    const fn word(self) -> u64 {
        (self.forks as u64) << 32 | (self.id as u64) << BELOW_ID | flag(self.kind) | CANDIDATE
    }

    const fn from_word(word: u64) -> Self {
        Candidate { kind: kind_of(word), id: (word as u32) >> BELOW_ID, forks: (word >> 32) as u32 }
    }
}

const fn flag(kind: Kind) -> u64 {
    match kind {
        Kind::Datagram => 0,
        Kind::Stream => STREAM,
        Kind::Messages => STREAM | MESSAGES,
    }
}

const fn kind_of(word: u64) -> Kind {
    match word & (STREAM | MESSAGES) {
        0 => Kind::Datagram,
        STREAM => Kind::Stream,
        _ => Kind::Messages,
    }
}

/// Reserves the table. Whether that worked.
pub fn start() -> bool {
    let Some(base) = socket::reserve(SIZE * size_of::<AtomicU64>()) else { return false };
    let Some(notes) = socket::reserve(SIZE) else { return false };
    if !socket::start() {
        return false;
    }
    NOTES.store(notes.cast(), Ordering::Release);
    BASE.store(base.cast(), Ordering::Release);
    true
}

#[inline]
fn place(fd: c_int) -> Option<&'static AtomicU64> {
    let base = BASE.load(Ordering::Acquire);
    if base.is_null() || fd as u32 as usize >= SIZE {
        return None;
    }
    // SAFETY: the array has `SIZE` elements, is mapped for good, and zero is a valid element.
    Some(unsafe { &*base.add(fd as u32 as usize) })
}

/// The word of a descriptor, 0 for one that the library has nothing to do with.
#[inline]
pub fn word(fd: c_int) -> u64 {
    place(fd).map_or(0, |place| place.load(Ordering::Acquire))
}

/// Whether no descriptor was ever tracked.
#[inline]
pub fn is_empty() -> bool {
    END.load(Ordering::Relaxed) == 0
}

/// Whether the library has anything to do with a descriptor.
#[inline]
pub fn is_tracked(fd: c_int) -> bool {
    word(fd) != 0
}

/// What kind of socket a descriptor is, if the library has anything to do with it.
#[inline]
pub fn kind(fd: c_int) -> Option<Kind> {
    match word(fd) {
        0 => None,
        word => Some(kind_of(word)),
    }
}

/// What a word says.
#[inline]
pub fn decode(word: u64) -> Entry {
    if word == 0 {
        Entry::Untracked
    } else if word & CANDIDATE != 0 {
        Entry::Candidate(Candidate::from_word(word))
    } else {
        // SAFETY: such words are stored only by `set_framework`, from references into the socket slab, mapped for good.
        Entry::Framework(unsafe { &*ptr::with_exposed_provenance::<Socket>((word & !FLAGS) as usize) })
    }
}

/// What a descriptor is.
#[inline]
pub fn get(fd: c_int) -> Entry {
    decode(word(fd))
}

/// The framework socket behind a descriptor, kept alive while the result exists.
#[inline]
pub fn hold(fd: c_int) -> Option<Held> {
    loop {
        let before = word(fd);
        let Entry::Framework(socket) = decode(before) else { return None };
        if let Some(held) = socket.hold() {
            // The number may have been closed and given to another socket in between.
            if word(fd) == before {
                return Some(held);
            }
        }
    }
}

/// Notes a candidate. Nothing happens for a number beyond the table.
pub fn set_candidate(fd: c_int, candidate: Candidate) {
    replace(fd, candidate.word());
}

/// What is noted of a candidate besides: bits of `freena_shm_abi::app::told`.
pub fn note(fd: c_int) -> Option<&'static AtomicU8> {
    let base = NOTES.load(Ordering::Acquire);
    if base.is_null() || fd as u32 as usize >= SIZE {
        return None;
    }
    // SAFETY: the array has `SIZE` elements, is mapped for good, and zero is a valid element.
    Some(unsafe { &*base.add(fd as u32 as usize) })
}

/// Notes a framework socket; takes over the reference. Drops it for a number beyond the table.
pub fn set_framework(fd: c_int, held: Held) {
    if place(fd).is_some() {
        let flag = flag(held.kind());
        replace(fd, ptr::from_ref(held.keep()).expose_provenance() as u64 | flag);
    }
}

/// Forgets a descriptor that is about to be closed, or was replaced.
pub fn clear(fd: c_int) {
    replace(fd, 0);
}

fn replace(fd: c_int, word: u64) {
    let Some(place) = place(fd) else { return };
    if word != 0 {
        END.fetch_max(fd as u32 + 1, Ordering::Relaxed);
    }
    if let Entry::Framework(socket) = decode(place.swap(word, Ordering::AcqRel)) {
        watch::released(fd, socket);
        socket.release();
    }
}

/// All tracked descriptors from `first` to `last`, lowest first.
pub fn tracked(first: u32, last: u32) -> impl Iterator<Item = c_int> {
    let end = END.load(Ordering::Relaxed).min(last.saturating_add(1));
    (first..end).map(|fd| fd as c_int).filter(|fd| is_tracked(*fd))
}

/// All numbers of one candidate.
pub fn duplicates(candidate: Candidate) -> impl Iterator<Item = c_int> {
    tracked(0, u32::MAX).filter(move |fd| word(*fd) == candidate.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_survive_their_word() {
        for candidate in [
            Candidate { kind: Kind::Datagram, id: 1, forks: 0 },
            Candidate { kind: Kind::Stream, id: u32::MAX >> BELOW_ID, forks: u32::MAX },
            Candidate { kind: Kind::Messages, id: 7, forks: 9 },
        ] {
            assert_eq!(Candidate::from_word(candidate.word()), candidate);
            assert!(matches!(decode(candidate.word()), Entry::Candidate(found) if found == candidate));
        }
        assert!(matches!(decode(0), Entry::Untracked));
    }
}
