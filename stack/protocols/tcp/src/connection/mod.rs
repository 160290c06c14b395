//! A connection: RFC 9293 section 3.3.

mod input;
mod output;
mod receiver;
mod sender;
mod timeout;

use crate::env::Env;
use crate::segment::Segment;
use crate::{Event, Failure, Flow, Handle, IcmpError, Info, Options, Path, Refused, State};
use freena_wire::tcp::{self, flag};
use receiver::{Due, Receiver};
use sender::Sender;
use std::time::{Duration, Instant};

/// Segment size of a peer that did not name one (RFC 9293 section 3.7.1).
const DEFAULT_MSS: (u16, u16) = (536, 1220);
/// Smallest segment size that is heeded, as Linux's `TCP_MIN_SND_MSS`.
const MIN_MSS: u64 = 48;
/// Bytes of the timestamps option in every segment.
const TIMESTAMPS_LEN: u64 = 12;
/// Window scale of connections that peers open: their buffers are made after the SYN was answered. Enough for 8 MiB.
pub(crate) const PASSIVE_SCALE: u8 = 7;

/// What the SYN exchange has agreed upon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    /// Our initial sequence number, and the peer's.
    pub(crate) initial: (u32, u32),
    /// The peer's maximum segment size.
    pub(crate) mss: Option<u16>,
    /// Window scales, ours and the peer's, where both have one.
    pub(crate) scales: Option<(u8, u8)>,
    pub(crate) sack: bool,
    /// `TS.Recent`, where both use timestamps.
    pub(crate) timestamp: Option<u32>,
    /// What is added to the clock in our timestamps.
    pub(crate) clock_offset: u32,
    /// The first measured round-trip time.
    pub(crate) rtt: Option<Duration>,
    /// The SYN or its answer was sent more than once.
    pub(crate) retried: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) handle: Handle,
    pub(crate) flow: Flow,
    pub(crate) state: State,
    pub(crate) options: Options,
    path: Path,
    peer_mss: u16,
    clock_offset: u32,
    timestamps: bool,
    scaling: bool,
    send: Sender,
    receive: Receiver,
    /// The program has closed it; `Released` follows.
    pub(crate) closed: bool,
    /// The program has ended its direction.
    shut: bool,
    /// End of what the program has written.
    written: u64,
    /// Behind the program's urgent byte; 0 for none.
    urgent: u64,
    /// A SYN is to be sent.
    syn_due: bool,
    syn_count: u32,
    syn_at: Option<Instant>,
    /// Zero window probes: when, and how many were not answered.
    persist: Option<Instant>,
    persist_count: u32,
    /// How often the interval between window probes has doubled; unlike the count, answers leave it.
    persist_backoff: u32,
    /// A keep-alive or window probe is to be sent.
    nudge_due: bool,
    /// A partial segment is to be sent although the window is small: the persist timer has expired.
    force: bool,
    keep_alive: Option<Instant>,
    keep_count: u32,
    /// Until when a corked segment waits.
    corked: Option<Instant>,
    cork_over: bool,
    /// An orphan in `FIN_WAIT_2` is forgotten then.
    orphan: Option<Instant>,
    /// When anything acceptable arrived last.
    heard: Option<Instant>,
    soft_error: Option<IcmpError>,
    challenged: Option<Instant>,
    // Bookkeeping of the engine.
    /// It is found by its flow.
    pub(crate) mapped: bool,
    /// It waits in the queue of those with something to send.
    pub(crate) queued: bool,
    /// Its entry among the timers.
    pub(crate) timer: Option<Instant>,
    /// `Received` and `Acknowledged` wait to be polled.
    pub(crate) told_received: bool,
    pub(crate) told_acknowledged: bool,
    figures: Figures,
}

/// Counters for [`Info`].
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    bytes_sent: u64,
    bytes_retransmitted: u64,
    retransmitted: u32,
    segments_out: u64,
    segments_in: u64,
}

