//! The SCTP engine, with a peer that sends whatever it likes: mostly with the tags and the checksum that are right.

use crate::input::Input;
use crate::tcp::epoch;
use freena_sctp::{Config, Sctp};
use freena_shm_abi::message::{HEAD, Head, flag};
use freena_stack_api::RxChecksum;
use freena_stack_api::stream::{
    Driver, Event, Flow, Handle, IcmpError, ListenerKey, Listening, Options, Path, Protocol, Source,
};
use freena_wire::{Mac, Packet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const PORT: u16 = 80;
const BUFFER: u64 = 16 << 10;
const WAY: Path = Path { mtu: 1500, max_burst: 1500, max_segments: 1 };
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

/// In this many bytes a program that writes messages has written one, head included.
const MESSAGE: u64 = 32;

/// What a program and the driver know of an association.
#[derive(Default)]
struct Known {
    received: u64,
    read: u64,
    written: u64,
    acknowledged: u64,
    /// It has failed or ended.
    over: bool,
    closed: bool,
}

#[derive(Default)]
struct Programs(BTreeMap<u32, Known>);

impl Driver for Programs {
    fn path(&mut self, _: &Flow) -> Option<Path> {
        Some(WAY)
    }

    fn has_room(&mut self, _: ListenerKey) -> bool {
        true
    }

    fn accept(&mut self, _: ListenerKey, connection: Handle, _: &Flow) -> Option<u64> {
        assert!(self.0.insert(connection.0, Known::default()).is_none(), "a handle in use");
        Some(BUFFER)
    }

    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]) {
        let known = &self.0[&connection.0];
        assert!(position + bytes.len() as u64 <= known.read + BUFFER, "stored beyond the buffer");
    }
}

impl Source for Programs {
    fn load(&mut self, connection: Handle, position: u64, to: &mut [u8]) -> bool {
        let known = &self.0[&connection.0];
        assert!(position >= known.acknowledged && position + to.len() as u64 <= known.written);
        // To who writes bytes they are any.
        for (byte, at) in to.iter_mut().zip(position..) {
            *byte = message(at / MESSAGE)[(at % MESSAGE) as usize];
        }
        true
    }
}

/// Message number `number`, behind its head.
fn message(number: u64) -> [u8; MESSAGE as usize] {
    let head = Head {
        length: (MESSAGE as usize - HEAD) as u32,
        stream: (number % 3) as u16,
        flags: flag::BEGIN | flag::END | if number.is_multiple_of(5) { flag::UNORDERED } else { 0 },
        ..Head::default()
    };
    let mut message = [7; MESSAGE as usize];
    message[..HEAD].copy_from_slice(head.as_bytes());
    message
}

/// An engine, and what its peer has learnt of it.
struct World {
    engine: Sctp,
    programs: Programs,
    now: Instant,
    /// The tag and the cookie of the last INIT or INIT ACK, and the tag of the peer's last one.
    tag: u32,
    own: u32,
    cookie: Vec<u8>,
}

impl World {
    fn receive(&mut self, tag: u32, local_port: u16, chunks: &[u8]) {
        let mut bytes = [5000u16.to_be_bytes(), local_port.to_be_bytes()].concat();
        bytes.extend_from_slice(&tag.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(chunks);
        let sum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&sum);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let packet = Packet {
            ether_src: mac,
            ether_dst: mac,
            src: PEER,
            dst: LOCAL,
            protocol: 132,
            ttl: 64,
            tos: 0,
            fragment: None,
            payload: &bytes,
            l3: 14,
        };
        let programs = &mut self.programs;
        let _ = self.engine.handle_packet(self.now, &packet, RxChecksum::Unknown, 0, 1, programs);
        self.drain();
    }

