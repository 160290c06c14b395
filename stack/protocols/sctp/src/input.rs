//! A packet's chunks, as an association takes them: RFC 9260 sections 5 to 9.

use crate::association::{Association, Farewell, Phase};
use crate::cookie::Cookie;
use crate::env::Env;
use crate::messages;
use crate::receiver::Verdict;
use crate::wire::{
    self, Chunk, Chunks, Data, Init, Parameters, REFLECTED, Sack, cause, chunk, data, parameter,
};
use freena_stack_api::stream::{Driver, Drop, Event, Failure};

/// What the two upper bits of a type that is not known ask for: sections 3.2 and 3.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) stop: bool,
    pub(crate) report: bool,
}

impl Unknown {
    fn of(upper: u8) -> Self {
        Unknown { stop: upper & 2 == 0, report: upper & 1 != 0 }
    }
}

/// Parameters that are not understood and whose sender wants to know; and the cookie, where there is one.
pub(crate) fn look_through<'a>(parameters: Parameters<'a>) -> (Vec<u8>, Option<&'a [u8]>) {
    let (mut unknown, mut cookie) = (Vec::new(), None);
    for (kind, value, whole) in parameters {
        match kind {
            parameter::COOKIE => cookie = Some(value),
            // One address of the peer's is used, the one that it came from.
            parameter::IPV4
            | parameter::IPV6
            | parameter::COOKIE_PRESERVATIVE
            | parameter::ADDRESS_TYPES
            | parameter::UNRECOGNISED => {}
            _ => {
                let Unknown { stop, report } = Unknown::of((kind >> 14) as u8);
                if report && unknown.len() + whole.len() < 512 {
                    unknown.extend_from_slice(whole);
                    unknown.resize(unknown.len().next_multiple_of(4), 0);
                }
                if stop {
                    break;
                }
            }
        }
    }
    (unknown, cookie)
}

impl Association {
    /// The chunks of a packet with this tag, INIT and COOKIE ECHO aside, which are the engine's.
    pub(crate) fn packet(
        &mut self,
        env: &mut Env<'_>,
        tag: u32,
        chunks: Chunks<'_>,
        driver: &mut dyn Driver,
    ) -> Result<(), Drop> {
        let first = chunks.clone().next().ok_or(Drop::Malformed)?;
        // Section 8.5: some chunks may come with the tag of whom they answer.
        let reflects = matches!(first.kind, chunk::ABORT | chunk::SHUTDOWN_COMPLETE);
        let expected = if reflects && first.flags & REFLECTED != 0 { self.peer_tag } else { self.tag };
        if tag != expected || tag == 0 {
            return Err(Drop::Unacceptable);
        }
        self.packets_in += 1;
        let (mut has_data, mut immediate) = (false, false);
        for chunk in chunks {
            if self.phase == Phase::Closed {
                break;
            }
            if chunk.kind == chunk::DATA {
                if self.phase != Phase::Established {
                    // Before COOKIE ACK, which was lost or comes late.
                    return Err(Drop::Unacceptable);
                }
                has_data = true;
                immediate |= chunk.flags & data::IMMEDIATE != 0;
                self.data(env, &chunk, driver);
            } else if self.take(env, &chunk) {
                break;
            }
        }
        if has_data && self.phase == Phase::Established {
            // Section 9.2: in SHUTDOWN-SENT each packet with data is answered at once, by SHUTDOWN too.
            let says_farewell = self.farewell == Farewell::Shutdown;
            if says_farewell {
                (self.retry_due, self.tries) = (true, 0);
            }
            self.receive.packet(env.now, immediate || says_farewell);
        }
        Ok(())
    }

