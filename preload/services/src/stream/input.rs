//! What arrives: from the socket's queue through the services to the program.

use super::{Stream, WINDOW, with_window};
use crate::below;
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_service_chain::State;
use libc::{MSG_PEEK, MSG_TRUNC, iovec};

/// A program that has less room than this for what it reads is given what a look shows.
const LEAST_TAKEN: usize = 4096;

/// What a look for something to read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Plain text.
    Bytes,
    /// The end of the peer's direction.
    End,
    /// The socket is the program's own: there are no services.
    Plain,
    /// Nothing yet.
    Nothing,
}

impl Stream {
    /// Looks for something to read.
    ///
    /// # Errors
    /// The socket's error, or why the flow is over.
    pub(crate) fn look(&mut self, fd: c_int) -> Result<Found, c_int> {
        self.look_for(fd, 0)
    }

    /// As [`Stream::look`], for a program that takes `room` bytes of what is found at once.
    ///
    /// # Errors
    /// As [`Stream::look`].
    pub(crate) fn look_for(&mut self, fd: c_int, room: usize) -> Result<Found, c_int> {
        let now = sys::monotonic();
        loop {
            if !self.plain.is_empty() {
                return Ok(Found::Bytes);
            }
            if self.read_shut || self.ended {
                return Ok(Found::End);
            }
            if let Some(errno) = self.failed {
                return Err(errno);
            }
            self.tick(fd, now)?;
            let moved = if self.is_plain() { false } else { self.pull(fd, now, room)? };
            self.push_early(fd, now)?;
            if self.is_plain() {
                self.show(now);
                self.flush(fd, 0).map_err(|Errno(errno)| errno)?;
                return Ok(Found::Plain);
            }
            // An error of the socket is told by the next write; what has arrived is read first.
            let _ = self.flush(fd, 0);
            self.show(now);
            if !moved {
                return Ok(Found::Nothing);
            }
        }
    }

    /// Takes what is in the queue, as far as there are whole frames. Whether there were any. If the program has room for all that
    /// can come of it nothing is left in the queue to tell of it, and it is taken out by the same call.
    fn pull(&mut self, fd: c_int, now: u64, room: usize) -> Result<bool, c_int> {
        if let Some(error) = self.flow.error().cloned() {
            return Err(self.fail(fd, &error));
        }
        with_window(|window| {
            let kept = self.carry.len();
            window[..kept].copy_from_slice(self.carry.as_slice());
            let out =
                self.flow.state() == State::Open && !self.flow.may_inflate() && room > kept + LEAST_TAKEN;
            if out {
                return self.take_out(fd, now, &mut window[..WINDOW.min(room)], kept);
            }
            let place = kept..kept + WINDOW;
            let mut seen = match below::peek(fd, &mut window[place.clone()]) {
                Ok(0) => return self.at_end(fd),
                Ok(seen) => kept + seen,
                Err(Errno(libc::EAGAIN)) => {
                    self.need = self.flow.need(&window[..kept]).saturating_sub(kept).max(1);
                    return Ok(false);
                }
                Err(Errno(errno)) => return Err(errno),
            };
            if seen < self.flow.need(&window[..seen])
                && below::ready(fd, libc::POLLRDHUP) & libc::POLLRDHUP != 0
            {
                // Nothing more will come: is it all there now?
                seen = kept + below::peek(fd, &mut window[place]).map_err(|Errno(errno)| errno)?;
                if seen < self.flow.need(&window[..seen]) {
                    return self.at_end(fd);
                }
            }
            let result = self.flow.open(now, &window[..seen], &mut self.plain, WINDOW);
            let consumed = match result {
                Ok(opened) => {
                    self.ended |= opened.end;
                    opened.consumed
                }
                // What has arrived undamaged is read first; the error is found again.
                Err(_) if !self.plain.is_empty() => return Ok(true),
                Err(error) => return Err(self.fail(fd, &error)),
            };
            self.flow.transmit(now, &mut self.out);
            self.become_plain();
            if self.is_plain() {
                self.set_low_water(fd, 1);
                return Ok(false);
            }
            let rest = &window[consumed..seen];
            let need = self.flow.need(rest);
            let whole = rest.is_empty() || rest.len() >= need;
            self.need = if whole { 1 } else { need - rest.len() };
            if consumed > 0 {
                self.carry.clear();
                self.opened = consumed - kept;
                self.rest = if whole { 0 } else { rest.len() };
            } else if self.flow.state() == State::Waiting {
                // It may yet be the program's own.
                self.need = need;
                self.set_low_water(fd, need);
            } else {
                self.rest = seen - kept;
            }
            if self.plain.is_empty() {
                self.release(fd).map_err(|Errno(errno)| errno)?;
            }
            Ok(consumed > 0)
        })
    }