/// The smallest window scale with which all of a buffer can be told (RFC 7323 section 2.3: at most 14).
fn scale_for(size: u64) -> u8 {
    (0..14).find(|scale| size >> scale <= 0xffff).unwrap_or(14)
}

impl Connection {
    fn new(
        now: Instant,
        handle: Handle,
        flow: Flow,
        path: Path,
        options: &Options,
        size: u64,
        scale: u8,
    ) -> Self {
        let mut receive = Receiver::new(now, size, scale);
        receive.set_clamp(options.window_clamp);
        Connection {
            handle,
            flow,
            state: State::Closed,
            options: *options,
            path,
            peer_mss: if flow.peer.is_ipv4() { DEFAULT_MSS.0 } else { DEFAULT_MSS.1 },
            clock_offset: 0,
            timestamps: true,
            scaling: true,
            send: Sender::new(0, options.congestion),
            receive,
            closed: false,
            shut: false,
            written: 0,
            urgent: 0,
            syn_due: false,
            syn_count: 0,
            syn_at: None,
            persist: None,
            persist_count: 0,
            persist_backoff: 0,
            nudge_due: false,
            force: false,
            keep_alive: None,
            keep_count: 0,
            corked: None,
            cork_over: false,
            orphan: None,
            heard: None,
            soft_error: None,
            challenged: None,
            mapped: true,
            queued: false,
            timer: None,
            told_received: false,
            told_acknowledged: false,
            figures: Figures::default(),
        }
    }

    /// Begins a handshake: `CLOSED` to `SYN_SENT`.
    pub(crate) fn open(
        now: Instant,
        handle: Handle,
        flow: Flow,
        path: Path,
        options: &Options,
        size: u64,
        (initial, clock_offset): (u32, u32),
    ) -> Self {
        let mut connection = Connection::new(now, handle, flow, path, options, size, scale_for(size));
        connection.state = State::SynSent;
        connection.send.initial = initial;
        connection.clock_offset = clock_offset;
        connection.syn_due = true;
        connection
    }

    /// A peer's handshake is complete: `SYN_RECEIVED` to `ESTABLISHED`.
    pub(crate) fn accepted(
        now: Instant,
        handle: Handle,
        flow: Flow,
        path: Path,
        options: &Options,
        size: u64,
        agreed: &Agreed,
    ) -> Self {
        let mut connection = Connection::new(now, handle, flow, path, options, size, PASSIVE_SCALE);
        connection.send.initial = agreed.initial.0;
        connection.receive.initial = agreed.initial.1;
        connection.clock_offset = agreed.clock_offset;
        connection.agree(now, agreed);
        connection.receive.advertise(connection.receive.scale);
        connection.established(now);
        connection
    }

    /// Takes over what both ends have.
    fn agree(&mut self, now: Instant, agreed: &Agreed) {
        self.scaling = agreed.scales.is_some();
        let (own, peers) = agreed.scales.unwrap_or((0, 0));
        self.receive.scale = own;
        self.send.scale = peers.min(14);
        self.send.sack = agreed.sack;
        self.timestamps = agreed.timestamp.is_some();
        if let Some(value) = agreed.timestamp {
            self.receive.recent = (value, now);
        }
        if let Some(mss) = agreed.mss {
            self.peer_mss = mss;
        }
        if let Some(rtt) = agreed.rtt {
            self.send.rtt.sample(now, rtt);
        }
        self.update_mss(true);
        if agreed.retried {
            self.send.control.restart();
        }
    }

    fn established(&mut self, now: Instant) {
        self.state = State::Established;
        self.heard = Some(now);
        self.arm_keep_alive(now);
    }

    /// Headers of IP and TCP, without options.
    fn headers(&self) -> u64 {
        if self.flow.peer.is_ipv4() { 40 } else { 60 }
    }

    /// The maximum segment size that we name (RFC 6691).
    fn own_mss(&self) -> u16 {
        own_mss(&self.flow, &self.path, &self.options)
    }

