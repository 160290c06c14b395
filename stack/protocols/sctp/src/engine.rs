//! The tables, and a packet's way to its association: RFC 9260 sections 5.1, 5.2 and 8.4.

use crate::Config;
use crate::association::{Association, Phase, STREAMS};
use crate::cookie::{Cookie, Refusal, Secrets};
use crate::env::{Env, Replies, packet as make_packet};
use crate::input::look_through;
use crate::wire::{self, Chunk, Init, REFLECTED, cause, chunk, parameter};
use freena_stack_api::stream::{
    ConnectError, Driver, Drop, Event, Failure, Flow, Handle, ListenerKey, Options, Path, Source, State,
    Stats, Transmit,
};
use freena_stack_api::{Events, Listeners, Slab, Timers};
use freena_wire::Packet;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// The window that INIT ACK tells: a buffer is made only when the cookie comes back.
const FIRST_WINDOW: u32 = 64 << 10;
/// What answers that belong to no association have.
const PLAIN: (u8, u8) = (64, 0);

/// The engine without its manners: [`Sctp`](crate::Sctp) says what each call means.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    secrets: Secrets,
    flows: HashMap<Flow, u32>,
    /// By own tag: a peer with several addresses may send from any of them.
    tags: HashMap<u32, u32>,
    associations: Slab<Association>,
    pub(crate) listeners: Listeners,
    timers: Timers<u32>,
    events: Events,
    replies: Replies,
    /// Associations that may have something to send, in turn.
    ready: VecDeque<u32>,
    stats: Stats,
}

impl Engine {
    pub(crate) fn new(config: Config) -> Self {
        Engine {
            config,
            secrets: Secrets::new(config.secret),
            flows: HashMap::new(),
            tags: HashMap::new(),
            associations: Slab::new(),
            listeners: Listeners::default(),
            timers: Timers::default(),
            events: Events::default(),
            replies: Replies::default(),
            ready: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Lends an association what it needs, then sees to what has changed.
    pub(crate) fn with<R>(
        &mut self,
        now: Instant,
        handle: Handle,
        call: impl FnOnce(&mut Association, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let result = self.with_quietly(now, handle.0, call)?;
        self.settle(handle.0);
        Some(result)
    }

    /// After anything that may have changed an association: its place in the queue, its timer, its end.
    fn settle(&mut self, index: u32) {
        let Some(association) = self.associations.get_mut(index) else { return };
        if association.phase == Phase::Closed {
            self.end(index);
            return;
        }
        if !std::mem::replace(&mut association.queued, true) {
            self.ready.push_back(index);
        }
        self.schedule(index);
    }

    fn schedule(&mut self, index: u32) {
        let Some(association) = self.associations.get_mut(index) else { return };
        let deadline = association.deadline();
        self.timers.schedule(index, &mut association.timer, deadline);
    }

    /// An association is over: its flow is free; its slot stays until the program closes it.
    fn end(&mut self, index: u32) {
        let Some(association) = self.associations.get_mut(index) else { return };
        self.timers.cancel(index, &mut association.timer);
        if std::mem::take(&mut association.mapped) {
            self.flows.remove(&association.flow);
            self.tags.remove(&association.tag);
        }
        if association.closed {
            let handle = association.handle;
            self.associations.take(index);
            self.events.push(Event::Released(handle));
        }
    }

    pub(crate) fn association(&self, handle: Handle) -> Option<&Association> {
        self.associations.get(handle.0)
    }

    pub(crate) fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        size: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        if self.flows.contains_key(&flow) {
            return Err(ConnectError::InUse);
        }
        if self.associations.len() >= self.config.max_connections {
            return Err(ConnectError::Full);
        }
        let numbers = (self.fresh_tag(), self.secrets.random());
        let index = self.associations.reserve();
        let handle = Handle(index);
        self.enter(index, Association::open(handle, flow, path, options, size, numbers));
        self.stats.active_opens += 1;
        self.with(now, handle, |_, _| ());
        Ok(handle)
    }

    fn enter(&mut self, index: u32, association: Association) {
        self.flows.insert(association.flow, index);
        self.tags.insert(association.tag, index);
        self.associations.fill(index, association);
    }

    /// A tag that no association has.
    fn fresh_tag(&mut self) -> u32 {
        loop {
            let tag = self.secrets.random();
            if !self.tags.contains_key(&tag) {
                return tag;
            }
        }
    }

    pub(crate) fn knows(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow) || self.listeners.lookup(flow, 0, || 0).is_some()
    }

    pub(crate) fn packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let parsed = wire::Packet::parse(packet.payload).ok_or(Drop::Malformed)?;
        if !wire::is_intact(packet.payload) {
            return Err(Drop::Checksum);
        }
        let flow = Flow {
            local: packet.dst,
            local_port: parsed.destination,
            peer: packet.src,
            peer_port: parsed.source,
        };
        self.stats.segments_in += 1;
        let first = parsed.chunks.clone().next().ok_or(Drop::Malformed)?;
        match first.kind {
            chunk::INIT if parsed.tag == 0 => return self.init(now, flow, &parsed, ifindex, driver),
            chunk::INIT => return Err(Drop::Unacceptable),
            chunk::COOKIE_ECHO => self.cookie_echo(now, flow, parsed.tag, &first, ifindex, driver)?,
            _ => {}
        }
        let by_tag = || self.tags.get(&parsed.tag).copied().filter(|index| self.has_ports(*index, &flow));
        let Some(index) = self.flows.get(&flow).copied().or_else(by_tag) else {
            return self.for_nobody(flow, &parsed);
        };
        self.with(now, Handle(index), |it, env| it.packet(env, parsed.tag, parsed.chunks, driver))
            .unwrap_or(Err(Drop::NoSocket))
    }

