//! What every stream protocol must do, whoever has written it: run against TCP, SCTP, QUIC and the example in C.

mod support;

use freena_sctp::Sctp;
use freena_sim::{Config, Impairments};
use freena_stack_api::stream::{Failure, Handle, IcmpError, Options, Path, Protocol};
use freena_tcp::Tcp;
use std::time::Duration;
use support::{BUFFER, Kind, Pair, build};

fn tcp() -> Kind {
    Kind {
        make: |secret, _| {
            let config =
                freena_tcp::Config { secret, max_connections: 64, max_half_open: 64, max_time_wait: 64 };
            Box::new(Tcp::new(config)) as Box<dyn Protocol>
        },
        ip_protocol: 6,
        checksum: Some(16),
        probes: false,
    }
}

fn sctp() -> Kind {
    Kind {
        make: |secret, _| Box::new(Sctp::new(freena_sctp::Config { secret, max_connections: 64 })),
        ip_protocol: 132,
        checksum: None,
        probes: true,
    }
}

fn steady() -> Kind {
    Kind {
        make: |secret, now| {
            let config = freena_plugin::Config { secret, max_connections: 64 };
            Box::new(freena_plugin::Engine::new(build::steady(), config, now).expect("an engine"))
        },
        ip_protocol: 253,
        checksum: Some(30),
        probes: false,
    }
}

fn quic() -> Kind {
    Kind {
        make: |secret, _| Box::new(support::quic::engine(secret)),
        ip_protocol: 17,
        checksum: Some(6),
        probes: false,
    }
}

/// Both directions at once, each ended behind its last byte; then nothing is left.
fn transfers(kind: Kind, config: Config, bytes: u64) {
    let (mut pair, client, server) = Pair::established(kind, config);
    for (side, handle) in [(0, client), (1, server)] {
        let stream = pair.stream(side, handle);
        (stream.goal, stream.then_shut) = (bytes, true);
    }
    pair.until(600, |pair| {
        [(0, client), (1, server)].iter().all(|(side, handle)| {
            let it = &pair.hosts[*side].streams[handle];
            it.received == bytes && it.acknowledged == bytes && it.peer_closed && it.closed
        })
    });
    pair.close(0, client);
    pair.close(1, server);
    pair.until(300, |pair| {
        pair.hosts[0].streams[&client].released && pair.hosts[1].streams[&server].released
    });
    pair.quiet(300);
    for host in &pair.hosts {
        assert_eq!(host.engine.stats().connections, 0);
        assert!(host.streams.values().all(|it| it.failed.is_none()));
    }
}

fn on_a_good_wire(kind: Kind) {
    transfers(kind, Config::default(), 3_000_000);
}

fn on_a_bad_wire(kind: fn() -> Kind) {
    for seed in 0..4 {
        let impairments = Impairments {
            loss: 0.02,
            duplicate: 0.02,
            reorder: 0.05,
            corrupt: 0.01,
            jitter: Duration::from_micros(300),
            ..Impairments::default()
        };
        transfers(kind(), Config { seed, impairments, ..Config::default() }, 400_000);
    }
}

fn one_direction_may_end_before_the_other(kind: Kind) {
    let (mut pair, client, server) = Pair::established(kind, Config::default());
    let stream = pair.stream(0, client);
    (stream.goal, stream.then_shut) = (1000, true);
    pair.until(10, |pair| pair.hosts[1].streams[&server].peer_closed);
    assert_eq!(pair.stream(1, server).received, 1000);
    // However long that is.
    pair.quiet(1200);
    pair.stream(1, server).goal = 500_000;
    pair.until(60, |pair| pair.hosts[0].streams[&client].received == 500_000);
    assert!(!pair.stream(0, client).peer_closed && !pair.stream(1, server).closed);
    pair.stream(1, server).then_shut = true;
    pair.until(60, |pair| pair.hosts[0].streams[&client].closed && pair.hosts[1].streams[&server].closed);
}

