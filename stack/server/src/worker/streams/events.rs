//! From the engine to the programs: what has arrived, what is acknowledged, what is over.
//!
//! Order matters, since programs read without locks: bytes are published before the state that says that nothing follows
//! them, and the error is stored before the state that makes a program look for it.

use super::super::receive::wants_edge;
use super::table::{Connection, Remains};
use super::{Worker, programs};
use crate::stream::Stream;
use crate::sys;
use freena_shm_abi::stream::state;
use freena_shm_ring::wake;
use freena_tcp::{Event, Failure, Handle, IcmpError, State};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the engine waits for old duplicates.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Ports that a worker holds meanwhile, by a descriptor each; beyond, the kernel may give the oldest to another socket earlier.
const MAX_REMAINS: usize = 4096;

/// Messages that are read from a program at a time.
const DRAINED: u32 = 16;
/// How often so many, where there is no next turn: more than a send buffer holds.
const LAST_DRAINS: u32 = 4;

impl Worker {
    /// Tells what has happened; returns how much that was.
    pub(super) fn tell_programs(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.streams.engines.poll_event() {
            count += 1;
            self.take_event(event);
        }
        while let Some(handle) = self.streams.table.dirty.pop() {
            self.publish_stream(handle);
        }
        if !self.streams.table.crowded.is_empty() {
            self.hand_out();
        }
        count
    }

    fn take_event(&mut self, event: Event) {
        let event = if self.streams.races.is_empty() { Some(event) } else { self.judge_race(event) };
        let Some(event) = event else { return };
        let table = &mut self.streams.table;
        match event {
            Event::Connected(handle) => {
                if let Some(connection) = table.get_mut(handle) {
                    connection.established = true;
                    table.soil(handle);
                }
                self.activate_stream(handle);
            }
            Event::Received { connection: handle, position } => {
                if let Some(connection) = table.get_mut(handle) {
                    connection.arrived = position;
                    connection.last_work = self.now;
                    table.soil(handle);
                }
                // An answer is likely: it shall not need a kick.
                self.activate_stream(handle);
            }
            Event::Acknowledged { connection: handle, position } => {
                let Some(connection) = table.get_mut(handle) else { return };
                let stream = connection.stream.clone();
                connection.tx.release(&stream.memory.tx_pipe(), position);
                // Some programs look at TCP_INFO until nothing is in flight. Of an active connection the figures are shown
                // when it rests.
                if !connection.active && position == connection.tx.tail {
                    programs::show(connection, &self.streams.engines, handle, self.now);
                }
                if connection.unread {
                    connection.last_work = self.now;
                    self.drain_if_room(handle);
                    // Who waited for room is about to write.
                    self.activate_stream(handle);
                }
            }
            Event::PeerClosed(handle) => {
                if let Some(connection) = table.get_mut(handle) {
                    connection.peer_closed = true;
                    connection.last_work = self.now;
                    table.soil(handle);
                }
                self.activate_stream(handle);
            }
            Event::Urgent { connection: handle, position } => {
                if let Some(connection) = table.get_mut(handle) {
                    let told = &connection.stream.memory.page().stream.told;
                    told.rx_urgent.store(position, Ordering::Release);
                    table.soil(handle);
                }
            }
            Event::Closed(handle) => self.end(handle, None),
            Event::Failed(handle, failure) => self.end(handle, Some(errno_of(failure))),
            // Only whoever asked for IP_RECVERR hears of it before the connection is over.
            Event::SoftError(..) => {}
            Event::Released(handle) => {
                if let Some(connection) = table.remove(handle) {
                    self.dismiss(&connection);
                }
            }
        }
    }