    fn has_ports(&self, index: u32, flow: &Flow) -> bool {
        self.associations.get(index).is_some_and(|it| {
            (it.flow.local_port, it.flow.peer_port) == (flow.local_port, flow.peer_port)
                && it.flow.peer.is_ipv4() == flow.peer.is_ipv4()
        })
    }

    fn reply(&mut self, flow: Flow, tag: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut chunks = Vec::new();
        fill(&mut chunks);
        self.replies.push(make_packet(flow, tag, chunks, PLAIN));
    }

    /// Out of the blue: section 8.4.
    fn for_nobody(&mut self, flow: Flow, packet: &wire::Packet<'_>) -> Result<(), Drop> {
        let dumb = packet.chunks.clone().any(|it| {
            let kinds = [chunk::ABORT, chunk::SHUTDOWN_COMPLETE, chunk::COOKIE_ACK];
            let stale = it.kind == chunk::ERROR
                && wire::Parameters(it.value).any(|(kind, ..)| kind == cause::STALE_COOKIE);
            kinds.contains(&it.kind) || stale
        });
        let first = packet.chunks.clone().next();
        if dumb || !flow.is_unicast() {
            return Err(Drop::NoSocket);
        }
        if first.is_some_and(|first| first.kind == chunk::SHUTDOWN_ACK) {
            self.reply(flow, packet.tag, |to| {
                wire::put_chunk(to, chunk::SHUTDOWN_COMPLETE, REFLECTED, |_| {});
            });
        } else {
            self.stats.resets_out += 1;
            self.reply(flow, packet.tag, |to| wire::put_chunk(to, chunk::ABORT, REFLECTED, |_| {}));
        }
        Err(Drop::NoSocket)
    }

