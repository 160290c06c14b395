//! One association: its state, and the calls of its program. RFC 9260 section 4.

use crate::env::Env;
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::wire::{self, Init, cause, chunk};
use freena_stack_api::stream::{
    Event, Failure, Flow, Handle, IcmpError, Info, Options, Path, Refused, State, Transmit,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Streams offered in each direction. A program that has opened no SCTP socket sends on one; a peer may use all for its own.
pub(crate) const STREAMS: u16 = 2048;
/// Section 16: Association.Max.Retrans.
pub(crate) const MAX_ERRORS: u32 = 10;
/// Section 16: HB.interval.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// T5-shutdown-guard, five times RTO.Max: section 9.2.
const GUARD: Duration = Duration::from_secs(300);
/// How long a corked partial chunk waits: as tcp(7) has it.
const CORK: Duration = Duration::from_millis(200);
/// Chunks that wait to be sent besides data; more are not answered.
const MAX_CONTROL: usize = 8;

/// How far the handshake has come. What has ended of an established association is told by other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    CookieWait,
    CookieEchoed,
    Established,
    Closed,
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// Nothing was sent yet.
    None,
    /// SHUTDOWN was sent: SHUTDOWN-SENT.
    Shutdown,
    /// SHUTDOWN ACK was sent: SHUTDOWN-ACK-SENT.
    Acknowledged,
}

/// An association.
#[derive(Debug)]
pub(crate) struct Association {
    pub(crate) handle: Handle,
    pub(crate) flow: Flow,
    pub(crate) phase: Phase,
    pub(crate) options: Options,
    pub(crate) mtu: u32,
    /// Tag of packets to us, and our initial sequence number.
    pub(crate) tag: u32,
    pub(crate) initial: u32,
    /// Tag of packets to the peer, 0 while unknown.
    pub(crate) peer_tag: u32,
    pub(crate) buffer: u64,
    pub(crate) send: Sender,
    pub(crate) receive: Receiver,
    /// Whether the program reads and writes messages.
    pub(crate) framed: bool,
    /// Streams to send on, and those of the peer.
    pub(crate) streams: (u16, u16),
    /// End of what the program may see: whole messages, where it reads such.
    pub(crate) visible: u64,
    /// The peer's cookie, while it is to be echoed.
    pub(crate) cookie: Box<[u8]>,
    /// Parameters of the peer's that were not understood, to be reported.
    pub(crate) unknown: Vec<u8>,
    /// T1-init and T1-cookie, or T2-shutdown: one of them runs at a time.
    pub(crate) retry: Option<Instant>,
    /// The packet of the handshake, or the chunk of the shutdown, is to be sent.
    pub(crate) retry_due: bool,
    /// How often it was sent.
    pub(crate) tries: u32,
    pub(crate) init_at: Option<Instant>,
    /// Consecutive errors: section 8.1.
    pub(crate) errors: u32,
    /// Since when nothing was acknowledged, if a time-out has passed.
    pub(crate) stalled: Option<Instant>,
    pub(crate) control: VecDeque<Vec<u8>>,
    pub(crate) own_shut: bool,
    pub(crate) peer_shut: bool,
    pub(crate) farewell: Farewell,
    /// Whether the program has closed it.
    pub(crate) closed: bool,
    pub(crate) guard: Option<Instant>,
    pub(crate) heartbeat: Option<Instant>,
    /// The heartbeat that was not answered yet: its nonce, and when it was sent.
    pub(crate) beat: Option<(u32, Instant)>,
    /// Until when a corked partial chunk waits, and whether that is over.
    pub(crate) corked: Option<Instant>,
    pub(crate) uncorked: bool,
    pub(crate) soft_error: Option<IcmpError>,
    /// Whether packets find it.
    pub(crate) mapped: bool,
    pub(crate) queued: bool,
    pub(crate) timer: Option<Instant>,
    pub(crate) told_received: bool,
    pub(crate) told_acknowledged: bool,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) bytes_sent: u64,
}

/// The largest packet without its IP header.
fn room(flow: &Flow, mtu: u32) -> u64 {
    let header = if flow.peer.is_ipv4() { 20 } else { 40 };
    u64::from(mtu.clamp(256, 65_535)) - header
}

impl Association {
    fn new(
        handle: Handle,
        flow: Flow,
        path: Path,
        options: &Options,
        buffer: u64,
        (tag, initial): (u32, u32),
    ) -> Self {
        let mut receive = Receiver::new(0, buffer);
        receive.clamp = options.window_clamp.into();
        Association {
            handle,
            flow,
            phase: Phase::CookieWait,
            options: *options,
            mtu: path.mtu,
            tag,
            initial,
            peer_tag: 0,
            buffer,
            send: Sender::new(room(&flow, path.mtu), initial, options.messages),
            receive,
            framed: options.messages,
            streams: (STREAMS, STREAMS),
            visible: 0,
            cookie: Box::default(),
            unknown: Vec::new(),
            retry: None,
            retry_due: true,
            tries: 0,
            init_at: None,
            errors: 0,
            stalled: None,
            control: VecDeque::new(),
            own_shut: false,
            peer_shut: false,
            farewell: Farewell::None,
            closed: false,
            guard: None,
            heartbeat: None,
            beat: None,
            corked: None,
            uncorked: false,
            soft_error: None,
            mapped: true,
            queued: false,
            timer: None,
            told_received: false,
            told_acknowledged: false,
            packets_in: 0,
            packets_out: 0,
            bytes_sent: 0,
        }
    }

