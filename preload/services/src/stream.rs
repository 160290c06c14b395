//! One stream with services: what is buffered, and how it moves between program and socket. Nothing here waits.

mod end;
mod input;
mod output;

pub(crate) use input::Found;
pub(crate) use output::Taken;

use crate::below;
use crate::board::Shown;
use crate::plan::Chosen;
use core::ffi::c_int;
use freena_preload_control::{log, sys};
use freena_service_chain::{Buffer, FlowError, State, StreamFlow};
use freena_shm_abi::flows::state;
use std::net::SocketAddr;
use std::sync::Mutex;

/// Most bytes that a look at the queue shows, and of plain text that are made at a time.
pub const WINDOW: usize = 64 * 1024;
/// Most bytes of the program's that are taken before the two ends agree.
const MOST_EARLY: usize = 64 * 1024;

/// What the program has asked for at the end of its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    Open,
    /// The end is to be told behind everything else.
    Wanted,
    /// It has been told.
    Sent,
}

/// A stream.
pub struct Stream {
    flow: StreamFlow,
    peer: SocketAddr,
    /// For messages: the peer, and what was inserted.
    words: String,
    /// As `freena status` has it.
    shown: Shown,
    /// Plain text that the program has not read.
    plain: Buffer,
    /// Bytes in the socket's queue whose plain text is in `plain`, or was.
    opened: usize,
    /// Bytes behind them that are the beginning of a frame.
    rest: usize,
    /// The beginning of a frame, out of the queue.
    carry: Buffer,
    /// What the services have made and the socket has not taken.
    out: Buffer,
    /// What the program has written before the two ends agreed.
    early: Buffer,
    /// `SO_RCVLOWAT` as it is, and as the program has set it.
    low_water: c_int,
    /// As the program has set it, for it to be told.
    pub(crate) own_low_water: c_int,
    /// Bytes that must be in the queue for anything to come of it.
    need: usize,
    /// The peer's direction has ended, in order.
    ended: bool,
    /// The program reads no more.
    read_shut: bool,
    fin: Fin,
    /// Why it is over, for the program.
    failed: Option<c_int>,
    /// epoll instances that watch it.
    watchers: Vec<c_int>,
}

impl Stream {
    /// Begins a stream.
    ///
    /// # Errors
    /// Its errno, when a service refuses it; told.
    pub(crate) fn new(fd: c_int, chosen: &Chosen, now: u64) -> Result<Self, c_int> {
        let Chosen { services, flow, words } = chosen;
        let mut shown = Shown::new(flow.transport, flow.role, [flow.local, flow.peer], words, now);
        let words = format!("{} -> {}: {words}", flow.local, flow.peer);
        let flow = StreamFlow::new(services, *flow, now).map_err(|error| {
            log::always(format_args!("{words}: {error}"));
            shown.fail(&error, &[], now);
            shown.withdraw(true);
            error.errno()
        })?;
        log::decision(format_args!("{words}"));
        below::apply(fd, &flow.wishes(), chosen.flow.peer.is_ipv6());
        let mut it = Self {
            flow,
            peer: chosen.flow.peer,
            words,
            shown,
            plain: Buffer::new(),
            opened: 0,
            rest: 0,
            carry: Buffer::new(),
            out: Buffer::new(),
            early: Buffer::new(),
            low_water: 1,
            own_low_water: 1,
            need: 1,
            ended: false,
            read_shut: false,
            fin: Fin::Open,
            failed: None,
            watchers: Vec::new(),
        };
        it.flow.transmit(now, &mut it.out);
        Ok(it)
    }

    /// Whether it is one to this peer that has not failed and has not begun.
    pub(crate) fn is_new_to(&self, peer: SocketAddr) -> bool {
        self.peer == peer && self.failed.is_none() && self.flow.state() == State::Waiting
    }

    /// Whether there is nothing of freena in it: the peer has none, and the rule allows that.
    pub(crate) fn is_plain(&self) -> bool {
        self.flow.state() == State::Plain
    }

    /// Whether there is something to do that the program may not wait for.
    pub(crate) fn is_busy(&self) -> bool {
        if self.failed.is_some() {
            return false;
        }
        self.has_left() || self.is_agreeing()
    }

    /// Whether there is something of the program's that the socket has not taken.
    pub(crate) fn has_left(&self) -> bool {
        !self.out.is_empty() || !self.early.is_empty() || self.fin == Fin::Wanted
    }

