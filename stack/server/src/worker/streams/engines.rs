//! The engines of a worker: TCP, SCTP, QUIC where there are keys, and one for each protocol library. All are driven as one.
//!
//! An engine goes by the IP protocol of its packets. Among streams that of UDP means QUIC.
//!
//! A connection's handle tells its engine in the upper bits; below is the number that the engine gave.

use super::driver::Host;
use freena_plugin::Library;
use freena_sctp::Sctp;
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{Protocol, Source};
use freena_tcp::{
    ConnectError, Driver, Event, Flow, Handle, IcmpError, Info, ListenerKey, Listening, Options, Path, State,
    Stats, Tcp, Transmit,
};
use freena_wire::{Packet, protocol};
use std::sync::Arc;
use std::time::Instant;

/// Where the engine begins in a handle.
const SHIFT: u32 = 24;
/// The most connections of one engine.
const MAX_CONNECTIONS: usize = 1 << SHIFT;
/// Offset of the checksum in the TCP header.
const TCP_CHECKSUM: u16 = 16;

/// An engine, and how its packets look.
struct Engine {
    engine: Box<dyn Protocol>,
    protocol: u8,
    checksum: Option<u16>,
}

/// A packet to send, and what the engine says of all of its packets.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) transmit: Transmit,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Offset of the Internet checksum in the header, if there is one.
    pub(super) checksum: Option<u16>,
}

/// All of a worker's. The first is TCP.
pub(super) struct Engines(Vec<Engine>);

fn global(engine: usize, Handle(local): Handle) -> Handle {
    Handle((engine as u32) << SHIFT | local)
}

/// The handle of a connection of an engine, by its number there.
pub(super) fn join(engine: usize, number: usize) -> Handle {
    global(engine, Handle(number as u32))
}

/// Engine and number of a handle.
pub(super) fn split(Handle(handle): Handle) -> (usize, Handle) {
    ((handle >> SHIFT) as usize, Handle(handle & ((1 << SHIFT) - 1)))
}

impl Engines {
    /// Our own and the libraries. A library that makes no engine is left out, with a message.
    pub(super) fn new(
        tcp: freena_tcp::Config,
        libraries: &[Arc<Library>],
        quic: Option<&freena_quic_keys::Host>,
    ) -> Self {
        let made =
            Engine { engine: Box::new(Tcp::new(tcp)), protocol: protocol::TCP, checksum: Some(TCP_CHECKSUM) };
        let max_connections = tcp.max_connections.min(MAX_CONNECTIONS);
        let sctp = Sctp::new(freena_sctp::Config { secret: tcp.secret, max_connections });
        // The engine fills in SCTP's checksum itself.
        let sctp = Engine { engine: Box::new(sctp), protocol: protocol::SCTP, checksum: None };
        let mut engines = vec![made, sctp];
        if let Some(keys) = quic {
            // Connection ids of two workers must not be the same.
            let mut secret = [0; 32];
            if let Err(error) = crate::sys::random(&mut secret) {
                tracing::error!(%error, "no secrets for QUIC: its connection ids can be guessed");
            }
            let made = freena_quic::Quic::new(&freena_quic::Config {
                secret,
                reset_key: keys.secret,
                max_connections,
                max_half_open: tcp.max_half_open,
                server: keys.server.clone(),
                client: keys.client.clone(),
            });
            match made {
                Ok(engine) => engines.push(Engine {
                    engine: Box::new(engine),
                    protocol: protocol::UDP,
                    checksum: Some(freena_wire::udp::CHECKSUM_OFFSET as u16),
                }),
                Err(error) => tracing::error!(%error, "no engine for QUIC"),
            }
        }
        let config = freena_plugin::Config { secret: tcp.secret, max_connections: max_connections as u32 };
        for library in libraries {
            match freena_plugin::Engine::new(library.clone(), config, Instant::now()) {
                Ok(engine) => engines.push(Engine {
                    engine: Box::new(engine),
                    protocol: library.ip_protocol(),
                    checksum: library.checksum_offset(),
                }),
                Err(error) => tracing::error!(library = library.file_name(), %error, "no engine"),
            }
        }
        Engines(engines)
    }