    /// The payload of a full segment: from the peer's maximum, the path and the options.
    fn update_mss(&mut self, untouched: bool) {
        let by_path = u64::from(self.path.mtu).saturating_sub(self.headers());
        let mut mss = u64::from(self.peer_mss).min(by_path).min(0xffff - 120);
        if self.options.max_segment > 0 {
            mss = mss.min(u64::from(self.options.max_segment));
        }
        let options = if self.timestamps { TIMESTAMPS_LEN } else { 0 };
        let mss = mss.max(MIN_MSS) - options;
        if mss != self.send.mss {
            self.send.mss = mss;
            self.send.control.set_mss(mss, untouched);
        }
    }

    /// The path has changed.
    pub(crate) fn set_path(&mut self, now: Instant, path: Path) {
        let before = self.send.mss;
        self.path = path;
        self.update_mss(false);
        if self.send.mss < before {
            self.send.too_large(now, self.send.mss);
        }
    }

    pub(crate) fn set_options(&mut self, now: Instant, options: &Options) {
        let before = std::mem::replace(&mut self.options, *options);
        self.receive.set_clamp(options.window_clamp);
        self.send.control.choose(options.congestion);
        if before.max_segment != options.max_segment {
            self.update_mss(false);
        }
        if !options.cork {
            self.corked = None;
            self.cork_over = false;
        }
        let keep = |o: &Options| (o.keep_alive, o.keep_idle, o.keep_interval, o.keep_count);
        if keep(&before) != keep(options) {
            self.arm_keep_alive(now);
        }
        if options.quick_ack && !before.quick_ack && matches!(self.receive.due, Due::At(_)) {
            self.receive.due = Due::Now;
        }
    }

    /// The program has written.
    pub(crate) fn written(&mut self, position: u64) -> Result<(), Refused> {
        if self.shut || matches!(self.state, State::Closed | State::TimeWait) {
            return Err(Refused::Over);
        }
        if position < self.written {
            return Err(Refused::Backwards);
        }
        self.written = position;
        Ok(())
    }

    pub(crate) fn urgent(&mut self, position: u64) {
        self.urgent = self.urgent.max(position);
    }

    /// The program has read.
    pub(crate) fn read(&mut self, position: u64) {
        if self.receive.read(position) && self.is_synchronized() && !self.receive.finished() {
            self.receive.due = Due::Now;
        }
    }

    pub(crate) fn wants_read(&self) -> bool {
        self.receive.wants_read()
    }

    /// Ends our direction: RFC 9293 section 3.10.4.
    pub(crate) fn shutdown(&mut self) {
        self.shut = true;
    }

    /// The program is gone.
    pub(crate) fn close(&mut self, env: &mut Env<'_>, unread: bool) {
        self.closed = true;
        match self.state {
            State::Closed | State::TimeWait => {}
            State::SynSent => self.over(),
            // RFC 2525 section 2.17: the peer must learn that its data was not read.
            _ if unread => self.abort(env),
            State::FinWait2 => self.wait_as_orphan(env.now),
            _ => self.shut = true,
        }
    }

    /// Resets the connection: RFC 9293 section 3.10.5.
    pub(crate) fn abort(&mut self, env: &mut Env<'_>) {
        self.closed = true;
        if self.is_synchronized() || self.state == State::SynReceived {
            self.reset(env);
        }
        self.over();
    }

    fn reset(&mut self, env: &mut Env<'_>) {
        env.stats.resets_out += 1;
        let mut transmit = self.head(env, self.send.next, flag::RST | flag::ACK).alone(self.flow);
        (transmit.ttl, transmit.tos) = (self.options.ttl, self.options.tos);
        env.replies.push(transmit);
    }

