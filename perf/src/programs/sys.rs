//! The system calls that the standard library has no words for, made through libc as a C program makes them.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr};
use socket2::SockAddr;

use super::report::Usage;

/// Datagrams in one call of `sendmmsg` or `recvmmsg`, at most.
pub const BATCH: usize = 64;

/// `CLOCK_MONOTONIC`, in nanoseconds: comparable between the processes of one host.
#[must_use]
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to for the length of the call. It cannot fail: the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What this process, all its threads together, has cost so far (getrusage(2), `RUSAGE_SELF`).
#[must_use]
pub fn usage() -> Usage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable and of the right type; all-zero bytes are a valid rusage, so it is initialised even
    // if the call failed, which it cannot with this argument.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
    Usage {
        user_ns: nanoseconds(usage.ru_utime),
        system_ns: nanoseconds(usage.ru_stime),
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
    }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(earlier.involuntary_switches),
        }
    }
}

/// Sends each datagram to `address` with one `sendmmsg(2)`, at most [`BATCH`] of them. Returns how many were taken.
///
/// # Errors
/// Those of `sendmmsg(2)`, when not even the first was taken.
pub fn send_batch<'a>(
    socket: BorrowedFd<'_>,
    address: &SockAddr,
    datagrams: impl Iterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    let mut vectors = [const { iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BATCH];
    let mut messages = empty_messages();
    let mut count = 0;
    for ((datagram, vector), message) in datagrams.zip(&mut vectors).zip(&mut messages) {
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = address.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` (<= BATCH) headers point to one iovec each, which points to a slice borrowed for 'a;
    // `address` outlives the call; sendmmsg only reads through these pointers and writes `msg_len` in `messages`.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    result(sent)
}

/// Receives into consecutive parts of `buffer`, `stride` bytes each, with one `recvmmsg(2)`: waits for the first
/// datagram and takes what else is there. Writes the lengths and returns how many came.
///
/// # Errors
/// Those of `recvmmsg(2)`.
pub fn receive_batch(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    stride: usize,
    lengths: &mut [usize; BATCH],
) -> io::Result<usize> {
    let mut vectors = [const { iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BATCH];
    let mut messages = empty_messages();
    let mut count = 0;
    for ((part, vector), message) in buffer.chunks_exact_mut(stride).zip(&mut vectors).zip(&mut messages) {
        vector.iov_base = part.as_mut_ptr().cast();
        vector.iov_len = part.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let (socket, flags) = (socket.as_raw_fd(), libc::MSG_WAITFORONE);
    // SAFETY: the first `count` (<= BATCH) headers point to one iovec each, which points to a part of `buffer` of its
    // own, exclusively borrowed; no name and no control buffer is given; a null timeout is allowed.
    let received =
        unsafe { libc::recvmmsg(socket, messages.as_mut_ptr(), count, flags, std::ptr::null_mut()) };
    let received = result(received)?;
    for (length, message) in lengths.iter_mut().zip(&messages[..received]) {
        *length = message.msg_len as usize;
    }
    Ok(received)
}

/// Receives what `UDP_GRO` (udp(7), Linux 5.0) joined, with one `recvmsg(2)`. Returns its length and the length of each
/// datagram in it but the last, which may be shorter; for a datagram that came alone the two are equal.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn receive_joined(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    /// Room for one control message with an int, aligned as cmsghdr must be.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let mut control = Control([0; 64]);
    let mut vector = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: `message` points to one iovec over `buffer`, exclusively borrowed, and to a control buffer of the length
    // given; all live for the length of the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = length as usize;
    let mut segment = length;
    // SAFETY: `message` was filled by recvmsg, so the control messages lie within `control`, which is aligned for
    // cmsghdr. The kernel's UDP_GRO message holds an int; it is read unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                segment = libc::CMSG_DATA(header).cast::<c_int>().read_unaligned().max(1) as usize;
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, segment))
}

/// Makes each send a row of datagrams of `size` bytes (`UDP_SEGMENT` of udp(7), Linux 4.18).
///
/// # Errors
/// Those of `setsockopt(2)`: `ENOPROTOOPT` on an older kernel.
pub fn set_segment(socket: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size as c_int)
}

/// Lets the kernel join datagrams of one flow before it hands them over (`UDP_GRO` of udp(7), Linux 5.0).
///
/// # Errors
/// Those of `setsockopt(2)`: `ENOPROTOOPT` on an older kernel.
pub fn set_joining(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Waits with `poll(2)` until the descriptor is readable; false when `timeout` passes first.
///
/// # Errors
/// Those of `poll(2)`.
pub fn poll_readable(descriptor: impl AsRawFd, timeout: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, writable for the length of the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, milliseconds(timeout)) };
    Ok(result(ready)? > 0)
}

/// An epoll instance that watches one socket for input, level-triggered.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes one and adds the socket.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `epoll_ctl(2)`.
    pub fn watching(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a descriptor that the call above has just made, owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll as c_int) };
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: `event` is a valid epoll_event that the call only reads.
        result(unsafe {
            libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event)
        })?;
        Ok(Self(epoll))
    }

    /// Waits with `epoll_wait(2)` until the socket is readable; false when `timeout` passes first.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`.
    pub fn readable(&self, timeout: Duration) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for the one event asked for, writable for the length of the call.
        let ready = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, milliseconds(timeout)) };
        Ok(result(ready)? > 0)
    }
}

