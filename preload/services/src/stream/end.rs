//! The ends of a stream.

use super::{Fin, Stream};
use crate::below;
use core::ffi::c_int;
use freena_preload_control::sys;

impl Stream {
    /// shutdown(2).
    pub(crate) fn shut(&mut self, fd: c_int, how: c_int) {
        if how != libc::SHUT_WR {
            self.read_shut = true;
            self.set_low_water(fd, 1);
            below::shutdown(fd, libc::SHUT_RD);
        }
        if how != libc::SHUT_RD && self.fin == Fin::Open {
            self.fin = Fin::Wanted;
            self.go_on(fd);
        }
    }

    /// Does everything that can be done without the program. Whether there is more to do.
    pub(crate) fn go_on(&mut self, fd: c_int) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let now = sys::monotonic();
        let agreed = self.flow.can_seal() || self.is_plain();
        let mut stepped = Ok(());
        if agreed {
            stepped = self.tick(fd, now).and_then(|()| self.push_early(fd, now));
        }
        // A server may send before the client has agreed too, and still has to hear that it did.
        if stepped.is_ok() && self.is_agreeing() && self.plain.is_empty() && !self.ended {
            let read_shut = std::mem::take(&mut self.read_shut);
            stepped = self.look(fd).map(drop);
            self.read_shut = read_shut;
        }
        if stepped.is_err() {
            // A socket that is over has nothing more to send.
            return self.give_up(fd);
        }
        if self.fin == Fin::Wanted && self.early.is_empty() && (self.flow.can_seal() || self.is_plain()) {
            if !self.is_plain() && self.flow.end(now, &mut self.out).is_err() {
                return self.give_up(fd);
            }
            self.fin = Fin::Sent;
        }
        if self.flush(fd, 0).is_err() {
            return self.give_up(fd);
        }
        if self.fin == Fin::Sent && self.out.is_empty() {
            below::shutdown(fd, libc::SHUT_WR);
        }
        self.is_busy()
    }

    fn give_up(&mut self, fd: c_int) -> bool {
        self.out.clear();
        self.early.clear();
        if self.fin == Fin::Wanted {
            self.fin = Fin::Sent;
            below::shutdown(fd, libc::SHUT_WR);
        }
        false
    }

    /// The program has closed it: whether there is more to do.
    pub(crate) fn close(&mut self, fd: c_int) -> bool {
        for epfd in std::mem::take(&mut self.watchers) {
            // SAFETY: no event is needed to remove one. Instances that are closed by now refuse.
            let _ = unsafe { sys::epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, core::ptr::null()) };
        }
        if self.fin == Fin::Open {
            self.fin = Fin::Wanted;
        }
        let busy = self.go_on(fd);
        if !busy {
            // The peer's end, which the program has not waited for, is nothing that it has left unread: the kernel would
            // answer that with a reset.
            if self.plain.is_empty() && !self.ended && self.failed.is_none() {
                let _ = self.look(fd);
            }
            self.tell_figures();
        }
        busy
    }
}
