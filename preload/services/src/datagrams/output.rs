//! What leaves: from the program through the services to the socket.

use super::Datagrams;
use crate::below::{self, Address};
use core::ffi::c_int;
use freena_preload_control::log;
use freena_preload_control::sys::{self, Errno};
use freena_service_chain::{Blocked, Buffer, DatagramFlow, Role};
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, iovec};

/// What became of a message of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is sent, or a service keeps it.
    Done,
    /// It goes as it is.
    Unchanged,
    /// The socket takes no more now.
    Full,
    /// A service holds the flow back until then, in nanoseconds.
    Until(u64),
}

/// A datagram on its way to the socket.
pub(super) struct Outgoing {
    to: Option<Address>,
    control: Vec<u8>,
    bytes: Vec<u8>,
}

impl Datagrams {
    /// Sends a message of the program's: `to` is the address that it gave, `control` its ancillary data.
    ///
    /// # Errors
    /// The socket's, or that of the services: the message is not sent then.
    pub(crate) fn send(
        &mut self,
        fd: c_int,
        to: Option<&Address>,
        control: &[u8],
        message: &[u8],
        flags: c_int,
    ) -> Result<Sent, c_int> {
        if let Some(errno) = self.take_error() {
            return Err(errno);
        }
        // Without one the kernel has the errno.
        let Some(peer) = to.copied().or(self.connected) else { return Ok(Sent::Unchanged) };
        if peer.ip().is_none() {
            return Ok(Sent::Unchanged);
        }
        let entry = self.flows.entry(fd, Role::Client, &peer).map_err(|refused| {
            log::always(format_args!("{}: {}", refused.words, refused.why));
            refused.errno
        })?;
        entry.wanted();
        let plain = entry.plain;
        let Some(flow) = entry.flow.as_deref_mut().filter(|_| !plain) else { return Ok(Sent::Unchanged) };
        if self.kept.is_some() {
            flush(fd, &mut self.kept)?;
            if self.kept.is_some() {
                return Ok(Sent::Full);
            }
        }
        let now = sys::monotonic();
        self.out.clear();
        let sealed = flow.seal(now, message, &mut self.out).map_err(|error| {
            if error.errno() != libc::EMSGSIZE {
                log::always(format_args!("{}: {error}", entry.words));
            }
            error.errno()
        })?;
        if let Some(Blocked::Until(at)) = sealed.blocked {
            return Ok(Sent::Until(at));
        }
        let mut result = Ok(Sent::Done);
        if !self.out.is_empty() {
            match put(fd, to, control, self.out.as_slice(), flags) {
                Ok(()) => {}
                Err(Errno(libc::EAGAIN)) => {
                    let (control, bytes) = (control.to_vec(), self.out.as_slice().to_vec());
                    self.kept = Some(Outgoing { to: to.copied(), control, bytes });
                }
                Err(Errno(errno)) => result = Err(errno),
            }
        }
        self.looks |= flow.may_restore();
        let error = transmit(fd, flow, &peer, &mut self.out, now);
        entry.show(now);
        self.error = self.error.or(error);
        result
    }

    /// Sends what the socket had no room for, if it has by now.
    pub(super) fn flush(&mut self, fd: c_int) {
        if let Err(errno) = flush(fd, &mut self.kept) {
            self.error = Some(errno);
        }
    }

    /// Bytes by which services make messages to the connected peer longer.
    pub(crate) fn growth(&mut self) -> usize {
        let Some(peer) = self.connected else { return 0 };
        let flow = self.flows.find(&peer).filter(|entry| !entry.plain).and_then(|entry| entry.flow.as_ref());
        const ROOM: usize = 1 << 16;
        flow.map_or(0, |flow| ROOM - flow.max_message(ROOM))
    }
}

fn flush(fd: c_int, kept: &mut Option<Outgoing>) -> Result<(), c_int> {
    let Some(it) = kept.as_ref() else { return Ok(()) };
    match put(fd, it.to.as_ref(), &it.control, &it.bytes, 0) {
        Err(Errno(libc::EAGAIN)) => return Ok(()),
        Err(Errno(errno)) => {
            *kept = None;
            return Err(errno);
        }
        Ok(()) => *kept = None,
    }
    Ok(())
}

/// Sends what services have of their own. An error of the socket that the program has yet to be told; what there is no room
/// for is lost, as datagrams may be.
pub(super) fn transmit(
    fd: c_int,
    flow: &mut DatagramFlow,
    to: &Address,
    out: &mut Buffer,
    now: u64,
) -> Option<c_int> {
    let mut first = None;
    loop {
        out.clear();
        if !flow.transmit(now, out).is_ok_and(|more| more) {
            return first;
        }
        match put(fd, Some(to), &[], out.as_slice(), 0) {
            Ok(()) | Err(Errno(libc::EAGAIN | libc::ENOBUFS | libc::EMSGSIZE)) => {}
            Err(Errno(errno)) => first = first.or(Some(errno)),
        }
    }
}

fn put(fd: c_int, to: Option<&Address>, control: &[u8], bytes: &[u8], flags: c_int) -> sys::Result<()> {
    let mut buffer = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = below::header(&mut buffer);
    if let Some(to) = to {
        (header.msg_name, header.msg_namelen) = ((&raw const to.storage).cast_mut().cast(), to.length);
    }
    if !control.is_empty() {
        (header.msg_control, header.msg_controllen) =
            (control.as_ptr().cast_mut().cast(), control.len() as _);
    }
    // SAFETY: all pointers of the header are to what lives here; sending writes to none of it.
    unsafe { below::sendmsg(fd, &header, flags | MSG_DONTWAIT | MSG_NOSIGNAL) }.map(drop)
}
