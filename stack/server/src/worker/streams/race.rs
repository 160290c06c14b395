//! Connections that several protocols may carry: one is tried after the other, and the first that answers has it.
//!
//! The next is tried when the one before has failed, or has not answered for a while (RFC 8305 section 5, for protocols
//! instead of addresses: RFC 9621 section 4). The program sees one socket that connects. Its connection is in the table
//! under the handle of one attempt; what others there are the engines alone know, since no byte is sent before one has won.

use super::table::Connection;
use super::{Worker, driver, events, find_way, options, watch};
use crate::stream::Stream;
use crate::worker::path::{Path as Way, Unresolved};
use freena_tcp::{ConnectError, Event, Failure, Flow, Handle, Options, Path};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A socket that has not been decided yet.
pub(super) struct Race {
    stream: Arc<Stream>,
    /// Attempts under way, and their protocols.
    attempts: Vec<(Handle, u8)>,
    /// The one that stands for the socket in the table.
    anchor: Handle,
    /// Protocols that have been tried, of those of the socket.
    tried: usize,
    /// When the next one is.
    due: Option<Instant>,
    stagger: Duration,
}

impl Race {
    fn has(&self, handle: Handle) -> bool {
        self.attempts.iter().any(|(attempt, _)| *attempt == handle)
    }
}

/// When something is due.
pub(super) fn poll_timeout(races: &[Race]) -> Option<Instant> {
    races.iter().filter_map(|race| race.due).min()
}

impl Worker {
    /// Begins to connect a socket by the first of its protocols that can.
    pub(super) fn connect(&mut self, stream: Arc<Stream>, stagger: Duration) {
        let mut refused = libc::EPROTONOSUPPORT;
        for (index, protocol) in stream.protocols.iter().enumerate() {
            match self.attempt(&stream, *protocol) {
                Ok(handle) => {
                    stream.set_protocol(*protocol);
                    self.enter(&stream, handle);
                    let tried = index + 1;
                    if tried < stream.protocols.len() {
                        let attempts = vec![(handle, *protocol)];
                        let due = Some(self.now + stagger);
                        self.streams.races.push(Race {
                            stream,
                            attempts,
                            anchor: handle,
                            tried,
                            due,
                            stagger,
                        });
                    }
                    return;
                }
                Err(errno) => refused = errno,
            }
        }
        events::fail(&stream, refused);
        self.streams.registry.remove(&stream);
    }

    /// Where a socket wants to connect to, and how.
    fn goal(&mut self, stream: &Stream) -> (Flow, Path, Options) {
        let (peer, peer_port) = stream.peer.unwrap_or(stream.local);
        let flow = Flow { local: stream.local.0, local_port: stream.local.1, peer, peer_port };
        let path = match find_way(&mut self.paths, &flow, stream.ifindex, self.now) {
            Way::Fast(fast) | Way::Unresolved(Unresolved { fast, .. }) => driver::path_of(&fast),
            // The route has changed since the control thread looked: the engine tries until it is there.
            Way::Local(_) | Way::Kernel => Path { mtu: 1280, max_burst: 1280, max_segments: 1 },
        };
        (flow, path, options::of(&stream.memory.page().stream.asked))
    }

    /// Begins the handshake of a protocol; an errno if it cannot be begun.
    fn attempt(&mut self, stream: &Stream, protocol: u8) -> Result<Handle, i32> {
        let (flow, path, options) = self.goal(stream);
        let room = u64::from(stream.memory.sizes().rx);
        let made = self.streams.engines.connect(protocol, self.now, flow, path, (room, &options));
        made.map_err(|refused| match refused {
            ConnectError::InUse => libc::EADDRNOTAVAIL,
            ConnectError::Full => libc::ENOBUFS,
        })
    }

    /// Enters a socket that connects into the table.
    fn enter(&mut self, stream: &Arc<Stream>, handle: Handle) {
        let (flow, path, options) = self.goal(stream);
        let mut connection = Connection::new(stream.clone(), flow, path, options, self.now);
        connection.flags = stream.memory.page().stream.asked.flags.load(Ordering::Relaxed);
        // The fill that keeps it from being writable.
        connection.unread = true;
        self.streams.table.insert(handle, connection);
        self.watch_stream(handle, stream);
    }

    fn watch_stream(&mut self, handle: Handle, stream: &Stream) {
        if let Err(error) = watch(&self.epoll, handle, stream) {
            tracing::error!(socket = stream.id, %error, "cannot watch a socket");
            self.streams.engines.abort(self.now, handle);
        }
    }

