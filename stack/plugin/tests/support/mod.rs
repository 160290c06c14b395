//! Two hosts with an engine each, joined by a simulated network: what a worker of the server does, in small.
#![allow(dead_code, reason = "each test uses some of it")]

pub mod build;
pub mod quic;

use freena_sim::{Clock, Config, Network, SimLink};
use freena_stack_api::stream::{
    Driver, Event, Failure, Flow, Handle, ListenerKey, Listening, Options, Path, Protocol, Source, Transmit,
};
use freena_stack_api::{Burst, Chunk, Gso, Link};
use freena_wire::{Mac, checksum, ethernet, ipv4, parse_frame};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub const PORT: u16 = 80;
pub const MTU: u32 = 1500;
pub const BUFFER: u64 = 256 << 10;
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// An engine and how its packets look on the wire.
pub struct Kind {
    pub make: fn([u8; 32], Instant) -> Box<dyn Protocol>,
    pub ip_protocol: u8,
    /// Where the Internet checksum is; `None` for an engine that fills in one of its own.
    pub checksum: Option<u16>,
    /// Whether an idle connection is probed.
    pub probes: bool,
}

/// The byte at a position of a stream.
pub fn byte(side: usize, position: u64) -> u8 {
    ((position ^ (side as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn address(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, side as u8 + 1)
}

/// A connection as its program sees it.
#[derive(Debug, Default)]
pub struct Stream {
    pub connected: bool,
    pub received: u64,
    pub acknowledged: u64,
    pub written: u64,
    pub read: u64,
    pub peer_closed: bool,
    pub closed: bool,
    pub failed: Option<Failure>,
    pub released: bool,
    /// Bytes that are stored and not read.
    pub stored: BTreeMap<u64, u8>,
    /// Bytes to write in all, and whether the end follows.
    pub goal: u64,
    pub then_shut: bool,
    pub shut: bool,
    pub stalled: bool,
    /// Whether the program has closed or aborted it.
    pub done: bool,
}

pub struct Host {
    pub side: usize,
    pub engine: Box<dyn Protocol>,
    pub link: SimLink,
    pub streams: HashMap<Handle, Stream>,
    pub accepted: Vec<Handle>,
    pub backlog: usize,
    pub wrong: u64,
    pub sent: u64,
    pub timeouts: u64,
}

struct Surroundings<'a> {
    side: usize,
    streams: &'a mut HashMap<Handle, Stream>,
    accepted: &'a mut Vec<Handle>,
    backlog: usize,
}

impl Driver for Surroundings<'_> {
    fn path(&mut self, _: &Flow) -> Option<Path> {
        Some(Path { mtu: MTU, max_burst: MTU, max_segments: 1 })
    }

    fn has_room(&mut self, _: ListenerKey) -> bool {
        self.accepted.len() < self.backlog
    }

    fn accept(&mut self, listener: ListenerKey, connection: Handle, _: &Flow) -> Option<u64> {
        if !self.has_room(listener) {
            return None;
        }
        self.accepted.push(connection);
        self.streams.insert(connection, Stream { connected: true, ..Stream::default() });
        Some(BUFFER)
    }

    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]) {
        let stream = self.streams.get_mut(&connection).expect("a connection that there is");
        let (end, most) = (position + bytes.len() as u64, stream.read + BUFFER);
        assert!(end <= most, "stored up to {end}, where the buffer ends at {most}");
        for (at, value) in (position..).zip(bytes) {
            assert_eq!(*value, byte(1 - self.side, at), "another byte at {at} than was sent");
            stream.stored.insert(at, *value);
        }
    }
}

struct Written(usize);

impl Source for Written {
    fn load(&mut self, _: Handle, position: u64, to: &mut [u8]) -> bool {
        for (at, value) in (position..).zip(to) {
            *value = byte(self.0, at);
        }
        true
    }
}

pub struct Pair {
    pub clock: Clock,
    pub network: Network,
    pub hosts: [Host; 2],
    pub kind: Kind,
    pub start: Instant,
}

impl Pair {
    pub fn new(kind: Kind, config: Config) -> Pair {
        let clock = Clock::new();
        let (network, one, other) = Network::pair(config, &clock).expect("probabilities");
        let host = |side: usize, link| Host {
            side,
            engine: (kind.make)([side as u8 + 7; 32], clock.now()),
            link,
            streams: HashMap::new(),
            accepted: Vec::new(),
            backlog: 16,
            wrong: 0,
            sent: 0,
            timeouts: 0,
        };
        let hosts = [host(0, one), host(1, other)];
        let start = clock.now();
        Pair { clock, network, hosts, kind, start }
    }

    pub fn listen(&mut self) {
        let listening = Listening {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: PORT,
            dual: false,
            share: false,
            ifindex: 0,
            options: Options::default(),
        };
        self.hosts[1].engine.listen(3, listening);
    }

