//! What leaves: from the program through the services to the socket.

use super::{Fin, MOST_EARLY, Stream, WINDOW};
use crate::below;
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_service_chain::Blocked;
use std::io::IoSlice;

/// What became of bytes of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So many were taken, at least one.
    Bytes(usize),
    /// The socket is the program's own, and everything before is sent: there are no services.
    Plain,
    /// The socket takes no more now.
    Full,
    /// The peer has not agreed yet.
    Agreement,
    /// A service holds the flow back until then, in nanoseconds.
    Until(u64),
}

impl Stream {
    /// Takes bytes of the program's.
    ///
    /// # Errors
    /// The socket's, or why the flow is over: `EPIPE` after the program has ended its direction.
    pub(crate) fn take(&mut self, fd: c_int, bytes: &[IoSlice<'_>], flags: c_int) -> Result<Taken, c_int> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        if self.fin != Fin::Open {
            return Err(libc::EPIPE);
        }
        if !self.flow.can_seal() && !self.is_plain() && self.plain.is_empty() && !self.ended {
            self.look(fd)?;
        }
        self.flush(fd, flags).map_err(|Errno(errno)| errno)?;
        if self.is_plain() {
            return Ok(if self.out.is_empty() { Taken::Plain } else { Taken::Full });
        }
        if !self.flow.can_seal() || !self.early.is_empty() {
            return Ok(self.take_early(bytes));
        }
        if !self.out.is_empty() {
            return Ok(Taken::Full);
        }
        let now = sys::monotonic();
        let sealed = self.flow.seal(now, bytes, &mut self.out).map_err(|error| self.fail(fd, &error))?;
        self.flush(fd, flags).map_err(|Errno(errno)| errno)?;
        self.show(now);
        Ok(match sealed.blocked {
            _ if sealed.consumed > 0 => Taken::Bytes(sealed.consumed),
            Some(Blocked::Until(at)) => Taken::Until(at),
            _ => Taken::Agreement,
        })
    }

    fn take_early(&mut self, bytes: &[IoSlice<'_>]) -> Taken {
        let mut taken = 0;
        for slice in bytes {
            let room = MOST_EARLY - self.early.len();
            let take = slice.len().min(room);
            self.early.push(&slice[..take]);
            taken += take;
        }
        if taken > 0 { Taken::Bytes(taken) } else { Taken::Agreement }
    }

    /// Seals what was written before the two ends agreed, and the end if it is wanted.
    pub(super) fn push_early(&mut self, fd: c_int, now: u64) -> Result<(), c_int> {
        while !self.early.is_empty() && self.flow.can_seal() && self.out.len() < WINDOW {
            let sealed = self
                .flow
                .seal(now, &[IoSlice::new(self.early.as_slice())], &mut self.out)
                .map_err(|error| self.fail(fd, &error))?;
            self.early.consume(sealed.consumed);
            if sealed.consumed == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self, fd: c_int, flags: c_int) -> Result<(), Errno> {
        while !self.out.is_empty() {
            match below::send(fd, self.out.as_slice(), flags & libc::MSG_MORE) {
                Ok(sent) => self.out.consume(sent),
                Err(Errno(libc::EAGAIN)) => break,
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(libc::ENOTCONN)) if !self.flow.can_seal() => break,
                Err(error) => {
                    self.out.clear();
                    self.early.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
