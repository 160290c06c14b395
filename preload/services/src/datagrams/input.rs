//! What arrives: from the socket's queue through the services to the program.

use super::{Datagrams, Ready, Window, output};
use crate::below::{self, Address};
use core::ffi::c_int;
use freena_preload_control::sys::{self, Errno};
use freena_service_chain::{Arrived, Role};
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, iovec, msghdr};

impl Datagrams {
    /// Whether there is a message for the program.
    pub(crate) fn has_message(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Length of the next message.
    pub(crate) fn next_length(&self) -> usize {
        self.ready.front().map_or(0, |it| it.length)
    }

    /// Whether datagrams stay in the queue until the program has all that came of them.
    pub(crate) fn looks(&self) -> bool {
        self.looks
    }

    /// Has them do so from now on.
    pub(crate) fn begin_to_look(&mut self) {
        self.looks = true;
    }

    /// Passes a datagram that has arrived through the services: messages that come of it wait for the program. Others are dropped
    /// and counted, as the kernel does with wrong checksums.
    pub(crate) fn arrive(&mut self, fd: c_int, datagram: &[u8], from: &Address) {
        let now = sys::monotonic();
        let entry = match self.flows.entry(fd, Role::Server, from) {
            Ok(entry) => entry,
            Err(refused) => return self.drop_one(&refused.words, &refused.why, now),
        };
        let Some(flow) = &mut entry.flow else {
            self.plain.push(datagram);
            return self.ready.push_back(Ready { from: *from, length: datagram.len() });
        };
        self.looks |= flow.may_restore();
        let mut why = None;
        match flow.open(now, datagram, &mut self.plain) {
            Ok(Arrived::Message(length)) => {
                (entry.proven, entry.plain) = (true, false);
                self.ready.push_back(Ready { from: *from, length });
            }
            Ok(Arrived::Nothing) => {}
            // Who has once agreed is not believed to be without services later.
            Ok(Arrived::Plain) if entry.proven => {
                why = Some("it has not passed the services, and others of the peer have".to_owned());
            }
            Ok(Arrived::Plain) => {
                entry.plain = true;
                self.plain.push(datagram);
                self.ready.push_back(Ready { from: *from, length: datagram.len() });
            }
            Err(error) => why = Some(error.to_string()),
        }
        while let Ok(Some(length)) = flow.recover(now, &mut self.plain) {
            self.ready.push_back(Ready { from: *from, length });
        }
        let error = output::transmit(fd, flow, from, &mut self.out, now);
        self.error = self.error.or(error);
        match &why {
            Some(why) => entry.refuse(why, now),
            None => entry.show(now),
        }
        if let Some(why) = why {
            let words = std::mem::take(&mut entry.words);
            self.drop_one(&words, &why, now);
            if let Some(entry) = self.flows.find(from) {
                entry.words = words;
            }
        }
    }

    /// Looks at the first datagram in the queue; `false` if nobody can send any more.
    ///
    /// # Errors
    /// The socket's; `EAGAIN` if there is none.
    pub(crate) fn look(&mut self, fd: c_int) -> Result<bool, Errno> {
        let window = Window::lend();
        let mut from = Address::none();
        let mut buffer = window.buffer();
        let mut shown = below::header(&mut buffer);
        from.receive_into(&mut shown);
        // SAFETY: the pointers of the header are to locals and to the window.
        let got = unsafe { below::recvmsg(fd, &mut shown, MSG_PEEK | MSG_DONTWAIT) };
        from.length = shown.msg_namelen;
        let open = got.is_ok_and(|got| got > 0 || from.length > 0);
        if let Ok(got) = got
            && open
        {
            // SAFETY: so many bytes were written, and the window is this function's.
            self.arrive(fd, unsafe { window.bytes(got) }, &from);
        }
        // SAFETY: it is not used any more.
        unsafe { window.give_back() };
        got?;
        if open {
            self.head = true;
            if self.ready.is_empty() {
                self.take_head(fd);
            }
        }
        Ok(open)
    }

    /// Takes the first datagram, whose messages are dealt with, out of the queue.
    fn take_head(&mut self, fd: c_int) {
        self.head = false;
        // SAFETY: plain data, valid when zero; nothing is written.
        let _ = unsafe { below::recvmsg(fd, &mut std::mem::zeroed(), MSG_DONTWAIT) };
    }

    /// Gives the program the next message, and how long it is, as recv(2) does. Ancillary data are those of the datagram in the
    /// queue that it came of, if it is there.
    ///
    /// # Safety
    /// The pointers of the header are the program's.
    pub(crate) unsafe fn deliver(
        &mut self,
        fd: c_int,
        message: &mut msghdr,
        buffers: &[iovec],
        flags: c_int,
    ) -> usize {
        // SAFETY: the caller's.
        let length = unsafe { self.hand_over(message, buffers, flags) };
        let cut = message.msg_flags;
        let last = self.head && self.ready.is_empty();
        let wants = !message.msg_control.is_null() && message.msg_controllen > 0;
        if self.head && (last || wants) {
            let mut nothing = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            let mut header = below::header(&mut nothing);
            (header.msg_control, header.msg_controllen) = (message.msg_control, message.msg_controllen);
            let peek = if last { 0 } else { MSG_PEEK };
            let cloexec = flags & libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the memory for ancillary data is the program's, the rest are locals.
            let got = unsafe { below::recvmsg(fd, &mut header, peek | cloexec | MSG_DONTWAIT) };
            message.msg_controllen = if got.is_ok() { header.msg_controllen } else { 0 };
            message.msg_flags = cut | header.msg_flags & libc::MSG_CTRUNC;
        } else {
            message.msg_controllen = 0;
        }
        self.head &= !last;
        length
    }

    /// As [`Datagrams::deliver`], without ancillary data.
    ///
    /// # Safety
    /// The pointers of the header are the program's.
    pub(crate) unsafe fn hand_over(
        &mut self,
        message: &mut msghdr,
        buffers: &[iovec],
        flags: c_int,
    ) -> usize {
        let Some(Ready { from, length }) = self.ready.front().copied() else { return 0 };
        let (mut copied, bytes) = (0, &self.plain.as_slice()[..length]);
        for buffer in buffers {
            let take = buffer.iov_len.min(length - copied);
            if take > 0 {
                // SAFETY: the program's buffer has so many bytes; `bytes` lies elsewhere.
                unsafe {
                    buffer.iov_base.cast::<u8>().copy_from_nonoverlapping(bytes[copied..].as_ptr(), take)
                };
            }
            copied += take;
        }
        // SAFETY: the caller's.
        message.msg_namelen = unsafe { from.write(message.msg_name, message.msg_namelen) };
        message.msg_flags = if copied < length { MSG_TRUNC } else { 0 };
        if flags & MSG_PEEK == 0 {
            self.plain.consume(length);
            self.ready.pop_front();
        }
        if flags & MSG_TRUNC == 0 { copied } else { length }
    }
}