    pub fn flow(port: u16) -> Flow {
        Flow { local: address(0).into(), local_port: port, peer: address(1).into(), peer_port: PORT }
    }

    pub fn connect(&mut self, port: u16) -> Handle {
        let path = Path { mtu: MTU, max_burst: MTU, max_segments: 1 };
        let now = self.clock.now();
        let host = &mut self.hosts[0];
        let handle = host
            .engine
            .connect(now, Self::flow(port), path, BUFFER, &Options::default())
            .expect("there is room");
        host.streams.insert(handle, Stream::default());
        handle
    }

    pub fn established(kind: Kind, config: Config) -> (Pair, Handle, Handle) {
        let mut pair = Pair::new(kind, config);
        pair.listen();
        let client = pair.connect(4000);
        pair.until(60, |pair| pair.hosts[0].streams[&client].connected && !pair.hosts[1].accepted.is_empty());
        let server = pair.hosts[1].accepted[0];
        (pair, client, server)
    }

    pub fn stream(&mut self, side: usize, handle: Handle) -> &mut Stream {
        self.hosts[side].streams.get_mut(&handle).expect("it exists")
    }

    pub fn close(&mut self, side: usize, handle: Handle) {
        let now = self.clock.now();
        let host = &mut self.hosts[side];
        let stream = host.streams.get_mut(&handle).expect("it exists");
        (stream.closed, stream.done) = (true, true);
        let unread = stream.read < stream.received;
        host.engine.close(now, handle, unread);
    }

    pub fn abort(&mut self, side: usize, handle: Handle) {
        let now = self.clock.now();
        let host = &mut self.hosts[side];
        let stream = host.streams.get_mut(&handle).expect("it exists");
        (stream.closed, stream.done) = (true, true);
        host.engine.abort(now, handle);
    }

    /// Everything that is due now.
    pub fn settle(&mut self) {
        let now = self.clock.now();
        for host in &mut self.hosts {
            let mut frames: Vec<Vec<u8>> = Vec::new();
            host.link.receive(1000, &mut |frame| frames.push(frame.data.to_vec())).expect("up");
            for frame in frames {
                host.take(now, &frame);
            }
            if host.engine.poll_timeout().is_some_and(|due| due <= now) {
                host.engine.handle_timeout(now);
                host.timeouts += 1;
                // Never asked for again at the same moment without end.
                assert!(host.timeouts < 1_000_000);
            }
            host.events();
            host.programs(now);
            host.deliver(now);
            host.events();
            host.send(now, &self.kind);
        }
    }

    /// Goes to the next moment at which something happens; `false` if there is none.
    pub fn step(&mut self) -> bool {
        self.settle();
        let due = self.hosts.iter().filter_map(|host| host.engine.poll_timeout()).min();
        self.network.advance_to_next(due)
    }

    pub fn until(&mut self, seconds: u64, done: impl Fn(&Pair) -> bool) {
        let end = self.clock.now() + Duration::from_secs(seconds);
        loop {
            self.settle();
            if done(self) {
                return;
            }
            assert!(self.step(), "everything is quiet, and it is not done\n{self:?}");
            assert!(self.clock.now() <= end, "it takes too long\n{self:?}");
        }
    }

    /// Until nothing happens any more, or for so long.
    pub fn quiet(&mut self, seconds: u64) {
        let end = self.clock.now() + Duration::from_secs(seconds);
        while self.clock.now() < end && self.step() {}
    }

    /// A packet of bytes that nobody has sent.
    pub fn inject(&mut self, side: usize, payload: &[u8]) {
        let mut frame = headers(1 - side, self.kind.ip_protocol, payload.len());
        frame.extend_from_slice(payload);
        let now = self.clock.now();
        self.hosts[side].take(now, &frame);
        self.hosts[side].events();
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for host in &self.hosts {
            writeln!(f, "side {}: {:?}", host.side, host.engine.stats())?;
            for (handle, it) in &host.streams {
                writeln!(
                    f,
                    "  {handle:?}: connected {} written {} acknowledged {} received {} read {} stored {} peer closed {} closed {} failed {:?} state {:?}\n    {:?}",
                    it.connected,
                    it.written,
                    it.acknowledged,
                    it.received,
                    it.read,
                    it.stored.len(),
                    it.peer_closed,
                    it.closed,
                    it.failed,
                    host.engine.state(*handle),
                    host.engine.info(*handle),
                )?;
            }
        }
        Ok(())
    }
}

impl Host {
    pub fn take(&mut self, now: Instant, frame: &[u8]) {
        let Ok(packet) = parse_frame(frame) else { return };
        let (engine, mut driver) = self.parts();
        let known = freena_stack_api::RxChecksum::Unknown;
        if engine.handle_packet(now, &packet, known, 0, 1, &mut driver).is_err() {
            self.wrong += 1;
        }
    }

