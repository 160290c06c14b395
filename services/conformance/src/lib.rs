//! What every service must do, whoever has written it, checked through the C ABI of its library.
//!
//! [`check`] panics with what is wrong. It is for tests of services: those of this workspace, and those of others.
#![forbid(unsafe_code)]

use freena_service_chain::{
    Arrived, Blocked, Buffer, DatagramFlow, Flow, MAX_CHUNK, Resolved, Role, StreamFlow,
};
use freena_service_host::abi::{
    FREENA_SERVICE_DATA, FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_IN_PLACE, FREENA_SERVICE_REWRITE,
    FREENA_SERVICE_STREAM, FreenaServiceFlow,
};
use freena_service_host::{Context, Direction, Instance, Outcome, Trouble};
use std::io::IoSlice;

/// Where the clock begins.
const START: u64 = 1_000_000_000;

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Bytes, some of which can be compressed.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let kinds = if self.below(2) == 0 { 3 } else { 256 };
        (0..length).map(|_| self.below(kinds) as u8).collect()
    }
}

/// Checks a service with parameters with which it works on its own, the same at both ends.
///
/// # Panics
/// It does not do what it must.
pub fn check(service: &Resolved) {
    let library = &service.library;
    assert!(!library.about().is_empty(), "it says what it does");
    assert!(library.parameters().iter().all(|it| !it.meaning.is_empty()), "each parameter has a meaning");
    if library.takes_streams() {
        carries_a_stream(service);
        survives_garbage(service, FREENA_SERVICE_STREAM);
    } else {
        assert!(StreamFlow::new(std::slice::from_ref(service), flow(Role::Client), START).is_err());
    }
    if library.takes_datagrams() {
        carries_datagrams(service);
        survives_garbage(service, FREENA_SERVICE_DATAGRAM);
    } else {
        assert!(DatagramFlow::new(std::slice::from_ref(service), flow(Role::Client), START).is_err());
    }
}

fn flow(role: Role) -> Flow {
    let (client, server) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 7).into());
    let (local, peer) = if role == Role::Client { (client, server) } else { (server, client) };
    Flow { transport: 6, role, local, peer, allow_plain: false }
}

/// Two ends of a stream and what is between them.
struct Streams {
    now: u64,
    ends: [StreamFlow; 2],
    wires: [Buffer; 2],
    received: [Buffer; 2],
    sent: [Vec<u8>; 2],
    ended: [bool; 2],
}

impl Streams {
    fn new(services: &[Resolved]) -> Self {
        let begin = |role| StreamFlow::new(services, flow(role), START).expect("a flow");
        Self {
            now: START,
            ends: [begin(Role::Client), begin(Role::Server)],
            wires: [Buffer::new(), Buffer::new()],
            received: [Buffer::new(), Buffer::new()],
            sent: [Vec::new(), Vec::new()],
            ended: [false; 2],
        }
    }

    /// Has the two talk until both are silent.
    fn settle(&mut self) {
        loop {
            for side in [0, 1] {
                self.ends[side].transmit(self.now, &mut self.wires[side]);
            }
            if self.wires.iter().all(Buffer::is_empty) {
                return;
            }
            for side in [0, 1] {
                let (wire, other) = (&mut self.wires[side], 1 - side);
                let received = &mut self.received[other];
                let opened = self.ends[other].open(self.now, wire.as_slice(), received, usize::MAX);
                let opened = opened.expect("what the peer has sent");
                assert_eq!(opened.consumed, wire.len(), "whole frames are taken whole");
                self.ended[other] = opened.end;
                wire.clear();
            }
        }
    }

    /// Lets time pass until no service waits for anything.
    fn wait(&mut self) {
        for _ in 0..1000 {
            self.settle();
            let due = self.ends.iter_mut().map(StreamFlow::deadline).min().unwrap_or(u64::MAX);
            if due == u64::MAX {
                return;
            }
            self.now = self.now.max(due);
            for end in &mut self.ends {
                end.timer(self.now).expect("a flow that goes on");
            }
        }
        panic!("a deadline comes again and again, though nothing happens");
    }

    fn send(&mut self, side: usize, bytes: &[u8]) {
        self.sent[side].extend(bytes);
        let mut rest = bytes;
        for _ in 0..1000 {
            let sealed = self.ends[side].seal(self.now, &[IoSlice::new(rest)], &mut self.wires[side]);
            let sealed = sealed.expect("sent");
            rest = &rest[sealed.consumed..];
            match sealed.blocked {
                None => return,
                Some(Blocked::Until(at)) => {
                    assert!(at > self.now, "held back until a time that has passed");
                    self.now = at;
                }
                Some(Blocked::Agreement) => panic!("the two ends agree"),
            }
        }
        panic!("held back for ever");
    }
}