    /// Both directions have ended, or the connection has failed.
    fn end(&mut self, handle: Handle, errno: Option<i32>) {
        // What arrived before comes first, and alone: a state without its error would be an orderly end.
        if let Some(connection) = self.streams.table.get_mut(handle) {
            publish_bytes(connection);
        }
        let Some(connection) = self.streams.table.get_mut(handle) else { return };
        connection.over = true;
        let was_connecting = !connection.established;
        let stream = connection.stream.clone();
        match errno {
            Some(errno) => fail(&stream, errno),
            None => {
                let waits = self.streams.engines.state(handle) == Some(State::TimeWait);
                announce(&stream, if waits { state::TIME_WAIT } else { state::CLOSED });
            }
        }
        if connection.closing {
            // Nobody is left to be told.
        } else if errno.is_some() && was_connecting {
            // The program may want its kernel socket back: the socket stays until it is closed. No turn looks at it any more.
            self.drain_all(handle);
        } else {
            // The program reads what is left from its own mapping.
            shut(&stream, libc::SHUT_RDWR);
            // Nothing more can come; what has must be read before this end closes, or the program's would show ECONNRESET.
            self.drain_all(handle);
            self.streams.engines.close(self.now, handle, false);
        }
    }

    /// Reads all messages on the server's end: the send buffer bounds how much that is.
    fn drain_all(&mut self, handle: Handle) {
        for _ in 0..LAST_DRAINS {
            self.drain(handle);
            if !self.streams.table.get(handle).is_some_and(|connection| connection.unread) {
                break;
            }
        }
    }

    /// Takes a connection, which the engine has forgotten, out of all that knows it.
    fn dismiss(&mut self, connection: &Connection) {
        if connection.closing && !connection.over {
            // Its program may linger. What was acknowledged in the end it is not told otherwise.
            announce(&connection.stream, state::CLOSED);
        }
        if !connection.closing {
            self.streams.registry.remove(&connection.stream);
            let _ = self.epoll.remove(connection.stream.peer_end.as_raw_fd());
        }
        // A flow that is known after its connection is gone is in TIME_WAIT, whoever closed it first: the program is not
        // told of the end of what it has closed. Where a peer connected, the listener or its other connections hold the
        // port.
        let waits = self.streams.engines.knows(connection.stream.protocol(), &connection.flow);
        if let (true, false, Some(companion)) =
            (waits, connection.accepted, connection.stream.companion.get())
        {
            let remains = &mut self.streams.table.remains;
            if remains.len() >= MAX_REMAINS {
                remains.pop_front();
            }
            let held = (connection.stream.lease.clone(), companion.clone());
            remains.push_back(Remains { until: self.now + TIME_WAIT, held });
        }
    }

    /// Gives up ports that nobody waits for any more.
    pub(in super::super) fn clear_remains(&mut self) {
        let remains = &mut self.streams.table.remains;
        while remains.front().is_some_and(|oldest| oldest.until <= self.now) {
            remains.pop_front();
        }
    }

    /// Shows a program what has arrived and where its connection is.
    fn publish_stream(&mut self, handle: Handle) {
        let streams = &mut self.streams;
        let Some(connection) = streams.table.get_mut(handle) else { return };
        connection.dirty = false;
        if connection.over || connection.closing {
            return;
        }
        let stream = connection.stream.clone();
        let more = publish_bytes(connection);
        let state = streams.engines.state(handle).map_or(state::CLOSED, number_of);
        let told = &stream.memory.page().stream.told;
        let before = told.state.load(Ordering::Relaxed);
        if before != state {
            told.state.store(state, Ordering::Release);
        }
        let wake = &stream.memory.page().rx_wake.0;
        // That it is open is told by room to write: a token would say that there is something to read.
        let opened = state::is_connecting(before) && !state::is_connecting(state);
        let silent = opened && !more && !connection.peer_closed;
        if !silent && (wake::take_request(&wake.token) || more && wants_edge(wake)) {
            send_token(&stream);
        }
        if connection.peer_closed && !connection.peer_closed_told {
            connection.peer_closed_told = true;
            shut(&stream, libc::SHUT_WR);
        }
        if state::is_connecting(before) && !state::is_connecting(state) {
            // Writable from now on.
            self.drain(handle);
        }
    }

    /// Reads the messages on the server's end if there is room for what the program may write then.
    pub(super) fn drain_if_room(&mut self, handle: Handle) {
        if self.streams.table.get(handle).is_some_and(has_room) {
            self.drain(handle);
        }
    }

