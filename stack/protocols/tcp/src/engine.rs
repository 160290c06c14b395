//! The tables, and a segment's way to its connection.

use crate::connection::{Agreed, Connection, PASSIVE_SCALE};
use crate::env::{Env, Replies};
use crate::half_open::{HalfOpen, TimedOut};
use crate::isn::Numbers;
use crate::segment::Segment;
use crate::timewait::{TimeWaits, Verdict};
use crate::{
    Config, ConnectError, Driver, Drop, Event, Flow, Handle, ListenerKey, Options, Path, State, Stats,
    Transmit,
};
use freena_stack_api::{Events, Listeners, RxChecksum, Slab, Timers};
use freena_wire::{Packet, tcp, tcp::flag};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// What a flow leads to.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Connection(u32),
    HalfOpen(u32),
    TimeWait(u32),
}

/// Whose deadline it is, by slab index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Connection(u32),
    HalfOpen(u32),
}

/// The engine without its manners: [`Tcp`](crate::Tcp) says what each call means.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    numbers: Numbers,
    flows: HashMap<Flow, Entry>,
    connections: Slab<Connection>,
    half_open: Slab<HalfOpen>,
    time_wait: TimeWaits,
    pub(crate) listeners: Listeners,
    timers: Timers<Owner>,
    events: Events,
    replies: Replies,
    /// Connections that may have something to send, in turn.
    ready: VecDeque<u32>,
    stats: Stats,
}

impl Engine {
    pub(crate) fn new(config: Config) -> Self {
        Engine {
            config,
            numbers: Numbers::new(&config.secret),
            flows: HashMap::new(),
            connections: Slab::new(),
            half_open: Slab::new(),
            time_wait: TimeWaits::new(config.max_time_wait),
            listeners: Listeners::default(),
            timers: Timers::default(),
            events: Events::default(),
            replies: Replies::default(),
            ready: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Lends a connection what it needs, then sees to what has changed.
    pub(crate) fn with<R>(
        &mut self,
        now: Instant,
        handle: Handle,
        call: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let connection = self.connections.get_mut(handle.0)?;
        let mut env = Env {
            now,
            clock: self.numbers.clock(now),
            events: &mut self.events,
            stats: &mut self.stats,
            replies: &mut self.replies,
        };
        let result = call(connection, &mut env);
        self.settle(now, handle.0);
        Some(result)
    }

    /// After anything that may have changed a connection: its place in the queue, its timer, its end.
    fn settle(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if matches!(connection.state, State::Closed | State::TimeWait) {
            self.end(now, index);
            return;
        }
        if !connection.queued {
            connection.queued = true;
            self.ready.push_back(index);
        }
        let deadline = connection.deadline();
        self.timers.schedule(Owner::Connection(index), &mut connection.timer, deadline);
    }

    /// A connection is over: its flow is free, or in `TIME_WAIT`; its slot stays until the program closes it.
    fn end(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        self.timers.cancel(Owner::Connection(index), &mut connection.timer);
        if std::mem::take(&mut connection.mapped) {
            let flow = connection.flow;
            if connection.state == State::TimeWait {
                let answers = connection.owes_answer();
                let (record, forgotten) = self.time_wait.insert(now, connection.remains());
                self.flows.insert(flow, Entry::TimeWait(record));
                // The last acknowledgement.
                if let Some(answer) =
                    self.time_wait.answer(record, self.numbers.clock(now)).filter(|_| answers)
                {
                    self.replies.push(answer);
                }
                if let Some(forgotten) = forgotten {
                    self.flows.remove(&forgotten.flow);
                }
            } else {
                self.flows.remove(&flow);
            }
        }
        if connection.closed {
            let handle = connection.handle;
            self.connections.take(index);
            self.events.push(Event::Released(handle));
        }
    }

    pub(crate) fn connection(&self, handle: Handle) -> Option<&Connection> {
        self.connections.get(handle.0)
    }

    pub(crate) fn unlisten(&mut self, key: ListenerKey) {
        self.listeners.remove(key);
        let gone: Vec<u32> =
            self.half_open.iter().filter(|(_, half)| half.listener == key).map(|(index, _)| index).collect();
        gone.into_iter().for_each(|index| self.forget_half_open(index));
    }

    fn forget_half_open(&mut self, index: u32) {
        if let Some(mut half) = self.half_open.remove(index) {
            self.timers.cancel(Owner::HalfOpen(index), &mut half.timer);
            self.flows.remove(&half.flow);
        }
    }

    pub(crate) fn connect(
        &mut self,
        now: Instant,
        flow: Flow,
        path: Path,
        size: u64,
        options: &Options,
    ) -> Result<Handle, ConnectError> {
        let after = match self.flows.get(&flow) {
            None => None,
            Some(Entry::TimeWait(index)) => {
                Some((*index, self.time_wait.reuse(*index).ok_or(ConnectError::InUse)?))
            }
            Some(_) => return Err(ConnectError::InUse),
        };
        if self.connections.len() >= self.config.max_connections {
            return Err(ConnectError::Full);
        }
        if let Some((index, _)) = after {
            self.time_wait.remove(index);
        }
        let numbers =
            (self.initial(now, &flow, after.map(|(_, next)| next)), self.numbers.clock_offset(&flow));
        let index = self.connections.reserve();
        let handle = Handle(index);
        self.connections.fill(index, Connection::open(now, handle, flow, path, options, size, numbers));
        self.flows.insert(flow, Entry::Connection(index));
        self.stats.active_opens += 1;
        self.settle(now, index);
        Ok(handle)
    }

    /// An initial sequence number, beyond `after` where there was a connection before (RFC 9293 section 3.4.3).
    fn initial(&mut self, now: Instant, flow: &Flow, after: Option<u32>) -> u32 {
        let initial = self.numbers.initial(now, flow);
        match after {
            Some(after) if (initial.wrapping_sub(after) as i32) <= 0 => after.wrapping_add(65_537),
            _ => initial,
        }
    }

    pub(crate) fn knows(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow) || self.listeners.lookup(flow, 0, || 0).is_some()
    }

    /// RFC 9293 section 3.10.7.
    pub(crate) fn packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        checksum: RxChecksum,
        merged: u16,
        ifindex: u32,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let header = tcp::Header::parse(packet.payload).map_err(|_| Drop::Malformed)?;
        if !checksum_holds(&header, packet, checksum) {
            return Err(Drop::Checksum);
        }
        let flow = Flow {
            local: packet.dst,
            local_port: header.dst_port(),
            peer: packet.src,
            peer_port: header.src_port(),
        };
        let segment = Segment::new(&header, merged);
        self.stats.segments_in += u64::from(segment.count);
        match self.flows.get(&flow).copied() {
            Some(Entry::Connection(index)) => self
                .with(now, Handle(index), |connection, env| connection.segment(env, &segment, driver))
                .unwrap_or(Err(Drop::NoSocket)),
            Some(Entry::HalfOpen(index)) => self.for_half_open(now, index, &segment, driver),
            Some(Entry::TimeWait(index)) => match self.time_wait.judge(now, index, &segment) {
                Verdict::Ignore => Err(Drop::Unacceptable),
                Verdict::Answer => {
                    if let Some(answer) = self.time_wait.answer(index, self.numbers.clock(now)) {
                        self.replies.push(answer);
                    }
                    Err(Drop::Unacceptable)
                }
                Verdict::Reopen(next) if self.listeners.lookup(&flow, ifindex, || 0).is_some() => {
                    self.time_wait.remove(index);
                    self.flows.remove(&flow);
                    self.for_listener(now, flow, &segment, ifindex, Some(next), driver)
                }
                Verdict::Reopen(_) => self.for_nobody(flow, &segment),
            },
            None => self.for_listener(now, flow, &segment, ifindex, None, driver),
        }
    }

