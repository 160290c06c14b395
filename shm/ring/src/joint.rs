//! The memory that both ends of a connection on one host share, mapped, and the states that they lead each other through.
//! Layout and rules: [`freena_shm_abi::joint`].

use crate::mapping;
use crate::stream::Pipe;
use freena_shm_abi::joint::{self, end};
use freena_shm_abi::socket::SocketPage;
use freena_shm_abi::stream::state;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Which end of a joint memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that connected.
    Connecting,
    /// The one that was accepted.
    Accepted,
}

impl End {
    /// As [`freena_shm_abi::socket::Geometry::joint`] says it.
    pub const fn number(self) -> u32 {
        match self {
            End::Connecting => end::CONNECTING,
            End::Accepted => end::ACCEPTED,
        }
    }

    /// The end that a number stands for.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            end::CONNECTING => Some(End::Connecting),
            end::ACCEPTED => Some(End::Accepted),
            _ => None,
        }
    }

    /// The end at the other side.
    pub const fn other(self) -> Self {
        match self {
            End::Connecting => End::Accepted,
            End::Accepted => End::Connecting,
        }
    }

    const fn index(self) -> usize {
        match self {
            End::Connecting => 0,
            End::Accepted => 1,
        }
    }
}

/// A joint memory, mapped by one of its ends. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct JointMapping {
    base: *mut u8,
    ring: u32,
    end: End,
}

/// Makes a joint memory whose rings have `ring` bytes each, a power of two.
///
/// # Errors
/// Those of memfd_create(2), ftruncate(2) and fcntl(2).
pub fn create(ring: u32) -> io::Result<OwnedFd> {
    mapping::sealed_memfd(c"freena-joint", joint::total_size(ring), 0)
}

impl JointMapping {
    /// Maps it.
    ///
    /// # Errors
    /// `EPROTO` if it is not as long as rings of `ring` bytes make it, and those of fstat(2) and mmap(2).
    pub(crate) fn open(fd: BorrowedFd<'_>, ring: u32, end: End) -> io::Result<Self> {
        let len = joint::total_size(ring);
        // Before anything is touched: a page behind the end of the file would fault.
        if !ring.is_power_of_two() || mapping::file_len(fd)? != len as u64 {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let base = mapping::map_shared(fd.as_raw_fd(), len, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(JointMapping { base, ring, end })
    }

    fn page_of(&self, end: End) -> &SocketPage {
        // SAFETY: `open` has mapped two pages and more, at an address that is page-aligned; every field of a `SocketPage` is
        // atomic, so that other processes may write while the reference exists.
        unsafe { &*self.base.add(joint::page_offset(end.index())).cast::<SocketPage>() }
    }

    /// The page of this end.
    pub(crate) fn page(&self) -> &SocketPage {
        self.page_of(self.end)
    }

    /// The page of the other end.
    pub(crate) fn peer_page(&self) -> &SocketPage {
        self.page_of(self.end.other())
    }

    /// The ring of what an end sends.
    fn pipe(&self, end: End) -> Pipe<'_> {
        let page = self.page_of(end);
        // SAFETY: the region is mapped for the life of `self`, cannot shrink, and `open` has checked its size to be a power of
        // two. Within one process the producer is guarded by `AppArea::tx_lock` of the sending end, the consumer by
        // `AppArea::rx_lock` of the receiving one; the server makes neither.
        unsafe {
            Pipe::new(
                self.base.add(joint::ring_offset(self.ring, end.index())),
                u64::from(self.ring),
                &page.tx_tail.0,
                &page.tx_head.0,
                &page.stream.asked.tx_base,
            )
        }
    }

    /// The ring of what this end sends.
    pub(crate) fn tx_pipe(&self) -> Pipe<'_> {
        self.pipe(self.end)
    }

    /// The ring of what this end receives.
    pub(crate) fn rx_pipe(&self) -> Pipe<'_> {
        self.pipe(self.end.other())
    }
}

impl Drop for JointMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length; pages and pipes borrow `self` and are gone.
        unsafe { libc::munmap(self.base.cast(), joint::total_size(self.ring)) };
    }
}

