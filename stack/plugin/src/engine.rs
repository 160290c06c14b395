//! A library as an engine: the boundary that our own protocols have.

use crate::abi::{
    FREENA_CONNECT_FULL, FREENA_CONNECT_IN_USE, FREENA_CONNECTING, FREENA_EVENT_ACKNOWLEDGED,
    FREENA_EVENT_CLOSED, FREENA_EVENT_CONNECTED, FREENA_EVENT_FAILED, FREENA_EVENT_PEER_CLOSED,
    FREENA_EVENT_RECEIVED, FREENA_EVENT_RELEASED, FREENA_MAX_HEADER, FREENA_NEVER, FREENA_NONE, FreenaConfig,
    FreenaEvent, FreenaFlow, FreenaInfo, FreenaOptions, FreenaPacket, FreenaPath, FreenaProtocol,
    FreenaTransmit,
};
use crate::batch::{self, Batch};
use crate::checksum;
use crate::connection::{Connection, Connections};
use crate::convert;
use crate::guard::{Guard, Left, PATIENCE};
use crate::host::Context;
use crate::library::Library;
use freena_stack_api::stream::{
    ConnectError, Driver, Drop, Event, Failure, Flow, Handle, IcmpError, Info, ListenerKey, Listening,
    Options, Path, Protocol, Refused, Source, State, Stats, Transmit,
};
use freena_stack_api::{Listeners, RxChecksum};
use freena_wire::Packet;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_void};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events asked for at a time.
const EVENTS: usize = 64;

/// What is fixed for the life of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Random bytes.
    pub secret: [u8; 32],
    /// Most connections.
    pub max_connections: u32,
}

/// A protocol library's connections and listeners of one worker.
pub struct Engine {
    library: Arc<Library>,
    engine: *mut c_void,
    guard: Guard,
    /// What the library's times count from.
    epoch: Instant,
    connections: Connections,
    listeners: Listeners,
    events: VecDeque<Event>,
    batch: Batch,
    /// Whether something was told since the library had no more events, and no more packets.
    news: (bool, bool),
    /// When the library wants to be called, asked for when it is needed.
    deadline: Cell<Option<u64>>,
    asked: Cell<bool>,
    /// A lie or a crash where the engine cannot be changed: seen to at the next occasion.
    suspected: Cell<Option<Left>>,
    dead: bool,
    stats: Stats,
}

// SAFETY: the interface says that an engine may be used by any thread, one at a time.
unsafe impl Send for Engine {}

impl Engine {
    /// An engine without connections. `now` is where the library's time begins.
    ///
    /// # Errors
    /// The library makes none, crashes, or was found faulty before.
    pub fn new(library: Arc<Library>, config: Config, now: Instant) -> io::Result<Self> {
        if let Some(fault) = library.fault() {
            return Err(io::Error::other(fault.to_owned()));
        }
        let guard = Guard::new(library.file_name(), &library.code)?;
        let most = config.max_connections;
        let given = FreenaConfig {
            size: size_of::<FreenaConfig>() as u32,
            max_connections: most,
            secret: config.secret,
        };
        let Some(create) = library.protocol().create else { return Err(io::ErrorKind::Unsupported.into()) };
        let given = &raw const given;
        // SAFETY: the function is the library's, which keeps to the interface or is left.
        let engine = guard.call(move || unsafe { create(given) });
        let engine = engine.map_err(|left| {
            let words = explain(left, "create");
            io::Error::other(library.fault.get_or_init(|| words).clone())
        })?;
        if engine.is_null() {
            return Err(io::Error::other(format!("{} makes no engine", library.file_name())));
        }
        Ok(Engine {
            library,
            engine,
            guard,
            epoch: now,
            connections: Connections::new(most),
            listeners: Listeners::default(),
            events: VecDeque::new(),
            batch: Batch::new(),
            news: (false, false),
            deadline: Cell::new(None),
            asked: Cell::new(false),
            suspected: Cell::new(None),
            dead: false,
            stats: Stats::default(),
        })
    }

