//! What an association sends, and what it does when time has passed.

use crate::association::{Association, Farewell, MAX_ERRORS, Phase, STREAMS};
use crate::env::Env;
use crate::wire::{self, Init, cause, chunk, data, parameter};
use freena_stack_api::stream::{Failure, Source, Transmit};
use std::time::Instant;

/// Parameter of the information that a heartbeat carries: RFC 9260 section 3.3.5.
const HEARTBEAT_INFO: u16 = 1;

impl Association {
    /// The next packet, if there is something to send.
    pub(crate) fn output(&mut self, env: &mut Env<'_>, source: &mut dyn Source) -> Option<Transmit> {
        let (now, again) = (env.now, self.send.retransmitted);
        let chunks = match self.phase {
            Phase::CookieWait => self.init(now)?,
            Phase::CookieEchoed => self.echo(now)?,
            Phase::Established => self.bundle(env, source)?,
            Phase::Closed => return None,
        };
        self.packets_out += 1;
        env.stats.segments_out += 1;
        env.stats.retransmitted += u64::from(self.send.retransmitted > again);
        Some(Transmit { connection: Some(self.handle), ..self.transmit(chunks) })
    }

    /// One more try of the handshake or the shutdown: when the next one is due.
    fn tried(&mut self, now: Instant) {
        self.tries += 1;
        self.retry = Some(now + self.send.trip.rto());
    }

