//! What a descriptor with services stands for. Slots are never freed, only used again, so that a look at one that has just been
//! closed by another thread is harmless.

use crate::datagrams::Datagrams;
use crate::owner::Owner;
use crate::stream::Stream;
use freena_preload_control::process;
use freena_preload_control::sys::{self, Errno};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bit of the lock's word beside the owner's thread id: somebody waits.
const WAITERS: u32 = 1 << 31;

/// A flow of this process.
pub struct Slot {
    /// Who looks at it: descriptors, and [`Held`]s. 0: free.
    holders: AtomicU32,
    /// Descriptors of the program that are this flow.
    descriptors: AtomicU32,
    lock: AtomicU32,
    /// The process that has used it last: a fork child may find a lock that nobody is there to give back.
    process: AtomicU32,
    /// Whether it is a socket for datagrams.
    datagrams: AtomicBool,
    body: UnsafeCell<Option<Body>>,
}

struct Body {
    owner: Owner,
    content: Content,
}

impl Drop for Body {
    fn drop(&mut self) {
        let own = self.owner.has();
        match &mut self.content {
            Content::Stream(stream) => stream.withdraw(own),
            Content::Datagrams(datagrams) => datagrams.withdraw(own),
        }
    }
}

/// What a slot is for.
pub(crate) enum Content {
    Stream(Box<Stream>),
    Datagrams(Box<Datagrams>),
}

/// A kind of content.
pub(crate) trait Kind: Sized {
    /// The content as that kind; `None` if it is another.
    fn of(content: &mut Content) -> Option<&mut Self>;
}

impl Kind for Content {
    fn of(content: &mut Content) -> Option<&mut Self> {
        Some(content)
    }
}

impl Kind for Stream {
    fn of(content: &mut Content) -> Option<&mut Self> {
        if let Content::Stream(stream) = content { Some(stream) } else { None }
    }
}

impl Kind for Datagrams {
    fn of(content: &mut Content) -> Option<&mut Self> {
        if let Content::Datagrams(datagrams) = content { Some(datagrams) } else { None }
    }
}

// SAFETY: `body` is used by who has the lock, or, for a slot without holders, by the one who takes it from the list of free ones
// or puts it there; `owner` within it is atomic and looked at by a fork's handler while no other thread of the process changes
// which flows there are.
unsafe impl Sync for Slot {}

static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// Keeps a slot from being used for another flow.
pub struct Held(&'static Slot);

/// The content of a slot, locked.
pub(crate) struct Locked<'s, T: Kind = Stream> {
    slot: &'s Slot,
    content: &'s mut T,
}

impl Slot {
    /// A slot for a new flow, with one descriptor. `None`: no memory.
    pub(crate) fn make(content: Content) -> Option<Held> {
        let owner = Owner::new()?;
        let free = FREE.try_lock().ok().and_then(|mut free| free.pop());
        let slot = free.unwrap_or_else(|| {
            Box::leak(Box::new(Slot {
                holders: AtomicU32::new(0),
                descriptors: AtomicU32::new(0),
                lock: AtomicU32::new(0),
                process: AtomicU32::new(0),
                datagrams: AtomicBool::new(false),
                body: UnsafeCell::new(None),
            }))
        });
        slot.datagrams.store(matches!(content, Content::Datagrams(_)), Ordering::Relaxed);
        // SAFETY: it has no holders.
        unsafe { *slot.body.get() = Some(Body { owner, content }) };
        slot.process.store(process::id(), Ordering::Relaxed);
        slot.holders.store(1, Ordering::Release);
        Some(Held(slot))
    }