    /// RFC 9293 section 3.10.7.1.
    fn for_nobody(&mut self, flow: Flow, segment: &Segment<'_>) -> Result<(), Drop> {
        if !segment.has(flag::RST) {
            self.stats.resets_out += 1;
            self.replies.push(segment.reset(flow));
        }
        Err(Drop::NoSocket)
    }

    /// RFC 9293 section 3.10.7.2.
    fn for_listener(
        &mut self,
        now: Instant,
        flow: Flow,
        segment: &Segment<'_>,
        ifindex: u32,
        after: Option<u32>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let numbers = &self.numbers;
        let found = self.listeners.lookup(&flow, ifindex, || numbers.hash(&flow));
        let Some((key, listening)) = found else { return self.for_nobody(flow, segment) };
        let options = listening.options;
        if segment.has(flag::RST) {
            return Err(Drop::Unacceptable);
        }
        if segment.has(flag::ACK) {
            return self.for_cookie(now, flow, key, &options, segment, driver);
        }
        // A broadcast or multicast address cannot be an end of a connection (RFC 1122 section 4.2.3.10).
        if !segment.has(flag::SYN) || segment.has(flag::FIN) || !flow.is_unicast() {
            return Err(Drop::Unacceptable);
        }
        // As Linux does where the accept queue is full: a peer that is answered believes that it is connected.
        if self.connections.len() >= self.config.max_connections || !driver.has_room(key) {
            return Err(Drop::Backlog);
        }
        let Some(path) = driver.path(&flow) else { return Err(Drop::NoPath) };
        let clock_offset = self.numbers.clock_offset(&flow);
        if self.half_open.len() >= self.config.max_half_open {
            let scale = segment.options.window_scale.filter(|_| segment.options.timestamps.is_some());
            let sack = segment.options.sack_permitted && segment.options.timestamps.is_some();
            let mss = segment.options.mss.unwrap_or(if flow.peer.is_ipv4() { 536 } else { 1220 });
            let (cookie, stamp) = self.numbers.cookie(now, &flow, segment.sequence, mss, (scale, sack));
            // What the cookie cannot remember is not offered.
            let mut offered = *segment;
            (offered.options.window_scale, offered.options.sack_permitted) = (scale, sack);
            let half = HalfOpen::new(now, flow, (key, &options), path, &offered, cookie, clock_offset);
            self.replies.push(half.answer(stamp));
            self.stats.cookies_sent += 1;
            return Ok(());
        }
        let initial = self.initial(now, &flow, after);
        let half = HalfOpen::new(now, flow, (key, &options), path, segment, initial, clock_offset);
        let clock = self.numbers.clock(now);
        self.replies.push(half.answer(half.stamp(clock)));
        let index = self.half_open.insert(half);
        self.flows.insert(flow, Entry::HalfOpen(index));
        self.schedule_half_open(index);
        Ok(())
    }