    /// Sections 5.1 step B, 5.2.1 and 5.2.2: nothing is remembered.
    fn init(
        &mut self,
        now: Instant,
        flow: Flow,
        packet: &wire::Packet<'_>,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let mut chunks = packet.chunks;
        let chunk = chunks.next().ok_or(Drop::Malformed)?;
        let (peer, parameters) = Init::parse(chunk.value).ok_or(Drop::Malformed)?;
        if chunks.next().is_some() || !flow.is_unicast() {
            return Err(Drop::Unacceptable);
        }
        let known = self.flows.get(&flow).and_then(|index| self.associations.get(*index));
        let known = known.map(|it| (it.phase, it.tag, it.initial, it.peer_tag, it.state()));
        let (tag, sequence, ties) = match known {
            Some((Phase::CookieWait | Phase::CookieEchoed, tag, initial, ..)) => (tag, initial, (0, 0)),
            // Section 9.2: the old association is about to end.
            Some((.., State::LastAck)) => return Err(Drop::Unacceptable),
            Some((_, tag, _, peer_tag, _)) => (self.fresh_tag(), self.secrets.random(), (tag, peer_tag)),
            None if let Some((key, _)) = self.listeners.lookup(&flow, ifindex, || peer.tag.into()) => {
                if !driver.has_room(key) {
                    return Err(Drop::Backlog);
                }
                (self.fresh_tag(), self.secrets.random(), (0, 0))
            }
            None => {
                self.stats.resets_out += 1;
                self.reply(flow, peer.tag, |to| wire::put_chunk(to, chunk::ABORT, 0, |_| {}));
                return Err(Drop::NoSocket);
            }
        };
        driver.path(&flow).ok_or(Drop::NoPath)?;
        let (unknown, _) = look_through(parameters);
        let cookie = self.secrets.bake(now, &flow, &Cookie { tag, sequence, peer, ties });
        let own = Init {
            tag,
            window: FIRST_WINDOW,
            outbound: STREAMS.min(peer.inbound),
            inbound: STREAMS,
            sequence,
        };
        self.stats.cookies_sent += 1;
        self.reply(flow, peer.tag, |to| {
            wire::put_chunk(to, chunk::INIT_ACK, 0, |to| {
                own.emit(to);
                wire::put_parameter(to, parameter::COOKIE, &cookie);
                wire::Parameters(&unknown)
                    .for_each(|(.., whole)| wire::put_parameter(to, parameter::UNRECOGNISED, whole));
            });
        });
        Ok(())
    }

    /// Sections 5.1.5 and 5.2.4.
    fn cookie_echo(
        &mut self,
        now: Instant,
        flow: Flow,
        tag: u32,
        chunk: &Chunk<'_>,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let known = self.flows.get(&flow).copied();
        let tags = known.and_then(|index| self.associations.get(index)).map(|it| (it.tag, it.peer_tag));
        let cookie = match self.secrets.open(now, &flow, chunk.value) {
            Ok(cookie) => cookie,
            Err(Refusal::Stale(cookie, _)) if tags == Some((cookie.tag, cookie.peer.tag)) => cookie,
            Err(Refusal::Stale(cookie, late)) => {
                let late = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
                self.reply(flow, cookie.peer.tag, |to| {
                    wire::put_chunk(to, chunk::ERROR, 0, |to| {
                        wire::put_parameter(to, cause::STALE_COOKIE, &late.to_be_bytes());
                    });
                });
                return Err(Drop::Unacceptable);
            }
            Err(Refusal::Forged) => return Err(Drop::Unacceptable),
        };
        if tag != cookie.tag {
            return Err(Drop::Unacceptable);
        }
        if let (Some(index), Some(tags)) = (known, tags) {
            if tags.0 == cookie.tag {
                // Table 12, actions B and D.
                return self
                    .with(now, Handle(index), |it, env| it.cookie_again(env, &cookie))
                    .unwrap_or(Err(Drop::NoSocket));
            }
            if tags != cookie.ties {
                // Action C, or something older.
                return Err(Drop::Unacceptable);
            }
            // Action A: the peer has begun anew, and knows nothing of what there was.
            self.with(now, Handle(index), |it, env| it.fail(env, Failure::Reset));
        }
        self.accept(now, flow, &cookie, ifindex, driver)
    }

