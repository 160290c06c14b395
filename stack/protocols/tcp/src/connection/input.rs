//! A segment arrives: RFC 9293 section 3.10.7.

use super::*;
use crate::{Driver, Drop};

/// How long `TS.Recent` is believed (RFC 7323 section 5.5).
const RECENT_LIFE: Duration = Duration::from_secs(24 * 24 * 3600);
/// Between two answers to segments that are not acceptable and carry nothing, as Linux's `tcp_invalid_ratelimit`.
const ANSWER_INTERVAL: Duration = Duration::from_millis(500);

impl Connection {
    /// A segment for this connection.
    pub(crate) fn segment(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        self.figures.segments_in += u64::from(segment.count);
        match self.state {
            State::SynSent => self.in_syn_sent(env, segment),
            State::Closed | State::TimeWait => Err(Drop::Unacceptable),
            _ => self.in_sequence(env, segment, driver),
        }
    }

    /// RFC 9293 section 3.10.7.3.
    fn in_syn_sent(&mut self, env: &mut Env<'_>, segment: &Segment<'_>) -> Result<(), Drop> {
        let acknowledges = segment.has(flag::ACK);
        if acknowledges && (segment.acknowledgement != self.send.sequence(0) || self.syn_count == 0) {
            if !segment.has(flag::RST) {
                env.stats.resets_out += 1;
                env.replies.push(segment.reset(self.flow));
            }
            return Err(Drop::Unacceptable);
        }
        if segment.has(flag::RST) {
            if !acknowledges {
                return Err(Drop::Unacceptable);
            }
            self.fail(env, Failure::Refused);
            return Ok(());
        }
        if !segment.has(flag::SYN) {
            return Err(Drop::Unacceptable);
        }
        let now = env.now;
        let offered = segment.options;
        let first = self.syn_count == 1;
        self.receive.initial = segment.sequence;
        self.agree(
            now,
            &Agreed {
                initial: (self.send.initial, segment.sequence),
                mss: offered.mss,
                scales: offered.window_scale.map(|scale| (self.receive.scale, scale)),
                sack: offered.sack_permitted,
                timestamp: offered.timestamps.map(|(value, _)| value),
                clock_offset: self.clock_offset,
                rtt: self
                    .syn_at
                    .filter(|_| acknowledges && first)
                    .map(|at| now.saturating_duration_since(at)),
                retried: self.syn_count > 1,
            },
        );
        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        self.send.update_window(0, 0, u64::from(segment.window));
        self.receive.acknowledged = 0;
        if acknowledges {
            self.send.retransmit = None;
            self.established(now);
            self.receive.due = Due::Now;
            env.events.push(Event::Connected(self.handle));
        } else {
            // Simultaneous open: RFC 9293 figure 7.
            self.state = State::SynReceived;
            self.syn_count = 0;
            self.syn_due = true;
        }
        Ok(())
    }

    /// RFC 9293 section 3.10.7.4.
    fn in_sequence(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let reset = segment.has(flag::RST);
        let offset = self.receive.offset(segment.sequence);
        let len = i64::from(segment.len());
        // Simultaneous open: the peer's SYN comes again, with its acknowledgement (RFC 9293 figure 7).
        let crossing = self.state == State::SynReceived
            && segment.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK
            && offset == -1
            && segment.acknowledgement == self.send.sequence(0);

        if self.timestamps && !reset {
            let Some((value, _)) = segment.options.timestamps else {
                // RFC 7323 section 3.2.
                return Err(Drop::Unacceptable);
            };
            let (recent, at) = self.receive.recent;
            // RFC 7323 section 5.3 R1.
            if (value.wrapping_sub(recent) as i32) < 0 && env.now.saturating_duration_since(at) < RECENT_LIFE
            {
                self.answer(env, len > 0);
                return Err(Drop::Unacceptable);
            }
        }

        // The sequence number; old acknowledgements are welcome as far as nothing was sent that tells more.
        let window = self.receive.window() as i64;
        let unacknowledged = (self.receive.next - self.receive.acknowledged) as i64;
        let acceptable = crossing || (offset <= window && offset + len >= -unacknowledged);
        if reset {
            // RFC 5961 section 3.2.
            return match offset {
                0 => {
                    self.fail(
                        env,
                        if self.state == State::SynReceived { Failure::Refused } else { Failure::Reset },
                    );
                    Ok(())
                }
                1.. if offset <= window => {
                    self.challenge(env);
                    Err(Drop::Unacceptable)
                }
                _ => Err(Drop::Unacceptable),
            };
        }
        if !acceptable {
            // Not to a SYN or a bare acknowledgement in a flood, but to every probe and duplicate.
            self.answer(env, !segment.payload.is_empty() || segment.has(flag::FIN));
            return Err(Drop::Unacceptable);
        }
        if segment.has(flag::SYN) && !crossing {
            // RFC 5961 section 4.2.
            self.challenge(env);
            return Err(Drop::Unacceptable);
        }
        if !segment.has(flag::ACK) {
            return Err(Drop::Unacceptable);
        }

        let behind = self.send.offset(segment.acknowledgement);
        let in_flight = (self.send.next - self.send.unacknowledged) as i64;
        if self.state == State::SynReceived {
            if behind < 0 || behind > in_flight {
                env.stats.resets_out += 1;
                env.replies.push(segment.reset(self.flow));
                return Err(Drop::Unacceptable);
            }
            self.send.retransmit = None;
            self.syn_due = false;
            if self.syn_count == 1
                && let Some(at) = self.syn_at
            {
                self.send.rtt.sample(env.now, env.now.saturating_duration_since(at));
            }
            self.established(env.now);
            env.events.push(Event::Connected(self.handle));
        }
        // RFC 5961 section 5.2.
        if behind > in_flight || behind < -(self.send.max_window.max(0xffff) as i64) {
            self.challenge(env);
            return Err(Drop::Unacceptable);
        }
        // RFC 7323 section 4.3.
        if let Some((value, _)) = segment.options.timestamps.filter(|_| self.timestamps)
            && offset <= -unacknowledged
            && offset + len >= -unacknowledged
        {
            self.receive.recent = (value, env.now);
        }
        self.note_heard(env.now);
        if behind >= 0 {
            self.acknowledgement(env, segment, offset, behind as u64);
            if !self.is_synchronized() {
                return Ok(());
            }
        }
        if segment.has(flag::URG)
            && !self.receive.finished()
            && let Some(position) = self.receive.urgent(offset, segment.urgent)
            && !self.closed
        {
            env.events.push(Event::Urgent { connection: self.handle, position });
        }
        if crossing {
            self.receive.due = Due::Now;
        } else if !segment.payload.is_empty() || segment.has(flag::FIN) {
            self.text(env, segment, offset, driver);
        }
        Ok(())
    }