    fn schedule_half_open(&mut self, index: u32) {
        if let Some(half) = self.half_open.get_mut(index) {
            let deadline = Some(half.deadline);
            self.timers.schedule(Owner::HalfOpen(index), &mut half.timer, deadline);
        }
    }

    /// An acknowledgement for no connection: of a cookie, or of nothing.
    fn for_cookie(
        &mut self,
        now: Instant,
        flow: Flow,
        key: ListenerKey,
        options: &Options,
        segment: &Segment<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let offset = self.numbers.clock_offset(&flow);
        let (own, peers) = (segment.acknowledgement.wrapping_sub(1), segment.sequence.wrapping_sub(1));
        let echo = segment.options.timestamps.map(|(_, echo)| echo);
        let remembered = match segment.has(flag::SYN) {
            true => None,
            false => self.numbers.check(now, &flow, own, peers, echo),
        };
        let Some(remembered) = remembered else { return self.for_nobody(flow, segment) };
        let Some(path) = driver.path(&flow) else { return Err(Drop::NoPath) };
        let agreed = Agreed {
            initial: (own, peers),
            mss: Some(remembered.mss),
            scales: remembered.scale.map(|scale| (PASSIVE_SCALE, scale)),
            sack: remembered.sack,
            timestamp: segment.options.timestamps.map(|(value, _)| value),
            clock_offset: offset,
            rtt: None,
            retried: false,
        };
        self.accept(now, flow, key, options, path, &agreed, segment, driver)?;
        self.stats.cookies_accepted += 1;
        Ok(())
    }

    /// RFC 9293 section 3.10.7.4, in `SYN_RECEIVED`.
    fn for_half_open(
        &mut self,
        now: Instant,
        index: u32,
        segment: &Segment<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let clock = self.numbers.clock(now);
        let Some(half) = self.half_open.get_mut(index) else { return Err(Drop::NoSocket) };
        let (flow, key, path) = (half.flow, half.listener, half.path);
        if segment.has(flag::RST) {
            if half.is_next(segment) {
                self.forget_half_open(index);
                self.stats.failed_opens += 1;
                return Ok(());
            }
            return Err(Drop::Unacceptable);
        }
        if segment.has(flag::SYN) {
            if half.is_same_syn(segment) || half.is_in_window(segment) {
                // The answer again: it was lost, or (RFC 5961 section 4.2) it serves as a challenge.
                let answer = half.answer(half.stamp(clock));
                self.replies.push(answer);
            }
            return Err(Drop::Unacceptable);
        }
        if !segment.has(flag::ACK) || !half.is_in_window(segment) || half.is_old(segment) {
            return Err(Drop::Unacceptable);
        }
        if !half.is_acknowledged(segment) {
            self.stats.resets_out += 1;
            self.replies.push(segment.reset(flow));
            return Err(Drop::Unacceptable);
        }
        if half.defer(segment) {
            return Ok(());
        }
        let agreed = half.agreed(now, segment);
        let Some(options) = self.listeners.get(key).map(|listening| listening.options) else {
            self.forget_half_open(index);
            return self.for_nobody(flow, segment);
        };
        self.accept(now, flow, key, &options, path, &agreed, segment, driver)?;
        if let Some(mut half) = self.half_open.remove(index) {
            self.timers.cancel(Owner::HalfOpen(index), &mut half.timer);
        }
        Ok(())
    }