    /// Keeps it, unless it is free.
    pub(crate) fn hold(&'static self) -> Option<Held> {
        let mut holders = self.holders.load(Ordering::Relaxed);
        while holders != 0 {
            match self.holders.compare_exchange_weak(
                holders,
                holders + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Held(self)),
                Err(now) => holders = now,
            }
        }
        None
    }

    pub(crate) fn add_descriptor(&self) {
        self.descriptors.fetch_add(1, Ordering::Relaxed);
    }

    /// One descriptor fewer; whether it was the last.
    pub(crate) fn remove_descriptor(&self) -> bool {
        self.descriptors.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether it is a socket for datagrams.
    pub(crate) fn is_datagrams(&self) -> bool {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Has the owner's word looked at.
    pub(crate) fn owner<T>(&self, look: impl FnOnce(&Owner) -> T) -> Option<T> {
        // SAFETY: the body is not replaced while there are holders, and `owner` is atomic.
        unsafe { (*self.body.get()).as_ref() }.map(|body| look(&body.owner))
    }

    /// Locks it, if this process has it already.
    ///
    /// # Errors
    /// As [`Slot::lock`].
    pub(crate) fn lock_own<T: Kind>(&self) -> Result<Locked<'_, T>, Errno> {
        let locked = self.acquire()?;
        // Behind the lock: a fork gives flows free under it.
        if self.owner(Owner::has) == Some(true) { Ok(locked) } else { Err(Errno(libc::EIO)) }
    }

    /// Locks a stream.
    ///
    /// # Errors
    /// `EIO`: another process has the flow. `ENOBUFS`: a signal handler interrupted its own thread's call. `EBADF`: the number is
    /// another socket's by now.
    pub(crate) fn lock(&self) -> Result<Locked<'_>, Errno> {
        self.lock_any()
    }

    /// Locks a flow of the kind.
    ///
    /// # Errors
    /// As [`Slot::lock`].
    pub(crate) fn lock_any<T: Kind>(&self) -> Result<Locked<'_, T>, Errno> {
        let locked = self.acquire()?;
        // Behind the lock, as in `lock_own`.
        if self.owner(Owner::take) == Some(true) { Ok(locked) } else { Err(Errno(libc::EIO)) }
    }

    /// Locks it for the courier: takes it after a fork only where this process has left something to send. Else it is for the
    /// process that uses it.
    ///
    /// # Errors
    /// As [`Slot::lock`].
    pub(crate) fn lock_left(&self) -> Result<Locked<'_, Content>, Errno> {
        let locked = self.acquire::<Content>()?;
        let has = self.owner(Owner::has) == Some(true);
        let left = match &*locked {
            Content::Stream(stream) => stream.has_left(),
            Content::Datagrams(datagrams) => datagrams.is_full(),
        };
        if has || left && self.owner(Owner::take) == Some(true) { Ok(locked) } else { Err(Errno(libc::EIO)) }
    }

    fn acquire<T: Kind>(&self) -> Result<Locked<'_, T>, Errno> {
        if self.process.load(Ordering::Relaxed) != process::id() {
            if self.lock.load(Ordering::Relaxed) != 0 {
                return Err(Errno(libc::EIO));
            }
            self.process.store(process::id(), Ordering::Relaxed);
        }
        let own = process::tid();
        let mut wanted = own;
        while let Err(found) = self.lock.compare_exchange(0, wanted, Ordering::Acquire, Ordering::Relaxed) {
            if found & !WAITERS == own {
                return Err(Errno(libc::ENOBUFS));
            }
            wanted = own | WAITERS;
            let waited = found | WAITERS;
            if found == waited
                || self.lock.compare_exchange(found, waited, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                sys::futex_wait(&self.lock, waited, None, false);
            }
        }
        // SAFETY: the lock is held; a held slot has a body.
        let body = unsafe { (*self.body.get()).as_mut() };
        let Some(content) = body.and_then(|body| T::of(&mut body.content)) else {
            self.unlock();
            return Err(Errno(libc::EBADF));
        };
        Ok(Locked { slot: self, content })
    }

    fn unlock(&self) {
        if self.lock.swap(0, Ordering::Release) & WAITERS != 0 {
            sys::futex_wake(&self.lock, false);
        }
    }
}

impl Held {
    /// The slot, kept for good: the caller answers for the holder.
    pub(crate) fn keep(self) -> &'static Slot {
        let slot = self.0;
        std::mem::forget(self);
        slot
    }

    /// Takes back what [`Held::keep`] gave.
    pub(crate) fn again(slot: &'static Slot) -> Self {
        Self(slot)
    }
}

impl Deref for Held {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The last one but for the reference that is being given up: the slot is free for nobody until it is in the list.
        if self.0.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: there are no holders.
            unsafe { *self.0.body.get() = None };
            self.0.lock.store(0, Ordering::Relaxed);
            if let Ok(mut free) = FREE.try_lock() {
                free.push(self.0);
            }
        }
    }
}

impl<T: Kind> Deref for Locked<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.content
    }
}

impl<T: Kind> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.content
    }
}

impl<T: Kind> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        self.slot.unlock();
    }
}
