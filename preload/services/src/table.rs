//! Which descriptors have services: one pointer for each number, in memory that is touched where it is used. Its lowest bit says
//! that the socket is one for datagrams.

use crate::slot::{Held, Slot};
use core::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Numbers that can have services; a flow with a higher one is refused.
pub const SIZE: usize = 1 << 20;

/// Bit of a pointer whose slot is for datagrams.
const DATAGRAMS: usize = 1;
const _: () = assert!(align_of::<Slot>() > DATAGRAMS);

/// The slot that an entry leads to.
fn slot_of(entry: *mut Slot) -> Option<&'static Slot> {
    // SAFETY: null, or a slot, which is never freed.
    unsafe { entry.map_addr(|it| it & !DATAGRAMS).as_ref() }
}

static BASE: AtomicPtr<AtomicPtr<Slot>> = AtomicPtr::new(ptr::null_mut());
/// One more than the highest number that ever had services.
static END: AtomicU32 = AtomicU32::new(0);

pub(crate) fn start() {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping touches no existing memory.
    let base = unsafe { libc::mmap(ptr::null_mut(), SIZE * 8, access, flags, -1, 0) };
    if base != libc::MAP_FAILED {
        BASE.store(base.cast(), Ordering::Release);
    }
}

/// Whether flows get services in this program at all.
#[inline]
pub fn is_active() -> bool {
    !BASE.load(Ordering::Relaxed).is_null()
}

#[inline]
fn place(fd: c_int) -> Option<&'static AtomicPtr<Slot>> {
    let base = BASE.load(Ordering::Acquire);
    if base.is_null() || fd as u32 as usize >= SIZE {
        return None;
    }
    // SAFETY: the array has `SIZE` elements, is mapped for good, and null is a valid element.
    Some(unsafe { &*base.add(fd as u32 as usize) })
}

/// Whether a descriptor's flow has services.
#[inline]
pub fn is_inserted(fd: c_int) -> bool {
    place(fd).is_some_and(|place| !place.load(Ordering::Relaxed).is_null())
}

/// Whether a descriptor is a socket for datagrams that may have services.
#[inline]
pub fn is_datagrams(fd: c_int) -> bool {
    place(fd).is_some_and(|place| place.load(Ordering::Relaxed).addr() & DATAGRAMS != 0)
}

/// The flow of a descriptor.
#[inline]
pub fn hold(fd: c_int) -> Option<Held> {
    let place = place(fd)?;
    loop {
        let entry = place.load(Ordering::Acquire);
        if let Some(held) = slot_of(entry)?.hold()
            && ptr::eq(place.load(Ordering::Acquire), entry)
        {
            return Some(held);
        }
    }
}

/// Puts a flow behind a number that has none. `false` for a number beyond the table.
pub(crate) fn set(fd: c_int, held: Held) -> bool {
    let Some(place) = place(fd) else { return false };
    held.add_descriptor();
    END.fetch_max(fd as u32 + 1, Ordering::Relaxed);
    let slot = held.keep();
    let bit = if slot.is_datagrams() { DATAGRAMS } else { 0 };
    place.store(ptr::from_ref(slot).cast_mut().map_addr(|it| it | bit), Ordering::Release);
    true
}

/// Takes the flow away from a number; whether it was its last one.
pub(crate) fn take(fd: c_int) -> Option<(Held, bool)> {
    let held = Held::again(slot_of(place(fd)?.swap(ptr::null_mut(), Ordering::AcqRel))?);
    let last = held.remove_descriptor();
    Some((held, last))
}

/// All numbers with services from `first` to `last`.
pub(crate) fn inserted(first: u32, last: u32) -> impl Iterator<Item = c_int> {
    let end = END.load(Ordering::Relaxed).min(last.saturating_add(1));
    (first..end).map(|fd| fd as c_int).filter(|fd| is_inserted(*fd))
}

/// Looks at every flow.
pub(crate) fn each(mut look: impl FnMut(&Slot)) {
    inserted(0, u32::MAX).filter_map(hold).for_each(|held| look(&held));
}
