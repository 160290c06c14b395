//! One connection: what the program has asked for on one side, `quinn-proto`'s state machine on the other.

use crate::{DONE, RESET};
use bytes::{Bytes, BytesMut};
use freena_stack_api::stream::{
    Driver, Event, Failure, Flow, Handle, IcmpError, Info, ListenerKey, Options, Path, Source, State,
};
use quinn_proto::{
    ConnectionError, ConnectionHandle, Dir, Event as Happened, ReadError, StreamEvent, StreamId,
    TransportErrorCode, VarInt,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that are taken from the transmit ring at a time.
const PORTION: u64 = 64 << 10;
/// How often a full queue of a listener is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How long a peer may take to end its direction after the program has closed (`tcp_fin_timeout` of tcp(7)).
const ORPHAN: Duration = Duration::from_secs(60);
/// How long a peer may leave bytes of a closed connection unread.
const LINGER: Duration = Duration::from_secs(600);
/// How long an established connection waits for a sign of life, where `TCP_USER_TIMEOUT` does not say (`tcp_retries2` of tcp(7)).
const PATIENCE: Duration = Duration::from_secs(924);
/// Alerts of TLS in QUIC's error codes (RFC 9001 section 4.8).
const ALERTS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
/// "No application protocol" (RFC 7301): nothing that speaks this protocol.
const NO_APPLICATION: u64 = 0x178;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The handshake is under way.
    Opening,
    /// It is done, and the connection waits for a place in the listener's queue.
    Waiting,
    /// Bytes may flow.
    Open,
    /// Ended or failed; nothing is told of it any more.
    Over,
}

pub(crate) struct Connection {
    pub(crate) handle: Handle,
    pub(crate) name: ConnectionHandle,
    pub(crate) inner: quinn_proto::Connection,
    pub(crate) flow: Flow,
    pub(crate) path: Path,
    pub(crate) options: Options,
    /// Who hears it, where the peer has opened it.
    pub(crate) listener: Option<ListenerKey>,
    pub(crate) phase: Phase,
    /// The phase that the engine has counted it in.
    pub(crate) counted: Phase,
    /// Whether it has ended by an error.
    pub(crate) failed: bool,
    /// Whether the driver knows it: a peer's connection when it is accepted.
    pub(crate) is_known: bool,
    /// Whether it is in the list of those with something to send.
    pub(crate) queued: bool,
    /// When it is due in the engine's list of deadlines.
    pub(crate) due: Option<Instant>,
    /// Whether the driver has been told that it is released.
    pub(crate) released: bool,
    /// Whether QUIC has forgotten it.
    pub(crate) drained: bool,
    sender: Option<StreamId>,
    receiver: Option<StreamId>,
    /// End of what the program has written, and of what is taken out of its ring.
    written: u64,
    pub(crate) taken: u64,
    /// Taken, and not yet accepted by QUIC's flow control.
    portion: Bytes,
    blocked: bool,
    shut: bool,
    finish_sent: bool,
    /// The peer has acknowledged all of the own direction.
    finished: bool,
    /// End of what is stored, end of what the program has read, size of its buffer.
    stored: u64,
    read: u64,
    room: u64,
    readable: bool,
    /// The peer has ended its direction, and all of it is stored.
    peer_finished: bool,
    /// The peer has closed, having seen the ends of both directions.
    peer_done: bool,
    /// The program has closed.
    closed: bool,
    /// When the full queue of the listener is tried again; none: with the next occasion.
    retry_at: Option<Instant>,
    /// When a closed connection is given up.
    orphan_until: Option<Instant>,
    /// Since when the peer owes a sign of life.
    waiting_since: Option<Instant>,
    last_heard: Instant,
    probes: u32,
}

/// What a connection is made of.
pub(crate) struct New {
    pub(crate) handle: Handle,
    pub(crate) name: ConnectionHandle,
    pub(crate) inner: quinn_proto::Connection,
    pub(crate) flow: Flow,
    pub(crate) path: Path,
    pub(crate) options: Options,
    pub(crate) listener: Option<ListenerKey>,
    pub(crate) room: u64,
}

