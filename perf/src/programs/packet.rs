//! Packet sockets, for a program that stands between two hosts.
#![allow(unsafe_code)]

use libc::{c_int, c_void, sockaddr_ll};
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Bytes of a virtio-net header, which each frame has in front: what its checksum is.
pub const HEADER: usize = 10;
/// Bytes that wait to be received, wanted.
const RECEIVE_BUFFER: c_int = 16 << 20;

/// All frames of an interface, as they come and with what a device would be told of their checksums.
#[derive(Debug)]
pub struct Packets(OwnedFd);

impl Packets {
    /// On this interface.
    ///
    /// # Errors
    /// There is no such interface, or CAP_NET_RAW is missing.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: a valid C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes integers only. Without a protocol nothing is received before the socket is bound.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: just opened, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for (level, option, value) in [
            (libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1),
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER),
        ] {
            let len = size_of::<c_int>() as u32;
            // SAFETY: a readable integer of that length.
            check(unsafe {
                libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), len)
            })?;
        }
        // SAFETY: plain data for which zero is valid.
        let mut name: sockaddr_ll = unsafe { zeroed() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        name.sll_ifindex = index.cast_signed();
        let len = size_of::<sockaddr_ll>() as u32;
        // SAFETY: a readable address of that length.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), len) })?;
        Ok(Self(fd))
    }

    /// The next frame behind its header, if one is there; its length.
    ///
    /// # Errors
    /// Those of recv(2), except that nothing is there.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: a writable slice.
        let len = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(len) {
            Ok(len) => Ok(Some(len)),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sends a frame with its header. What the interface does not take is lost.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a readable slice.
        unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }
}

/// Waits until one of them has a frame, or for so long.
///
/// # Errors
/// Those of ppoll(2).
pub fn wait(either: [&Packets; 2], longest: Option<Duration>) -> io::Result<()> {
    let mut fds = either.map(|it| libc::pollfd { fd: it.0.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let time = longest.map(|time| libc::timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: two writable records; the time is null or outlives the call.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), 2, time, std::ptr::null()) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result.map(drop),
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
