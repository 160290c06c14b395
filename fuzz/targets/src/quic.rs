//! Two QUIC engines, a wire that does to their packets what the fuzzer says, and packets of its own.
//!
//! Keys and the handshake's random numbers differ from run to run, so an input need not do the same twice; what must hold does not
//! depend on them.

use crate::input::Input;
use crate::tcp::epoch;
use freena_quic::{Config, Quic};
use freena_quic_keys::Host as Keys;
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{
    Driver, Event, Flow, Handle, ListenerKey, Listening, Options, Path, Protocol, Source,
};
use freena_wire::{Mac, Packet};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const PORT: u16 = 80;
const BUFFER: u64 = 16 << 10;
const WAY: Path = Path { mtu: 1500, max_burst: 1500, max_segments: 1 };
/// Packets that the wire holds; more are lost.
const HELD: usize = 64;

/// Keys that both sides have and trust.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Keys::open(folder.path()).expect("keys can be made");
    fs::write(folder.path().join("trusted"), format!("* {}\n", host.fingerprint)).expect("written");
    // Read at each handshake.
    std::mem::forget(folder);
    host
});

fn address(side: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, side as u8 + 1).into()
}

/// The byte at a position of what a side sends.
fn byte(side: usize, position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ side as u8
}

/// What a program knows of a connection.
#[derive(Default)]
struct Known {
    received: u64,
    read: u64,
    written: u64,
    acknowledged: u64,
    over: bool,
    closed: bool,
}

fn known(all: &mut BTreeMap<u32, Known>, handle: Handle) -> &mut Known {
    all.get_mut(&handle.0).expect("it is known")
}

/// The programs of a side.
struct Programs {
    side: usize,
    all: BTreeMap<u32, Known>,
}

impl Driver for Programs {
    fn path(&mut self, _: &Flow) -> Option<Path> {
        Some(WAY)
    }

    fn has_room(&mut self, _: ListenerKey) -> bool {
        true
    }

    fn accept(&mut self, _: ListenerKey, connection: Handle, _: &Flow) -> Option<u64> {
        assert!(self.all.insert(connection.0, Known::default()).is_none(), "a handle in use");
        Some(BUFFER)
    }

    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]) {
        let known = &self.all[&connection.0];
        assert!(position + bytes.len() as u64 <= known.read + BUFFER, "stored beyond the buffer");
        for (at, found) in (position..).zip(bytes) {
            assert_eq!(*found, byte(1 - self.side, at), "another byte at {at} than was sent");
        }
    }
}

impl Source for Programs {
    fn load(&mut self, connection: Handle, position: u64, to: &mut [u8]) -> bool {
        let known = &self.all[&connection.0];
        assert!(position >= known.acknowledged && position + to.len() as u64 <= known.written);
        (position..).zip(to).for_each(|(at, to)| *to = byte(self.side, at));
        true
    }
}

struct Host {
    engine: Quic,
    programs: Programs,
    /// What it has sent and the other one has not got.
    wire: VecDeque<(Flow, Vec<u8>)>,
}

impl Host {
    fn new(side: usize) -> Self {
        let config = Config {
            secret: [side as u8 + 7; 32],
            reset_key: KEYS.secret,
            max_connections: 4,
            max_half_open: 4,
            server: KEYS.server.clone(),
            client: KEYS.client.clone(),
        };
        let engine = Quic::new(&config).expect("a provider that has QUIC");
        Host { engine, programs: Programs { side, all: BTreeMap::new() }, wire: VecDeque::new() }
    }

    /// A UDP packet of the other side; its checksum has been looked at.
    fn take(&mut self, now: Instant, bytes: &[u8]) {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let side = self.programs.side;
        let packet = Packet {
            ether_src: mac,
            ether_dst: mac,
            src: address(1 - side),
            dst: address(side),
            protocol: 17,
            ttl: 64,
            tos: 0,
            fragment: None,
            payload: bytes,
            l3: 14,
        };
        let _ = self.engine.handle_packet(now, &packet, RxChecksum::Verified, 0, 1, &mut self.programs);
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        self.engine.deliver(now, &mut self.programs);
        while let Some(event) = self.engine.poll_event() {
            let all = &mut self.programs.all;
            match event {
                Event::Received { connection, position } => {
                    let known = known(all, connection);
                    assert!(position > known.received && !known.over);
                    known.received = position;
                }
                Event::Acknowledged { connection, position } => {
                    let known = known(all, connection);
                    assert!(position > known.acknowledged && position <= known.written);
                    known.acknowledged = position;
                }
                Event::Closed(handle) | Event::Failed(handle, _) => {
                    assert!(!std::mem::replace(&mut known(all, handle).over, true), "over twice");
                }
                Event::Released(handle) => {
                    assert!(all.remove(&handle.0).expect("it is known").closed);
                }
                Event::Connected(handle) | Event::PeerClosed(handle) => assert!(!known(all, handle).over),
                Event::Urgent { .. } | Event::SoftError(..) => {}
            }
        }
        for turns in 0.. {
            assert!(turns < 10_000, "it sends without end");
            let Some(transmit) = self.engine.poll_transmit(now, &mut self.programs) else { break };
            let header = &transmit.header[..usize::from(transmit.header_len)];
            let segment = if transmit.segment == 0 { usize::MAX } else { transmit.segment.into() };
            assert!(!transmit.body.is_empty());
            for body in transmit.body.chunks(segment) {
                assert!(20 + header.len() + body.len() <= 1500, "larger than the way takes");
                if self.wire.len() < HELD {
                    self.wire.push_back((transmit.flow, [header, body].concat()));
                }
            }
        }
    }
}

