//! Waiting for many descriptors at once: epoll(7), level-triggered, as servers with one thread use it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Events taken by one call, at most.
const AT_ONCE: usize = 64;

/// A set of descriptors, each with a number.
#[derive(Debug)]
pub struct Ready(OwnedFd);

impl Ready {
    /// An empty one.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes an integer only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor that is waited for until it is readable. Closing it takes it out.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, fd: &impl AsFd, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        let (own, fd) = (self.0.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: a valid event, which is only read.
        match unsafe { libc::epoll_ctl(own, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until some are ready, `milliseconds` at most, and puts their numbers into `numbers`.
    ///
    /// # Errors
    /// Those of epoll_wait(2), except that a signal came.
    pub fn wait(&self, milliseconds: i32, numbers: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
        numbers.clear();
        // SAFETY: room for as many events as are asked for, writable for the length of the call.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), AT_ONCE as i32, milliseconds)
        };
        match usize::try_from(count) {
            Ok(count) => {
                numbers.extend(events[..count].iter().map(|event| event.u64));
                Ok(())
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }
}