    /// One that this host opens.
    pub(crate) fn open(
        handle: Handle,
        flow: Flow,
        path: Path,
        options: &Options,
        buffer: u64,
        numbers: (u32, u32),
    ) -> Self {
        Self::new(handle, flow, path, options, buffer, numbers)
    }

    /// One that a peer has opened: its cookie came back. `told`: the window that INIT ACK has told.
    pub(crate) fn accepted(
        now: Instant,
        handle: Handle,
        (flow, path, options): (Flow, Path, &Options),
        buffer: u64,
        numbers: (u32, u32),
        peer: &Init,
        told: u64,
    ) -> Self {
        let mut made = Self::new(handle, flow, path, options, buffer, numbers);
        made.meet(peer, told);
        made.established(now);
        made.push_control(|to| wire::put_chunk(to, chunk::COOKIE_ACK, 0, |_| {}));
        made
    }

    /// Learns what the peer's INIT or INIT ACK has said.
    pub(crate) fn meet(&mut self, peer: &Init, told: u64) {
        self.peer_tag = peer.tag;
        self.streams = (STREAMS.min(peer.inbound), STREAMS.min(peer.outbound));
        self.send.peer_window = peer.window.into();
        self.receive = Receiver::new(peer.sequence, self.buffer);
        self.receive.clamp = self.options.window_clamp.into();
        self.receive.has_told(told);
    }

    /// The handshake is complete.
    pub(crate) fn established(&mut self, now: Instant) {
        self.phase = Phase::Established;
        self.cookie = Box::default();
        self.retry = None;
        self.retry_due = false;
        self.tries = 0;
        self.errors = 0;
        self.stalled = None;
        self.send.trip.backoff = 0;
        self.put_off_heartbeat(now);
    }

    /// Something was sent that will be answered: section 8.3.
    pub(crate) fn put_off_heartbeat(&mut self, now: Instant) {
        self.heartbeat = Some(now + HEARTBEAT + self.send.trip.rto());
    }

    /// Has a chunk sent with the next packet.
    pub(crate) fn push_control(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        if self.control.len() < MAX_CONTROL {
            let mut bytes = Vec::new();
            fill(&mut bytes);
            self.control.push_back(bytes);
        }
    }

    /// Own window as a handshake tells it.
    pub(crate) fn first_window(&self) -> u64 {
        self.receive.window().clamp(1500, u32::MAX.into())
    }

    pub(crate) fn written(&mut self, now: Instant, position: u64) -> Result<(), Refused> {
        if self.phase == Phase::Closed || self.own_shut {
            return Err(Refused::Over);
        }
        if position < self.send.written {
            return Err(Refused::Backwards);
        }
        self.send.written = position;
        if self.options.cork && !self.uncorked {
            self.corked.get_or_insert(now + CORK);
        }
        Ok(())
    }

    /// Whether a partial chunk waits: while others are on their way, or whatever is.
    pub(crate) fn holds(&self) -> (bool, bool) {
        let hold = !self.options.no_delay && !self.own_shut;
        let cork = self.options.cork && !self.own_shut && !self.uncorked;
        (hold, cork)
    }

    pub(crate) fn read(&mut self, env: &mut Env<'_>, position: u64) {
        if self.phase != Phase::Closed {
            self.receive.has_read(position);
            self.show(env, self.visible);
        }
    }

    /// The program may see what has arrived before `end`; and of a message that the buffer is too small for also its beginning
    /// (partial delivery, RFC 6458 section 6.1.7).
    pub(crate) fn show(&mut self, env: &mut Env<'_>, end: u64) {
        let stuck = self.receive.window() < self.buffer / 4 && end <= self.receive.read;
        let end = if stuck { self.receive.received } else { end };
        if end > self.visible {
            self.visible = end;
            env.events.received(self.handle, &mut self.told_received);
        }
    }

    pub(crate) fn shutdown(&mut self) {
        self.own_shut = true;
    }

    pub(crate) fn close(&mut self, env: &mut Env<'_>, unread: bool) {
        self.closed = true;
        match self.phase {
            // Section 9.1: as it never was.
            Phase::CookieWait => self.phase = Phase::Closed,
            Phase::CookieEchoed => self.abort(env, cause::USER_INITIATED),
            Phase::Established if unread => self.abort(env, cause::USER_INITIATED),
            Phase::Established => {
                self.own_shut = true;
                self.guard = Some(env.now + GUARD);
            }
            Phase::Closed => {}
        }
    }