    fn accept(
        &mut self,
        now: Instant,
        flow: Flow,
        cookie: &Cookie,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let hash = || u64::from(cookie.peer.tag);
        let found = self.listeners.lookup(&flow, ifindex, hash);
        let Some((key, options)) = found.map(|(key, it)| (key, it.options)) else {
            self.stats.resets_out += 1;
            self.reply(flow, cookie.peer.tag, |to| wire::put_chunk(to, chunk::ABORT, 0, |_| {}));
            return Err(Drop::NoSocket);
        };
        let path = driver.path(&flow).ok_or(Drop::NoPath)?;
        if self.associations.len() >= self.config.max_connections || self.tags.contains_key(&cookie.tag) {
            return Err(Drop::Backlog);
        }
        let index = self.associations.reserve();
        let handle = Handle(index);
        let Some(size) = self.ask(driver, key, handle, &flow) else { return Err(Drop::Backlog) };
        let numbers = (cookie.tag, cookie.sequence);
        let ends = (flow, path, &options);
        let told = FIRST_WINDOW.into();
        self.enter(index, Association::accepted(now, handle, ends, size, numbers, &cookie.peer, told));
        self.stats.passive_opens += 1;
        self.stats.cookies_accepted += 1;
        self.settle(index);
        Ok(())
    }

    /// Asks for a place in a listener's queue, and for buffers.
    fn ask(&mut self, driver: &mut dyn Driver, key: ListenerKey, handle: Handle, flow: &Flow) -> Option<u64> {
        let size = driver.accept(key, handle, flow);
        if size.is_none() {
            self.associations.free(handle.0);
        }
        size
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self.timers.pop(now) {
            self.with(now, Handle(index), |it, env| {
                it.timer = None;
                it.handle_timeout(env);
            });
        }
    }

    pub(crate) fn icmp(
        &mut self,
        now: Instant,
        flow: &Flow,
        tag: u32,
        error: freena_stack_api::stream::IcmpError,
    ) {
        if let Some(index) = self.flows.get(flow) {
            self.with(now, Handle(*index), |it, env| it.icmp(env, tag, error));
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop()?;
            match event {
                Event::Received { connection, .. } => {
                    if let Some(it) = self.associations.get_mut(connection.0) {
                        it.told_received = false;
                        return Some(Event::Received { connection, position: it.visible });
                    }
                }
                Event::Acknowledged { connection, .. } => {
                    if let Some(it) = self.associations.get_mut(connection.0) {
                        it.told_acknowledged = false;
                        return Some(Event::Acknowledged { connection, position: it.send.acknowledged });
                    }
                }
                Event::Released(handle) => {
                    // Only now, so that no event of the old association is taken for the new one's.
                    self.associations.free(handle.0);
                    return Some(event);
                }
                _ => return Some(event),
            }
        }
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit> {
        if let Some(reply) = self.replies.pop() {
            self.stats.segments_out += 1;
            return Some(reply);
        }
        while let Some(index) = self.ready.pop_front() {
            let Some(association) = self.associations.get_mut(index) else { continue };
            association.queued = false;
            let sent = self.with_quietly(now, index, |it, env| it.output(env, source)).flatten();
            if sent.is_some() {
                self.settle(index);
                return sent;
            }
            self.schedule(index);
        }
        None
    }

    /// As [`Engine::with`], without looking at what has changed.
    fn with_quietly<R>(
        &mut self,
        now: Instant,
        index: u32,
        call: impl FnOnce(&mut Association, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let association = self.associations.get_mut(index)?;
        let mut env = Env {
            now,
            events: &mut self.events,
            stats: &mut self.stats,
            replies: &mut self.replies,
            secrets: &mut self.secrets,
        };
        Some(call(association, &mut env))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { connections: self.flows.len() as u64, ..self.stats }
    }

    /// Counts why a packet was dropped.
    pub(crate) fn count(&mut self, drop: Drop) {
        self.stats.count(drop);
    }
}
