//! TCP (RFC 9293), sans-IO: the engine counts, others keep the bytes.
//!
//! A stream's bytes have *positions*, counted from 0 in each direction, that never wrap. What the program has written and
//! the peer has not acknowledged stays in the program's transmit ring, from which it is sent and sent again; what
//! arrives, in order or ahead of it, is stored at its position in the receive ring by [`Driver::store`]. So no byte is
//! copied into the engine or out of it, and it allocates nothing per segment.
//!
//! How it is driven, in this order, whenever something has happened:
//! - *told*: [`Tcp::handle_packet`], [`Tcp::handle_timeout`], [`Tcp::handle_icmp`]; [`Tcp::written`], [`Tcp::read`],
//!   [`Tcp::close`] and the like;
//! - *asked*: [`Tcp::poll_event`] until `None`, [`Tcp::poll_transmit`] until `None` or the link is full,
//!   [`Tcp::poll_timeout`].
#![forbid(unsafe_code)]

mod congestion;
mod connection;
mod engine;
mod env;
mod half_open;
mod isn;
mod protocol;
mod recovery;
mod segment;
mod siphash;
mod timewait;

pub use freena_stack_api::stream::{
    Congestion, ConnectError, Driver, Drop, Event, Failure, Flow, Handle, IcmpError, Info, ListenerKey,
    Listening, Options, Path, Refused, State, Stats, Transmit,
};

/// All connections and listeners of one worker.
#[derive(Debug)]
pub struct Tcp {
    engine: engine::Engine,
}

use freena_stack_api::RxChecksum;
use freena_wire::Packet;
use std::time::Instant;

/// What is fixed for the life of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Random bytes, for initial sequence numbers (RFC 6528), timestamp offsets and SYN cookies (RFC 4987).
    pub secret: [u8; 32],
    /// Most connections; `ENOBUFS` and dropped SYNs beyond.
    pub max_connections: usize,
    /// Most half-open connections; SYN cookies beyond.
    pub max_half_open: usize,
    /// Most connections in `TIME_WAIT`; the oldest is forgotten beyond.
    pub max_time_wait: usize,
}

impl Tcp {
    /// An engine without connections.
    pub fn new(config: Config) -> Self {
        Tcp { engine: engine::Engine::new(config) }
    }

    /// Starts listening, or changes how a listener listens.
    pub fn listen(&mut self, key: ListenerKey, listening: Listening) {
        self.engine.listeners.insert(key, listening);
    }

    /// Stops listening: half-open connections of the listener are forgotten, established ones live on.
    pub fn unlisten(&mut self, key: ListenerKey) {
        self.engine.unlisten(key);
    }

    /// Begins a handshake. `receive_buffer`: size of the receive buffer in bytes.
    pub fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        self.engine.connect(now, flow, path, receive_buffer, options)
    }

    /// A packet of this protocol that is no fragment. `segment`: payload bytes per segment of a super-packet, or 0.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let result = self.engine.packet(now, packet, checksum, segment, ifindex, driver);
        result.inspect_err(|drop| self.engine.count(*drop))
    }

    /// Whether a packet with these addresses would be for a connection or a listener of this engine (the flow as this host sees it).
    pub fn knows(&self, flow: &Flow) -> bool {
        self.engine.knows(flow)
    }

    /// Time has passed: to be called when [`Tcp::poll_timeout`] is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    /// An ICMP error that quotes a segment of ours with this sequence number.
    pub fn handle_icmp(&mut self, now: Instant, flow: &Flow, sequence: u32, error: IcmpError) {
        self.engine.icmp(now, flow, sequence, error);
    }

    /// The way to a peer has changed (a route, or a path MTU that a router told).
    pub fn set_path(&mut self, now: Instant, connection: Handle, path: Path) {
        self.engine.with(now, connection, |it, env| it.set_path(env.now, path));
    }

    /// The program has written the bytes before `position`.
    pub fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused> {
        self.engine.with(now, connection, |it, _| it.written(position)).unwrap_or(Err(Refused::Over))
    }

    /// The byte before `position` is urgent.
    pub fn urgent(&mut self, now: Instant, connection: Handle, position: u64) {
        self.engine.with(now, connection, |it, _| it.urgent(position));
    }

    /// The program has read the bytes before `position`: the window may open.
    pub fn read(&mut self, now: Instant, connection: Handle, position: u64) {
        self.engine.with(now, connection, |it, _| it.read(position));
    }

    /// Whether reading would open a window that the peer waits for (or will soon): then [`Tcp::read`] must be called
    /// promptly, otherwise with the next occasion.
    pub fn wants_read(&self, connection: Handle) -> bool {
        self.engine.connection(connection).is_some_and(|it| it.wants_read())
    }

    /// Ends the own direction behind what was written (`SHUT_WR`).
    pub fn shutdown(&mut self, now: Instant, connection: Handle) {
        self.engine.with(now, connection, |it, _| it.shutdown());
    }

    /// The program has closed its last descriptor. What was written is still sent; received bytes that were not read, or
    /// arrive later, reset the connection (RFC 1122 section 4.2.2.13; RFC 2525 section 2.17).
    pub fn close(&mut self, now: Instant, connection: Handle, unread: bool) {
        self.engine.with(now, connection, |it, env| it.close(env, unread));
    }

    /// Resets the connection.
    pub fn abort(&mut self, now: Instant, connection: Handle) {
        self.engine.with(now, connection, |it, env| it.abort(env));
    }

    /// Applies socket options.
    pub fn set_options(&mut self, now: Instant, connection: Handle, options: &Options) {
        self.engine.with(now, connection, |it, env| it.set_options(env.now, options));
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.engine.poll_event()
    }

    /// What is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.engine.poll_transmit(now)
    }

    /// When [`Tcp::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// The state of a connection.
    pub fn state(&self, connection: Handle) -> Option<State> {
        self.engine.connection(connection).map(|it| it.state)
    }

    /// End of what was sent at least once.
    pub fn sent(&self, connection: Handle) -> u64 {
        self.engine.connection(connection).map_or(0, |it| it.sent())
    }

    /// Figures of a connection.
    pub fn info(&self, connection: Handle) -> Option<Info> {
        self.engine.connection(connection).map(|it| it.info())
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}

#[cfg(test)]
mod tests {
    /// A moment to begin at.
    #[expect(clippy::disallowed_methods, reason = "there is no other way to have an `Instant`")]
    pub(crate) fn epoch() -> std::time::Instant {
        std::time::Instant::now()
    }
}
