//! Bytes arrive as they were sent, whatever the wire does.

mod support;

use freena_tcp::{Congestion, Options, State};
use std::time::Duration;
use support::Pair;

const MB: u64 = 1 << 20;

/// Sends both ways, ends both directions, and waits until all is over.
fn exchange(pair: &mut Pair, options: Options, bytes: [u64; 2]) -> Duration {
    let (client, server) = pair.establish(options);
    for (side, handle) in [(0, client), (1, server)] {
        let stream = pair.stream(side, handle);
        stream.goal = bytes[side];
        stream.then_shut = true;
    }
    let begin = pair.now;
    pair.run_until(Duration::from_secs(36_000), |pair| {
        pair.hosts.iter().all(|host| host.streams.values().all(|stream| stream.closed))
    });
    let took = pair.now - begin;
    for (side, handle) in [(0, client), (1, server)] {
        let peer_bytes = bytes[1 - side];
        let stream = pair.stream(side, handle);
        assert_eq!((stream.readable, stream.acknowledged), (peer_bytes, bytes[side]));
    }
    let states = [pair.hosts[0].tcp.state(client), pair.hosts[1].tcp.state(server)];
    assert!(states.contains(&Some(State::TimeWait)), "{states:?}");
    for (side, handle) in [(0, client), (1, server)] {
        let now = pair.now;
        pair.hosts[side].close(now, handle);
    }
    pair.run_for(Duration::from_secs(200));
    for host in &pair.hosts {
        let stats = host.tcp.stats();
        assert_eq!((stats.connections, stats.half_open, stats.time_wait), (0, 0, 0), "nothing is left");
        assert_eq!(host.tcp.poll_timeout(), None);
        assert!(host.streams.values().all(|stream| stream.released));
    }
    took
}

#[test]
fn a_perfect_wire() {
    for whole in [false, true] {
        let mut pair = Pair::new(1);
        pair.wire.whole = whole;
        let took = exchange(&mut pair, Options::default(), [8 * MB, 0]);
        let stats = pair.hosts[0].tcp.stats();
        assert_eq!(stats.retransmitted, 0);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn both_ways_with_loss() {
    for (seed, loss) in [(1, 0.001), (2, 0.01), (3, 0.05)] {
        for congestion in [Congestion::Cubic, Congestion::NewReno] {
            let mut pair = Pair::new(seed);
            pair.wire.loss = loss;
            let took = exchange(&mut pair, Options { congestion, ..Options::default() }, [4 * MB, 3 * MB]);
            println!("{loss} {congestion:?}: {took:?}");
        }
    }
}

#[test]
fn reordering_and_duplication() {
    for seed in 0..4 {
        let mut pair = Pair::new(seed);
        pair.wire.loss = 0.005;
        pair.wire.duplication = 0.02;
        pair.wire.reordering = (0.1, Duration::from_millis(8));
        pair.wire.whole = seed % 2 == 0;
        exchange(&mut pair, Options::default(), [2 * MB, 2 * MB]);
    }
}

#[test]
fn small_buffers() {
    for (seed, size) in [(1, 4096), (2, 8192), (3, 65_536)] {
        let mut pair = Pair::new(seed);
        pair.hosts[0].size = size;
        pair.hosts[1].size = size;
        pair.wire.loss = 0.01;
        exchange(&mut pair, Options::default(), [MB, MB / 2]);
    }
}
