//! How a measured program waits for what it receives.

use super::sys::{self, Epoll};
use clap::ValueEnum;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// In which call it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In the receiving call.
    Recv,
    /// In poll, then a receiving call that does not block.
    Poll,
    /// In epoll_wait, then a receiving call that does not block.
    Epoll,
}

/// What a socket is waited for with.
pub struct Waiting {
    mode: Mode,
    epoll: Option<Epoll>,
}

impl Waiting {
    /// For this socket. Whoever makes it sees to the socket's own part: a time limit for [`Mode::Recv`], else that it does not
    /// block.
    ///
    /// # Errors
    /// Those of epoll_create1(2) and epoll_ctl(2).
    pub fn new(socket: BorrowedFd<'_>, mode: Mode) -> io::Result<Self> {
        let epoll = if mode == Mode::Epoll { Some(Epoll::watching(socket)?) } else { None };
        Ok(Self { mode, epoll })
    }

    /// In which call.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Waits until the socket is readable, at most for `patience`; whether it is. True at once for [`Mode::Recv`].
    ///
    /// # Errors
    /// Those of poll(2) and epoll_wait(2).
    pub fn is_ready(&self, socket: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
        match (self.mode, &self.epoll) {
            (Mode::Poll, _) => sys::poll_readable(socket, patience),
            (_, Some(epoll)) => epoll.readable(patience),
            _ => Ok(true),
        }
    }
}