    /// Something acceptable was heard: probes start anew.
    fn note_heard(&mut self, now: Instant) {
        self.keep_count = 0;
        self.persist_count = 0;
        self.heard = Some(now);
        if self.send.board.is_empty() {
            self.send.stalled = None;
        }
        if self.options.keep_alive {
            self.arm_keep_alive(now);
        }
    }

    /// Fifth, the ACK field.
    fn acknowledgement(&mut self, env: &mut Env<'_>, segment: &Segment<'_>, offset: i64, behind: u64) {
        let position = self.send.unacknowledged + behind;
        let before = self.acknowledged();
        let window = u64::from(segment.window) << self.send.scale;
        let plain = segment.len() == 0 && window == self.send.window;
        let at = (self.receive.next as i64 + offset).max(0) as u64;
        let zero = self.send.window == 0;
        self.send.update_window(at, position, window);
        if zero && self.send.window > 0 {
            self.persist = None;
            self.persist_backoff = 0;
        }
        let clock = env.clock.wrapping_add(self.clock_offset);
        let echo = segment.options.timestamps.filter(|_| self.timestamps).map(|(_, echo)| (echo, clock));
        self.send.acknowledge(env.now, position, segment, plain, echo);
        if self.acknowledged() > before {
            self.soft_error = None;
            env.events.acknowledged(self.handle, &mut self.told_acknowledged);
        }
        if self.shut && self.send.unacknowledged > self.written {
            self.fin_acknowledged(env);
        }
    }

    fn fin_acknowledged(&mut self, env: &mut Env<'_>) {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.closed {
                    self.wait_as_orphan(env.now);
                }
            }
            State::Closing => self.time_wait(env),
            State::LastAck => {
                self.over();
                if !self.closed {
                    env.events.push(Event::Closed(self.handle));
                }
            }
            _ => {}
        }
    }

    /// Both directions have ended; the engine keeps a compact record of it.
    fn time_wait(&mut self, env: &mut Env<'_>) {
        self.state = State::TimeWait;
        if !self.closed {
            env.events.push(Event::Closed(self.handle));
        }
    }

    /// Seventh and eighth, the segment text and the FIN bit.
    fn text(&mut self, env: &mut Env<'_>, segment: &Segment<'_>, offset: i64, driver: &mut dyn Driver) {
        if self.receive.finished() {
            // Only a duplicate can be here; the peer wants to hear our acknowledgement again.
            self.receive.due = Due::Now;
            return;
        }
        let end = offset + segment.payload.len() as i64;
        if self.closed && end > 0 {
            // RFC 2525 section 2.17: nobody will read it.
            self.reset(env);
            self.over();
            return;
        }
        let handle = self.handle;
        if self
            .receive
            .last
            .is_some_and(|last| env.now.saturating_duration_since(last) > self.send.rtt.rto(0))
        {
            self.receive.requicken();
        }
        self.receive.mss = match segment.size {
            // A super-packet tells the size of its segments, a lone one at least a lower bound.
            size if segment.count > 1 || size > self.receive.mss => {
                size.min(u32::from(self.own_mss())).max(1)
            }
            _ => self.receive.mss,
        };
        let fin = segment.has(flag::FIN);
        let taken = self.receive.take(env.now, offset, segment.payload, fin, |position, bytes| {
            driver.store(handle, position, bytes);
        });
        if taken.in_order > 0 && !self.closed {
            env.events.received(handle, &mut self.told_received);
        }
        self.receive.schedule(env.now, self.options.quick_ack);
        if !taken.finished {
            return;
        }
        if !self.closed {
            env.events.push(Event::PeerClosed(handle));
        }
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.time_wait(env),
            _ => {}
        }
    }

    /// An acknowledgement for a segment that is not acceptable.
    fn answer(&mut self, env: &mut Env<'_>, always: bool) {
        let early = self.challenged.is_some_and(|at| env.now.saturating_duration_since(at) < ANSWER_INTERVAL);
        if always || !early {
            self.challenged = Some(env.now);
            self.receive.due = Due::Now;
        }
    }

    /// A challenge acknowledgement: RFC 5961, limited as its section 7 asks.
    fn challenge(&mut self, env: &mut Env<'_>) {
        let early = self.challenged.is_some_and(|at| env.now.saturating_duration_since(at) < ANSWER_INTERVAL);
        if !early && env.replies.may_challenge(env.now) {
            self.challenged = Some(env.now);
            self.receive.due = Due::Now;
            env.stats.challenges += 1;
        }
    }
}