    /// A handshake is complete; the segment may carry data.
    #[expect(clippy::too_many_arguments, reason = "all of them are the connection's")]
    fn accept(
        &mut self,
        now: Instant,
        flow: Flow,
        key: ListenerKey,
        options: &Options,
        path: Path,
        agreed: &Agreed,
        segment: &Segment<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        if self.connections.len() >= self.config.max_connections {
            return Err(Drop::Backlog);
        }
        let index = self.connections.reserve();
        let handle = Handle(index);
        let Some(size) = driver.accept(key, handle, &flow) else {
            self.connections.free(index);
            return Err(Drop::Backlog);
        };
        let connection = Connection::accepted(now, handle, flow, path, options, size, agreed);
        self.connections.fill(index, connection);
        self.flows.insert(flow, Entry::Connection(index));
        self.stats.passive_opens += 1;
        // Whatever becomes of the segment: the connection exists.
        let _ = self.with(now, handle, |connection, env| connection.segment(env, segment, driver));
        Ok(())
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(owner) = self.timers.pop(now) {
            match owner {
                Owner::Connection(index) => {
                    let _ = self.with(now, Handle(index), |connection, env| {
                        connection.timer = None;
                        connection.handle_timeout(env);
                    });
                }
                Owner::HalfOpen(index) => self.half_open_timed_out(now, index),
            }
        }
        while let Some(record) = self.time_wait.expire(now) {
            self.flows.remove(&record.flow);
        }
    }

    fn half_open_timed_out(&mut self, now: Instant, index: u32) {
        let clock = self.numbers.clock(now);
        let Some(half) = self.half_open.get_mut(index) else { return };
        half.timer = None;
        // The entry may be early.
        if half.deadline <= now {
            match half.timed_out(now) {
                TimedOut::AskAgain => {
                    let answer = half.answer(half.stamp(clock));
                    self.replies.push(answer);
                    self.stats.retransmitted += 1;
                }
                TimedOut::Wait => {}
                TimedOut::Over => {
                    self.forget_half_open(index);
                    self.stats.failed_opens += 1;
                    return;
                }
            }
        }
        self.schedule_half_open(index);
    }

    pub(crate) fn icmp(&mut self, now: Instant, flow: &Flow, sequence: u32, error: crate::IcmpError) {
        match self.flows.get(flow).copied() {
            Some(Entry::Connection(index)) => {
                let _ =
                    self.with(now, Handle(index), |connection, env| connection.icmp(env, sequence, error));
            }
            Some(Entry::HalfOpen(index)) => {
                if self.half_open.get(index).is_some_and(|half| half.is_initial(sequence)) {
                    self.forget_half_open(index);
                    self.stats.failed_opens += 1;
                }
            }
            Some(Entry::TimeWait(_)) | None => {}
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop()?;
            match event {
                Event::Received { connection, .. } => {
                    if let Some(it) = self.connections.get_mut(connection.0) {
                        it.told_received = false;
                        return Some(Event::Received { connection, position: it.readable() });
                    }
                }
                Event::Acknowledged { connection, .. } => {
                    if let Some(it) = self.connections.get_mut(connection.0) {
                        it.told_acknowledged = false;
                        return Some(Event::Acknowledged { connection, position: it.acknowledged() });
                    }
                }
                Event::Released(handle) => {
                    // Only now, so that no event of the old connection is taken for the new one's.
                    self.connections.free(handle.0);
                    return Some(event);
                }
                _ => return Some(event),
            }
        }
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(reply) = self.replies.pop() {
            self.stats.segments_out += 1;
            return Some(reply);
        }
        while let Some(index) = self.ready.pop_front() {
            let clock = self.numbers.clock(now);
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.queued = false;
            let mut env = Env {
                now,
                clock,
                events: &mut self.events,
                stats: &mut self.stats,
                replies: &mut self.replies,
            };
            let transmit = connection.output(&mut env);
            if transmit.is_some() {
                self.settle(now, index);
                return transmit;
            }
            let deadline = connection.deadline();
            self.timers.schedule(Owner::Connection(index), &mut connection.timer, deadline);
        }
        None
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.time_wait.next()].into_iter().flatten().min()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            connections: (self.flows.len() - self.half_open.len() - self.time_wait.len()) as u64,
            half_open: self.half_open.len() as u64,
            time_wait: self.time_wait.len() as u64,
            ..self.stats
        }
    }

    /// Counts why a packet was dropped.
    pub(crate) fn count(&mut self, drop: Drop) {
        self.stats.count(drop);
    }
}

fn checksum_holds(header: &tcp::Header<'_>, packet: &Packet<'_>, known: RxChecksum) -> bool {
    match known {
        RxChecksum::Verified => true,
        // Looked at first: on such a link nearly every segment has it, and it costs no pass over the payload.
        RxChecksum::MayBePartial if header.is_partial(packet.src, packet.dst) => true,
        RxChecksum::MayBePartial | RxChecksum::Unknown => {
            matches!(header.verify(packet.src, packet.dst), Ok(tcp::Verdict::Right))
        }
    }
}