fn an_abort_resets(kind: Kind) {
    let (mut pair, client, server) = Pair::established(kind, Config::default());
    let now = pair.clock.now();
    pair.hosts[0].engine.abort(now, client);
    pair.until(10, |pair| {
        pair.hosts[1].streams[&server].failed == Some(Failure::Reset)
            && pair.hosts[0].streams[&client].released
    });
    pair.close(1, server);
    pair.until(10, |pair| pair.hosts[1].streams[&server].released);
}

fn unread_bytes_reset(kind: Kind) {
    let (mut pair, client, server) = Pair::established(kind, Config::default());
    pair.stream(1, server).stalled = true;
    pair.stream(0, client).goal = 5000;
    pair.until(10, |pair| pair.hosts[1].streams[&server].received == 5000);
    pair.close(1, server);
    pair.until(10, |pair| pair.hosts[0].streams[&client].failed == Some(Failure::Reset));
}

fn nobody_listens(kind: Kind) {
    let mut pair = Pair::new(kind, Config::default());
    let client = pair.connect(4000);
    pair.until(60, |pair| pair.hosts[0].streams[&client].failed == Some(Failure::Refused));
    pair.close(0, client);
    pair.until(60, |pair| pair.hosts[0].streams[&client].released);
}

fn nobody_answers(kind: Kind) {
    let impairments = Impairments { loss: 1.0, ..Impairments::default() };
    let mut pair = Pair::new(kind, Config { impairments, ..Config::default() });
    let client = pair.connect(4000);
    pair.until(600, |pair| pair.hosts[0].streams[&client].failed == Some(Failure::TimedOut));
}

fn a_full_queue_makes_peers_wait(kind: Kind) {
    let mut pair = Pair::new(kind, Config::default());
    pair.hosts[1].backlog = 1;
    pair.listen();
    let [one, two] = [4000, 4001].map(|port| pair.connect(port));
    pair.quiet(2);
    assert_eq!(pair.hosts[1].accepted.len(), 1);
    pair.hosts[1].backlog = 2;
    pair.until(60, |pair| {
        let connected = |handle| pair.hosts[0].streams[handle].connected;
        pair.hosts[1].accepted.len() == 2 && connected(&one) && connected(&two)
    });
}

fn a_slow_reader_holds_the_writer(kind: Kind) {
    let (mut pair, client, server) = Pair::established(kind, Config::default());
    pair.stream(1, server).stalled = true;
    pair.stream(0, client).goal = 3 * BUFFER;
    pair.quiet(30);
    let received = pair.stream(1, server).received;
    assert!(received <= BUFFER && received > BUFFER / 2, "{received} of {BUFFER}");
    assert!(pair.stream(0, client).failed.is_none());
    pair.stream(1, server).stalled = false;
    pair.until(120, |pair| pair.hosts[1].streams[&server].received == 3 * BUFFER);
}

/// An idle connection costs nothing: no packets, and no deadline that is always due.
fn idle_is_quiet(kind: Kind) {
    let (mut pair, _, _) = Pair::established(kind, Config::default());
    pair.quiet(5);
    let before: Vec<(u64, u64)> = pair.hosts.iter().map(|host| (host.sent, host.timeouts)).collect();
    let minutes = 10;
    pair.quiet(60 * minutes);
    // A probe each half minute, and the answer to the peer's.
    let most = if pair.kind.probes { 4 * minutes } else { 0 };
    for (host, (sent, timeouts)) in pair.hosts.iter().zip(before) {
        let (sent, timeouts) = (host.sent - sent, host.timeouts - timeouts);
        assert!(sent <= most && timeouts <= most + 2, "{sent} packets, {timeouts} timeouts");
    }
}