    /// Takes an event into account that may decide something; what is left of it for the program.
    pub(super) fn judge_race(&mut self, event: Event) -> Option<Event> {
        let races = &mut self.streams.races;
        match event {
            Event::Connected(handle) => {
                if let Some(index) = races.iter().position(|race| race.has(handle)) {
                    let race = races.swap_remove(index);
                    self.decide(race, handle);
                }
                Some(event)
            }
            Event::Failed(handle, failure) => {
                let Some(index) = races.iter().position(|race| race.has(handle)) else { return Some(event) };
                if failure == Failure::Untrusted {
                    // Whoever pretends to be the peer shall not bring the program to speak to it in the clear.
                    let race = self.streams.races.swap_remove(index);
                    self.decide_for(race, handle);
                    return Some(event);
                }
                races[index].attempts.retain(|(attempt, _)| *attempt != handle);
                if self.try_next(index) || !self.streams.races[index].attempts.is_empty() {
                    let race = &mut self.streams.races[index];
                    let (next, protocol) = race.attempts[0];
                    if race.anchor == handle {
                        race.anchor = next;
                        race.stream.set_protocol(protocol);
                        self.rename(handle, next);
                    }
                    self.streams.engines.close(self.now, handle, false);
                    return None;
                }
                // None is left: the program is told how the last one has failed.
                let race = self.streams.races.swap_remove(index);
                if let Some(peer) = race.stream.peer {
                    self.streams.registry.remembered.forget(peer);
                    tracing::info!(?peer, protocols = ?race.stream.protocols, "a peer answers by none of the protocols");
                }
                if race.anchor != handle {
                    self.rename(race.anchor, handle);
                }
                Some(event)
            }
            other => Some(other),
        }
    }

    /// An attempt has succeeded.
    fn decide(&mut self, race: Race, winner: Handle) {
        let won = race.attempts.iter().find(|(attempt, _)| *attempt == winner);
        if let (Some((_, protocol)), Some(peer)) = (won, race.stream.peer) {
            self.streams.registry.remembered.note(peer, *protocol, self.now);
        }
        self.decide_for(race, winner);
    }

    /// The socket belongs to an attempt from now on; all others end.
    fn decide_for(&mut self, race: Race, winner: Handle) {
        for (attempt, protocol) in &race.attempts {
            if *attempt == winner {
                race.stream.set_protocol(*protocol);
            } else {
                self.streams.engines.abort(self.now, *attempt);
            }
        }
        if race.anchor != winner {
            self.rename(race.anchor, winner);
        }
    }

    /// Tries the next protocol that can be tried; whether there was one.
    fn try_next(&mut self, index: usize) -> bool {
        loop {
            let race = &mut self.streams.races[index];
            race.due = None;
            let Some(protocol) = race.stream.protocols.get(race.tried).copied() else { return false };
            race.tried += 1;
            let stream = race.stream.clone();
            if let Ok(handle) = self.attempt(&stream, protocol) {
                let race = &mut self.streams.races[index];
                race.attempts.push((handle, protocol));
                race.due = (race.tried < stream.protocols.len()).then_some(self.now + race.stagger);
                return true;
            }
        }
    }

    /// Tries what is due, since others have not answered for a while.
    pub(super) fn run_races(&mut self) {
        for index in 0..self.streams.races.len() {
            if self.streams.races[index].due.is_some_and(|due| due <= self.now) {
                self.try_next(index);
            }
        }
    }

    /// The program has no use for the socket any more: all attempts but `handle` end, which is the caller's affair.
    pub(super) fn end_race(&mut self, handle: Handle) {
        let races = &mut self.streams.races;
        let Some(index) = races.iter().position(|race| race.anchor == handle) else { return };
        for (attempt, _) in races.swap_remove(index).attempts {
            if attempt != handle {
                self.streams.engines.abort(self.now, attempt);
            }
        }
    }

    /// A socket belongs to another attempt from now on.
    fn rename(&mut self, from: Handle, to: Handle) {
        let Some(mut connection) = self.streams.table.remove(from) else { return };
        let was_active = std::mem::replace(&mut connection.active, false);
        connection.dirty = false;
        connection.stuffed = false;
        let (stream, options) = (connection.stream.clone(), connection.options);
        self.streams.table.insert(to, *connection);
        let _ = self.epoll.remove(stream.peer_end.as_raw_fd());
        self.watch_stream(to, &stream);
        // It may have been told others when it began.
        self.streams.engines.set_options(self.now, to, &options);
        if was_active {
            self.activate_stream(to);
        }
    }
}