/// Two streams at once, in which each byte arrives once and in order; and so do the ends.
fn carries_a_stream(service: &Resolved) {
    let mut random = Random(1);
    for count in [1, 2] {
        let mut it = Streams::new(&vec![service.clone(); count]);
        it.settle();
        assert!(it.ends.iter().all(StreamFlow::can_seal), "the two ends agree");
        for length in [0, 1, 2, 63, 64, 1000, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 100_000] {
            for side in [0, 1] {
                let bytes = random.bytes(length);
                it.send(side, &bytes);
            }
            if random.below(2) == 0 {
                it.settle();
            }
        }
        for _ in 0..200 {
            let (side, length) = (random.below(2), random.below(3000));
            let bytes = random.bytes(length);
            it.send(side, &bytes);
        }
        it.wait();
        for side in [0, 1] {
            it.ends[side].end(it.now, &mut it.wires[side]).expect("an end");
        }
        it.wait();
        for side in [0, 1] {
            assert!(it.received[1 - side].as_slice() == it.sent[side], "the bytes that were sent");
            assert!(it.ended[side] && it.ends[side].eof() == Ok(()), "an end");
            for figure in it.ends[side].figures() {
                assert!(!figure.name.is_empty());
            }
        }
    }
}

/// Datagrams that are neither lost nor doubled arrive so, in whatever order.
fn carries_datagrams(service: &Resolved) {
    let mut random = Random(2);
    for count in [1, 2] {
        let services = vec![service.clone(); count];
        let begin = |role| DatagramFlow::new(&services, flow(role), START).expect("a flow");
        let (mut client, mut server) = (begin(Role::Client), begin(Role::Server));
        let most = client.max_message(65_507);
        assert!(most > 60_000, "a message of nearly 64 KiB is none too long");
        let (mut now, mut out, mut plain) = (START, Buffer::new(), Buffer::new());
        let (mut sent, mut got, mut wire) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..300 {
            let length = [0, 1, 17, 1000, most, random.below(1500)][if number < 5 { number } else { 5 }];
            let message = random.bytes(length);
            while let Some(Blocked::Until(at)) = client.seal(now, &message, &mut out).expect("sent").blocked {
                assert!(at > now, "held back until a time that has passed");
                now = at;
            }
            sent.push(message);
            wire.extend(take(&mut out));
            while client.transmit(now, &mut out).expect("more") {
                wire.extend(take(&mut out));
            }
            now += 1_000_000;
            // Some overtake others.
            if wire.len() > 1 && random.below(3) == 0 {
                let (a, b) = (random.below(wire.len()), random.below(wire.len()));
                wire.swap(a, b);
            }
            if random.below(2) == 0 {
                continue;
            }
            for datagram in wire.drain(..) {
                assert!(datagram.len() <= 65_507, "a datagram");
                if let Arrived::Message(_) = server.open(now, &datagram, &mut plain).expect("taken") {
                    got.extend(take(&mut plain).or(Some(Vec::new())));
                }
                while server.recover(now, &mut plain).expect("more").is_some() {
                    got.extend(take(&mut plain).or(Some(Vec::new())));
                }
            }
            for end in [&mut client, &mut server] {
                if end.deadline() <= now {
                    end.timer(now);
                }
            }
        }
        for datagram in wire.drain(..) {
            if let Arrived::Message(_) = server.open(now, &datagram, &mut plain).expect("taken") {
                got.extend(take(&mut plain).or(Some(Vec::new())));
            }
        }
        sent.sort_unstable();
        got.sort_unstable();
        assert!(sent == got, "{} messages were sent, {} arrived, or others", sent.len(), got.len());
    }
}

/// What is in the buffer, which is empty then; `None` if nothing is.
fn take(buffer: &mut Buffer) -> Option<Vec<u8>> {
    let bytes = (!buffer.is_empty()).then(|| buffer.as_slice().to_vec());
    buffer.clear();
    bytes
}

/// Whatever arrives: the service says that it is nothing of the peer's, or makes something of it within its bounds; and it
/// is there afterwards.
fn survives_garbage(service: &Resolved, kind: u32) {
    let raw = FreenaServiceFlow {
        kind,
        role: 1,
        transport: 17,
        local_port: 1,
        peer_port: 2,
        local: [0; 16],
        peer: [0; 16],
    };
    let open = || Instance::open(&service.library, &service.parameters, raw, START).expect("a flow");
    let mut random = Random(3);
    let mut instance = open();
    let context = Context { kind: FREENA_SERVICE_DATA, now: START };
    let mut memory = vec![0; 1 << 17];
    for _ in 0..20_000 {
        let most = if random.below(10) == 0 { 5000 } else { 60 };
        let length = random.below(most);
        let mut garbage = random.bytes(length);
        if let (Some(first), 0) = (garbage.first_mut(), random.below(2)) {
            *first %= 4;
        }
        let direction = Direction::Inbound;
        let outcome = match instance.mode(direction) {
            FREENA_SERVICE_IN_PLACE => {
                memory[..length].copy_from_slice(&garbage);
                instance.in_place(direction, context, &mut memory[..length], 0..length)
            }
            FREENA_SERVICE_REWRITE => instance.rewrite(direction, context, &garbage, &mut memory, 0),
            _ => instance.look(direction, context, &garbage),
        };
        if let Err(error) = outcome {
            assert!(error.trouble != Trouble::Fault, "{error}");
        }
        while let Outcome::On(_) =
            instance.extra(direction, context, &mut memory, 0).expect("what the service has of its own")
        {
        }
    }
}