    /// The library.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    fn time(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(FREENA_NEVER - 1)
    }

    fn protocol(&self) -> &FreenaProtocol {
        self.library.protocol()
    }

    /// Whether the library may be called.
    fn is_alive(&mut self) -> bool {
        if self.dead {
            return false;
        }
        if let Some(left) = self.suspected.take() {
            self.bury(explain(left, "poll_timeout or info"));
        } else if self.library.fault().is_some() {
            // Found out by another worker.
            self.bury(String::new());
        }
        !self.dead
    }

    /// Something is told: afterwards there may be events, packets, another deadline.
    fn tell<R: Copy>(&mut self, function: &str, call: impl FnOnce() -> R + Copy) -> Option<R> {
        self.news = (true, true);
        self.asked.set(false);
        match self.guard.call(call) {
            Ok(result) => Some(result),
            Err(left) => {
                self.bury(explain(left, function));
                None
            }
        }
    }

    /// The library is not called any more: its connections are reset.
    fn bury(&mut self, words: String) {
        if std::mem::replace(&mut self.dead, true) {
            return;
        }
        let fault = self.library.fault.get_or_init(|| words);
        tracing::error!(
            library = self.library.file_name(),
            fault,
            connections = self.connections.len(),
            "a protocol library is not used any more; its connections are reset"
        );
        self.batch.room();
        let mut released = Vec::new();
        for (number, connection) in self.connections.iter_mut() {
            let handle = Handle(number);
            if !std::mem::replace(&mut connection.over, true) {
                self.events.push_back(Event::Failed(handle, Failure::Reset));
                self.stats.resets += 1;
            }
            if connection.closed {
                released.push(number);
            }
        }
        for number in released {
            self.connections.remove(number);
            self.events.push_back(Event::Released(Handle(number)));
        }
    }

    /// Tells the library something of a connection that it still has to do with.
    fn tell_of(
        &mut self,
        function: &str,
        connection: Handle,
        call: impl FnOnce(&FreenaProtocol, *mut c_void) + Copy,
    ) {
        if self.is_alive() && self.connections.get(connection.0).is_some_and(|it| !it.closed) {
            let (protocol, engine) = (*self.protocol(), self.engine);
            let protocol = &raw const protocol;
            // SAFETY: the copy of the description outlives the call.
            self.tell(function, move || call(unsafe { &*protocol }, engine));
        }
    }

    /// Asks for events until there are some, or none.
    fn fetch_events(&mut self) {
        while self.events.is_empty() && self.news.0 && self.is_alive() {
            let mut room: batch::Room<FreenaEvent, EVENTS> = [std::mem::MaybeUninit::zeroed(); EVENTS];
            let (engine, poll) = (self.engine, self.protocol().poll_events);
            let Some(poll) = poll else { return };
            let to = room.as_mut_ptr().cast::<FreenaEvent>();
            // SAFETY: there is room for so many.
            let count = self.guard.call(move || unsafe { poll(engine, to, EVENTS as u32) });
            self.asked.set(false);
            match count {
                Ok(count) if count as usize <= EVENTS => {
                    self.news.0 = count as usize == EVENTS;
                    for event in &room[..count as usize] {
                        // SAFETY: zeroed at first, then perhaps written by the library: plain numbers in any case.
                        if let Err(words) = self.take(unsafe { event.assume_init() }) {
                            self.bury(words);
                            return;
                        }
                    }
                }
                Ok(count) => self.bury(format!("told of {count} events in room for {EVENTS}")),
                Err(left) => self.bury(explain(left, "poll_events")),
            }
        }
    }

    /// Takes an event, if it can be true.
    fn take(&mut self, event: FreenaEvent) -> Result<(), String> {
        let FreenaEvent { kind, connection: number, position, failure, .. } = event;
        let handle = Handle(number);
        let Some(it) = self.connections.get_mut(number) else {
            return Err(format!("told event {kind} of connection {number}, which there is not"));
        };
        let wrong = |what: &str| Err(format!("told event {kind} of connection {number}: {what}"));
        if it.over && kind != FREENA_EVENT_RELEASED {
            return wrong("it is over already");
        }
        let event = match kind {
            FREENA_EVENT_CONNECTED if it.connected => return wrong("it is connected already"),
            FREENA_EVENT_CONNECTED => {
                it.connected = true;
                Event::Connected(handle)
            }
            FREENA_EVENT_RECEIVED if position <= it.received || position > it.stored || it.peer_closed => {
                let (received, stored) = (it.received, it.stored);
                return wrong(&format!(
                    "position {position}, where {received} were received and {stored} stored"
                ));
            }
            FREENA_EVENT_RECEIVED => {
                it.received = position;
                Event::Received { connection: handle, position }
            }
            FREENA_EVENT_ACKNOWLEDGED if position <= it.acknowledged || position > it.sent => {
                let (acknowledged, sent) = (it.acknowledged, it.sent);
                return wrong(&format!(
                    "position {position}, where {acknowledged} were acknowledged and {sent} sent"
                ));
            }
            FREENA_EVENT_ACKNOWLEDGED => {
                it.acknowledged = position;
                Event::Acknowledged { connection: handle, position }
            }
            FREENA_EVENT_PEER_CLOSED if it.peer_closed => return wrong("the peer has closed already"),
            FREENA_EVENT_PEER_CLOSED => {
                it.peer_closed = true;
                Event::PeerClosed(handle)
            }
            FREENA_EVENT_CLOSED => {
                it.over = true;
                Event::Closed(handle)
            }
            FREENA_EVENT_FAILED => {
                let Some(failure) = convert::failure(failure) else { return wrong("no such failure") };
                it.over = true;
                if it.connected {
                    self.stats.resets += 1;
                } else {
                    self.stats.failed_opens += 1;
                }
                Event::Failed(handle, failure)
            }
            FREENA_EVENT_RELEASED if !it.closed => return wrong("the program has not closed it"),
            FREENA_EVENT_RELEASED => {
                self.connections.remove(number);
                self.batch.forget(number);
                Event::Released(handle)
            }
            _ => return wrong("no such event"),
        };
        self.events.push_back(event);
        Ok(())
    }

    /// Asks for packets.
    fn fetch_packets(&mut self, now: Instant, source: &mut dyn Source) {
        let Some(poll) = self.protocol().poll_transmit else { return };
        let (engine, time) = (self.engine, self.time(now));
        let mut context = Context {
            hosted: self.guard.hosted(),
            connections: &mut self.connections,
            listeners: &self.listeners,
            ifindex: 0,
            driver: None,
            source: Some(source),
            accepted: 0,
            fault: None,
        };
        let host = context.lend();
        let (host, to) = (&raw const host, self.batch.room());
        // SAFETY: the function is the library's; what is lent lives during the call.
        let count = self.guard.call(move || unsafe { poll(engine, time, to, batch::SIZE as u32, host) });
        let fault = context.fault.take();
        self.asked.set(false);
        match (count, fault) {
            (Err(left), _) => self.bury(explain(left, "poll_transmit")),
            (_, Some(words)) => self.bury(words),
            (Ok(count), None) if count as usize <= batch::SIZE => {
                self.news.1 = count as usize == batch::SIZE;
                self.batch.filled(count as usize);
            }
            (Ok(count), None) => self.bury(format!("gave {count} packets in room for {}", batch::SIZE)),
        }
    }

    /// A packet, if it may be sent; `Ok(None)` where there is no need any more.
    fn check(&mut self, packet: &FreenaTransmit) -> Result<Option<Transmit>, String> {
        let header_len = packet.header_length;
        let total = u32::from(header_len).saturating_add(packet.length);
        if usize::from(header_len) > FREENA_MAX_HEADER {
            return Err(format!("gave a header of {header_len} bytes, expected at most {FREENA_MAX_HEADER}"));
        }
        let checked = |connection, flow, payload| {
            Ok(Some(Transmit {
                connection,
                flow,
                header: packet.header,
                header_len,
                payload,
                body: Vec::new(),
                segment: 0,
                ttl: if packet.ttl == 0 { 64 } else { packet.ttl },
                tos: packet.tos,
            }))
        };
        if header_len == 0 {
            // Its connection is gone.
            return Ok(None);
        }
        self.stats.segments_out += 1;
        if packet.connection == FREENA_NONE {
            let Some(flow) = convert::flow(&packet.flow).filter(|_| packet.length == 0) else {
                return Err(
                    "gave a packet for no connection with payload, or with addresses of two IP versions"
                        .into(),
                );
            };
            return checked(None, flow, 0..0);
        }
        let number = packet.connection;
        let Some(it) = self.connections.get_mut(number) else {
            return Err(format!("gave a packet of connection {number}, which there is not"));
        };
        // The position of nothing is of no interest.
        let position = if packet.length > 0 { packet.position } else { 0 };
        let end = position.checked_add(packet.length.into()).filter(|end| *end <= it.written);
        let Some(end) = end else {
            let (from, written) = (packet.position, it.written);
            return Err(format!(
                "gave {} bytes at {from} of connection {number}, which has {written}",
                packet.length
            ));
        };
        if total > it.room() {
            let room = it.room();
            // The path may have become narrower since it was made.
            if total > 65_515 {
                return Err(format!("gave a packet of {total} bytes, where {room} have room"));
            }
            return Ok(None);
        }
        if packet.length > 0 && packet.position < it.acknowledged {
            return Ok(None);
        }
        if packet.length > 0 && end <= it.sent {
            self.stats.retransmitted += 1;
        }
        it.sent = it.sent.max(end);
        let payload = if packet.length > 0 { packet.position..end } else { 0..0 };
        checked(Some(Handle(number)), it.flow, payload)
    }
}

