//! The sealed memfd behind a socket, and where its parts lie.

use crate::joint::{End, JointMapping};
use crate::ring::{Channel, Words};
use crate::stream::Pipe;
use freena_shm_abi::socket::{self, MAX_RING, MAX_RX_RINGS, MIN_RING, RxCursors, SocketPage};
use freena_shm_abi::{ABI_VERSION, MAGIC};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::{io, ptr};

/// Sizes of a socket's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the transmit ring.
    pub tx: u32,
    /// Bytes of each receive ring.
    pub rx: u32,
    /// Receive rings.
    pub rx_rings: u32,
}

impl Sizes {
    /// The nearest sizes that are allowed: powers of two between [`MIN_RING`] and [`MAX_RING`].
    pub fn clamp(tx: u32, rx: u32, rx_rings: u32) -> Self {
        let fit = |n: u32| n.clamp(MIN_RING, MAX_RING).next_power_of_two();
        Sizes { tx: fit(tx), rx: fit(rx), rx_rings: rx_rings.clamp(1, MAX_RX_RINGS as u32) }
    }

    fn are_valid(&self) -> bool {
        let valid = |n: u32| n.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&n);
        valid(self.tx) && valid(self.rx) && (1..=MAX_RX_RINGS as u32).contains(&self.rx_rings)
    }

    fn total(&self) -> usize {
        socket::total_size(self.tx, self.rx, self.rx_rings)
    }
}

/// A socket's shared memory, mapped. Unmapped on drop.
#[derive(Debug)]
pub struct SocketMapping {
    base: *mut u8,
    sizes: Sizes,
    /// Where the rings are, if not behind the page.
    joint: Option<JointMapping>,
}

// SAFETY: the mapping is plain shared memory without thread affinity; what is in it is reached through atomics and
// through channels, whose constructor states who may use them.
unsafe impl Send for SocketMapping {}
// SAFETY: as above.
unsafe impl Sync for SocketMapping {}

impl SocketMapping {
    /// Server: makes the memory of a new socket and maps it.
    ///
    /// The memfd is sealed with `F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL` (man 2 memfd_create), so that no holder can make
    /// another one fault.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2), fcntl(2) and mmap(2): no memory or no descriptors.
    pub fn create(sizes: Sizes, socket_id: u64) -> io::Result<(Self, OwnedFd)> {
        let fd = sealed_memfd(c"freena-socket", sizes.total(), 0)?;
        let mapping = Self::map(fd.as_raw_fd(), sizes, None)?;
        mapping.describe(socket_id);
        // Nobody looks at the new socket's ring until it has been kicked.
        mapping.page().tx_kick.0.store(1, Ordering::Release);
        Ok((mapping, fd))
    }

    /// Server: makes what one end of a joined connection has to itself, and maps it with the joint memory, whose rings have
    /// `ring` bytes each.
    ///
    /// # Errors
    /// As [`SocketMapping::create`].
    pub fn create_joined(
        joint: BorrowedFd<'_>,
        end: End,
        ring: u32,
        socket_id: u64,
    ) -> io::Result<(Self, OwnedFd)> {
        let joint = JointMapping::open(joint, ring, end)?;
        let fd = sealed_memfd(c"freena-socket", socket::PAGE, 0)?;
        let mapping = Self::map(fd.as_raw_fd(), Sizes { tx: ring, rx: ring, rx_rings: 1 }, Some(joint))?;
        mapping.describe(socket_id);
        mapping.own_page().geometry.0.joint.store(end.number(), Ordering::Release);
        Ok((mapping, fd))
    }

    /// Says where things are.
    fn describe(&self, socket_id: u64) {
        let (sizes, geometry) = (self.sizes, &self.own_page().geometry.0);
        geometry.magic.store(MAGIC, Ordering::Relaxed);
        geometry.version.store(ABI_VERSION, Ordering::Relaxed);
        geometry.rx_rings.store(sizes.rx_rings, Ordering::Relaxed);
        geometry.tx_size.store(sizes.tx, Ordering::Relaxed);
        geometry.rx_size.store(sizes.rx, Ordering::Relaxed);
        geometry.socket_id.store(socket_id, Ordering::Relaxed);
    }