    /// As [`Stream::pull`], out of the queue. `kept` bytes of the window are there already.
    fn take_out(&mut self, fd: c_int, now: u64, window: &mut [u8], kept: usize) -> Result<bool, c_int> {
        let seen = match below::receive_into(fd, &mut window[kept..]) {
            Ok(0) => return self.at_end(fd),
            Ok(got) => kept + got,
            Err(Errno(libc::EAGAIN)) => {
                self.need = self.flow.need(&window[..kept]).saturating_sub(kept).max(1);
                return Ok(false);
            }
            Err(Errno(errno)) => return Err(errno),
        };
        let consumed = match self.flow.open(now, &window[..seen], &mut self.plain, usize::MAX) {
            Ok(opened) => {
                self.ended |= opened.end;
                opened.consumed
            }
            // What has arrived undamaged is read first; the flow keeps the error.
            Err(_) if !self.plain.is_empty() => return Ok(true),
            Err(error) => return Err(self.fail(fd, &error)),
        };
        self.flow.transmit(now, &mut self.out);
        let rest = &window[consumed..seen];
        self.need = self.flow.need(rest).saturating_sub(rest.len()).max(1);
        self.carry.clear();
        self.carry.push(rest);
        self.set_low_water(fd, if self.ended { 1 } else { self.need });
        Ok(consumed > 0)
    }

    fn at_end(&mut self, fd: c_int) -> Result<bool, c_int> {
        self.set_low_water(fd, 1);
        match self.flow.eof() {
            Ok(()) => {
                self.ended = true;
                Ok(true)
            }
            Err(error) => Err(self.fail(fd, &error)),
        }
    }

    /// Gives up what the program has all of, and has the socket readable when there is more to come of it. The beginning of a
    /// frame is taken out of the queue: the kernel keeps whole segments for it, and may have no room for the rest.
    fn release(&mut self, fd: c_int) -> Result<(), Errno> {
        // Before, as the rest alone must not look like data.
        self.set_low_water(fd, if self.ended { 1 } else { self.need });
        below::discard(fd, std::mem::take(&mut self.opened))?;
        let mut rest = std::mem::take(&mut self.rest);
        while rest > 0 {
            let got = below::receive_into(fd, &mut self.carry.room(rest)[..rest])?;
            if got == 0 {
                break;
            }
            self.carry.commit(got);
            rest -= got;
        }
        Ok(())
    }

    /// Bytes that the program can read at once.
    pub(crate) fn readable(&self) -> usize {
        self.plain.len()
    }

    /// Gives the program what there is; how much. `skip` bytes of its buffers are full already.
    ///
    /// # Safety
    /// The buffers are the program's.
    pub(crate) unsafe fn deliver(
        &mut self,
        fd: c_int,
        buffers: &[iovec],
        mut skip: usize,
        flags: c_int,
    ) -> usize {
        let (mut copied, bytes) = (0, self.plain.as_slice());
        for buffer in buffers {
            if copied == bytes.len() {
                break;
            }
            let (start, room) = (skip.min(buffer.iov_len), buffer.iov_len.saturating_sub(skip));
            skip -= start;
            let take = room.min(bytes.len() - copied);
            if flags & MSG_TRUNC == 0 && take > 0 {
                // SAFETY: the program's buffer has `start + take` bytes; `bytes` lies elsewhere.
                unsafe {
                    let to = buffer.iov_base.cast::<u8>().add(start);
                    to.copy_from_nonoverlapping(bytes[copied..].as_ptr(), take);
                }
            }
            copied += take;
        }
        if flags & MSG_PEEK == 0 {
            self.plain.consume(copied);
            if self.plain.is_empty() {
                let _ = self.release(fd);
            }
        }
        copied
    }

    /// What must be in the socket's queue before it is worth a look.
    pub(crate) fn needs(&self) -> usize {
        self.need
    }
}
