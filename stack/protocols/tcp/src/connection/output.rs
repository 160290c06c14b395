//! What is to be sent next: RFC 9293 sections 3.8 and 3.10.

use super::*;
use crate::Transmit;
use crate::segment::Head;
use std::ops::Range;

/// Most bytes of payload in one packet, so that its headers fit beside them into 65,535.
const MAX_BURST: u64 = 65_535 - 120;

impl Connection {
    /// The next packet, if there is one to send now.
    pub(crate) fn output(&mut self, env: &mut Env<'_>) -> Option<Transmit> {
        match self.state {
            State::Closed | State::TimeWait => return None,
            State::SynSent | State::SynReceived => return self.syn(env),
            _ => {}
        }
        // What tells of a gap has no room beside data, and must not wait for it.
        if self.receive.due == Due::Now && self.receive.has_gap() {
            return Some(self.acknowledge(env));
        }
        let data = self.retransmission(env).or_else(|| self.probe(env)).or_else(|| self.fresh(env));
        if data.is_some() {
            return data;
        }
        if std::mem::take(&mut self.nudge_due) {
            return Some(self.nudge(env));
        }
        if self.receive.due == Due::Now {
            return Some(self.acknowledge(env));
        }
        self.when_idle(env.now);
        None
    }

    /// A header with what every segment has.
    pub(super) fn head(&mut self, env: &Env<'_>, position: u64, flags: u8) -> Head {
        let clock = env.clock.wrapping_add(self.clock_offset);
        let timestamps = self.timestamps.then_some((clock, self.receive.recent.0));
        let window = self.receive.advertise(self.receive.scale);
        let acknowledgement = self.receive.sequence(self.receive.next);
        let options = tcp::Options { timestamps, ..tcp::Options::default() };
        Head { sequence: self.send.sequence(position), acknowledgement, flags, window, urgent: 0, options }
    }

    /// Makes a packet of a header and a payload that begins at its position.
    fn packet(&mut self, env: &mut Env<'_>, head: &Head, payload: Range<u64>) -> Transmit {
        let len = payload.end - payload.start;
        let segments = len.div_ceil(self.send.mss).max(1);
        self.figures.segments_out += segments;
        self.figures.bytes_sent += len;
        env.stats.segments_out += segments;
        if head.flags & flag::ACK != 0 {
            self.receive.acknowledge();
        }
        Transmit {
            connection: Some(self.handle),
            payload,
            segment: if segments > 1 { self.send.mss as u16 } else { 0 },
            ttl: self.options.ttl,
            tos: self.options.tos,
            ..head.alone(self.flow)
        }
    }

    /// The SYN, or its acknowledgement in a simultaneous open.
    fn syn(&mut self, env: &mut Env<'_>) -> Option<Transmit> {
        if !std::mem::take(&mut self.syn_due) {
            return None;
        }
        let now = env.now;
        self.syn_at = Some(now);
        self.send.stalled.get_or_insert(now);
        self.syn_count += 1;
        let wait = self.send.rtt.rto(self.send.backoff);
        self.send.retransmit = Some((now + wait, sender::Kind::TimeOut));
        let answer = self.state == State::SynReceived;
        let clock = env.clock.wrapping_add(self.clock_offset);
        let options = tcp::Options {
            mss: Some(self.own_mss()),
            window_scale: self.scaling.then_some(self.receive.scale),
            sack_permitted: !answer || self.send.sack,
            timestamps: self.timestamps.then_some((clock, if answer { self.receive.recent.0 } else { 0 })),
            ..tcp::Options::default()
        };
        let head = Head {
            sequence: self.send.initial,
            acknowledgement: if answer { self.receive.sequence(0) } else { 0 },
            flags: if answer { flag::SYN | flag::ACK } else { flag::SYN },
            // RFC 7323 section 2.2: not scaled.
            window: self.receive.advertise(0),
            urgent: 0,
            options,
        };
        Some(self.packet(env, &head, 0..0))
    }

    /// A segment without payload.
    fn acknowledge(&mut self, env: &mut Env<'_>) -> Transmit {
        let mut head = self.head(env, self.send.next, flag::ACK);
        if self.send.sack {
            head.options.sack = self.receive.blocks(if self.timestamps { 3 } else { 4 });
        } else {
            self.receive.blocks(0);
        }
        self.packet(env, &head, self.send.next..self.send.next)
    }

    /// A keep-alive or window probe: a sequence number that is not acceptable, so that it is answered. As Linux does, and
    /// without the garbage byte that RFC 9293 section 3.8.4 allows.
    fn nudge(&mut self, env: &mut Env<'_>) -> Transmit {
        let position = self.send.unacknowledged;
        let mut head = self.head(env, position, flag::ACK);
        head.sequence = head.sequence.wrapping_sub(1);
        self.packet(env, &head, position..position)
    }

    /// Bytes that may go into one packet: whole segments.
    fn burst(&self) -> u64 {
        let most = u64::from(self.path.max_burst).min(MAX_BURST);
        let segments = (most / self.send.mss).min(u64::from(self.path.max_segments)).max(1);
        // A header that is the same in all segments can point to urgent data from one only.
        if self.urgent > self.send.unacknowledged { self.send.mss } else { segments * self.send.mss }
    }

    /// A packet with the range, FIN included where it reaches so far.
    fn data(&mut self, env: &mut Env<'_>, range: Range<u64>) -> Transmit {
        let payload = range.start.min(self.written)..range.end.min(self.written);
        let mut flags = flag::ACK;
        if range.end > self.written {
            flags |= flag::FIN;
        }
        if payload.end == self.written && payload.end > payload.start {
            flags |= flag::PSH;
        }
        let mut head = self.head(env, range.start, flags);
        // RFC 6093 section 3.1: the pointer is behind the urgent byte.
        if self.urgent > range.start && self.urgent > self.send.unacknowledged {
            head.flags |= flag::URG;
            head.urgent = (self.urgent - range.start).min(0xffff) as u16;
        }
        self.receive.answered(env.now);
        self.packet(env, &head, payload)
    }