    /// Reads the messages on the server's end, which makes the program's end writable, and answers requests for a token.
    pub(super) fn drain(&mut self, handle: Handle) {
        let Some(connection) = self.streams.table.get_mut(handle) else { return };
        let stream = &connection.stream;
        let mut forced = false;
        let mut message = [0u8; 8];
        // Bounded, so that one program cannot keep the worker here. What is left is not reported again, and would leave
        // the program's end unwritable: it is read in the next turn.
        connection.unread = true;
        for _ in 0..DRAINED {
            match sys::receive(stream.peer_end.as_fd(), &mut message) {
                Ok(0) | Err(_) => {
                    connection.unread = false;
                    break;
                }
                Ok(_) => forced |= message[0] == b't',
            }
        }
        answer(connection, forced);
    }
}

/// Shows a program the bytes that have arrived; whether there were any that it did not know of.
fn publish_bytes(connection: &mut Connection) -> bool {
    let more = connection.arrived != connection.rx.tail;
    if more {
        connection.rx.publish(&connection.stream.memory.rx_pipe(), connection.arrived);
    }
    more
}

/// Sends a token if one is wanted and there is something to be told: the request may have come after what it waits for was
/// published. `forced`: one more, whether there is one or not.
pub(super) fn answer(connection: &Connection, forced: bool) {
    let page = connection.stream.memory.page();
    let told = page.stream.told.state.load(Ordering::Relaxed);
    let pending = page.error.0.load(Ordering::Relaxed) != 0
        || state::is_end_of_file(told)
        || programs::read_position(connection) != Some(connection.rx.tail);
    if pending && (wake::take_request(&page.rx_wake.0.token) || forced) {
        send_token(&connection.stream);
    }
}

/// Whether a program may be told that it can write.
pub(super) fn has_room(connection: &Connection) -> bool {
    let used = connection.tx.tail.wrapping_sub(connection.tx.head);
    connection.established && used <= u64::from(connection.stream.memory.sizes().tx) / 2
}

/// Tells a program that its connection is over by an error.
pub(super) fn fail(stream: &Stream, errno: i32) {
    stream.memory.page().error.0.store(errno as u32, Ordering::Release);
    announce(stream, state::CLOSED);
}

/// Shows a last state and wakes whoever waits.
fn announce(stream: &Stream, state: u32) {
    let page = stream.memory.page();
    page.stream.told.state.store(state, Ordering::Release);
    if wake::take_request(&page.rx_wake.0.token) {
        send_token(stream);
    }
}

/// Makes the program's end readable.
fn send_token(stream: &Stream) {
    // A full queue (EAGAIN) is readable already; a closed one is reported by the epoll set.
    let _ = sys::send(stream.peer_end.as_fd(), b"r");
}

/// Shows the program's end, and all who poll it, that a direction has ended.
pub(super) fn shut(stream: &Stream, how: i32) {
    // SAFETY: plain system call on an owned descriptor.
    unsafe { libc::shutdown(stream.peer_end.as_raw_fd(), how) };
}

fn errno_of(failure: Failure) -> i32 {
    match failure {
        Failure::Refused => libc::ECONNREFUSED,
        Failure::Reset => libc::ECONNRESET,
        Failure::TimedOut => libc::ETIMEDOUT,
        Failure::Untrusted => libc::EKEYREJECTED,
        Failure::Unreachable(IcmpError::Network) => libc::ENETUNREACH,
        Failure::Unreachable(IcmpError::Host) => libc::EHOSTUNREACH,
        Failure::Unreachable(IcmpError::Port) => libc::ECONNREFUSED,
        Failure::Unreachable(IcmpError::Protocol) => libc::ENOPROTOOPT,
        Failure::Unreachable(IcmpError::Prohibited) => libc::EACCES,
    }
}

fn number_of(state: State) -> u32 {
    match state {
        State::SynSent => state::SYN_SENT,
        State::SynReceived => state::SYN_RECEIVED,
        State::Established => state::ESTABLISHED,
        State::FinWait1 => state::FIN_WAIT_1,
        State::FinWait2 => state::FIN_WAIT_2,
        State::Closing => state::CLOSING,
        State::TimeWait => state::TIME_WAIT,
        State::CloseWait => state::CLOSE_WAIT,
        State::LastAck => state::LAST_ACK,
        State::Closed => state::CLOSED,
    }
}