impl Connection {
    pub(crate) fn new(new: New, now: Instant) -> Self {
        let New { handle, name, inner, flow, path, options, listener, room } = new;
        Connection {
            handle,
            name,
            inner,
            flow,
            path,
            options,
            listener,
            phase: Phase::Opening,
            counted: Phase::Opening,
            failed: false,
            is_known: listener.is_none(),
            queued: false,
            due: None,
            released: false,
            drained: false,
            sender: None,
            receiver: None,
            written: 0,
            taken: 0,
            portion: Bytes::new(),
            blocked: false,
            shut: false,
            finish_sent: false,
            finished: false,
            stored: 0,
            read: 0,
            room,
            readable: false,
            peer_finished: false,
            peer_done: false,
            closed: false,
            retry_at: None,
            orphan_until: None,
            waiting_since: None,
            last_heard: now,
            probes: 0,
        }
    }

    /// A datagram of the peer has arrived.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.last_heard, self.probes, self.waiting_since) = (now, 0, None);
    }

    /// Takes what QUIC has to say.
    pub(crate) fn take_events(&mut self, now: Instant, events: &mut VecDeque<Event>) {
        while let Some(happened) = self.inner.poll() {
            if self.phase == Phase::Over {
                continue;
            }
            match happened {
                Happened::Connected => {
                    self.sender = self.inner.streams().open(Dir::Uni);
                    if self.listener.is_some() {
                        self.phase = Phase::Waiting;
                    } else {
                        self.phase = Phase::Open;
                        events.push_back(Event::Connected(self.handle));
                    }
                }
                Happened::ConnectionLost { reason } => self.lost(now, &reason, events),
                Happened::Stream(StreamEvent::Opened { .. }) => {
                    while let Some(stream) = self.inner.streams().accept(Dir::Uni) {
                        if self.receiver.replace(stream).is_some() {
                            // There is one for each direction.
                            self.fail(now, Failure::Reset, events);
                        }
                        self.readable = true;
                    }
                }
                Happened::Stream(StreamEvent::Readable { .. }) => self.readable = true,
                Happened::Stream(StreamEvent::Writable { .. }) => self.blocked = false,
                Happened::Stream(StreamEvent::Finished { .. }) => self.end_of_own(now),
                Happened::Stream(StreamEvent::Stopped { .. }) if !self.finish_sent => {
                    self.fail(now, Failure::Reset, events);
                }
                Happened::Stream(StreamEvent::Stopped { .. }) => self.end_of_own(now),
                _ => {}
            }
        }
        self.judge(now, events);
    }

    fn end_of_own(&mut self, now: Instant) {
        self.finished = true;
        if self.closed {
            self.orphan_until = Some(now + ORPHAN);
        }
    }

    /// QUIC has given the connection up.
    fn lost(&mut self, now: Instant, reason: &ConnectionError, events: &mut VecDeque<Event>) {
        let opening = self.phase == Phase::Opening;
        let failure = match reason {
            ConnectionError::ApplicationClosed(close)
                if close.error_code == VarInt::from_u32(DONE) && self.phase == Phase::Open =>
            {
                // What has arrived is still stored.
                (self.peer_done, self.readable) = (true, true);
                return;
            }
            ConnectionError::TimedOut => Failure::TimedOut,
            ConnectionError::TransportError(error) if opening && is_alert(error.code) => Failure::Untrusted,
            _ if opening => Failure::Refused,
            _ => Failure::Reset,
        };
        self.fail(now, failure, events);
    }

    /// The connection is over by an error.
    pub(crate) fn fail(&mut self, now: Instant, failure: Failure, events: &mut VecDeque<Event>) {
        if self.phase == Phase::Over {
            return;
        }
        self.failed = true;
        self.inner.close(now, VarInt::from_u32(RESET), Bytes::new());
        self.phase = Phase::Over;
        if self.closed || !self.is_known {
            self.release(events);
        } else {
            events.push_back(Event::Failed(self.handle, failure));
        }
    }

    /// The driver may forget it. Of what it was never told it need not be told the end.
    fn release(&mut self, events: &mut VecDeque<Event>) {
        if !std::mem::replace(&mut self.released, true) && self.is_known {
            events.push_back(Event::Released(self.handle));
        }
    }

    /// Both directions may have ended.
    fn judge(&mut self, now: Instant, events: &mut VecDeque<Event>) {
        if self.phase != Phase::Open {
            return;
        }
        if self.peer_finished && (self.finished || self.peer_done) {
            self.inner.close(now, VarInt::from_u32(DONE), Bytes::new());
            self.phase = Phase::Over;
            if self.closed {
                self.release(events);
            } else {
                events.push_back(Event::Closed(self.handle));
            }
        } else if self.peer_done && !self.readable {
            // It has closed without having ended its direction.
            self.fail(now, Failure::Reset, events);
        }
    }

    /// Hands out a connection that waits for a place, and stores what there is room for; whether there was something to do.
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        driver: &mut dyn Driver,
        events: &mut VecDeque<Event>,
    ) -> bool {
        let is_due = match self.phase {
            Phase::Waiting => self.retry_at.is_none(),
            Phase::Open => self.readable && (self.closed || self.stored < self.read + self.room),
            Phase::Opening | Phase::Over => true,
        };
        if !is_due {
            return false;
        }
        if self.phase == Phase::Waiting
            && let Some(listener) = self.listener
        {
            match driver.accept(listener, self.handle, &self.flow) {
                Some(room) => {
                    (self.phase, self.is_known) = (Phase::Open, true);
                    (self.room, self.retry_at) = (room, None);
                }
                None => self.retry_at = Some(now + RETRY),
            }
        }
        if self.phase == Phase::Open && self.readable {
            self.store(now, driver, events);
            self.judge(now, events);
        }
        true
    }

    fn store(&mut self, now: Instant, driver: &mut dyn Driver, events: &mut VecDeque<Event>) {
        let Some(receiver) = self.receiver else {
            self.readable = false;
            return;
        };
        let before = self.stored;
        let mut stream = self.inner.recv_stream(receiver);
        let mut failed = false;
        match stream.read(true) {
            Ok(mut chunks) => loop {
                let most = self.read + self.room - self.stored;
                if most == 0 && !self.closed {
                    // Whether the end follows is seen when there is room again.
                    break;
                }
                match chunks.next(if self.closed { usize::MAX } else { most as usize }) {
                    // RFC 9293 section 3.6: nobody will ever read it.
                    Ok(Some(_)) if self.closed => {
                        (failed, self.readable) = (true, false);
                        break;
                    }
                    Ok(Some(chunk)) => {
                        driver.store(self.handle, self.stored, &chunk.bytes);
                        self.stored += chunk.bytes.len() as u64;
                    }
                    Ok(None) => {
                        (self.peer_finished, self.readable) = (true, false);
                        break;
                    }
                    Err(error) => {
                        failed = matches!(error, ReadError::Reset(_));
                        self.readable = false;
                        break;
                    }
                }
            },
            Err(_) => self.readable = false,
        }
        if self.stored > before {
            events.push_back(Event::Received { connection: self.handle, position: self.stored });
        }
        if failed {
            self.fail(now, Failure::Reset, events);
        } else if self.peer_finished && !self.closed {
            events.push_back(Event::PeerClosed(self.handle));
        }
    }

    /// Gives QUIC what the program has written.
    pub(crate) fn pump(&mut self, source: &mut dyn Source, events: &mut VecDeque<Event>) {
        let Some(sender) = self.sender.filter(|_| self.phase == Phase::Open) else { return };
        let before = self.taken;
        while !self.blocked && (self.taken < self.written || !self.portion.is_empty()) {
            if self.portion.is_empty() {
                let mut portion = BytesMut::zeroed((self.written - self.taken).min(PORTION) as usize);
                if !source.load(self.handle, self.taken, &mut portion) {
                    // It is gone: the program has broken its ring, and the driver ends the connection.
                    break;
                }
                self.taken += portion.len() as u64;
                self.portion = portion.freeze();
            }
            let mut chunks = [std::mem::take(&mut self.portion)];
            if self.inner.send_stream(sender).write_chunks(&mut chunks).is_err() {
                self.blocked = true;
            }
            let [rest] = chunks;
            self.portion = rest;
        }
        if self.taken > before {
            events.push_back(Event::Acknowledged { connection: self.handle, position: self.taken });
        }
        if self.shut && !self.finish_sent && self.taken == self.written && self.portion.is_empty() {
            // Fails where the peer has stopped it, which an event tells.
            let _ = self.inner.send_stream(sender).finish();
            self.finish_sent = true;
        }
    }

    pub(crate) fn write(&mut self, position: u64) {
        self.written = position;
    }

    pub(crate) fn written_to(&self) -> u64 {
        self.written
    }

    pub(crate) fn read_to(&mut self, position: u64) {
        self.read = self.read.max(position.min(self.stored));
    }

    /// Whether something waits that [`Connection::deliver`] could bring forward.
    pub(crate) fn wants_delivery(&self) -> bool {
        self.phase == Phase::Waiting || (self.phase == Phase::Open && self.readable)
    }

    pub(crate) fn wants_read(&self) -> bool {
        self.stored - self.read >= self.room / 2
    }

    pub(crate) fn shut(&mut self) {
        self.shut = true;
    }

    /// The program has closed.
    pub(crate) fn close(&mut self, now: Instant, unread: bool, events: &mut VecDeque<Event>) {
        self.closed = true;
        match self.phase {
            Phase::Over => self.release(events),
            Phase::Open if !unread => {
                self.shut = true;
                // Bytes that wait for room will not be read.
                self.readable = true;
                self.orphan_until = Some(now + if self.finished { ORPHAN } else { LINGER });
            }
            _ => self.fail(now, Failure::Reset, events),
        }
    }

    /// Resets it.
    pub(crate) fn abort(&mut self, now: Instant, events: &mut VecDeque<Event>) {
        self.closed = true;
        if self.phase == Phase::Over { self.release(events) } else { self.fail(now, Failure::Reset, events) }
    }

    /// A router or a host says that a packet did not get through.
    pub(crate) fn unreachable(&mut self, now: Instant, error: IcmpError, events: &mut VecDeque<Event>) {
        match self.phase {
            Phase::Opening if self.listener.is_none() => self.fail(now, Failure::Unreachable(error), events),
            Phase::Open if !self.closed => events.push_back(Event::SoftError(self.handle, error)),
            _ => {}
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, events: &mut VecDeque<Event>) {
        if self.inner.poll_timeout().is_some_and(|at| at <= now) {
            self.inner.handle_timeout(now);
        }
        if self.phase == Phase::Over {
            return;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        let lost = self.waiting_since.map(|since| since + self.patience());
        if [self.orphan_until, lost].into_iter().flatten().any(|at| at <= now) {
            self.fail(now, Failure::TimedOut, events);
        } else if self.probe_at().is_some_and(|at| at <= now) {
            if self.probes >= self.options.keep_count {
                self.fail(now, Failure::TimedOut, events);
            } else {
                self.probes += 1;
                self.inner.ping();
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.phase == Phase::Opening {
            // As many SYNs would take: 1 s, and twice as long each time (RFC 6298 section 5.7).
            return Duration::from_secs((2 << self.options.syn_count.min(10)) - 1);
        }
        if self.options.user_timeout.is_zero() { PATIENCE } else { self.options.user_timeout }
    }

    /// When the peer is asked for a sign of life.
    fn probe_at(&self) -> Option<Instant> {
        let asked = self.options.keep_alive && self.phase == Phase::Open;
        asked.then(|| self.last_heard + self.options.keep_idle + self.options.keep_interval * self.probes)
    }

    /// When it is to be called next.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let inner = self.inner.poll_timeout();
        if self.phase == Phase::Over {
            return inner;
        }
        // QUIC has a deadline as long as something is not acknowledged.
        match inner {
            Some(_) => self.waiting_since = self.waiting_since.or(Some(now)),
            None => self.waiting_since = None,
        }
        let lost = self.waiting_since.map(|since| since + self.patience());
        [inner, lost, self.orphan_until, self.probe_at(), self.retry_at].into_iter().flatten().min()
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Over => State::Closed,
            Phase::Opening if self.listener.is_none() => State::SynSent,
            Phase::Opening | Phase::Waiting => State::SynReceived,
            Phase::Open => match (self.shut, self.finished, self.peer_finished) {
                (false, _, false) => State::Established,
                (false, _, true) => State::CloseWait,
                (true, false, false) => State::FinWait1,
                (true, true, false) => State::FinWait2,
                (true, _, true) => State::LastAck,
            },
        }
    }

    pub(crate) fn info(&self) -> Info {
        let stats = self.inner.stats();
        Info {
            srtt: stats.path.rtt,
            cwnd: stats.path.cwnd,
            ssthresh: u64::MAX,
            send_mss: stats.path.current_mtu,
            receive_mss: stats.path.current_mtu,
            path_mtu: self.path.mtu,
            lost: stats.path.lost_packets as u32,
            receive_window: self.room.saturating_sub(self.stored - self.read),
            bytes_acked: self.taken,
            bytes_received: self.stored,
            bytes_sent: self.taken,
            segments_out: stats.udp_tx.datagrams,
            segments_in: stats.udp_rx.datagrams,
            ..Info::default()
        }
    }
}

/// Whether TLS has refused the peer, for another reason than that it speaks something else.
fn is_alert(code: TransportErrorCode) -> bool {
    let code = u64::from(code);
    ALERTS.contains(&code) && code != NO_APPLICATION
}