/// The address as the calls above want it.
#[must_use]
pub fn address(address: SocketAddr) -> SockAddr {
    SockAddr::from(address)
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let value = (&raw const value).cast::<c_void>();
    // SAFETY: `value` points to an int of the length given, which the call only reads.
    result(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length) }).map(drop)
}

fn empty_messages() -> [mmsghdr; BATCH] {
    std::array::from_fn(|_| mmsghdr { msg_hdr: empty_message(), msg_len: 0 })
}

fn empty_message() -> msghdr {
    // SAFETY: msghdr is plain data, for which zeroes mean: no name, no data, no control buffer.
    unsafe { std::mem::zeroed() }
}

fn milliseconds(timeout: Duration) -> c_int {
    timeout.as_millis().min(c_int::MAX as u128) as c_int
}

fn result(value: c_int) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair() -> (UdpSocket, UdpSocket, SockAddr) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = address(receiver.local_addr().unwrap());
        (UdpSocket::bind("127.0.0.1:0").unwrap(), receiver, to)
    }

    #[test]
    fn a_batch_arrives_whole_and_in_order() {
        let (sender, receiver, to) = pair();
        let datagrams = [&b"one"[..], b"three", b""];
        assert_eq!(send_batch(sender.as_fd(), &to, datagrams.into_iter()).unwrap(), 3);
        let (mut buffer, mut lengths) = ([0; 8 * 4], [0; BATCH]);
        assert_eq!(receive_batch(receiver.as_fd(), &mut buffer, 8, &mut lengths).unwrap(), 3);
        assert_eq!(lengths[..3], [3, 5, 0]);
        assert_eq!((&buffer[..3], &buffer[8..13]), (datagrams[0], datagrams[1]));
    }

    #[test]
    fn a_batch_is_cut_at_its_bound() {
        let (sender, _receiver, to) = pair();
        let datagrams = std::iter::repeat_n(&b"x"[..], BATCH + 1);
        assert_eq!(send_batch(sender.as_fd(), &to, datagrams).unwrap(), BATCH);
    }

    #[test]
    fn segments_are_joined_again() {
        let (sender, receiver, to) = pair();
        set_joining(receiver.as_fd()).unwrap();
        set_segment(sender.as_fd(), 100).unwrap();
        let row = [7; 250];
        assert_eq!(send_batch(sender.as_fd(), &to, [&row[..]].into_iter()).unwrap(), 1);
        let mut buffer = [0; 2048];
        let (length, segment) = receive_joined(receiver.as_fd(), &mut buffer).unwrap();
        assert_eq!((length, segment), (250, 100));
    }

    #[test]
    fn waiting_ends_with_data_and_with_time() {
        let (sender, receiver, _) = pair();
        let epoll = Epoll::watching(receiver.as_fd()).unwrap();
        assert!(!poll_readable(receiver.as_fd(), Duration::from_millis(1)).unwrap());
        assert!(!epoll.readable(Duration::from_millis(1)).unwrap());
        sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
        assert!(poll_readable(receiver.as_fd(), Duration::from_secs(5)).unwrap());
        assert!(epoll.readable(Duration::from_secs(5)).unwrap());
    }
}