    /// A chunk that is not DATA; `true`: the rest of the packet is not to be looked at.
    fn take(&mut self, env: &mut Env<'_>, chunk: &Chunk<'_>) -> bool {
        let is_established = self.phase == Phase::Established;
        match chunk.kind {
            chunk::INIT_ACK => self.init_ack(env, chunk),
            chunk::COOKIE_ACK if self.phase == Phase::CookieEchoed => {
                self.established(env.now);
                env.events.push(Event::Connected(self.handle));
            }
            chunk::SACK if is_established => {
                if let Some(sack) = Sack::parse(chunk.value) {
                    self.sack(env, &sack);
                }
            }
            chunk::HEARTBEAT if self.phase != Phase::CookieWait => self.push_control(|to| {
                // Section 8.3: the information goes back as it came.
                wire::put_chunk(to, chunk::HEARTBEAT_ACK, 0, |to| {
                    to.extend_from_slice(&chunk.value[..chunk.value.len().min(512)]);
                });
            }),
            chunk::HEARTBEAT_ACK => self.heartbeat_ack(env, chunk),
            chunk::ABORT => {
                let opening = self.phase != Phase::Established;
                self.fail(env, if opening { Failure::Refused } else { Failure::Reset });
                return true;
            }
            chunk::ERROR => self.error(env, chunk),
            chunk::SHUTDOWN if is_established => self.peer_shuts(env, chunk),
            chunk::SHUTDOWN_ACK if is_established && self.farewell != Farewell::None => {
                let mut chunks = Vec::new();
                wire::put_chunk(&mut chunks, chunk::SHUTDOWN_COMPLETE, 0, |_| {});
                env.replies.push(self.transmit(chunks));
                self.over(env);
                return true;
            }
            chunk::SHUTDOWN_COMPLETE if self.farewell == Farewell::Acknowledged => {
                self.over(env);
                return true;
            }
            chunk::INIT
            | chunk::SACK
            | chunk::HEARTBEAT
            | chunk::SHUTDOWN
            | chunk::SHUTDOWN_ACK
            | chunk::SHUTDOWN_COMPLETE
            | chunk::COOKIE_ECHO
            | chunk::COOKIE_ACK => {}
            other => {
                let Unknown { stop, report } = Unknown::of(other >> 6);
                if report && is_established {
                    let whole = &chunk.whole[..chunk.whole.len().min(256)];
                    self.push_control(|to| {
                        wire::put_chunk(to, chunk::ERROR, 0, |to| {
                            wire::put_parameter(to, cause::UNRECOGNISED_CHUNK, whole);
                        });
                    });
                }
                return stop;
            }
        }
        false
    }

    /// Section 5.1 step C.
    fn init_ack(&mut self, env: &mut Env<'_>, chunk: &Chunk<'_>) {
        if self.phase != Phase::CookieWait {
            return;
        }
        let Some((init, parameters)) = Init::parse(chunk.value) else { return };
        let (unknown, cookie) = look_through(parameters);
        let most = self.send.room as usize - wire::HEADER - 4;
        let Some(cookie) = cookie.filter(|cookie| cookie.len() <= most) else { return };
        let told = self.first_window();
        self.meet(&init, told);
        self.cookie = cookie.into();
        self.unknown = if cookie.len() + unknown.len() + 8 <= most { unknown } else { Vec::new() };
        self.phase = Phase::CookieEchoed;
        if let (Some(at), 1) = (self.init_at, self.tries) {
            self.send.trip.sample(env.now.saturating_duration_since(at));
        }
        self.send.trip.backoff = 0;
        self.tries = 0;
        self.retry = None;
        self.retry_due = true;
    }

    /// The cookie of this association, again or for the first time: section 5.2.4, actions B and D.
    pub(crate) fn cookie_again(&mut self, env: &mut Env<'_>, cookie: &Cookie) -> Result<(), Drop> {
        match self.phase {
            // Both ends have opened it at once.
            Phase::CookieWait | Phase::CookieEchoed => {
                let told = self.first_window();
                self.meet(&cookie.peer, told);
                self.established(env.now);
                env.events.push(Event::Connected(self.handle));
            }
            Phase::Established if self.peer_tag == cookie.peer.tag => {}
            Phase::Established | Phase::Closed => return Err(Drop::Unacceptable),
        }
        self.push_control(|to| wire::put_chunk(to, chunk::COOKIE_ACK, 0, |_| {}));
        Ok(())
    }

    fn sack(&mut self, env: &mut Env<'_>, sack: &Sack<'_>) {
        let outcome = self.send.sack(env.now, sack);
        if self.farewell == Farewell::Shutdown {
            // The peer's program has not ended its direction yet: there is somebody.
            self.tries = 0;
        }
        // Section 6.1 rule A: a peer without room that answers is alive.
        let is_probed = u64::from(sack.window) < self.send.most();
        self.acknowledged(env, outcome, is_probed);
    }

