//! All connections and listeners of one worker.

use crate::connection::{Connection, New, Phase};
use crate::{Config, transport};
use bytes::BytesMut;
use freena_stack_api::stream::{
    ConnectError, Driver, Drop, Event, Flow, Handle, MAX_HEADER, Options, Path, Source, Stats, Transmit,
};
use freena_stack_api::{Listeners, RxChecksum};
use freena_wire::Packet;
use freena_wire::udp::{self, Verdict};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, Incoming, ServerConfig,
};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// The most answers that wait to be sent for no connection.
const MAX_ANSWERS: usize = 256;
/// TTL of packets that belong to no connection.
const TTL: u8 = 64;

/// The engine.
pub struct Quic {
    endpoint: Endpoint,
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    pub(crate) listeners: Listeners,
    connections: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
    names: HashMap<ConnectionHandle, u32>,
    pub(crate) flows: HashMap<Flow, u32>,
    /// Deadlines.
    timers: BTreeSet<(Instant, u32)>,
    /// Connections with something to send.
    senders: VecDeque<u32>,
    /// Connections that may have something to deliver.
    waiting: Vec<u32>,
    answers: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) stats: Stats,
    max_connections: usize,
    max_half_open: usize,
}

impl Quic {
    /// An engine without connections.
    ///
    /// # Errors
    /// The TLS configurations have not the cipher of Initial packets (AES-128-GCM with SHA-256).
    pub fn new(config: &Config) -> Result<Self, NoInitialCipherSuite> {
        let server = transport::server(&config.server)?;
        let client = transport::client(&config.client)?;
        let listening = Arc::new(ServerConfig::with_crypto(server.clone()));
        Ok(Quic {
            endpoint: Endpoint::new(Arc::new(transport::endpoint(config)), Some(listening), true, None),
            server,
            client,
            listeners: Listeners::default(),
            connections: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            flows: HashMap::new(),
            timers: BTreeSet::new(),
            senders: VecDeque::new(),
            waiting: Vec::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            max_connections: config.max_connections,
            max_half_open: config.max_half_open,
        })
    }

    pub(crate) fn get(&self, Handle(index): Handle) -> Option<&Connection> {
        self.connections.get(index as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, Handle(index): Handle) -> Option<&mut Connection> {
        self.connections.get_mut(index as usize)?.as_deref_mut()
    }

    fn vacancy(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.connections.len() as u32)
    }

    fn is_full(&self) -> bool {
        self.names.len() >= self.max_connections
    }

    fn insert(&mut self, connection: Connection) {
        let index = connection.handle.0;
        if self.free.last() == Some(&index) {
            self.free.pop();
        } else {
            self.connections.push(None);
        }
        self.names.insert(connection.name, index);
        self.flows.insert(connection.flow, index);
        self.connections[index as usize] = Some(Box::new(connection));
        self.queue(index);
    }