    /// INIT: section 3.3.2.
    fn init(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.retry_due) {
            return None;
        }
        self.init_at = Some(now);
        self.tried(now);
        let init = Init {
            tag: self.tag,
            window: self.first_window() as u32,
            outbound: STREAMS,
            inbound: STREAMS,
            sequence: self.initial,
        };
        let types: [u16; 1] = [if self.flow.peer.is_ipv4() { parameter::IPV4 } else { parameter::IPV6 }];
        let mut chunks = Vec::new();
        wire::put_chunk(&mut chunks, chunk::INIT, 0, |to| {
            init.emit(to);
            wire::put_parameter(to, parameter::ADDRESS_TYPES, &types[0].to_be_bytes());
        });
        Some(chunks)
    }

    /// COOKIE ECHO, and what of INIT ACK was not understood: sections 3.3.11 and 3.3.3.
    fn echo(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.retry_due) {
            return None;
        }
        self.tried(now);
        let mut chunks = Vec::new();
        wire::put_chunk(&mut chunks, chunk::COOKIE_ECHO, 0, |to| to.extend_from_slice(&self.cookie));
        let unknown = std::mem::take(&mut self.unknown);
        if !unknown.is_empty() {
            wire::put_chunk(&mut chunks, chunk::ERROR, 0, |to| {
                wire::put_parameter(to, cause::UNRECOGNISED_PARAMETERS, &unknown);
            });
        }
        Some(chunks)
    }

    /// A packet of an established association: section 6.10.
    fn bundle(&mut self, env: &mut Env<'_>, source: &mut dyn Source) -> Option<Vec<u8>> {
        let now = env.now;
        self.send.idle(now);
        let most = self.send.room as usize - wire::HEADER;
        let hold = self.holds();
        let mut chunks = Vec::new();
        while let Some(next) = self.control.front()
            && (chunks.is_empty() || chunks.len() + next.len() <= most)
        {
            chunks.extend_from_slice(next);
            self.control.pop_front();
        }
        if !self.look(source) {
            self.refuse(env);
            return None;
        }
        let has_data = self.send.pick(hold, most).is_some();
        if has_data {
            chunks.reserve_exact(most);
        }
        if self.receive.at_once || self.receive.owes() && has_data {
            self.receive.acknowledge(&mut chunks);
        }
        self.say_farewell(now, &mut chunks);
        while let Some(next) = self.send.pick(hold, most.saturating_sub(chunks.len())) {
            if !self.put_data(&next, &mut chunks, source) {
                break;
            }
            self.bytes_sent += u64::from(next.length);
            self.send.sent(now, &next);
            (self.corked, self.uncorked) = (None, false);
            self.put_off_heartbeat(now);
            if !self.look(source) {
                break;
            }
        }
        (!chunks.is_empty()).then_some(chunks)
    }

    /// Looks at the message that follows; `false`: there is none that could be sent.
    fn look(&mut self, source: &mut dyn Source) -> bool {
        let (handle, streams) = (self.handle, self.streams.0);
        self.send.look(streams, |position, to| source.load(handle, position, to)).is_ok()
    }

    /// The program has written past the library.
    fn refuse(&mut self, env: &mut Env<'_>) {
        self.abort(env, cause::USER_INITIATED);
        self.phase = Phase::Established;
        self.fail(env, Failure::Reset);
    }

    /// Writes a chunk with bytes that the program has written; `false` if they are not there.
    fn put_data(&self, next: &crate::sender::Outgoing, to: &mut Vec<u8>, source: &mut dyn Source) -> bool {
        let before = to.len();
        let last = next.start + u64::from(next.length) == self.send.written;
        // RFC 9260 section 3.3.1: the peer's delay of its acknowledgement would only cost time.
        let hurry = next.again || last && (self.own_shut || self.send.peer_window < u64::from(next.length));
        let flags = next.label.flags | if hurry { data::IMMEDIATE } else { 0 };
        let mut there = false;
        wire::put_chunk(to, chunk::DATA, flags, |to| {
            to.extend_from_slice(&(next.sequence as u32).to_be_bytes());
            to.extend_from_slice(&next.label.stream.to_be_bytes());
            to.extend_from_slice(&next.label.number.to_be_bytes());
            to.extend_from_slice(&next.label.protocol);
            let start = to.len();
            to.resize(start + usize::from(next.length), 0);
            there = source.load(self.handle, next.start, &mut to[start..]);
        });
        if !there {
            to.truncate(before);
        }
        there
    }

    /// SHUTDOWN and SHUTDOWN ACK: section 9.2.
    fn say_farewell(&mut self, now: Instant, chunks: &mut Vec<u8>) {
        let ready = self.own_shut && self.send.is_done();
        let next = match self.farewell {
            Farewell::None if ready && self.peer_shut => Farewell::Acknowledged,
            Farewell::None if ready => Farewell::Shutdown,
            Farewell::Shutdown if self.peer_shut => Farewell::Acknowledged,
            other => other,
        };
        if next != self.farewell {
            self.farewell = next;
            self.retry_due = true;
            self.tries = 0;
        }
        if self.farewell == Farewell::None || !std::mem::take(&mut self.retry_due) {
            return;
        }
        self.tried(now);
        self.heartbeat = None;
        if self.farewell == Farewell::Shutdown {
            let cumulative = self.receive.cumulative();
            wire::put_chunk(chunks, chunk::SHUTDOWN, 0, |to| to.extend_from_slice(&cumulative.to_be_bytes()));
        } else {
            wire::put_chunk(chunks, chunk::SHUTDOWN_ACK, 0, |_| {});
        }
    }

    /// Some deadline may have passed.
    pub(crate) fn handle_timeout(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_over(self.guard) {
            self.guard = None;
            self.give_up(env);
            return;
        }
        if is_over(self.retry) {
            self.retry = None;
            self.try_again(env);
        }
        if is_over(self.send.timer) {
            self.errors += 1;
            let since = *self.stalled.get_or_insert(now.checked_sub(self.send.trip.rto()).unwrap_or(now));
            let patience = self.options.user_timeout;
            if self.errors > MAX_ERRORS || !patience.is_zero() && now - since >= patience {
                self.give_up(env);
                return;
            }
            self.send.timed_out();
        }
        if is_over(self.receive.due) {
            (self.receive.due, self.receive.at_once) = (None, true);
        }
        if is_over(self.heartbeat) {
            self.beat(env);
        }
        if is_over(self.corked) {
            (self.corked, self.uncorked) = (None, true);
        }
    }

    /// T1 or T2 has expired: sections 5.1 and 9.2.
    fn try_again(&mut self, env: &mut Env<'_>) {
        let most = if self.phase == Phase::Established { MAX_ERRORS } else { self.options.syn_count };
        if self.tries > most {
            self.give_up(env);
            return;
        }
        self.send.trip.backoff += 1;
        self.retry_due = true;
    }

    /// HEARTBEAT: section 8.3.
    fn beat(&mut self, env: &mut Env<'_>) {
        if self.phase != Phase::Established {
            self.heartbeat = None;
            return;
        }
        if self.beat.take().is_some() {
            self.errors += 1;
            if self.errors > MAX_ERRORS {
                self.give_up(env);
                return;
            }
        }
        self.put_off_heartbeat(env.now);
        if !self.send.is_empty() {
            // Data on their way are a probe.
            return;
        }
        let nonce = env.secrets.random();
        self.beat = Some((nonce, env.now));
        self.push_control(|to| {
            wire::put_chunk(to, chunk::HEARTBEAT, 0, |to| {
                wire::put_parameter(to, HEARTBEAT_INFO, &nonce.to_be_bytes());
            });
        });
    }
}
