//! Targets that drive the TCP engine, with the hosts, wire and checks of the engine's own tests.

#[path = "../../../stack/protocols/tcp/tests/support/mod.rs"]
mod support;

use crate::input::Input;
use freena_tcp::{Congestion, Flow, Handle, Listening, Options, Path};
use freena_wire::tcp::{self, flag};
use std::time::{Duration, Instant};
pub(crate) use support::epoch;
use support::host::Datagram;
use support::{Host, PORT, Pair, Stream, address, byte};

/// Times that matter: from nothing over acknowledgement delays and time-outs to the life of `TIME_WAIT`.
fn pause(choice: u8) -> Duration {
    Duration::from_millis([0, 1, 20, 45, 210, 1_100, 9_000, 70_000][usize::from(choice & 7)])
}

fn options(bits: u8) -> Options {
    Options {
        no_delay: bits & 1 != 0,
        cork: bits & 2 != 0,
        quick_ack: bits & 4 != 0,
        keep_alive: bits & 8 != 0,
        keep_idle: Duration::from_secs(5),
        keep_interval: Duration::from_secs(2),
        keep_count: 3,
        user_timeout: Duration::from_secs(if bits & 16 != 0 { 10 } else { 0 }),
        congestion: if bits & 32 != 0 { Congestion::NewReno } else { Congestion::Cubic },
        ..Options::default()
    }
}

/// A flow whose peer is the fuzzer.
struct Peer {
    flow: Flow,
    /// The peer's initial sequence number, and the engine's.
    initial: (u32, u32),
    /// Opened by the engine.
    active: bool,
}

/// One engine, and peers that send whatever they like: mostly near to what would be right.
pub fn tcp_segments(bytes: &[u8]) {
    if let Ok(header) = tcp::Header::parse(bytes) {
        assert!(header.payload().len() + 20 <= bytes.len());
        let _ = (header.options(), header.verify(address(0), address(1)));
    }
    let mut input = Input(bytes);
    let (knobs, sizes) = (input.byte(), input.byte());
    let mut host = Host::with(
        1,
        freena_tcp::Config {
            secret: [7; 32],
            max_connections: 8,
            // Cookies from the second half-open connection on.
            max_half_open: if knobs & 64 != 0 { 1 } else { 8 },
            max_time_wait: 2,
        },
    );
    host.size = 1 << (10 + sizes % 8);
    if knobs & 128 != 0 {
        host.path.max_segments = 1;
    }
    let local = address(1);
    let listening =
        Listening { local, port: PORT, dual: false, share: false, ifindex: 0, options: options(knobs) };
    host.tcp.listen(1, listening);
    let mut peers: Vec<Peer> = (0..4)
        .map(|index| Peer {
            flow: Flow { local, local_port: PORT + index / 2, peer: address(0), peer_port: 5000 + index },
            initial: (0xffff_ff00, 0),
            active: false,
        })
        .collect();
    let mut now = epoch();
    for _ in 0..256 {
        let Some(operation) = input.next() else { break };
        let index = usize::from(operation >> 4 & 3);
        match operation & 15 {
            0..=8 => segment(&mut host, now, &peers[index], &mut input),
            9 => {
                now += pause(input.byte());
                host.tcp.handle_timeout(now);
            }
            10 => open(&mut host, now, &mut peers[index], options(knobs)),
            choice => program(&mut host, now, choice, operation >> 6, &mut input),
        }
        drain(&mut host, now, &mut peers);
    }
    // Everything ends once the program has closed it, though the peers are silent.
    let handles: Vec<Handle> = host.streams.keys().copied().collect();
    handles.into_iter().for_each(|handle| host.close(now, handle));
    drain(&mut host, now, &mut peers);
    let mut turns = 0;
    while let Some(at) = host.tcp.poll_timeout() {
        now = now.max(at);
        host.tcp.handle_timeout(now);
        drain(&mut host, now, &mut peers);
        turns += 1;
        assert!(turns < 10_000, "it does not end: {:?}", host.tcp.stats());
    }
    let stats = host.tcp.stats();
    assert_eq!((stats.connections, stats.half_open, stats.time_wait), (0, 0, 0));
}