    /// Begins a handshake.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        room: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        // One that the driver has forgotten may still have to answer late packets (RFC 9000 section 10.2): connection ids tell it from
        // the new one.
        let before = self.flows.get(&flow).and_then(|index| self.get(Handle(*index)));
        if before.is_some_and(|it| !it.released) {
            return Err(ConnectError::InUse);
        }
        if self.is_full() {
            return Err(ConnectError::Full);
        }
        let mut config = ClientConfig::new(self.client.clone());
        config.transport_config(transport::transport(flow.peer, &path, options));
        let remote = SocketAddr::new(flow.peer, flow.peer_port);
        let (name, inner) = self
            .endpoint
            .connect(now, config, remote, &flow.peer.to_string())
            .map_err(|_| ConnectError::Full)?;
        let handle = Handle(self.vacancy());
        let (options, listener) = (*options, None);
        self.insert(Connection::new(New { handle, name, inner, flow, path, options, listener, room }, now));
        self.stats.active_opens += 1;
        self.after(now, handle.0);
        Ok(handle)
    }

    /// Takes a UDP packet.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let header = udp::Header::parse(packet.payload).map_err(|_| {
            self.stats.malformed += 1;
            Drop::Malformed
        })?;
        if !is_whole(&header, packet, checksum) {
            self.stats.checksum += 1;
            return Err(Drop::Checksum);
        }
        let flow = Flow {
            local: packet.dst,
            local_port: header.dst_port(),
            peer: packet.src,
            peer_port: header.src_port(),
        };
        let payload = header.payload();
        let size = if segment == 0 { payload.len().max(1) } else { segment.into() };
        let remote = SocketAddr::new(flow.peer, flow.peer_port);
        let ecn = EcnCodepoint::from_bits(packet.tos & 3);
        let mut result = Ok(());
        let mut touched = None;
        for datagram in payload.chunks(size) {
            self.stats.segments_in += 1;
            let mut answer = Vec::new();
            let event = self.endpoint.handle(
                now,
                remote,
                Some(flow.local),
                ecn,
                BytesMut::from(datagram),
                &mut answer,
            );
            match event {
                Some(DatagramEvent::ConnectionEvent(name, event)) => {
                    let Some(&index) = self.names.get(&name) else { continue };
                    if let Some(connection) = self.get_mut(Handle(index)) {
                        connection.heard(now);
                        connection.inner.handle_event(event);
                    }
                    if let Some(other) = touched.replace(index).filter(|other| *other != index) {
                        self.after(now, other);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    result = self.take_incoming(now, incoming, flow, ifindex, driver);
                }
                Some(DatagramEvent::Response(transmit)) => self.answer(flow, answer, transmit.ecn),
                None => {
                    self.stats.unacceptable += 1;
                    result = Err(Drop::Unacceptable);
                }
            }
        }
        if let Some(index) = touched {
            self.after(now, index);
            self.deliver(now, driver);
        }
        result
    }

    /// A peer begins a handshake.
    fn take_incoming(
        &mut self,
        now: Instant,
        incoming: Incoming,
        flow: Flow,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let mut answer = Vec::new();
        let hash = || u64::from(flow.peer_port) ^ u64::from(flow.local_port) << 16;
        let Some((key, listening)) = self.listeners.lookup(&flow, ifindex, hash) else {
            let transmit = self.endpoint.refuse(incoming, &mut answer);
            self.answer(flow, answer, transmit.ecn);
            self.stats.no_socket += 1;
            return Err(Drop::NoSocket);
        };
        let options = listening.options;
        let half_open = self.stats.half_open as usize;
        if half_open >= self.max_half_open || self.is_full() {
            // The peer will try again.
            self.endpoint.ignore(incoming);
            self.stats.backlog += 1;
            return Err(Drop::Backlog);
        }
        if half_open >= self.max_half_open / 2 && !incoming.remote_address_validated() {
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut answer) {
                self.stats.cookies_sent += 1;
                self.answer(flow, answer, transmit.ecn);
            }
            return Ok(());
        }
        let Some(path) = driver.path(&flow) else {
            self.endpoint.ignore(incoming);
            return Err(Drop::NoPath);
        };
        let mut config = ServerConfig::with_crypto(self.server.clone());
        config.transport_config(transport::transport(flow.peer, &path, &options)).migration(false);
        match self.endpoint.accept(incoming, now, &mut answer, Some(Arc::new(config))) {
            Ok((name, inner)) => {
                let handle = Handle(self.vacancy());
                let new = New { handle, name, inner, flow, path, options, listener: Some(key), room: 0 };
                self.insert(Connection::new(new, now));
                self.stats.half_open += 1;
                self.after(now, handle.0);
                Ok(())
            }
            Err(refused) => {
                if let Some(transmit) = refused.response {
                    self.answer(flow, answer, transmit.ecn);
                }
                self.stats.malformed += 1;
                Err(Drop::Malformed)
            }
        }
    }

    /// Queues what is sent for no connection.
    fn answer(&mut self, flow: Flow, body: Vec<u8>, ecn: Option<EcnCodepoint>) {
        if self.answers.len() < MAX_ANSWERS && !body.is_empty() {
            self.stats.resets_out += 1;
            self.answers.push_back(packet(None, flow, body, (0, TTL, ecn.map_or(0, |ecn| ecn as u8))));
        }
    }

    /// Sees to a connection to which something has happened.
    pub(crate) fn after(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.take_events(now, &mut self.events);
        while let Some(event) = connection.inner.poll_endpoint_events() {
            connection.drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(connection.name, event) {
                connection.inner.handle_event(answer);
            }
        }
        let phase = connection.phase;
        if connection.counted != phase {
            let before = std::mem::replace(&mut connection.counted, phase);
            if before == Phase::Opening && connection.listener.is_some() {
                self.stats.half_open -= 1;
                self.stats.passive_opens += u64::from(phase == Phase::Waiting);
            }
            self.stats.failed_opens += u64::from(before == Phase::Opening && phase == Phase::Over);
            self.stats.resets += u64::from(before != Phase::Opening && connection.failed);
        }
        if connection.wants_delivery() && !self.waiting.contains(&index) {
            self.waiting.push(index);
        }
        if connection.drained && connection.released {
            self.remove(index);
            return;
        }
        self.queue(index);
        self.schedule(now, index);
    }

    /// Puts a connection on the list of those with something to send.
    fn queue(&mut self, index: u32) {
        if let Some(connection) = self.connections[index as usize].as_deref_mut()
            && !connection.queued
        {
            connection.queued = true;
            self.senders.push_back(index);
        }
    }

    fn schedule(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let due = connection.poll_timeout(now);
        if due != connection.due {
            if let Some(before) = connection.due {
                self.timers.remove(&(before, index));
            }
            connection.due = due;
            self.timers.extend(due.map(|at| (at, index)));
        }
    }

    fn remove(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].take() else { return };
        self.names.remove(&connection.name);
        if self.flows.get(&connection.flow) == Some(&index) {
            self.flows.remove(&connection.flow);
        }
        if let Some(due) = connection.due {
            self.timers.remove(&(due, index));
        }
        if connection.queued {
            self.senders.retain(|other| *other != index);
        }
        self.waiting.retain(|other| *other != index);
        self.free.push(index);
    }

    /// See [`freena_stack_api::stream::Protocol::deliver`].
    pub(crate) fn deliver(&mut self, now: Instant, driver: &mut dyn Driver) {
        for index in std::mem::take(&mut self.waiting) {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            if connection.listener.is_some_and(|key| self.listeners.get(key).is_none())
                && !connection.is_known
            {
                connection.abort(now, &mut self.events);
            } else if !connection.deliver(now, driver, &mut self.events) {
                self.waiting.push(index);
                continue;
            }
            self.after(now, index);
        }
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        // Each once: a deadline of loss recovery moves only when the probe that it asks for has been sent.
        let due: Vec<u32> =
            self.timers.iter().take_while(|(due, _)| *due <= now).map(|(_, index)| *index).collect();
        for index in due {
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.handle_timeout(now, &mut self.events);
            }
            self.after(now, index);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next packets to send.
    pub(crate) fn next_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit> {
        if let Some(answer) = self.answers.pop_front() {
            self.stats.segments_out += 1;
            return Some(answer);
        }
        while let Some(index) = self.senders.pop_front() {
            let Some(connection) = self.connections[index as usize].as_deref_mut() else { continue };
            connection.pump(source, &mut self.events);
            let size = u32::from(connection.inner.current_mtu());
            let most = (connection.path.max_burst / size).min(connection.path.max_segments).max(1);
            let mut body = Vec::with_capacity((most * size) as usize);
            let transmit = connection.inner.poll_transmit(now, most as usize, &mut body);
            let Some(transmit) = transmit else {
                connection.queued = false;
                self.schedule(now, index);
                continue;
            };
            let owner = (!connection.released).then_some(connection.handle);
            let tos = connection.options.tos & !3 | transmit.ecn.map_or(0, |ecn| ecn as u8);
            let segment = transmit.segment_size.unwrap_or(0) as u16;
            let packet = packet(owner, connection.flow, body, (segment, connection.options.ttl, tos));
            self.stats.segments_out += transmit.size.div_ceil(usize::from(segment.max(1))) as u64;
            self.senders.push_back(index);
            self.schedule(now, index);
            return Some(packet);
        }
        None
    }

    /// Does something with a connection that the driver knows.
    pub(crate) fn touch(
        &mut self,
        now: Instant,
        handle: Handle,
        what: impl FnOnce(&mut Connection, Instant, &mut VecDeque<Event>),
    ) {
        let found = self.connections.get_mut(handle.0 as usize).and_then(Option::as_deref_mut);
        if let Some(connection) = found.filter(|it| !it.released) {
            what(connection, now, &mut self.events);
            self.after(now, handle.0);
        }
    }

    pub(crate) fn figures(&self) -> Stats {
        Stats { connections: self.names.len() as u64 - self.stats.half_open, ..self.stats }
    }
}

/// Whether the checksum holds.
fn is_whole(header: &udp::Header<'_>, packet: &Packet<'_>, known: RxChecksum) -> bool {
    match known {
        RxChecksum::Verified => true,
        RxChecksum::MayBePartial if header.is_partial(packet.src, packet.dst) => true,
        RxChecksum::MayBePartial | RxChecksum::Unknown => {
            matches!(header.verify(packet.src, packet.dst), Ok(Verdict::Right | Verdict::Absent))
        }
    }
}

/// Datagrams with a UDP header in front.
fn packet(
    connection: Option<Handle>,
    flow: Flow,
    body: Vec<u8>,
    (segment, ttl, tos): (u16, u8, u8),
) -> Transmit {
    let mut header = [0; MAX_HEADER];
    udp::Repr { src_port: flow.local_port, dst_port: flow.peer_port, payload_len: body.len() as u16 }
        .emit(0, &mut header);
    let segment = if body.len() > usize::from(segment) { segment } else { 0 };
    Transmit {
        connection,
        flow,
        header,
        header_len: udp::HEADER_LEN as u8,
        payload: 0..0,
        body,
        segment,
        ttl,
        tos,
    }
}
