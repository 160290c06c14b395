//! `TCP_INFO`.

use super::{phase, told};
use crate::send::used;
use crate::socket::Held;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use freena_shm_ring::stream::Pipe;
use zerocopy::{Immutable, IntoBytes};

/// `struct tcp_info` of linux/tcp.h, as Linux 6.1 has it.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    scales: u8,
    flags: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

const _: () = assert!(size_of::<TcpInfo>() == 232);

/// Reordering that Linux reckons with from the start (`TCP_FASTRETRANS_THRESH`).
const REORDERING: u32 = 3;
/// Delayed acknowledgement, in microseconds (`TCP_ATO_MIN`).
const ATO: u32 = 40_000;

/// Fills it in from what the server tells, or of a joined connection from its rings.
pub(crate) fn get(held: &Held) -> TcpInfo {
    let info = told_by_server(held);
    if !held.is_joined() {
        return info;
    }
    let tail = |pipe: Pipe<'_>| pipe.tail().load(Ordering::Relaxed);
    let (sent, received) = (tail(held.tx_pipe()), tail(held.rx_pipe()));
    TcpInfo { bytes_acked: sent, bytes_sent: sent, bytes_received: received, notsent_bytes: 0, ..info }
}

fn told_by_server(held: &Held) -> TcpInfo {
    let told = told(held);
    let info = &told.info;
    let word = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let long = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let not_sent = held.page().tx_tail.0.load(Ordering::Relaxed).saturating_sub(long(&told.sent));
    TcpInfo {
        state: phase(held) as u8,
        backoff: word(&info.backoff).min(255) as u8,
        retransmits: word(&info.backoff).min(255) as u8,
        options: word(&info.options) as u8,
        scales: word(&info.scales) as u8,
        rto: word(&info.rto),
        ato: ATO,
        snd_mss: word(&info.send_mss),
        rcv_mss: word(&info.receive_mss),
        unacked: word(&info.in_flight),
        sacked: word(&info.sacked),
        lost: word(&info.lost),
        pmtu: word(&info.path_mtu),
        rcv_ssthresh: word(&info.receive_window),
        rtt: word(&info.srtt),
        rttvar: word(&info.rttvar),
        snd_ssthresh: word(&info.ssthresh),
        snd_cwnd: word(&info.cwnd),
        advmss: word(&info.path_mtu).saturating_sub(40),
        reordering: REORDERING,
        rcv_space: word(&info.receive_window),
        total_retrans: word(&info.retransmitted),
        pacing_rate: u64::MAX,
        max_pacing_rate: u64::MAX,
        bytes_acked: long(&info.bytes_acked),
        bytes_received: long(&info.bytes_received),
        segs_out: long(&info.segments_out) as u32,
        segs_in: long(&info.segments_in) as u32,
        notsent_bytes: (not_sent as u32).min(used(held) as u32),
        min_rtt: word(&info.srtt).saturating_sub(word(&info.rttvar)),
        bytes_sent: long(&info.bytes_sent),
        bytes_retrans: long(&info.bytes_retransmitted),
        snd_wnd: word(&info.send_window),
        ..TcpInfo::default()
    }
}
