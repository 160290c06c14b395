//! Half-open connections of listeners: the state `SYN_RECEIVED`, in a compact record.

use crate::connection::{Agreed, PASSIVE_SCALE, own_mss};
use crate::segment::{Head, Segment};
use crate::{Flow, ListenerKey, Options, Path, Transmit};
use freena_wire::tcp::{self, flag};
use std::time::{Duration, Instant};

/// First wait for the handshake's last segment (RFC 6298 section 2.1).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Linux's `tcp_synack_retries`.
const MAX_RETRIES: u32 = 5;

#[derive(Debug)]
pub(crate) struct HalfOpen {
    pub(crate) flow: Flow,
    pub(crate) listener: ListenerKey,
    pub(crate) path: Path,
    initial: u32,
    peer_initial: u32,
    peer_mss: Option<u16>,
    peer_scale: Option<u8>,
    pub(crate) sack: bool,
    /// The peer's timestamp.
    recent: Option<u32>,
    clock_offset: u32,
    own_mss: u16,
    ttl: u8,
    tos: u8,
    at: Instant,
    retries: u32,
    /// How many waits must have passed before a connection without data counts (`TCP_DEFER_ACCEPT`).
    deferred: u32,
    /// Whether the handshake's last segment has come and was put aside for that.
    acknowledged: bool,
    pub(crate) deadline: Instant,
    /// Its entry among the timers.
    pub(crate) timer: Option<Instant>,
}

/// What follows from a wait that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedOut {
    /// The SYN is answered again.
    AskAgain,
    /// Nothing yet.
    Wait,
    /// The connection will not be.
    Over,
}

impl HalfOpen {
    /// From a SYN.
    pub(crate) fn new(
        now: Instant,
        flow: Flow,
        (listener, options): (ListenerKey, &Options),
        path: Path,
        segment: &Segment<'_>,
        initial: u32,
        clock_offset: u32,
    ) -> Self {
        HalfOpen {
            flow,
            listener,
            path,
            initial,
            peer_initial: segment.sequence,
            peer_mss: segment.options.mss,
            peer_scale: segment.options.window_scale,
            sack: segment.options.sack_permitted,
            recent: segment.options.timestamps.map(|(value, _)| value),
            clock_offset,
            own_mss: own_mss(&flow, &path, options),
            ttl: options.ttl,
            tos: options.tos,
            at: now,
            retries: 0,
            deferred: options.defer_accept.into(),
            acknowledged: false,
            deadline: now + FIRST_WAIT,
            timer: None,
        }
    }

    /// The SYN's answer. `stamp`: our timestamp.
    pub(crate) fn answer(&self, stamp: u32) -> Transmit {
        let options = tcp::Options {
            mss: Some(self.own_mss),
            window_scale: self.peer_scale.map(|_| PASSIVE_SCALE),
            sack_permitted: self.sack,
            timestamps: self.recent.map(|recent| (stamp, recent)),
            ..tcp::Options::default()
        };
        let head = Head {
            sequence: self.initial,
            acknowledgement: self.peer_initial.wrapping_add(1),
            flags: flag::SYN | flag::ACK,
            window: 0xffff,
            urgent: 0,
            options,
        };
        Transmit { ttl: self.ttl, tos: self.tos, ..head.alone(self.flow) }
    }

    /// Our timestamp at a moment.
    pub(crate) fn stamp(&self, clock: u32) -> u32 {
        clock.wrapping_add(self.clock_offset)
    }

    /// Whether the segment lies within the window that was offered, from the SYN on.
    pub(crate) fn is_in_window(&self, segment: &Segment<'_>) -> bool {
        segment.sequence.wrapping_sub(self.peer_initial.wrapping_add(1)) <= 0xffff
    }

    /// Whether a reset is exactly right (RFC 5961 section 3.2).
    pub(crate) fn is_next(&self, segment: &Segment<'_>) -> bool {
        segment.sequence == self.peer_initial.wrapping_add(1)
    }

    /// Whether it is the SYN again.
    pub(crate) fn is_same_syn(&self, segment: &Segment<'_>) -> bool {
        segment.sequence == self.peer_initial
    }

    /// Whether the segment acknowledges our SYN and nothing else.
    pub(crate) fn is_acknowledged(&self, segment: &Segment<'_>) -> bool {
        segment.acknowledgement == self.initial.wrapping_add(1)
    }

    /// Whether the number is our SYN's.
    pub(crate) fn is_initial(&self, sequence: u32) -> bool {
        sequence == self.initial
    }

    /// RFC 7323 section 5.3: an old duplicate.
    pub(crate) fn is_old(&self, segment: &Segment<'_>) -> bool {
        match (self.recent, segment.options.timestamps) {
            (Some(recent), Some((value, _))) => (value.wrapping_sub(recent) as i32) < 0,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Whether the segment, which completes the handshake, is put aside because it brings no data: the connection is there
    /// when data is, or when the time of `TCP_DEFER_ACCEPT` is over.
    pub(crate) fn defer(&mut self, segment: &Segment<'_>) -> bool {
        let bare = segment.payload.is_empty() && !segment.has(flag::FIN);
        let deferred = bare && self.retries < self.deferred;
        self.acknowledged |= deferred;
        deferred
    }

    /// A wait has passed without what was waited for.
    pub(crate) fn timed_out(&mut self, now: Instant) -> TimedOut {
        let passed = self.retries;
        // `syn_ack_recalc` of Linux: who has answered is asked again at the end of the time of `TCP_DEFER_ACCEPT` only, so
        // that there is a segment to accept the connection with.
        let may_be_deferred = self.acknowledged && passed < self.deferred;
        if passed >= MAX_RETRIES && !may_be_deferred {
            return TimedOut::Over;
        }
        self.retries += 1;
        self.deadline = now + FIRST_WAIT * (1 << self.retries.min(7));
        if self.acknowledged && self.retries < self.deferred { TimedOut::Wait } else { TimedOut::AskAgain }
    }

    /// What was agreed upon. `segment` completes the handshake.
    pub(crate) fn agreed(&self, now: Instant, segment: &Segment<'_>) -> Agreed {
        Agreed {
            initial: (self.initial, self.peer_initial),
            mss: self.peer_mss,
            scales: self.peer_scale.map(|scale| (PASSIVE_SCALE, scale)),
            sack: self.sack,
            timestamp: self.recent.and(segment.options.timestamps).map(|(value, _)| value),
            clock_offset: self.clock_offset,
            rtt: (self.retries == 0).then(|| now.saturating_duration_since(self.at)),
            retried: self.retries > 0,
        }
    }
}