/// Calls of programs at both ends, and the wire between them.
pub fn quic_streams(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut hosts = [Host::new(0), Host::new(1)];
    let mut now = epoch();
    let listening = Listening {
        local: address(1),
        port: PORT,
        dual: false,
        share: false,
        ifindex: 0,
        options: Options::default(),
    };
    hosts[1].engine.listen(1, listening);
    for _ in 0..128 {
        let Some(operation) = input.next() else { break };
        let side = usize::from(operation >> 7);
        match operation & 15 {
            // Packets arrive, all of them or one, in their order or not, once or twice.
            0..=3 => exchange(&mut hosts, now, 1 + usize::from(operation & 3) * 8),
            4 => arrive(&mut hosts, side, now, |wire, _| wire.pop_front(), &mut input),
            5 => arrive(&mut hosts, side, now, |wire, _| wire.pop_back(), &mut input),
            6 => arrive(&mut hosts, side, now, |wire, _| wire.front().cloned(), &mut input),
            7 => drop(hosts[1 - side].wire.pop_front()),
            8 => arrive(
                &mut hosts,
                side,
                now,
                |wire, input| {
                    let (flow, mut packet) = wire.pop_front()?;
                    let at = usize::from(input.short()) % packet.len();
                    packet[at] ^= input.byte().max(1);
                    Some((flow, packet))
                },
                &mut input,
            ),
            9 => {
                let length = usize::from(input.byte());
                let mut packet = [4000u16.to_be_bytes(), PORT.to_be_bytes()].concat();
                packet.extend_from_slice(&(length as u16 + 8).to_be_bytes());
                packet.extend_from_slice(&[0, 0]);
                packet.extend_from_slice(input.take(length));
                hosts[side].take(now, &packet);
            }
            10 => {
                let pause = [1, 30, 400, 2_000, 40_000, 1_000_000][usize::from(input.byte() % 6)];
                now += Duration::from_millis(pause);
                for host in &mut hosts {
                    host.engine.handle_timeout(now);
                    host.drain(now);
                }
            }
            11 => {
                let port = 4000 + u16::from(input.byte() & 3);
                let flow = Flow { local: address(0), local_port: port, peer: address(1), peer_port: PORT };
                let host = &mut hosts[0];
                if let Ok(handle) = host.engine.connect(now, flow, WAY, BUFFER, &Options::default()) {
                    host.programs.all.insert(handle.0, Known::default());
                }
                host.drain(now);
            }
            choice => call(&mut hosts[side], now, choice, operation >> 4 & 7, input.byte()),
        }
    }
    end(&mut hosts, now);
}

type Wire = VecDeque<(Flow, Vec<u8>)>;

/// One packet arrives at a side.
fn arrive(
    hosts: &mut [Host; 2],
    side: usize,
    now: Instant,
    choose: impl FnOnce(&mut Wire, &mut Input<'_>) -> Option<(Flow, Vec<u8>)>,
    input: &mut Input<'_>,
) {
    if let Some((_, packet)) = choose(&mut hosts[1 - side].wire, input) {
        hosts[side].take(now, &packet);
    }
}

/// Packets arrive at both sides, so many at most.
fn exchange(hosts: &mut [Host; 2], now: Instant, most: usize) {
    for _ in 0..most {
        for side in [0, 1] {
            if let Some((_, packet)) = hosts[1 - side].wire.pop_front() {
                hosts[side].take(now, &packet);
            }
        }
    }
}

/// A call of some program.
fn call(host: &mut Host, now: Instant, choice: u8, which: u8, value: u8) {
    let all = &mut host.programs.all;
    let open: Vec<u32> = all.iter().filter(|(_, it)| !it.closed).map(|(handle, _)| *handle).collect();
    let Some(handle) = open.get(usize::from(which) % open.len().max(1)).map(|it| Handle(*it)) else { return };
    let known = all.get_mut(&handle.0).expect("it is known");
    match choice {
        12 => {
            let written = (known.written + 64 * u64::from(value)).min(known.acknowledged + BUFFER);
            if host.engine.written(now, handle, written).is_ok() {
                known.written = written;
            }
        }
        13 => {
            known.read = known.received.min(known.read + 64 * u64::from(value));
            host.engine.read(now, handle, known.read);
        }
        14 => host.engine.shutdown(now, handle),
        _ => {
            known.closed = true;
            let unread = known.read < known.received;
            if value & 1 == 0 {
                host.engine.close(now, handle, unread);
            } else {
                host.engine.abort(now, handle);
            }
        }
    }
    host.drain(now);
}

/// Everything ends once the programs have closed it, though no packet arrives any more.
fn end(hosts: &mut [Host; 2], mut now: Instant) {
    for host in hosts {
        // Twice: a connection that was waiting for a place in the queue is handed out when there is one.
        let mut turns = 0;
        loop {
            let open: Vec<u32> =
                host.programs.all.iter().filter(|(_, it)| !it.closed).map(|(handle, _)| *handle).collect();
            for handle in open {
                host.programs.all.get_mut(&handle).expect("it is known").closed = true;
                host.engine.close(now, Handle(handle), false);
            }
            host.drain(now);
            host.wire.clear();
            let Some(at) = host.engine.poll_timeout() else { break };
            now = now.max(at);
            host.engine.handle_timeout(now);
            turns += 1;
            assert!(turns < 10_000, "it does not end: {:?}", host.engine.stats());
        }
        assert!(host.programs.all.is_empty(), "{} are left", host.programs.all.len());
    }
}
