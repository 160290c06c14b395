//! Streams in the status document. What a page tells is read as it is: it is shown, and decides nothing.

use super::super::requests::socket_name;
use super::Control;
use crate::stream::Stream;
use freena_shm_abi::stream::{congestion, state};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How a joined connection's data go.
const JOINED: &str = "local, one memory for both programs";

/// A listener.
#[derive(Serialize)]
pub(in super::super) struct ListenerStatus {
    id: u64,
    pid: i32,
    program: String,
    protocol: String,
    local: String,
    path: String,
    reason: String,
    worker: usize,
}

/// A connection. Times in microseconds, windows of congestion control in segments, all else in bytes.
#[derive(Serialize)]
pub(in super::super) struct ConnectionStatus {
    id: u64,
    pid: i32,
    program: String,
    protocol: String,
    local: String,
    peer: String,
    state: &'static str,
    path: String,
    reason: String,
    worker: usize,
    congestion: &'static str,
    srtt_us: u32,
    rttvar_us: u32,
    rto_us: u32,
    cwnd: u32,
    ssthresh: Option<u32>,
    mss: u32,
    path_mtu: u32,
    in_flight: u32,
    lost: u32,
    retransmitted: u32,
    send_window: u32,
    receive_window: u32,
    /// Written by the program and not acknowledged by the peer.
    tx_queue_bytes: u64,
    /// Of these, never sent.
    tx_unsent_bytes: u64,
    /// Arrived and not read.
    rx_queue_bytes: u64,
    bytes_sent: u64,
    bytes_received: u64,
    bytes_retransmitted: u64,
    segments_out: u64,
    segments_in: u64,
    tx_ring_bytes: u32,
    rx_ring_bytes: u32,
}

impl Control {
    /// All listeners and connections; `path` says in words how the fast path carries data.
    pub(in super::super) fn streams_status(
        &self,
        path: &str,
    ) -> (Vec<ListenerStatus>, Vec<ConnectionStatus>) {
        let (mut listeners, mut connections) = (Vec::new(), Vec::new());
        for stream in self.registry.all() {
            match stream.peer {
                None => listeners.push(listener(&stream, self.protocol_names(&stream), path)),
                Some(peer) => {
                    connections.push(connection(&stream, self.protocol_name(stream.protocol()), peer, path))
                }
            }
        }
        (listeners, connections)
    }
}

fn listener(stream: &Stream, protocol: String, path: &str) -> ListenerStatus {
    ListenerStatus {
        id: stream.id,
        pid: stream.owner.pid,
        program: stream.owner.program.clone(),
        protocol,
        local: socket_name(stream.local.0, stream.local.1),
        path: path.to_owned(),
        reason: stream.owner.reason.clone(),
        worker: stream.home,
    }
}

fn connection(stream: &Stream, protocol: String, peer: (IpAddr, u16), path: &str) -> ConnectionStatus {
    let page = stream.memory.page();
    let (told, asked) = (&page.stream.told, &page.stream.asked);
    let info = &told.info;
    let get = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let get64 = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let (tx, rx, sizes) = (stream.memory.tx_pipe(), stream.memory.rx_pipe(), stream.memory.sizes());
    // The program may write anything there; more than the ring holds is nonsense.
    let between = |tail: u64, head: u64, size: u32| {
        Some(tail.wrapping_sub(head)).filter(|n| *n <= size.into()).unwrap_or(0)
    };
    let written = get64(tx.tail());
    let joined = stream.memory.is_joined();
    ConnectionStatus {
        id: stream.id,
        pid: stream.owner.pid,
        program: stream.owner.program.clone(),
        protocol,
        local: socket_name(stream.local.0, stream.local.1),
        peer: socket_name(peer.0, peer.1),
        state: state_name(get(&told.state)),
        path: if joined { JOINED.to_owned() } else { path.to_owned() },
        reason: stream.owner.reason.clone(),
        worker: stream.home,
        congestion: match get(&asked.congestion) {
            congestion::RENO => "reno",
            // As the engine has it, which runs this for whatever it does not know.
            _ => "cubic",
        },
        srtt_us: get(&info.srtt),
        rttvar_us: get(&info.rttvar),
        rto_us: get(&info.rto),
        cwnd: get(&info.cwnd),
        ssthresh: Some(get(&info.ssthresh)).filter(|value| *value != u32::MAX),
        mss: get(&info.send_mss),
        path_mtu: get(&info.path_mtu),
        in_flight: get(&info.in_flight),
        lost: get(&info.lost),
        retransmitted: get(&info.retransmitted),
        send_window: get(&info.send_window),
        receive_window: get(&info.receive_window),
        // What a peer on this host has not read is in its memory already.
        tx_queue_bytes: if joined { 0 } else { between(written, get64(tx.head()), sizes.tx) },
        tx_unsent_bytes: if joined { 0 } else { between(written, get64(&told.sent), sizes.tx) },
        rx_queue_bytes: between(get64(rx.tail()), get64(rx.head()), sizes.rx),
        bytes_sent: if joined { written } else { get64(&info.bytes_sent) },
        bytes_received: if joined { get64(rx.tail()) } else { get64(&info.bytes_received) },
        bytes_retransmitted: get64(&info.bytes_retransmitted),
        segments_out: get64(&info.segments_out),
        segments_in: get64(&info.segments_in),
        tx_ring_bytes: sizes.tx,
        rx_ring_bytes: sizes.rx,
    }
}

/// The names of RFC 9293.
fn state_name(number: u32) -> &'static str {
    match number {
        state::ESTABLISHED => "established",
        state::SYN_SENT => "syn-sent",
        state::SYN_RECEIVED => "syn-received",
        state::FIN_WAIT_1 => "fin-wait-1",
        state::FIN_WAIT_2 => "fin-wait-2",
        state::TIME_WAIT => "time-wait",
        state::CLOSED => "closed",
        state::CLOSE_WAIT => "close-wait",
        state::LAST_ACK => "last-ack",
        state::LISTEN => "listen",
        state::CLOSING => "closing",
        _ => "none",
    }
}

/// The engine's counters by name.
pub(in super::super) fn counters(stats: &freena_tcp::Stats) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("connections", stats.connections),
        ("half_open", stats.half_open),
        ("time_wait", stats.time_wait),
        ("active_opens", stats.active_opens),
        ("passive_opens", stats.passive_opens),
        ("failed_opens", stats.failed_opens),
        ("resets", stats.resets),
        ("segments_in", stats.segments_in),
        ("segments_out", stats.segments_out),
        ("retransmitted", stats.retransmitted),
        ("resets_out", stats.resets_out),
        ("malformed", stats.malformed),
        ("bad_checksum", stats.checksum),
        ("no_socket", stats.no_socket),
        ("unacceptable", stats.unacceptable),
        ("backlog", stats.backlog),
        ("cookies_sent", stats.cookies_sent),
        ("cookies_accepted", stats.cookies_accepted),
        ("challenges", stats.challenges),
    ])
}