/// Every packet that the engine has.
fn drain(host: &mut Host, now: Instant, peers: &mut [Peer]) {
    host.turn(now);
    for turns in 0.. {
        assert!(turns < 10_000, "it sends without end");
        let Some(transmit) = host.tcp.poll_transmit(now) else { break };
        host.check_transmit(&transmit);
        let header = tcp::Header::parse(&transmit.header[..usize::from(transmit.header_len)]);
        let header = header.expect("the engine made it");
        let Some(peer) = peers.iter_mut().find(|peer| peer.flow == transmit.flow) else { continue };
        if header.flags() & flag::SYN != 0 {
            peer.initial.1 = header.sequence();
            if header.flags() & flag::ACK != 0 && !peer.active {
                peer.initial.0 = header.acknowledgement().wrapping_sub(1);
            }
        }
    }
}

/// A segment near to what the engine expects.
fn segment(host: &mut Host, now: Instant, peer: &Peer, input: &mut Input<'_>) {
    let flags = input.byte();
    let (position, acknowledged, window) = (input.short(), input.short(), input.short());
    let (len, stamp) = (usize::from(input.byte()), input.byte());
    let flags = if stamp & 1 != 0 { flags & 0x3f } else { flag::ACK | flags & flag::PSH };
    // Numbers below zero are old ones.
    let near = |number: u16| i32::from(number as i16) as u32;
    let sequence = match flags & flag::SYN != 0 && peer.active {
        true => peer.initial.0,
        false => peer.initial.0.wrapping_add(near(position)),
    };
    let mut raw = Vec::new();
    if stamp & 2 != 0 {
        // Timestamps, correct or nearly so.
        raw.extend([8, 10, 0, 0, 0, stamp >> 2]);
        raw.extend([0, 0, input.byte(), input.byte()]);
    }
    if stamp & 4 != 0 && flags & flag::SYN != 0 {
        raw.extend([4, 2, 3, 3, stamp >> 4]);
    } else if stamp & 4 != 0 {
        let number = |number: u16| peer.initial.1.wrapping_add(u32::from(number)).to_be_bytes();
        raw.extend([5, 10]);
        raw.extend(number(input.short()).into_iter().chain(number(input.short())));
    }
    if stamp & 8 != 0 {
        raw.extend((0..usize::from(input.byte()) % 24).map(|_| input.byte()));
    }
    raw.truncate(40);
    raw.resize(raw.len().next_multiple_of(4), 0);
    let mut bytes = vec![0; 20];
    bytes[0..2].copy_from_slice(&peer.flow.peer_port.to_be_bytes());
    bytes[2..4].copy_from_slice(&peer.flow.local_port.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    let acknowledgement = peer.initial.1.wrapping_add(near(acknowledged));
    bytes[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    bytes[12] = ((20 + raw.len()) as u8 / 4) << 4;
    bytes[13] = flags;
    bytes[14..16].copy_from_slice(&window.to_be_bytes());
    bytes[18..20].copy_from_slice(&u16::from(stamp).to_be_bytes());
    bytes.extend(raw);
    let first = i64::from(sequence.wrapping_sub(peer.initial.0) as i32) - i64::from(flags & flag::SYN == 0);
    bytes.extend((0..len as i64 * 8).map(|offset| byte(0, (first + offset) as u64)));
    let segment = if len > 8 && stamp & 16 != 0 { 64 } else { 0 };
    host.deliver(now, &Datagram { src: peer.flow.peer, dst: peer.flow.local, bytes, segment });
}

fn open(host: &mut Host, now: Instant, peer: &mut Peer, options: Options) {
    if let Ok(handle) = host.tcp.connect(now, peer.flow, host.path, host.size, &options) {
        host.streams.insert(handle, Stream::new(host.size));
        peer.active = true;
    }
}

/// A call of a program on one of its streams.
fn program(host: &mut Host, now: Instant, choice: u8, which: u8, input: &mut Input<'_>) {
    let open = host.streams.iter().filter(|(_, stream)| !stream.gone).map(|(handle, _)| *handle);
    let open: Vec<Handle> = open.collect();
    if open.is_empty() {
        return;
    }
    let handle = open[usize::from(which) % open.len()];
    let path = host.path;
    let stream = host.streams.get_mut(&handle).expect("it was listed");
    match choice {
        11 => stream.goal += if stream.then_shut { 0 } else { u64::from(input.short()) },
        12 => stream.reads = !stream.reads,
        13 => match input.byte() % 4 {
            0 => stream.then_shut = true,
            1 if stream.written > stream.acknowledged => host.tcp.urgent(now, handle, stream.written),
            2 => host.tcp.set_options(now, handle, &options(input.byte())),
            _ => {
                let mtu = 1500 - u32::from(input.byte()) * 4;
                host.tcp.set_path(now, handle, Path { mtu, ..path });
            }
        },
        14 => host.close(now, handle),
        _ => host.abort(now, handle),
    }
}

/// Two engines over a bad wire, and programs that do whatever is possible: bytes arrive as they were sent, and once all is
/// closed nothing is left.
pub fn tcp_ops(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (knobs, sizes, seed) = (input.byte(), input.byte(), input.byte());
    let mut pair = Pair::new(u64::from(seed));
    pair.wire.loss = [0.0, 0.01, 0.1, 0.3][usize::from(knobs & 3)];
    pair.wire.duplication = if knobs & 4 != 0 { 0.1 } else { 0.0 };
    pair.wire.reordering.0 = if knobs & 8 != 0 { 0.2 } else { 0.0 };
    pair.wire.reordering.1 = Duration::from_millis(15);
    pair.wire.whole = knobs & 16 != 0;
    pair.hosts[0].size = 1 << (10 + sizes % 8);
    pair.hosts[1].size = 1 << (10 + sizes / 8 % 8);
    pair.listen(options(sizes));
    let mut port = 40_000;
    for _ in 0..128 {
        let Some(operation) = input.next() else { break };
        let side = usize::from(operation >> 4 & 1);
        match operation & 15 {
            0..=2 => pair.run_for(pause(operation >> 5)),
            3 | 4 => pair.run_for(Duration::from_millis(25)),
            5 if port < 40_012 => {
                pair.connect(port, &options(input.byte()));
                port += 1;
            }
            6 => pair.hosts[1].full = operation >> 5 & 1 != 0,
            choice => {
                let now = pair.now;
                let choice = [11, 12, 13, 14, 11, 13, 15, 11][usize::from(choice % 8)];
                program(&mut pair.hosts[side], now, choice, operation >> 5, &mut input);
            }
        }
        pair.settle();
    }
    pair.wire.loss = 0.0;
    pair.hosts[1].full = false;
    for side in 0..2 {
        let (now, host) = (pair.now, &mut pair.hosts[side]);
        let handles: Vec<Handle> = host.streams.keys().copied().collect();
        handles.into_iter().for_each(|handle| host.close(now, handle));
    }
    // What a listener accepts from now on is closed as well.
    loop {
        pair.settle();
        let now = pair.now;
        for host in &mut pair.hosts {
            let handles: Vec<Handle> = host.streams.keys().copied().collect();
            handles.into_iter().for_each(|handle| host.close(now, handle));
        }
        pair.settle();
        if !pair.step() {
            break;
        }
        assert!(pair.elapsed() < Duration::from_secs(40_000), "it does not end: {pair:?}");
    }
    for host in &pair.hosts {
        let stats = host.tcp.stats();
        assert_eq!((stats.connections, stats.half_open, stats.time_wait), (0, 0, 0), "{pair:?}");
        assert!(host.streams.values().all(|stream| stream.released), "{pair:?}");
    }
}