/// One direction of a joined connection ends, in the states of both (RFC 9293 section 3.3.2, with every segment acknowledged
/// at once): `own` is of the end that will send no more, `peer` of the other one. Returns the state of each afterwards.
/// The kernel shows a program no TIME-WAIT: what waits then is not its socket any more (tcp_time_wait).
pub fn end_direction(own: &AtomicU32, peer: &AtomicU32) -> (u32, u32) {
    let step = |word: &AtomicU32, steps: [(u32, u32); 2]| {
        let next = |now| steps.iter().find(|(from, _)| *from == now).map(|(_, to)| *to);
        match word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(before) => next(before).unwrap_or(before),
            Err(now) => now,
        }
    };
    let own = step(own, [(state::ESTABLISHED, state::FIN_WAIT_2), (state::CLOSE_WAIT, state::CLOSED)]);
    let peer = step(peer, [(state::ESTABLISHED, state::CLOSE_WAIT), (state::FIN_WAIT_2, state::CLOSED)]);
    (own, peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SocketMapping;
    use std::os::fd::AsFd;

    const RING: u32 = 1 << 18;

    #[test]
    #[cfg_attr(miri, ignore = "miri knows no memfd_create")]
    fn what_one_end_sends_is_what_the_other_receives() {
        let joint = create(RING).unwrap();
        let (one, _) = SocketMapping::create_joined(joint.as_fd(), End::Connecting, RING, 1).unwrap();
        let (other, fd) = SocketMapping::create_joined(joint.as_fd(), End::Accepted, RING, 2).unwrap();
        assert!(SocketMapping::open(fd.as_fd()).is_err(), "its rings are not in it");
        let opened = SocketMapping::open_joined(fd.as_fd(), joint.as_fd()).unwrap();
        let (from, to) = (one.tx_pipe(), opened.rx_pipe());
        // SAFETY: five bytes are readable, the ring is empty.
        unsafe { from.copy_in(0, 0, b"hello".as_ptr(), 5) };
        from.tail().store(5, Ordering::Release);
        let mut got = [0u8; 5];
        assert_eq!(to.tail().load(Ordering::Acquire), 5);
        // SAFETY: five bytes are writable.
        unsafe { to.copy_out(0, 0, got.as_mut_ptr(), 5) };
        assert_eq!(&got, b"hello");
        to.head().store(5, Ordering::Release);
        assert_eq!(one.page().tx_head.0.load(Ordering::Acquire), 5);
        assert_eq!(other.tx_pipe().tail().load(Ordering::Relaxed), 0);
        opened.page().error.0.store(9, Ordering::Relaxed);
        let seen = one.peer_page().map(|page| page.error.0.load(Ordering::Relaxed));
        assert_eq!(seen, Some(9));
        opened.own_page().app.status.store(7, Ordering::Relaxed);
        assert_eq!(one.peer_page().map(|page| page.app.status.load(Ordering::Relaxed)), Some(0), "private");
        assert_eq!(
            other.own_page().app.status.load(Ordering::Relaxed),
            7,
            "shared with those who hold the socket"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri knows no memfd_create")]
    fn a_joint_memory_of_another_size_is_refused() {
        let (right, wrong) = (create(RING).unwrap(), create(2 * RING).unwrap());
        let (_, fd) = SocketMapping::create_joined(right.as_fd(), End::Accepted, RING, 1).unwrap();
        let errno = |joint: &OwnedFd| {
            SocketMapping::open_joined(fd.as_fd(), joint.as_fd()).err().and_then(|error| error.raw_os_error())
        };
        assert_eq!(errno(&right), None);
        assert_eq!(errno(&wrong), Some(libc::EPROTO));
        assert_eq!(errno(&fd), Some(libc::EPROTO));
    }

    #[test]
    fn directions_end_one_after_the_other_or_at_once() {
        let (one, other) = (AtomicU32::new(state::ESTABLISHED), AtomicU32::new(state::ESTABLISHED));
        assert_eq!(end_direction(&one, &other), (state::FIN_WAIT_2, state::CLOSE_WAIT));
        assert_eq!(end_direction(&one, &other), (state::FIN_WAIT_2, state::CLOSE_WAIT), "once");
        assert_eq!(end_direction(&other, &one), (state::CLOSED, state::CLOSED));
        let failed = AtomicU32::new(state::CLOSED);
        assert_eq!(end_direction(&failed, &failed), (state::CLOSED, state::CLOSED), "an error is for good");
    }
}