fn explain(left: Left, function: &str) -> String {
    match left {
        Left::Crashed(signal) => format!("crashed in `{function}`: {}", signal_name(signal)),
        Left::Endless => format!("did not return from `{function}` in {} ms", PATIENCE.as_millis()),
    }
}

fn signal_name(signal: i32) -> String {
    // SAFETY: the C library gives a string that is constant for these signals.
    let name = unsafe { CStr::from_ptr(libc::strsignal(signal)) };
    name.to_string_lossy().into_owned()
}

impl std::ops::Drop for Engine {
    fn drop(&mut self) {
        if let (false, Some(destroy)) = (self.dead, self.protocol().destroy) {
            let engine = self.engine;
            // SAFETY: the engine is the library's, and not used again.
            if let Err(left) = self.guard.call(move || unsafe { destroy(engine) }) {
                self.bury(explain(left, "destroy"));
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("library", &self.library.file_name())
            .field("connections", &self.connections)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Protocol for Engine {
    fn listen(&mut self, key: ListenerKey, listening: Listening) {
        self.listeners.insert(key, listening);
        if let (true, Some(listen)) = (self.is_alive(), self.protocol().listen) {
            let engine = self.engine;
            let local = convert::octets(listening.local);
            let (local, options) = (&raw const local, FreenaOptions::from(&listening.options));
            let options = &raw const options;
            // SAFETY: the function is the library's; what is lent lives during the call.
            self.tell("listen", move || unsafe {
                listen(engine, key, local.cast(), listening.port, options)
            });
        }
    }

    fn unlisten(&mut self, key: ListenerKey) {
        self.listeners.remove(key);
        if let (true, Some(unlisten)) = (self.is_alive(), self.protocol().unlisten) {
            let engine = self.engine;
            // SAFETY: the function is the library's.
            self.tell("unlisten", move || unsafe { unlisten(engine, key) });
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        receive_buffer: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        let Some(connect) = self.protocol().connect.filter(|_| self.is_alive()) else {
            return Err(ConnectError::Full);
        };
        let number = self.connections.reserve().ok_or(ConnectError::Full)?;
        self.connections.fill(number, Connection::new(flow, path, receive_buffer, false));
        let (engine, time) = (self.engine, self.time(now));
        let lent = (
            FreenaFlow::from(&flow),
            convert::path(&path, flow.peer.is_ipv4()),
            FreenaOptions::from(options),
        );
        let (flow, path, options) = (&raw const lent.0, &raw const lent.1, &raw const lent.2);
        // SAFETY: the function is the library's; what is lent lives during the call.
        let answer = self.tell("connect", move || unsafe {
            connect(engine, time, number, flow, path, receive_buffer, options)
        });
        let refused = match answer {
            Some(FREENA_CONNECTING) => {
                self.stats.active_opens += 1;
                return Ok(Handle(number));
            }
            Some(FREENA_CONNECT_IN_USE) => ConnectError::InUse,
            Some(FREENA_CONNECT_FULL) | None => ConnectError::Full,
            Some(answer) => {
                self.bury(format!("answered `connect` with {answer}"));
                ConnectError::Full
            }
        };
        self.connections.remove(number);
        // Nobody has heard of it: nor of its end.
        self.events.retain(|event| !matches!(event, Event::Failed(handle, _) if handle.0 == number));
        Err(refused)
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        segment: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        self.stats.segments_in += 1;
        let Some(handle) = self.protocol().handle_packet.filter(|_| self.is_alive()) else {
            self.stats.no_socket += 1;
            return Err(Drop::NoSocket);
        };
        if segment != 0 || packet.payload.len() > 65_535 {
            self.stats.malformed += 1;
            return Err(Drop::Malformed);
        }
        if self.library.checksum_offset().is_some_and(|at| !checksum::holds(packet, at.into(), checksum)) {
            self.stats.checksum += 1;
            return Err(Drop::Checksum);
        }
        let lent = FreenaPacket {
            data: packet.payload.as_ptr(),
            length: packet.payload.len() as u32,
            interface: ifindex,
            source: convert::octets(packet.src),
            destination: convert::octets(packet.dst),
            ttl: packet.ttl,
            tos: packet.tos,
            pad: [0; 6],
        };
        let (engine, time) = (self.engine, self.time(now));
        let mut context = Context {
            hosted: self.guard.hosted(),
            connections: &mut self.connections,
            listeners: &self.listeners,
            ifindex,
            driver: Some(driver),
            source: None,
            accepted: 0,
            fault: None,
        };
        let host = context.lend();
        let (lent, host) = (&raw const lent, &raw const host);
        // SAFETY: the function is the library's; what is lent lives during the call.
        let answer = self.guard.call(move || unsafe { handle(engine, time, lent, host) });
        let (fault, accepted) = (context.fault.take(), context.accepted);
        self.stats.passive_opens += accepted;
        self.news = (true, true);
        self.asked.set(false);
        let result = match (answer, fault) {
            (Err(left), _) => Err(explain(left, "handle_packet")),
            (_, Some(words)) => Err(words),
            (Ok(answer), None) => {
                convert::verdict(answer).ok_or_else(|| format!("answered `handle_packet` with {answer}"))
            }
        };
        let result = result.unwrap_or_else(|words| {
            self.bury(words);
            Err(Drop::NoSocket)
        });
        match result {
            Ok(()) | Err(Drop::NoPath) => {}
            Err(Drop::Malformed) => self.stats.malformed += 1,
            Err(Drop::Checksum) => self.stats.checksum += 1,
            Err(Drop::NoSocket) => self.stats.no_socket += 1,
            Err(Drop::Unacceptable) => self.stats.unacceptable += 1,
            Err(Drop::Backlog) => self.stats.backlog += 1,
        }
        result
    }

    /// A library releases a connection when nothing is left of it.
    fn knows(&self, _: &Flow) -> bool {
        false
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let (true, Some(handle)) = (self.is_alive(), self.protocol().handle_timeout) {
            let (engine, time) = (self.engine, self.time(now));
            // SAFETY: the function is the library's.
            self.tell("handle_timeout", move || unsafe { handle(engine, time) });
        }
    }

    fn handle_icmp(&mut self, now: Instant, flow: &Flow, quoted: [u8; 8], error: IcmpError) {
        if let (true, Some(handle)) = (self.is_alive(), self.protocol().handle_icmp) {
            let (engine, time, error) = (self.engine, self.time(now), convert::icmp(error));
            let flow = FreenaFlow::from(flow);
            let (flow, quoted) = (&raw const flow, quoted.as_ptr());
            // SAFETY: the function is the library's; what is lent lives during the call.
            self.tell("handle_icmp", move || unsafe { handle(engine, time, flow, quoted, error) });
        }
    }

    fn set_path(&mut self, now: Instant, connection: Handle, path: Path) {
        let time = self.time(now);
        let Some(it) = self.connections.get_mut(connection.0) else { return };
        it.path = path;
        let lent: FreenaPath = convert::path(&path, it.flow.peer.is_ipv4());
        let lent = &raw const lent;
        self.tell_of("set_path", connection, move |protocol, engine| {
            if let Some(set_path) = protocol.set_path {
                // SAFETY: the function is the library's; what is lent lives during the call.
                unsafe { set_path(engine, time, connection.0, lent) }
            }
        });
    }

    fn written(&mut self, now: Instant, connection: Handle, position: u64) -> Result<(), Refused> {
        let time = self.time(now);
        let it = self.connections.get_mut(connection.0).filter(|it| !it.over && !it.shut && !it.closed);
        let Some(it) = it else { return Err(Refused::Over) };
        if position < it.written {
            return Err(Refused::Backwards);
        }
        it.written = position;
        self.tell_of("written", connection, move |protocol, engine| {
            if let Some(written) = protocol.written {
                // SAFETY: the function is the library's.
                unsafe { written(engine, time, connection.0, position) }
            }
        });
        Ok(())
    }

    /// A protocol of a library has no urgent data: the byte is one among others.
    fn urgent(&mut self, _: Instant, _: Handle, _: u64) {}

    fn read(&mut self, now: Instant, connection: Handle, position: u64) {
        let time = self.time(now);
        let Some(it) = self.connections.get_mut(connection.0) else { return };
        if position <= it.read || position > it.received {
            return;
        }
        it.read = position;
        self.tell_of("read", connection, move |protocol, engine| {
            if let Some(read) = protocol.read {
                // SAFETY: the function is the library's.
                unsafe { read(engine, time, connection.0, position) }
            }
        });
    }

    fn wants_read(&self, connection: Handle) -> bool {
        self.connections.get(connection.0).is_some_and(|it| !it.over && it.is_crowded())
    }

    fn shutdown(&mut self, now: Instant, connection: Handle) {
        let time = self.time(now);
        let it = self.connections.get_mut(connection.0).filter(|it| !it.over && !it.shut);
        let Some(it) = it else { return };
        it.shut = true;
        self.tell_of("shutdown", connection, move |protocol, engine| {
            if let Some(shutdown) = protocol.shutdown {
                // SAFETY: the function is the library's.
                unsafe { shutdown(engine, time, connection.0) }
            }
        });
    }

    fn close(&mut self, now: Instant, connection: Handle, unread: bool) {
        let time = self.time(now);
        self.tell_of("close", connection, move |protocol, engine| {
            if let Some(close) = protocol.close {
                // SAFETY: the function is the library's.
                unsafe { close(engine, time, connection.0, unread.into()) }
            }
        });
        self.let_go(connection);
    }

    fn abort(&mut self, now: Instant, connection: Handle) {
        let time = self.time(now);
        self.tell_of("abort", connection, move |protocol, engine| {
            if let Some(abort) = protocol.abort {
                // SAFETY: the function is the library's.
                unsafe { abort(engine, time, connection.0) }
            }
        });
        self.let_go(connection);
    }

    fn set_options(&mut self, now: Instant, connection: Handle, options: &Options) {
        let time = self.time(now);
        let lent = FreenaOptions::from(options);
        let lent = &raw const lent;
        self.tell_of("set_options", connection, move |protocol, engine| {
            if let Some(set_options) = protocol.set_options {
                // SAFETY: the function is the library's; what is lent lives during the call.
                unsafe { set_options(engine, time, connection.0, lent) }
            }
        });
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.fetch_events();
        self.events.pop_front()
    }

    fn poll_transmit(&mut self, now: Instant, source: &mut dyn Source) -> Option<Transmit> {
        loop {
            let packet = match self.batch.pop() {
                Some(packet) => packet,
                None if !self.news.1 || !self.is_alive() => return None,
                None => {
                    self.fetch_packets(now, source);
                    self.batch.pop()?
                }
            };
            match self.check(&packet) {
                Ok(None) => {}
                Ok(transmit) => return transmit,
                Err(words) => {
                    self.bury(words);
                    return None;
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.dead {
            return None;
        }
        if self.suspected.get().is_some() || self.library.fault().is_some() {
            // Its burial, with events, is due.
            return Some(self.epoch);
        }
        if !self.asked.get() {
            let (engine, poll) = (self.engine, self.protocol().poll_timeout?);
            // SAFETY: the function is the library's.
            match self.guard.call(move || unsafe { poll(engine) }) {
                Ok(deadline) => self.deadline.set((deadline != FREENA_NEVER).then_some(deadline)),
                Err(left) => {
                    self.suspected.set(Some(left));
                    return Some(self.epoch);
                }
            }
            self.asked.set(true);
        }
        self.deadline.get().and_then(|deadline| self.epoch.checked_add(Duration::from_nanos(deadline)))
    }

    fn state(&self, connection: Handle) -> Option<State> {
        self.connections.get(connection.0).map(Connection::state)
    }

    fn sent(&self, connection: Handle) -> u64 {
        self.connections.get(connection.0).map_or(0, |it| it.sent)
    }

    fn info(&self, connection: Handle) -> Option<Info> {
        let it = self.connections.get(connection.0)?;
        let mut told = FreenaInfo::default();
        if let Some(info) = self.protocol().info.filter(|_| !self.dead && self.suspected.get().is_none()) {
            let (engine, to) = (self.engine, &raw mut told);
            // SAFETY: the function is the library's; what is lent lives during the call.
            if let Err(left) = self.guard.call(move || unsafe { info(engine, connection.0, to) }) {
                self.suspected.set(Some(left));
            }
        }
        let nanos = Duration::from_nanos;
        Some(Info {
            srtt: nanos(told.round_trip),
            rttvar: nanos(told.variation),
            rto: nanos(told.timeout),
            cwnd: told.congestion_window,
            ssthresh: u64::MAX,
            send_mss: told.segment.min(65_535) as u16,
            receive_mss: told.segment.min(65_535) as u16,
            path_mtu: it.path.mtu,
            in_flight: told.in_flight,
            retransmitted: told.retransmitted.min(u32::MAX.into()) as u32,
            send_window: told.send_window,
            receive_window: (it.read + it.buffer).saturating_sub(it.received),
            bytes_acked: it.acknowledged,
            bytes_received: it.received,
            bytes_sent: it.sent,
            ..Info::default()
        })
    }

    fn stats(&self) -> Stats {
        Stats { connections: self.connections.len() as u64, ..self.stats }
    }
}

impl Engine {
    /// The program is done with a connection.
    fn let_go(&mut self, connection: Handle) {
        let Some(it) = self.connections.get_mut(connection.0) else { return };
        if std::mem::replace(&mut it.closed, true) || !self.dead {
            return;
        }
        self.connections.remove(connection.0);
        self.events.push_back(Event::Released(connection));
    }
}