    fn of(&mut self, protocol: u8) -> Option<&mut dyn Protocol> {
        let engine = self.0.iter_mut().find(|engine| engine.protocol == protocol)?;
        Some(&mut *engine.engine)
    }

    fn with<R>(&mut self, handle: Handle, call: impl FnOnce(&mut dyn Protocol, Handle) -> R) -> Option<R> {
        let (engine, local) = split(handle);
        Some(call(&mut *self.0.get_mut(engine)?.engine, local))
    }

    fn ask<R>(&self, handle: Handle, call: impl FnOnce(&dyn Protocol, Handle) -> R) -> Option<R> {
        let (engine, local) = split(handle);
        Some(call(&*self.0.get(engine)?.engine, local))
    }

    /// Whether there is an engine for packets of this protocol.
    pub(super) fn has(&self, protocol: u8) -> bool {
        self.0.iter().any(|engine| engine.protocol == protocol)
    }

    pub(super) fn listen(&mut self, protocol: u8, key: ListenerKey, listening: Listening) {
        if let Some(engine) = self.of(protocol) {
            engine.listen(key, listening);
        }
    }

    pub(super) fn unlisten(&mut self, protocol: u8, key: ListenerKey) {
        if let Some(engine) = self.of(protocol) {
            engine.unlisten(key);
        }
    }

    pub(super) fn connect(
        &mut self,
        protocol: u8,
        now: Instant,
        flow: Flow,
        path: Path,
        (receive_buffer, options): (u64, &Options),
    ) -> Result<Handle, ConnectError> {
        let engine =
            self.0.iter().position(|engine| engine.protocol == protocol).ok_or(ConnectError::Full)?;
        let made = self.0[engine].engine.connect(now, flow, path, receive_buffer, options)?;
        Ok(global(engine, made))
    }