    /// A chunk of this type with this value, padded.
    fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
        let mut chunk = vec![kind, flags];
        chunk.extend_from_slice(&(value.len() as u16 + 4).to_be_bytes());
        chunk.extend_from_slice(value);
        chunk.resize(chunk.len().next_multiple_of(4), 0);
        chunk
    }

    fn drain(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Received { connection, position } => {
                    let known = self.programs.0.get_mut(&connection.0).expect("it is known");
                    assert!(position > known.received && !known.over);
                    known.received = position;
                }
                Event::Acknowledged { connection, position } => {
                    let known = self.programs.0.get_mut(&connection.0).expect("it is known");
                    assert!(position > known.acknowledged && position <= known.written);
                    known.acknowledged = position;
                }
                Event::Closed(handle) | Event::Failed(handle, _) => {
                    let known = self.programs.0.get_mut(&handle.0).expect("it is known");
                    assert!(!std::mem::replace(&mut known.over, true), "over twice");
                }
                Event::Released(handle) => {
                    assert!(self.programs.0.remove(&handle.0).expect("it is known").closed);
                }
                Event::Connected(handle) | Event::PeerClosed(handle) => {
                    assert!(!self.programs.0[&handle.0].over);
                }
                Event::Urgent { .. } | Event::SoftError(..) => {}
            }
        }
        for turns in 0.. {
            assert!(turns < 10_000, "it sends without end");
            let Some(transmit) = self.engine.poll_transmit(self.now, &mut self.programs) else { break };
            assert!(usize::from(transmit.header_len) + transmit.body.len() + 20 <= 1500);
            let mut bytes = transmit.header[..usize::from(transmit.header_len)].to_vec();
            bytes.extend_from_slice(&transmit.body);
            let found = bytes[8..12].to_vec();
            bytes[8..12].fill(0);
            assert_eq!(found, crc32c::crc32c(&bytes).to_le_bytes(), "a wrong checksum");
            let body = &transmit.body;
            assert!(body.len() >= 4 && body.len() % 4 == 0);
            if matches!(body[0], 1 | 2) {
                self.tag = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
                self.cookie = body.get(24..24 + 56).unwrap_or_default().to_vec();
            }
        }
    }
}

/// Packets of every kind, time, and the calls of programs.
pub fn sctp_packets(bytes: &[u8]) {
    run(bytes, false);
}

/// The same with programs that read and write messages.
pub fn sctp_messages(bytes: &[u8]) {
    run(bytes, true);
}

fn run(bytes: &[u8], messages: bool) {
    let options = Options { messages, ..Options::default() };
    let mut input = Input(bytes);
    let mut world = World {
        engine: Sctp::new(Config { secret: [7; 32], max_connections: 4 }),
        programs: Programs::default(),
        now: epoch(),
        tag: 0,
        own: 1,
        cookie: Vec::new(),
    };
    let listening = Listening { local: LOCAL, port: PORT, dual: false, share: false, ifindex: 0, options };
    world.engine.listen(1, listening);
    let flow = |local_port| Flow { local: LOCAL, local_port, peer: PEER, peer_port: 5000 };
    for _ in 0..256 {
        let Some(operation) = input.next() else { break };
        let port = PORT + u16::from(operation >> 6 & 1);
        match operation & 15 {
            // A handshake, with what a peer of this sort says in it.
            0 | 1 => {
                let kind = 1 + (operation & 1);
                world.own = world.own.wrapping_add(1).max(1);
                let mut value = world.own.to_be_bytes().to_vec();
                value.extend_from_slice(&[0, 0, input.byte(), 0, 0, 10, 0, 10, 0, 0, 0, 1]);
                if kind == 2 {
                    value.extend_from_slice(&[0, 7, 0, 8, 1, 2, 3, 4]);
                }
                value.extend_from_slice(input.take(usize::from(operation >> 4 & 3) * 8));
                let tag = if kind == 1 { 0 } else { world.tag };
                world.receive(tag, port, &World::chunk(kind, 0, &value));
            }
            2 => {
                let cookie = World::chunk(10, 0, &world.cookie.clone());
                world.receive(world.tag, port, &cookie);
            }
            // Data and acknowledgements near to what is right.
            3..=5 => {
                let mut value = (i32::from(input.byte() as i8) + 1).to_be_bytes().to_vec();
                value.extend_from_slice(&[0, 0, 0, input.byte(), 0, 0, 0, 0]);
                let length = usize::from(input.byte()) * usize::from(operation >> 4 & 3);
                value.resize(12 + length, 7);
                world.receive(world.tag, port, &World::chunk(0, operation >> 4 & 1 | 2, &value));
            }
            6 => {
                let initial = world.engine.info(Handle(0)).map_or(0, |info| info.bytes_acked as u32);
                let mut value = initial.wrapping_add(input.byte().into()).to_be_bytes().to_vec();
                value.extend_from_slice(&[0, 0, input.byte(), 0]);
                let blocks = input.byte() & 3;
                value.extend_from_slice(&[0, blocks, 0, 0]);
                (0..blocks).for_each(|_| value.extend_from_slice(&[0, input.byte(), 0, input.byte()]));
                world.receive(world.tag, port, &World::chunk(3, 0, &value));
            }
            // Whatever the fuzzer says, under the right tag.
            7 | 8 => {
                let length = usize::from(input.byte());
                let value = input.take(length);
                let chunk = World::chunk(input.byte(), input.byte(), value);
                world.receive(world.tag, port, &chunk);
            }
            9 => {
                let length = usize::from(input.byte());
                let chunks = input.take(length);
                world.receive(world.tag, port, chunks);
            }
            10 => {
                let pause = [1, 250, 1_100, 31_000, 61_000, 301_000][usize::from(input.byte() % 6)];
                world.now += Duration::from_millis(pause);
                world.engine.handle_timeout(world.now);
                world.drain();
            }
            11 => {
                let made = world.engine.connect(world.now, flow(PORT + 1), WAY, BUFFER, &options);
                if let Ok(handle) = made {
                    world.programs.0.insert(handle.0, Known::default());
                }
                world.drain();
            }
            choice => call(&mut world, choice, operation >> 4, input.byte()),
        }
    }
    end(&mut world);
}