    /// Whether something of the peer's is awaited before both ends have agreed.
    fn is_agreeing(&self) -> bool {
        matches!(self.flow.state(), State::Waiting | State::Agreeing)
    }

    /// What the socket must be ready for before anything moves.
    pub(crate) fn interest(&self) -> i16 {
        let read = if self.is_agreeing() { libc::POLLIN } else { 0 };
        let write = if self.out.is_empty() { 0 } else { libc::POLLOUT };
        read | write
    }

    /// Why it is over.
    pub(crate) fn failure(&self) -> Option<c_int> {
        self.failed
    }

    /// An epoll instance watches it from now on.
    pub(crate) fn watch(&mut self, epfd: c_int) {
        if !self.watchers.contains(&epfd) {
            self.watchers.push(epfd);
        }
    }

    /// The flow is over: the program is told by errno, the user by a line, the peer by an alert.
    fn fail(&mut self, fd: c_int, error: &FlowError) -> c_int {
        let errno = error.errno();
        if self.failed.replace(errno).is_none() {
            log::always(format_args!("{}: {error}", self.words));
            self.shown.fail(error, &self.flow.figures(), sys::monotonic());
            self.early.clear();
            self.out.clear();
            self.flow.transmit(sys::monotonic(), &mut self.out);
            let _ = below::send(fd, self.out.as_slice(), 0);
            self.out.clear();
            // Whoever waits for the socket is told.
            self.set_low_water(fd, 1);
            below::shutdown(fd, libc::SHUT_RDWR);
        }
        errno
    }

    /// Does what time demands.
    ///
    /// # Errors
    /// Its errno when the flow is over by that.
    fn tick(&mut self, fd: c_int, now: u64) -> Result<(), c_int> {
        if now >= self.flow.deadline() {
            if let Err(error) = self.flow.timer(now) {
                return Err(self.fail(fd, &error));
            }
            self.flow.transmit(now, &mut self.out);
            self.become_plain();
        }
        Ok(())
    }

    /// If the peer has no freena and need not: what the program has written goes as it is.
    fn become_plain(&mut self) {
        if self.is_plain() && !self.early.is_empty() {
            self.out.push(self.early.as_slice());
            self.early.clear();
        }
    }

    /// When something is to be done whatever arrives, in nanoseconds.
    pub(crate) fn deadline(&mut self) -> u64 {
        if self.failed.is_some() { u64::MAX } else { self.flow.deadline() }
    }

    fn set_low_water(&mut self, fd: c_int, bytes: usize) {
        let bytes = bytes as c_int;
        if bytes != self.low_water
            && below::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes).is_ok()
        {
            self.low_water = bytes;
        }
    }

    /// Shows how far it is.
    fn show(&mut self, now: u64) {
        let state = match self.flow.state() {
            State::Waiting => state::WAITING,
            State::Agreeing => state::AGREEING,
            State::Open => state::OPEN,
            State::Plain => state::PLAIN,
            State::Failed => return,
        };
        if self.shown.show(state, now, || self.flow.figures()) {
            let what = match state {
                state::OPEN => "the two ends agree",
                state::PLAIN => "the peer has no freena, and the rule allows that",
                _ => return,
            };
            log::decision(format_args!("{}: {what}", self.words));
        }
    }

    /// It is gone from this process; `own`: it was this process's.
    pub(crate) fn withdraw(&mut self, own: bool) {
        self.shown.withdraw(own);
    }

    /// What services have counted, for the log.
    pub(crate) fn tell_figures(&mut self) {
        let figures: Vec<String> =
            self.flow.figures().iter().map(|it| format!("{}.{}={}", it.service, it.name, it.value)).collect();
        log::decision(format_args!("{}: closed: {}", self.words, figures.join(" ")));
    }
}

/// Memory for looks at queues, one piece for each thread that looks at the same moment.
static WINDOWS: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Lends memory for a look.
fn with_window<T>(look: impl FnOnce(&mut [u8]) -> T) -> T {
    let spare = WINDOWS.try_lock().ok().and_then(|mut windows| windows.pop());
    let mut window = spare.unwrap_or_else(|| vec![0; 2 * WINDOW + 4].into_boxed_slice());
    let result = look(&mut window);
    if let Ok(mut windows) = WINDOWS.try_lock() {
        windows.push(window);
    }
    result
}
