//! One socket for datagrams with services: a flow for each peer, what waits for the program, and what waits for the socket.
//! Nothing here waits.
//!
//! Datagrams are mostly taken out of the socket's queue as the program would do it. A socket on which a program looks at messages
//! without taking them, or on which services restore messages that never arrived, is read otherwise: the datagram stays in
//! the queue until the program has all messages that came of it, so that poll, select and epoll are right.

mod flows;
mod input;
mod output;
mod window;

pub(crate) use output::Sent;
pub(crate) use window::Window;

use crate::below::Address;
use core::ffi::c_int;
use flows::Flows;
use freena_preload_control::{log, sys};
use freena_service_chain::Buffer;
use output::Outgoing;
use std::collections::VecDeque;

/// How often a user is told of datagrams that were dropped, in nanoseconds.
const TELL_EVERY: u64 = 1_000_000_000;

/// A message for the program.
#[derive(Clone, Copy)]
struct Ready {
    from: Address,
    length: usize,
}

/// A socket for datagrams.
pub(crate) struct Datagrams {
    flows: Flows,
    /// The peer, if the socket is connected.
    connected: Option<Address>,
    /// Whether datagrams stay in the queue until the program has all that came of them.
    looks: bool,
    /// Whether the messages that wait came of the first datagram in the queue.
    head: bool,
    ready: VecDeque<Ready>,
    /// The messages that wait, one behind the other.
    plain: Buffer,
    /// What the services have made last.
    out: Buffer,
    /// A datagram that the socket had no room for; the program was told that it is sent.
    kept: Option<Outgoing>,
    /// An error of the socket that the program has not been told.
    error: Option<c_int>,
    /// Whether the courier looks after it.
    pub(crate) enrolled: bool,
    /// Datagrams that were dropped, and when that was told last.
    dropped: u64,
    told: Option<u64>,
}

impl Datagrams {
    /// A socket that is perhaps connected already.
    pub(crate) fn new(connected: Option<Address>) -> Self {
        Self {
            flows: Flows::default(),
            connected,
            looks: false,
            head: false,
            ready: VecDeque::new(),
            plain: Buffer::new(),
            out: Buffer::new(),
            kept: None,
            error: None,
            enrolled: false,
            dropped: 0,
            told: None,
        }
    }

    /// connect(2) has given it a peer, or taken it.
    pub(crate) fn connect(&mut self, peer: Option<Address>) {
        self.connected = peer;
    }

    /// An error that the program has not been told.
    pub(crate) fn take_error(&mut self) -> Option<c_int> {
        self.error.take()
    }

    /// Whether the socket has not taken everything.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether the courier has to look after it from now on.
    pub(crate) fn wants_courier(&mut self) -> bool {
        let wants = !self.enrolled && (self.kept.is_some() || self.deadline() != u64::MAX);
        self.enrolled |= wants;
        wants
    }

    /// When services have something to do, in nanoseconds; `u64::MAX` for never.
    pub(crate) fn deadline(&mut self) -> u64 {
        self.flows.timed().map(|(_, flow)| flow.deadline()).min().unwrap_or(u64::MAX)
    }

    /// Does what can be done without the program. Whether there is more to do.
    pub(crate) fn go_on(&mut self, fd: c_int) -> bool {
        self.flush(fd);
        let now = sys::monotonic();
        self.tick(fd, now);
        self.enrolled = self.kept.is_some() || self.deadline() != u64::MAX;
        self.enrolled
    }

    /// Tells services of the time; what they have for the peers is sent.
    fn tick(&mut self, fd: c_int, now: u64) {
        let (mut out, mut error) = (std::mem::take(&mut self.out), None);
        for (address, flow) in self.flows.timed() {
            if flow.deadline() <= now {
                flow.timer(now);
                error = error.or(output::transmit(fd, flow, address, &mut out, now));
                while let Ok(Some(length)) = flow.recover(now, &mut self.plain) {
                    self.ready.push_back(Ready { from: *address, length });
                }
            }
        }
        self.out = out;
        self.error = self.error.or(error);
    }

    /// The program has closed it: whether there is more to do.
    pub(crate) fn close(&mut self, fd: c_int) -> bool {
        // What services would have done later is done now.
        let last = self.flows.timed().map(|(_, flow)| flow.deadline()).filter(|at| *at != u64::MAX).max();
        if let Some(last) = last {
            self.tick(fd, last);
        }
        self.flush(fd);
        if self.kept.is_none() {
            self.flows.tell_figures(self.dropped);
        }
        self.kept.is_some()
    }

    /// It is gone from this process; `own`: it was this process's.
    pub(crate) fn withdraw(&mut self, own: bool) {
        self.flows.withdraw(own);
    }

    /// A datagram was dropped: it is counted, and the user told, but not of each.
    fn drop_one(&mut self, words: &str, why: &dyn std::fmt::Display, now: u64) {
        self.dropped += 1;
        if self.told.is_none_or(|told| now >= told.saturating_add(TELL_EVERY)) {
            self.told = Some(now);
            log::always(format_args!("{words}: a datagram was dropped ({} so far): {why}", self.dropped));
        }
    }
}