/// A call of some program.
fn call(world: &mut World, choice: u8, which: u8, value: u8) {
    let open: Vec<u32> =
        world.programs.0.iter().filter(|(_, it)| !it.closed).map(|(handle, _)| *handle).collect();
    let Some(handle) = open.get(usize::from(which) % open.len().max(1)).map(|it| Handle(*it)) else { return };
    let known = world.programs.0.get_mut(&handle.0).expect("it is known");
    let (engine, now) = (&mut world.engine, world.now);
    match choice {
        12 => {
            let written = (known.written + 32 * u64::from(value)).min(known.acknowledged + BUFFER);
            if engine.written(now, handle, written).is_ok() {
                known.written = written;
            }
        }
        13 => {
            known.read = known.received.min(known.read + 64 * u64::from(value));
            engine.read(now, handle, known.read);
        }
        14 if value & 1 == 0 => engine.shutdown(now, handle),
        14 => {
            let mtu = [576, 1280, 1500][usize::from(value % 3)];
            engine.set_path(now, handle, Path { mtu, max_burst: mtu, max_segments: 1 });
        }
        _ if value & 7 == 7 => {
            let flow = Flow { local: LOCAL, local_port: PORT + 1, peer: PEER, peer_port: 5000 };
            engine.handle_icmp(now, &flow, [0; 8], IcmpError::Protocol);
        }
        _ => {
            known.closed = true;
            let unread = known.read < known.received;
            if value & 1 == 0 { engine.close(now, handle, unread) } else { engine.abort(now, handle) }
        }
    }
    world.drain();
}

/// Everything ends once the programs have closed it, though the peer is silent.
fn end(world: &mut World) {
    let open: Vec<u32> =
        world.programs.0.iter().filter(|(_, it)| !it.closed).map(|(handle, _)| *handle).collect();
    for handle in open {
        world.programs.0.get_mut(&handle).expect("it is known").closed = true;
        world.engine.close(world.now, Handle(handle), false);
    }
    world.drain();
    let mut turns = 0;
    while let Some(at) = world.engine.poll_timeout() {
        world.now = world.now.max(at);
        world.engine.handle_timeout(world.now);
        world.drain();
        turns += 1;
        assert!(turns < 10_000, "it does not end: {:?}", world.engine.stats());
    }
    assert!(world.programs.0.is_empty() && world.engine.stats().connections == 0);
}
