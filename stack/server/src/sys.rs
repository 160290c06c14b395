//! The system calls that the standard library and socket2 do not wrap, as safe functions.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Takes ownership of a descriptor that a system call has just returned.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that the kernel has just created for this process.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What happened to a descriptor in an epoll set.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The word given to [`Epoll::add`].
    pub data: u64,
    /// `EPOLLIN`, `EPOLLHUP`, ...
    pub events: u32,
}

/// An epoll instance (man 7 epoll).
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    buffer: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Makes one that reports at most 64 descriptors at a time.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = own(check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?);
        Ok(Epoll { fd, buffer: vec![libc::epoll_event { events: 0, u64: 0 }; 64] })
    }

    /// Adds a descriptor.
    pub fn add(&self, fd: RawFd, events: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Removes a descriptor.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        // SAFETY: a null event is allowed for EPOLL_CTL_DEL since Linux 2.6.9.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) })
            .map(drop)
    }

    /// Waits until something is ready, `None` for ever; an interrupted wait returns nothing.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Ready> + '_> {
        let timeout = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        // SAFETY: the buffer has the length that is passed.
        let count = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.buffer.as_mut_ptr(), self.buffer.len() as i32, timeout)
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.buffer[..count].iter().map(|event| Ready { data: event.u64, events: event.events }))
    }
}

/// A counter that wakes an epoll set (man 2 eventfd).
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        Ok(EventFd(own(check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?)))
    }

    /// Wakes whoever waits on it.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. It fails only when the counter is full, and then it is readable anyway.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Resets it.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes. It fails only when the counter is 0 already.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Two connected Unix sockets of type `SOCK_SEQPACKET`.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: two writable descriptors.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// What of the messages sent on a Unix socket nobody has received: memory for them in bytes (`SIOCOUTQ`).
pub fn unreceived(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: one writable integer, which is what this request fills.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) })?;
    Ok(bytes.max(0) as usize)
}

/// Sends a message without blocking and without SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: a readable slice.
    check_len(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Receives a message without blocking; what does not fit is cut off.
pub fn receive(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a writable slice.
    check_len(unsafe {
        libc::recv(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT)
    })
}

/// Whether poll(2) reports `POLLERR`: a pending error, or one in the queue that `MSG_ERRQUEUE` reads.
pub fn has_error(fd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&mut entry, 1, 0) == 1 && entry.revents & libc::POLLERR != 0 }
}

/// As [`receive`], and leaves the message where it is.
pub fn peek(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: a writable slice.
    check_len(unsafe { libc::recv(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) })
}

/// Accepts a connection without waiting: it, its name and its peer's.
///
/// A program without the library that has got the listener may have it wait (`exec`, `posix_spawn`), and flags are shared: it
/// does not wait for the moment of the call.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr, SocketAddr)> {
    let number = listener.as_raw_fd();
    // SAFETY: plain numbers.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFL) })?;
    let waits = flags & libc::O_NONBLOCK == 0;
    if waits {
        set_nonblocking(listener)?;
    }
    // SAFETY: no name is asked for.
    let fd = check(unsafe {
        libc::accept4(number, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    });
    if waits {
        // SAFETY: plain numbers.
        unsafe { libc::fcntl(number, libc::F_SETFL, flags) };
    }
    let fd = own(fd?);
    let socket = socket2::SockRef::from(&fd);
    let name = |address: io::Result<socket2::SockAddr>| {
        address?.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
    };
    let (local, peer) = (name(socket.local_addr())?, name(socket.peer_addr())?);
    Ok((fd, local, peer))
}

/// Makes a descriptor not block.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(&fd).set_nonblocking(true)
}

/// Random bytes from the kernel.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: a writable slice; up to 256 bytes come whole.
    let len = check_len(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })?;
    if len == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The most descriptors in one control message.
const MAX_FDS: usize = 4;

/// Ancillary data with the alignment that `cmsghdr` needs.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// Sends a message with descriptors, without blocking.
pub fn send_with_fds(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= MAX_FDS);
    let mut ancillary = Ancillary([0; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let len = size_of_val(fds) as u32;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        // SAFETY: arithmetic only.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as usize;
        // SAFETY: the control buffer is aligned and 64 bytes long, which holds a header and MAX_FDS descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (i, fd) in fds.iter().enumerate() {
                data.add(i).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: all pointers in `message` refer to locals that live through the call.
    check_len(unsafe { libc::sendmsg(to.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Receives a message and the descriptors beside it, without blocking. Descriptors beyond [`MAX_FDS`] are closed by the
/// kernel.
pub fn receive_with_fds(from: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut ancillary = Ancillary([0; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all pointers in `message` refer to locals that live through the call.
    let len = check_len(unsafe { libc::recvmsg(from.as_raw_fd(), &mut message, flags) })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer with well-formed headers up to `msg_controllen`, which CMSG_NXTHDR
    // respects; each SCM_RIGHTS descriptor is new and this process's own.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..count {
                    fds.push(own(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok((len, fds))
}

/// Reads an integer socket option.
pub fn get_option(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    get_option_as(fd, level, name)
}

/// Reads the network namespace cookie of a socket (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn netns_cookie(fd: impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    get_option_as(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE)
}

fn get_option_as<T: Default + Copy>(fd: impl AsFd, level: i32, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `len` bytes; it is only used with plain integers, valid for all bytes.
    check(unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &mut len)
    })?;
    Ok(value)
}

/// Sets an integer socket option.
pub fn set_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes.
    check(unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// Device and inode of what a descriptor refers to.
pub fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable.
    check(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded, so it has filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

/// Binds a Unix socket to an abstract name.
pub fn bind_abstract(fd: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: `sockaddr_un` is plain data for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    assert!(name.len() < address.sun_path.len());
    for (to, from) in address.sun_path[1..].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let len = (std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len()) as libc::socklen_t;
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Credentials of the process at the other end of a Unix socket, as it was when it connected (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub struct Credentials {
    /// Process id in this process's namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
}

/// Reads `SO_PEERCRED`.
pub fn credentials(fd: impl AsFd) -> io::Result<Credentials> {
    let mut ucred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `ucred` is writable for `len` bytes.
    check(unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut ucred).cast(),
            &mut len,
        )
    })?;
    Ok(Credentials { pid: ucred.pid, uid: ucred.uid })
}

/// Gives the pages of a part of a file back; it reads as zeros (man 2 fallocate).
///
/// # Errors
/// The kernel's.
pub fn punch_hole(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain system call on an open descriptor.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, start.cast_signed(), len.cast_signed()) }).map(drop)
}

/// Nanoseconds of `CLOCK_REALTIME`.
pub fn realtime_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// CPU time that the calling thread has used (`CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; the clock exists since Linux 2.6.12.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The soft limit of open descriptors (`RLIMIT_NOFILE`), as it is now.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable. Fails for no resource that exists.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur
}

/// Raises the soft limit of open descriptors to the hard one: each socket takes three.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is readable and writable.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