/// Makes the checksum of a packet from side 0 right: the Internet's, or else that of SCTP.
fn put_checksum(kind: &Kind, bytes: &mut [u8]) {
    match kind.checksum.map(usize::from) {
        Some(at) if bytes.len() >= at + 2 => {
            bytes[at..at + 2].fill(0);
            let (local, peer) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
            let sum = freena_wire::checksum::pseudo(peer, local, kind.ip_protocol, bytes.len() as u16);
            let sum = sum.expect("one version").bytes(bytes).checksum();
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        None if bytes.len() >= 12 => {
            bytes[8..12].fill(0);
            let sum = crc32c::crc32c(bytes).to_le_bytes();
            bytes[8..12].copy_from_slice(&sum);
        }
        _ => {}
    }
}

fn garbage_harms_nobody(kind: Kind) {
    let (mut pair, client, server) = Pair::established(kind, Config::default());
    pair.stream(0, client).goal = 2_000_000;
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..3000 {
        let mut bytes: Vec<u8> = (0..random() % 120).map(|_| random() as u8).collect();
        if bytes.len() > 4 && round % 2 == 0 {
            // Of the connection, as far as the ports tell.
            let ports = [4000u16.to_be_bytes(), 80u16.to_be_bytes()].concat();
            bytes[..4].copy_from_slice(&ports);
        }
        if round % 3 != 0 {
            put_checksum(&pair.kind, &mut bytes);
        }
        pair.inject(1, &bytes);
        if round % 50 == 0 {
            pair.step();
        }
    }
    pair.until(120, |pair| pair.hosts[1].streams[&server].received == 2_000_000);
    assert!(pair.stream(0, client).failed.is_none());
}

/// What programs and routers may do, in any order, on a bad wire; afterwards everything can be closed, and a new connection
/// works.
fn calls_in_any_order_harm_nobody(kind: fn() -> Kind) {
    for seed in 1..=12u64 {
        let impairments =
            Impairments { loss: 0.02, duplicate: 0.02, reorder: 0.05, ..Impairments::default() };
        let mut pair = Pair::new(kind(), Config { impairments, seed, ..Config::default() });
        pair.hosts[1].backlog = usize::MAX;
        pair.listen();
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let mut port = 4000;
        for _ in 0..600 {
            let now = pair.clock.now();
            let side = random() % 2;
            let mut open: Vec<Handle> = pair.hosts[side]
                .streams
                .iter()
                .filter(|(_, it)| !it.done && !it.released)
                .map(|(handle, _)| *handle)
                .collect();
            open.sort_unstable_by_key(|handle| handle.0);
            let handle = (!open.is_empty()).then(|| open[random() % open.len()]);
            match (random() % 16, handle) {
                (0..=1, _) if open.len() < 24 => {
                    port += 1;
                    pair.connect(port);
                }
                (2..=4, Some(handle)) if !pair.stream(side, handle).then_shut => {
                    pair.stream(side, handle).goal += random() as u64 % 50_000;
                }
                (5, Some(handle)) => pair.stream(side, handle).then_shut = true,
                (6, Some(handle)) => pair.close(side, handle),
                (7, Some(handle)) => pair.abort(side, handle),
                (8, Some(handle)) => {
                    let it = pair.stream(side, handle);
                    it.stalled = !it.stalled;
                }
                (9, Some(handle)) => {
                    let options =
                        Options { no_delay: random() % 2 == 0, ttl: random() as u8, ..Options::default() };
                    pair.hosts[side].engine.set_options(now, handle, &options);
                }
                (10, Some(handle)) => {
                    let mtu = [576, 1280, 1500][random() % 3];
                    pair.hosts[side].engine.set_path(
                        now,
                        handle,
                        Path { mtu, max_burst: mtu, max_segments: 1 },
                    );
                }
                (11, _) => {
                    let errors = [IcmpError::Network, IcmpError::Host, IcmpError::Port, IcmpError::Protocol];
                    let flow = Pair::flow(4000 + random() as u16 % 64);
                    let quoted =
                        [flow.local_port.to_be_bytes(), flow.peer_port.to_be_bytes(), [0; 2], [0; 2]]
                            .concat();
                    let quoted = quoted.try_into().expect("8 bytes");
                    pair.hosts[0].engine.handle_icmp(now, &flow, quoted, errors[random() % 4]);
                }
                (12, _) => pair.hosts[1].engine.unlisten(3),
                (13, _) => pair.listen(),
                _ => {
                    for _ in 0..random() % 20 {
                        pair.step();
                    }
                }
            }
            pair.settle();
        }
        pair.listen();
        for side in [0, 1] {
            let open = pair.hosts[side].streams.iter().filter(|(_, it)| !it.done && !it.released);
            for handle in open.map(|(handle, _)| *handle).collect::<Vec<_>>() {
                pair.close(side, handle);
            }
        }
        // What peers had begun may still be accepted.
        pair.quiet(900);
        let late = pair.hosts[1].streams.iter().filter(|(_, it)| !it.done && !it.released);
        for handle in late.map(|(handle, _)| *handle).collect::<Vec<_>>() {
            pair.close(1, handle);
        }
        pair.quiet(900);
        let accepted = pair.hosts[1].accepted.len();
        let client = pair.connect(3999);
        pair.stream(0, client).goal = 100_000;
        pair.until(120, |pair| {
            let server = pair.hosts[1].accepted.get(accepted);
            server.is_some_and(|server| pair.hosts[1].streams[server].received == 100_000)
        });
        for host in &pair.hosts {
            let left = host.streams.values().filter(|it| !it.released).count();
            assert_eq!(left, 1, "seed {seed}: connections that are closed and not released\n{pair:?}");
        }
    }
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod tcp {
            $(#[test] fn $case() { super::$case(super::tcp()); })*
            #[test] fn on_a_bad_wire() { super::on_a_bad_wire(super::tcp); }
            #[test] fn calls_in_any_order_harm_nobody() { super::calls_in_any_order_harm_nobody(super::tcp); }
        }
        mod sctp {
            $(#[test] fn $case() { super::$case(super::sctp()); })*
            #[test] fn on_a_bad_wire() { super::on_a_bad_wire(super::sctp); }
            #[test] fn calls_in_any_order_harm_nobody() { super::calls_in_any_order_harm_nobody(super::sctp); }
        }
        mod steady {
            $(#[test] fn $case() { super::$case(super::steady()); })*
            #[test] fn on_a_bad_wire() { super::on_a_bad_wire(super::steady); }
            #[test] fn calls_in_any_order_harm_nobody() { super::calls_in_any_order_harm_nobody(super::steady); }
        }
        mod quic {
            $(#[test] fn $case() { super::$case(super::quic()); })*
            #[test] fn on_a_bad_wire() { super::on_a_bad_wire(super::quic); }
            #[test] fn calls_in_any_order_harm_nobody() { super::calls_in_any_order_harm_nobody(super::quic); }
        }
    };
}

suite!(
    on_a_good_wire,
    one_direction_may_end_before_the_other,
    an_abort_resets,
    unread_bytes_reset,
    nobody_listens,
    nobody_answers,
    a_full_queue_makes_peers_wait,
    a_slow_reader_holds_the_writer,
    idle_is_quiet,
    garbage_harms_nobody,
);

/// Its driver gives the port back then, and the kernel may choose it again at once.
#[test]
fn a_connection_of_quic_may_follow_one_that_is_released() {
    let (mut pair, client, server) = Pair::established(quic(), Config::default());
    (pair.stream(0, client).then_shut, pair.stream(1, server).then_shut) = (true, true);
    pair.until(10, |pair| pair.hosts[0].streams[&client].closed && pair.hosts[1].streams[&server].closed);
    pair.close(0, client);
    pair.until(10, |pair| pair.hosts[0].streams[&client].released);
    assert!(pair.hosts[0].engine.poll_timeout().is_some(), "late packets are still to be answered");
    let again = pair.connect(4000);
    pair.until(10, |pair| pair.hosts[0].streams[&again].connected && pair.hosts[1].accepted.len() == 2);
}