    /// What is dropped is counted by the engine.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        (packet, checksum, segment): (&Packet<'_>, RxChecksum, u16),
        ifindex: u32,
        driver: &mut dyn Driver,
    ) {
        let Some(index) = self.0.iter().position(|engine| engine.protocol == packet.protocol) else { return };
        let mut driver = Named { driver, engine: index };
        let _ = self.0[index].engine.handle_packet(now, packet, checksum, segment, ifindex, &mut driver);
    }

    /// Whether a flow still means something to the engine of this protocol.
    pub(super) fn knows(&self, protocol: u8, flow: &Flow) -> bool {
        self.0.iter().any(|it| it.protocol == protocol && it.engine.knows(flow))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for Engine { engine, .. } in &mut self.0 {
            if engine.poll_timeout().is_some_and(|due| due <= now) {
                engine.handle_timeout(now);
            }
        }
    }

    /// What engines keep waiting for room or a place in a queue.
    pub(super) fn deliver(&mut self, now: Instant, host: &mut Host<'_>) {
        for (index, it) in self.0.iter_mut().enumerate() {
            host.protocol = it.protocol;
            it.engine.deliver(now, &mut Named { driver: host, engine: index });
        }
    }

    pub(super) fn handle_icmp(
        &mut self,
        protocol: u8,
        now: Instant,
        flow: &Flow,
        quoted: [u8; 8],
        error: IcmpError,
    ) {
        if let Some(engine) = self.of(protocol) {
            engine.handle_icmp(now, flow, quoted, error);
        }
    }

    pub(super) fn set_path(&mut self, now: Instant, handle: Handle, path: Path) {
        self.with(handle, |engine, local| engine.set_path(now, local, path));
    }

    pub(super) fn written(&mut self, now: Instant, handle: Handle, position: u64) {
        // Refused only where the connection is over, which its events tell.
        self.with(handle, |engine, local| engine.written(now, local, position).ok());
    }

    pub(super) fn urgent(&mut self, now: Instant, handle: Handle, position: u64) {
        self.with(handle, |engine, local| engine.urgent(now, local, position));
    }

    pub(super) fn read(&mut self, now: Instant, handle: Handle, position: u64) {
        self.with(handle, |engine, local| engine.read(now, local, position));
    }

    pub(super) fn wants_read(&self, handle: Handle) -> bool {
        self.ask(handle, |engine, local| engine.wants_read(local)).unwrap_or(false)
    }

    pub(super) fn shutdown(&mut self, now: Instant, handle: Handle) {
        self.with(handle, |engine, local| engine.shutdown(now, local));
    }

    pub(super) fn close(&mut self, now: Instant, handle: Handle, unread: bool) {
        self.with(handle, |engine, local| engine.close(now, local, unread));
    }

    pub(super) fn abort(&mut self, now: Instant, handle: Handle) {
        self.with(handle, |engine, local| engine.abort(now, local));
    }

    pub(super) fn set_options(&mut self, now: Instant, handle: Handle, options: &Options) {
        self.with(handle, |engine, local| engine.set_options(now, local, options));
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let mut engines = self.0.iter_mut().enumerate();
        engines.find_map(|(index, it)| it.engine.poll_event().map(|event| renamed(event, index)))
    }

    pub(super) fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Outgoing> {
        self.0.iter_mut().enumerate().find_map(|(index, it)| {
            let mut source = NamedSource { source: &mut *source, engine: index };
            let mut transmit = it.engine.poll_transmit(now, &mut source)?;
            transmit.connection = transmit.connection.map(|handle| global(index, handle));
            Some(Outgoing { transmit, protocol: it.protocol, checksum: it.checksum })
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.iter().filter_map(|it| it.engine.poll_timeout()).min()
    }

    pub(super) fn state(&self, handle: Handle) -> Option<State> {
        self.ask(handle, |engine, local| engine.state(local)).flatten()
    }

    pub(super) fn sent(&self, handle: Handle) -> u64 {
        self.ask(handle, |engine, local| engine.sent(local)).unwrap_or(0)
    }

    pub(super) fn info(&self, handle: Handle) -> Option<Info> {
        self.ask(handle, |engine, local| engine.info(local)).flatten()
    }

    /// The counters of an engine, by its protocol.
    pub(super) fn stats(&self) -> Vec<(u8, Stats)> {
        self.0.iter().map(|it| (it.protocol, it.engine.stats())).collect()
    }
}

/// A driver that is told handles of all engines.
struct Named<'a> {
    driver: &'a mut dyn Driver,
    engine: usize,
}

impl Driver for Named<'_> {
    fn path(&mut self, flow: &Flow) -> Option<Path> {
        self.driver.path(flow)
    }

    fn has_room(&mut self, listener: ListenerKey) -> bool {
        self.driver.has_room(listener)
    }

    fn accept(&mut self, listener: ListenerKey, connection: Handle, flow: &Flow) -> Option<u64> {
        self.driver.accept(listener, global(self.engine, connection), flow)
    }

    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]) {
        self.driver.store(global(self.engine, connection), position, bytes);
    }
}

/// As [`Named`].
struct NamedSource<'a> {
    source: &'a mut dyn Source,
    engine: usize,
}

impl Source for NamedSource<'_> {
    fn load(&mut self, connection: Handle, position: u64, to: &mut [u8]) -> bool {
        self.source.load(global(self.engine, connection), position, to)
    }
}

fn renamed(event: Event, engine: usize) -> Event {
    let global = |handle| global(engine, handle);
    match event {
        Event::Connected(handle) => Event::Connected(global(handle)),
        Event::Received { connection, position } => {
            Event::Received { connection: global(connection), position }
        }
        Event::Acknowledged { connection, position } => {
            Event::Acknowledged { connection: global(connection), position }
        }
        Event::PeerClosed(handle) => Event::PeerClosed(global(handle)),
        Event::Urgent { connection, position } => Event::Urgent { connection: global(connection), position },
        Event::Closed(handle) => Event::Closed(global(handle)),
        Event::Failed(handle, failure) => Event::Failed(global(handle), failure),
        Event::SoftError(handle, error) => Event::SoftError(global(handle), error),
        Event::Released(handle) => Event::Released(global(handle)),
    }
}