    /// What was lost.
    fn retransmission(&mut self, env: &mut Env<'_>) -> Option<Transmit> {
        let pressing = std::mem::take(&mut self.send.pressing);
        if self.send.board.lost() == 0 {
            return None;
        }
        let room = if pressing { self.send.room().max(self.send.mss) } else { self.send.room() };
        let most = if room < self.send.mss { room } else { room / self.send.mss * self.send.mss };
        let range = self.send.board.next_lost(most.min(self.burst()))?;
        let whole = range.end - range.start;
        // Not in bits and pieces: a hole is filled by a segment, or as far as it goes.
        if whole < self.send.mss && whole == most && room < self.send.mss {
            return None;
        }
        Some(self.again(env, range))
    }

    fn again(&mut self, env: &mut Env<'_>, range: Range<u64>) -> Transmit {
        let clock = env.clock.wrapping_add(self.clock_offset);
        let len = range.end - range.start;
        let segments = len.div_ceil(self.send.mss);
        self.figures.bytes_retransmitted += len;
        self.figures.retransmitted += segments as u32;
        env.stats.retransmitted += segments;
        self.send.resent(env.now, range.clone(), clock);
        self.data(env, range)
    }

    /// A tail loss probe: new data if there is, else the last segment (RFC 8985 section 7.3).
    fn probe(&mut self, env: &mut Env<'_>) -> Option<Transmit> {
        if !self.send.probe_due {
            return None;
        }
        self.send.probe_due = false;
        if self.send.board.is_empty() {
            return None;
        }
        let unsent = self.written.saturating_sub(self.send.next);
        let len = unsent.min(self.send.mss).min(self.send.usable());
        if len > 0 {
            let range = self.send.next..self.send.next + len;
            self.send.probed(range.end, false);
            return Some(self.send_range(env, range));
        }
        let last = *self.send.board.back()?;
        if last.sacked {
            return None;
        }
        let range = last.start.max(last.end.saturating_sub(self.send.mss))..last.end;
        self.send.probed(range.end, true);
        Some(self.again(env, range))
    }

    /// New data, and the FIN behind it.
    fn fresh(&mut self, env: &mut Env<'_>) -> Option<Transmit> {
        let fin = self.shut && self.send.next <= self.written;
        let unsent = self.written.saturating_sub(self.send.next);
        if unsent == 0 && !fin {
            return None;
        }
        self.after_idle(env.now);
        let (mss, usable, room) = (self.effective_mss(), self.send.usable(), self.send.room());
        let most = usable.min(room).min(self.burst()).min(unsent);
        let whole = most / mss * mss;
        let tail = most - whole;
        let ends = whole + tail == unsent;
        // A partial segment goes if it ends what there is and nothing holds it back.
        let force = std::mem::take(&mut self.force);
        let len = match ends {
            true if tail == 0 || fin || self.may_send_partial(env.now) => most,
            _ if whole == 0 && force => most,
            _ => whole,
        };
        let with_fin = fin && len == unsent && usable > len;
        if len == 0 && !with_fin {
            return None;
        }
        let end = self.send.next + len;
        if len % mss != 0 {
            self.send.small = end;
        }
        let range = self.send.next..end + u64::from(with_fin);
        Some(self.send_range(env, range))
    }

    fn send_range(&mut self, env: &mut Env<'_>, range: Range<u64>) -> Transmit {
        if range.end > self.written {
            match self.state {
                State::Established => self.state = State::FinWait1,
                State::CloseWait => self.state = State::LastAck,
                _ => {}
            }
        }
        let transmit = self.data(env, range.clone());
        self.send.sent(env.now, range.end);
        self.persist = None;
        self.persist_backoff = 0;
        if self.send.next >= self.written {
            self.corked = None;
            self.cork_over = false;
        }
        transmit
    }

    /// RFC 9293 section 3.8.6.2.1: half of the largest window counts as a segment where windows are small.
    fn effective_mss(&self) -> u64 {
        match self.send.max_window {
            window if window > 0 && window / 2 < self.send.mss => (window / 2).max(MIN_MSS.min(window)),
            _ => self.send.mss,
        }
    }

    /// Nagle's algorithm in Minshall's variant (RFC 9293 section 3.7.4), and the cork.
    fn may_send_partial(&mut self, now: Instant) -> bool {
        if self.options.cork && !self.cork_over {
            if self.corked.is_none() {
                self.corked = Some(now + timeout::CORK);
            }
            return false;
        }
        self.options.no_delay || self.send.small <= self.send.unacknowledged
    }

    /// RFC 5681 section 4.1.
    fn after_idle(&mut self, now: Instant) {
        if self.send.board.is_empty()
            && let Some(last) = self.send.last
        {
            let (idle, rto) = (now.saturating_duration_since(last), self.send.rtt.rto(0));
            if idle > rto {
                self.send.control.idle(idle, rto);
                self.send.last = Some(now);
            }
        }
    }

    /// Nothing can be sent: something has to be waited for.
    fn when_idle(&mut self, now: Instant) {
        let fin = self.shut && self.send.next <= self.written;
        let waits = self.written > self.send.next || fin;
        if !waits || !self.send.board.is_empty() {
            self.persist = None;
        } else if self.corked.is_none() {
            self.arm_persist(now);
        }
    }
}