    /// Whether the connection is beyond the handshake, and not over.
    fn is_synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed | State::TimeWait)
    }

    /// It is over: nothing is sent or waited for any more.
    fn over(&mut self) {
        self.state = State::Closed;
        self.stop();
    }

    fn stop(&mut self) {
        self.send.retransmit = None;
        self.send.reorder = None;
        self.receive.due = Due::No;
        self.persist = None;
        self.keep_alive = None;
        self.corked = None;
        self.orphan = None;
        self.syn_due = false;
        self.nudge_due = false;
    }

    /// It has failed.
    fn fail(&mut self, env: &mut Env<'_>, failure: Failure) {
        match self.state {
            State::SynSent | State::SynReceived => env.stats.failed_opens += 1,
            _ => env.stats.resets += 1,
        }
        self.over();
        if !self.closed {
            env.events.push(Event::Failed(self.handle, failure));
        }
    }

    fn wait_as_orphan(&mut self, now: Instant) {
        self.orphan = Some(now + timeout::ORPHAN);
    }

    /// An ICMP error about a segment of ours: RFC 1122 section 4.2.3.9, RFC 5927 section 4.1.
    pub(crate) fn icmp(&mut self, env: &mut Env<'_>, sequence: u32, error: IcmpError) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            if sequence == self.send.initial && self.syn_count > 0 {
                self.fail(env, Failure::Unreachable(error));
            }
            return;
        }
        let offset = self.send.offset(sequence);
        if !self.is_synchronized() || offset < 0 || offset as u64 >= self.send.next - self.send.unacknowledged
        {
            return;
        }
        self.soft_error = Some(error);
        if !self.closed {
            env.events.push(Event::SoftError(self.handle, error));
        }
    }

    /// End of what was received in order.
    pub(crate) fn readable(&self) -> u64 {
        self.receive.readable()
    }

    /// End of what was sent.
    pub(crate) fn sent(&self) -> u64 {
        self.send.next.min(self.written)
    }

    /// End of what was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.send.unacknowledged.min(self.written)
    }

    /// Whether the peer waits for an acknowledgement.
    pub(crate) fn owes_answer(&self) -> bool {
        self.receive.due != Due::No
    }

    /// What a compact record in `TIME_WAIT` has to know.
    pub(crate) fn remains(&self) -> crate::timewait::TimeWait {
        crate::timewait::TimeWait {
            flow: self.flow,
            send_next: self.send.sequence(self.send.next),
            receive_next: self.receive.sequence(self.receive.next),
            recent: self.timestamps.then_some(self.receive.recent.0),
            clock_offset: self.clock_offset,
            ttl: self.options.ttl,
            tos: self.options.tos,
        }
    }

    pub(crate) fn info(&self) -> Info {
        let segments = |bytes: u64| bytes.div_ceil(self.send.mss) as u32;
        let send = &self.send;
        Info {
            srtt: send.rtt.smoothed.unwrap_or_default(),
            rttvar: send.rtt.variation,
            rto: send.rtt.rto(send.backoff),
            cwnd: send.control.window,
            ssthresh: send.control.threshold,
            send_mss: send.mss as u16,
            receive_mss: self.receive.mss.min(0xffff) as u16,
            path_mtu: self.path.mtu,
            in_flight: send.next - send.unacknowledged,
            lost: segments(send.board.lost()),
            sacked: segments(send.board.sacked()),
            retransmitted: self.figures.retransmitted,
            backoff: send.backoff,
            send_window: send.window,
            receive_window: self.receive.window(),
            timestamps: self.timestamps,
            sack: send.sack,
            streams: (0, 0),
            scales: self.scaling.then_some((self.receive.scale, send.scale)),
            bytes_acked: self.acknowledged(),
            bytes_received: self.receive.readable(),
            bytes_sent: self.figures.bytes_sent,
            bytes_retransmitted: self.figures.bytes_retransmitted,
            segments_out: self.figures.segments_out,
            segments_in: self.figures.segments_in,
        }
    }
}

/// The maximum segment size to name on a path.
pub(crate) fn own_mss(flow: &Flow, path: &Path, options: &Options) -> u16 {
    let headers = if flow.peer.is_ipv4() { 40 } else { 60 };
    let mss = path.mtu.saturating_sub(headers).clamp(MIN_MSS as u32, 0xffff) as u16;
    if options.max_segment > 0 { mss.min(options.max_segment) } else { mss }
}

/// An idle connection costs this and its place in the tables: ten thousand of them some megabytes.
const _: () = assert!(size_of::<Connection>() <= 2048);