    fn deliver(&mut self, now: Instant) {
        let (engine, mut driver) = self.parts();
        engine.deliver(now, &mut driver);
    }

    fn parts(&mut self) -> (&mut dyn Protocol, Surroundings<'_>) {
        let driver = Surroundings {
            side: self.side,
            streams: &mut self.streams,
            accepted: &mut self.accepted,
            backlog: self.backlog,
        };
        (&mut *self.engine, driver)
    }

    pub fn events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            let (Event::Connected(handle)
            | Event::Received { connection: handle, .. }
            | Event::Acknowledged { connection: handle, .. }
            | Event::PeerClosed(handle)
            | Event::Urgent { connection: handle, .. }
            | Event::Closed(handle)
            | Event::Failed(handle, _)
            | Event::SoftError(handle, _)
            | Event::Released(handle)) = &event;
            let it = self.streams.get_mut(handle).expect("a connection that there is");
            match event {
                Event::Connected(_) => it.connected = true,
                Event::Received { position, .. } => {
                    assert!(position > it.received);
                    it.received = position;
                }
                Event::Acknowledged { position, .. } => {
                    assert!(position > it.acknowledged && position <= it.written);
                    it.acknowledged = position;
                }
                Event::PeerClosed(_) => it.peer_closed = true,
                Event::Closed(_) => it.closed = true,
                Event::Failed(_, failure) => it.failed = Some(failure),
                Event::Released(_) => it.released = true,
                Event::Urgent { .. } | Event::SoftError(..) => {}
            }
        }
    }

    fn programs(&mut self, now: Instant) {
        for (&handle, it) in &mut self.streams {
            if it.released || it.failed.is_some() || it.closed {
                continue;
            }
            let len = (BUFFER - (it.written - it.acknowledged)).min(it.goal - it.written);
            if len > 0 && it.connected {
                it.written += len;
                self.engine.written(now, handle, it.written).expect("it is open");
            }
            if it.then_shut && !it.shut && it.written == it.goal && it.connected {
                it.shut = true;
                self.engine.shutdown(now, handle);
            }
            if !it.stalled && it.received > it.read {
                for at in it.read..it.received {
                    assert!(it.stored.remove(&at).is_some(), "byte {at} was told and not stored");
                }
                it.read = it.received;
                self.engine.read(now, handle, it.read);
            }
        }
    }

    fn send(&mut self, now: Instant, kind: &Kind) {
        let mut source = Written(self.side);
        for _ in 0..10_000 {
            let Some(transmit) = self.engine.poll_transmit(now, &mut source) else { return };
            self.sent += 1;
            self.put(&transmit, kind);
        }
        panic!("it sends without end");
    }

    fn put(&mut self, transmit: &Transmit, kind: &Kind) {
        let mut payload: Vec<u8> = transmit.payload.clone().map(|at| byte(self.side, at)).collect();
        payload.extend_from_slice(&transmit.body);
        let length = usize::from(transmit.header_len) + payload.len();
        assert!(transmit.segment == 0 && length + ipv4::HEADER_LEN <= MTU as usize, "{transmit:?}");
        let mut header = headers(self.side, kind.ip_protocol, length);
        header.extend_from_slice(&transmit.header[..transmit.header_len.into()]);
        let pseudo =
            checksum::pseudo(transmit.flow.local, transmit.flow.peer, kind.ip_protocol, length as u16);
        if let Some(checksum) = kind.checksum {
            let at = HEADERS + usize::from(checksum);
            header[at..at + 2].copy_from_slice(&pseudo.expect("one version").partial().to_be_bytes());
        }
        let burst = Burst {
            header: &header,
            l3: ethernet::HEADER_LEN as u16,
            l4: if kind.checksum.is_some() { HEADERS as u16 } else { 0 },
            checksum: kind.checksum.unwrap_or(0),
            payload: &[Chunk::new(&payload)],
            payload_len: payload.len() as u32,
            segment: 0,
            gso: Gso::None,
        };
        self.link.transmit(&[burst]).expect("up");
    }
}

/// Ethernet and IPv4 headers of a packet from a side to the other.
fn headers(side: usize, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS];
    let mac = |side: usize| Mac([2, 0, 0, 0, 0, side as u8]);
    ethernet::Repr { dst: mac(1 - side), src: mac(side), ethertype: ethernet::IPV4 }.emit(&mut bytes);
    ipv4::Repr {
        src: address(side),
        dst: address(1 - side),
        protocol,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: length as u16,
    }
    .emit(&mut bytes[ethernet::HEADER_LEN..]);
    bytes
}