    /// Ends it at once, and tells the peer.
    pub(crate) fn abort(&mut self, env: &mut Env<'_>, why: u16) {
        if matches!(self.phase, Phase::CookieEchoed | Phase::Established) {
            let mut chunks = Vec::new();
            wire::put_chunk(&mut chunks, chunk::ABORT, 0, |to| wire::put_parameter(to, why, &[]));
            env.stats.resets_out += 1;
            env.replies.push(self.transmit(chunks));
        }
        self.phase = Phase::Closed;
    }

    /// It is over by an error.
    pub(crate) fn fail(&mut self, env: &mut Env<'_>, failure: Failure) {
        if self.phase == Phase::Closed {
            return;
        }
        match self.phase {
            Phase::Established => env.stats.resets += 1,
            _ => env.stats.failed_opens += 1,
        }
        self.phase = Phase::Closed;
        if !self.closed {
            env.events.push(Event::Failed(self.handle, failure));
        }
    }

    /// Too much has gone unanswered.
    pub(crate) fn give_up(&mut self, env: &mut Env<'_>) {
        let failure = self.soft_error.map_or(Failure::TimedOut, Failure::Unreachable);
        if self.phase == Phase::Established {
            let before = self.phase;
            self.abort(env, cause::USER_INITIATED);
            self.phase = before;
        }
        self.fail(env, failure);
    }

    /// Both directions have ended.
    pub(crate) fn over(&mut self, env: &mut Env<'_>) {
        self.peer_is_done(env);
        self.phase = Phase::Closed;
        if !self.closed {
            env.events.push(Event::Closed(self.handle));
        }
    }

    /// The peer sends nothing more.
    pub(crate) fn peer_is_done(&mut self, env: &mut Env<'_>) {
        if !std::mem::replace(&mut self.peer_shut, true) && !self.closed {
            env.events.push(Event::PeerClosed(self.handle));
        }
    }

    /// An ICMP error that quotes a packet of this flow with this tag: RFC 9260 section 10.
    pub(crate) fn icmp(&mut self, env: &mut Env<'_>, tag: u32, error: IcmpError) {
        let expected = if self.phase == Phase::CookieWait { 0 } else { self.peer_tag };
        if tag != expected || self.phase == Phase::Closed {
            return;
        }
        if self.phase == Phase::CookieWait {
            self.fail(env, Failure::Unreachable(error));
        } else {
            self.soft_error = Some(error);
            env.events.push(Event::SoftError(self.handle, error));
        }
    }

    pub(crate) fn set_path(&mut self, path: Path) {
        self.mtu = path.mtu;
        self.send.set_room(room(&self.flow, path.mtu));
    }

    pub(crate) fn set_options(&mut self, options: &Options) {
        if !options.cork {
            (self.corked, self.uncorked) = (None, false);
        }
        self.receive.clamp = options.window_clamp.into();
        self.options = *options;
    }

    /// A packet of this association.
    pub(crate) fn transmit(&self, chunks: Vec<u8>) -> Transmit {
        crate::env::packet(self.flow, self.peer_tag, chunks, (self.options.ttl, self.options.tos))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let corked = self.corked.filter(|_| self.send.written > self.send.next);
        let all = [self.retry, self.send.timer, self.receive.due, self.guard, self.heartbeat, corked];
        all.into_iter().flatten().min()
    }

    pub(crate) fn state(&self) -> State {
        match (self.phase, self.farewell) {
            (Phase::CookieWait | Phase::CookieEchoed, _) => State::SynSent,
            (Phase::Closed, _) => State::Closed,
            (_, Farewell::Acknowledged) => State::LastAck,
            (_, Farewell::Shutdown) => State::FinWait2,
            _ if self.peer_shut && self.own_shut => State::LastAck,
            _ if self.peer_shut => State::CloseWait,
            _ if self.own_shut => State::FinWait1,
            _ => State::Established,
        }
    }

    pub(crate) fn info(&self) -> Info {
        let (lost, sacked) = self.send.counts();
        Info {
            srtt: self.send.trip.smoothed.unwrap_or_default(),
            rttvar: self.send.trip.variation,
            rto: self.send.trip.rto(),
            cwnd: self.send.window,
            ssthresh: self.send.threshold,
            send_mss: self.send.most() as u16,
            receive_mss: self.receive.largest,
            path_mtu: self.mtu,
            in_flight: self.send.outstanding(),
            lost,
            sacked,
            retransmitted: self.send.retransmitted as u32,
            backoff: self.send.trip.backoff,
            send_window: self.send.peer_window + self.send.flight,
            receive_window: self.receive.window(),
            streams: self.streams,
            timestamps: false,
            sack: true,
            scales: None,
            bytes_acked: self.send.acknowledged,
            bytes_received: self.receive.received,
            bytes_sent: self.bytes_sent,
            bytes_retransmitted: self.send.bytes_retransmitted,
            segments_out: self.packets_out,
            segments_in: self.packets_in,
        }
    }
}