    /// Program: maps the memory that the server handed out. Allocates nothing.
    ///
    /// # Errors
    /// `EPROTO` if it is not what this version expects or not as long as it says, and those of fstat(2) and mmap(2).
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        match Self::read_geometry(fd)? {
            (sizes, None) if file_len(fd)? == sizes.total() as u64 => Self::map(fd.as_raw_fd(), sizes, None),
            _ => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        }
    }

    /// Program: as [`SocketMapping::open`], for one end of a joined connection.
    ///
    /// # Errors
    /// As [`SocketMapping::open`].
    pub fn open_joined(fd: BorrowedFd<'_>, joint: BorrowedFd<'_>) -> io::Result<Self> {
        match Self::read_geometry(fd)? {
            (sizes, Some(end)) if sizes.tx == sizes.rx => {
                let joint = JointMapping::open(joint, sizes.tx, end)?;
                Self::map(fd.as_raw_fd(), sizes, Some(joint))
            }
            _ => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        }
    }

    /// What the page says, which is there and of this version, and which end it is if it is joined.
    fn read_geometry(fd: BorrowedFd<'_>) -> io::Result<(Sizes, Option<End>)> {
        // Before anything is touched: a page behind the end of the file would fault.
        if file_len(fd)? < socket::PAGE as u64 {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let head = Self::map_raw(fd.as_raw_fd(), socket::PAGE)?;
        // SAFETY: a whole page has just been mapped there; a `SocketPage` is valid whatever its bytes.
        let geometry = unsafe { &(*head.cast::<SocketPage>()).geometry.0 };
        let valid = geometry.magic.load(Ordering::Relaxed) == MAGIC
            && geometry.version.load(Ordering::Relaxed) == ABI_VERSION;
        let sizes = Sizes {
            tx: geometry.tx_size.load(Ordering::Relaxed),
            rx: geometry.rx_size.load(Ordering::Relaxed),
            rx_rings: geometry.rx_rings.load(Ordering::Relaxed),
        };
        let end = End::from_number(geometry.joint.load(Ordering::Relaxed));
        // SAFETY: mapped above with this length and not used any more.
        unsafe { libc::munmap(head.cast(), socket::PAGE) };
        if !valid || !sizes.are_valid() {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        Ok((sizes, end))
    }

    fn map(fd: i32, sizes: Sizes, joint: Option<JointMapping>) -> io::Result<Self> {
        let len = Self::mapped_len(sizes, &joint);
        Ok(SocketMapping { base: Self::map_raw(fd, len)?, sizes, joint })
    }

    fn mapped_len(sizes: Sizes, joint: &Option<JointMapping>) -> usize {
        if joint.is_some() { socket::PAGE } else { sizes.total() }
    }

    fn map_raw(fd: i32, len: usize) -> io::Result<*mut u8> {
        map_shared(fd, len, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// The page of cursors and flags: of a joined socket the one that its peer sees too.
    #[inline]
    pub fn page(&self) -> &SocketPage {
        match &self.joint {
            None => self.own_page(),
            Some(joint) => joint.page(),
        }
    }

    /// The page of the other end, of a joined socket.
    #[inline]
    pub fn peer_page(&self) -> Option<&SocketPage> {
        self.joint.as_ref().map(JointMapping::peer_page)
    }

    /// Whether it is one end of a joined connection.
    #[inline]
    pub fn is_joined(&self) -> bool {
        self.joint.is_some()
    }

    /// The page that no peer sees, with geometry and [`freena_shm_abi::app::AppArea`].
    #[inline]
    pub fn own_page(&self) -> &SocketPage {
        // SAFETY: the mapping is page-aligned, at least a page long, and lives as long as `self`; every field of a
        // `SocketPage` is atomic, so that other processes may write while the reference exists.
        unsafe { &*self.base.cast::<SocketPage>() }
    }

    /// Sizes of the rings.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Server's name for the socket.
    pub fn socket_id(&self) -> u64 {
        self.own_page().geometry.0.socket_id.load(Ordering::Relaxed)
    }

    /// The ring from the program to the server. Each side makes only its own end of it, under its own lock or thread.
    ///
    /// # Panics
    /// If the socket is joined: it has no records.
    pub fn tx(&self) -> Channel<'_> {
        assert!(self.joint.is_none());
        let page = self.page();
        // SAFETY: the region is mapped for the life of `self`, cannot shrink, is page-aligned, and its size was checked
        // to be a power of two of at least 256 KiB. The program's producer is guarded by `AppArea::tx_lock`, the
        // server's consumer by belonging to one worker thread.
        unsafe {
            Channel::new(
                self.base.add(socket::TX_OFFSET),
                u64::from(self.sizes.tx),
                Words { tail: &page.tx_tail.0, head: &page.tx_head.0, base: &page.stream.asked.tx_base },
            )
        }
    }

    /// The ring from worker `index` to the program.
    ///
    /// # Panics
    /// If there is no such ring, or the socket is joined.
    pub fn rx(&self, index: usize) -> Channel<'_> {
        assert!(self.joint.is_none());
        assert!(index < self.sizes.rx_rings as usize);
        let page = self.page();
        let RxCursors { produced, head } = &page.rx[index];
        let offset = socket::rx_offset(self.sizes.tx, self.sizes.rx, index);
        // SAFETY: as for `tx`; the assertion keeps the region within the mapping. The server's producer belongs to
        // worker `index`, the program's consumer is guarded by `AppArea::rx_lock`.
        unsafe {
            Channel::new(
                self.base.add(offset),
                u64::from(self.sizes.rx),
                Words { tail: &produced.0.tail, head: &head.0, base: &produced.0.base },
            )
        }
    }

    /// The ring of a stream from the program to the server, or to its peer. Each side makes only its own end of it, as with
    /// [`Self::tx`].
    #[inline]
    pub fn tx_pipe(&self) -> Pipe<'_> {
        if let Some(joint) = &self.joint {
            return joint.tx_pipe();
        }
        let page = self.page();
        // SAFETY: as for `tx`; a socket is used with records or as a stream, never both.
        unsafe {
            Pipe::new(
                self.base.add(socket::TX_OFFSET),
                u64::from(self.sizes.tx),
                &page.tx_tail.0,
                &page.tx_head.0,
                &page.stream.asked.tx_base,
            )
        }
    }

    /// The ring of a stream from the server, or from the peer, to the program.
    #[inline]
    pub fn rx_pipe(&self) -> Pipe<'_> {
        if let Some(joint) = &self.joint {
            return joint.rx_pipe();
        }
        let page = self.page();
        let offset = socket::rx_offset(self.sizes.tx, self.sizes.rx, 0);
        // SAFETY: as for `rx`, of which there is at least one.
        unsafe {
            Pipe::new(
                self.base.add(offset),
                u64::from(self.sizes.rx),
                &page.rx[0].produced.0.tail,
                &page.rx[0].head.0,
                &page.stream.told.rx_base,
            )
        }
    }
}

impl Drop for SocketMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; channels borrow `self` and are gone.
        unsafe { libc::munmap(self.base.cast(), Self::mapped_len(self.sizes, &self.joint)) };
    }
}

/// Makes a memfd of `len` zero bytes, sealed against resizing and further seals; `more` are seals to add to these.
///
/// # Errors
/// Those of memfd_create(2), ftruncate(2) and fcntl(2).
pub fn sealed_memfd(name: &CStr, len: usize, more: i32) -> io::Result<OwnedFd> {
    let fd = memfd(name, len)?;
    seal(&fd, more)?;
    Ok(fd)
}

/// Makes a memfd of `len` zero bytes that can still be sealed.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn memfd(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create has just returned this descriptor, nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain system call on an owned descriptor.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Seals against shrinking, growing and further seals, and with `more`.
///
/// # Errors
/// Those of fcntl(2).
pub fn seal(fd: &OwnedFd, more: i32) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL | more;
    // SAFETY: plain system call on an owned descriptor.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(crate) fn file_len(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for its size.
    if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.st_size as u64)
}

/// Maps `len` bytes of `fd`, shared.
///
/// # Errors
/// Those of mmap(2).
pub fn map_shared(fd: i32, len: usize, protection: i32) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}