    fn acknowledged(&mut self, env: &mut Env<'_>, outcome: crate::sender::Outcome, is_alive: bool) {
        if outcome.forged {
            self.abort(env, cause::PROTOCOL_VIOLATION);
            self.phase = Phase::Established;
            self.fail(env, Failure::Reset);
            return;
        }
        if outcome.advanced {
            env.events.acknowledged(self.handle, &mut self.told_acknowledged);
        }
        if outcome.advanced || is_alive {
            self.errors = 0;
            self.stalled = None;
        }
    }

    fn heartbeat_ack(&mut self, env: &mut Env<'_>, chunk: &Chunk<'_>) {
        let found = Parameters(chunk.value).next().and_then(|(_, value, _)| wire::first_word(value));
        if let (Some((nonce, at)), Some(found)) = (self.beat, found)
            && nonce == found
        {
            self.beat = None;
            self.errors = 0;
            self.send.trip.sample(env.now.saturating_duration_since(at));
        }
    }

    /// Section 5.2.6: a cookie that has come too late is asked for anew. Other causes say nothing that would help.
    fn error(&mut self, _env: &mut Env<'_>, chunk: &Chunk<'_>) {
        let is_stale = Parameters(chunk.value).any(|(kind, ..)| kind == cause::STALE_COOKIE);
        if is_stale && self.phase == Phase::CookieEchoed {
            self.phase = Phase::CookieWait;
            self.peer_tag = 0;
            self.init_at = None;
            self.retry = None;
            self.retry_due = true;
        }
    }

    /// SHUTDOWN: section 9.2. A program that has not ended its own direction may still send: the peer takes it.
    fn peer_shuts(&mut self, env: &mut Env<'_>, chunk: &Chunk<'_>) {
        let Some(cumulative) = wire::first_word(chunk.value) else { return };
        let outcome = self.send.acknowledge(env.now, cumulative);
        self.acknowledged(env, outcome, true);
        if self.phase == Phase::Closed {
            return;
        }
        if self.farewell == Farewell::Acknowledged {
            self.retry_due = true;
        } else if self.peer_shut {
            // It asks again: it is told that there is somebody.
            self.receive.at_once = true;
        }
        self.peer_is_done(env);
    }

    /// DATA: section 6.2.
    fn data(&mut self, env: &mut Env<'_>, chunk: &Chunk<'_>, driver: &mut dyn Driver) {
        let Some(data) = Data::parse(chunk) else { return };
        if data.bytes.is_empty() {
            // Section 6.2: no user data.
            self.abort(env, cause::NO_USER_DATA);
            self.phase = Phase::Established;
            self.fail(env, Failure::Reset);
            return;
        }
        if self.closed {
            // Nobody is left to read it.
            self.abort(env, cause::USER_INITIATED);
            return;
        }
        let position = self.receive.received;
        let piece;
        let bytes = if self.framed {
            piece = messages::piece(&data);
            &piece[..]
        } else {
            data.bytes
        };
        let mut end = self.visible;
        let is_whole = |piece: &[u8]| !self.framed || messages::is_last(piece);
        match self.receive.take(data.sequence, bytes) {
            Verdict::Next => {
                driver.store(self.handle, position, bytes);
                end = if is_whole(bytes) { self.receive.received } else { end };
            }
            Verdict::Kept | Verdict::NoRoom => return,
        }
        while let Some((position, bytes)) = self.receive.pop() {
            driver.store(self.handle, position, &bytes);
            end = if is_whole(&bytes) { self.receive.received } else { end };
        }
        if data.stream >= crate::association::STREAMS {
            // Section 6.5: acknowledged all the same, and told.
            let stream = data.stream.to_be_bytes();
            self.push_control(|to| {
                wire::put_chunk(to, chunk::ERROR, 0, |to| {
                    wire::put_parameter(to, cause::INVALID_STREAM, &[stream[0], stream[1], 0, 0]);
                });
            });
        }
        self.show(env, end);
    }
}
