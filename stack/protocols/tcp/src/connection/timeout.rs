//! Time has passed.

use super::sender::Kind;
use super::*;
use crate::recovery::rtt::MAX_RTO;

/// Linux's `tcp_retries2`.
const MAX_RETRIES: u32 = 15;
/// Linux's `tcp_orphan_retries`.
const MAX_ORPHAN_RETRIES: u32 = 8;
/// Linux's `tcp_fin_timeout`.
pub(super) const ORPHAN: Duration = Duration::from_secs(60);
/// How long a corked segment waits at most.
pub(super) const CORK: Duration = Duration::from_millis(200);

impl Connection {
    /// The next moment at which something is to be done.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let delayed = match self.receive.due {
            Due::At(at) => Some(at),
            _ => None,
        };
        let all = [
            self.send.retransmit.map(|(at, _)| at),
            self.send.reorder,
            self.persist,
            self.keep_alive,
            self.corked,
            self.orphan,
            delayed,
        ];
        all.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if matches!(self.receive.due, Due::At(at) if at <= now) {
            self.receive.delay_over();
        }
        if due(self.corked) {
            self.corked = None;
            self.cork_over = true;
        }
        if due(self.orphan) {
            self.over();
            return;
        }
        if due(self.send.reorder) {
            self.send.reordering_over(now);
        }
        if let Some((at, kind)) = self.send.retransmit
            && at <= now
        {
            match (self.state, kind) {
                (State::SynSent | State::SynReceived, _) => self.syn_timed_out(env),
                (_, Kind::Probe) => {
                    // RFC 8985 section 7.3; the time-out is armed once the probe is out.
                    self.send.probe_due = true;
                    self.send.retransmit = Some((now + self.send.rtt.rto(0), Kind::TimeOut));
                }
                (_, Kind::TimeOut) => self.retransmission_timed_out(env),
            }
        }
        if due(self.persist) {
            self.persist_over(env);
        }
        if due(self.keep_alive) {
            self.keep_alive_over(env);
        }
    }

    fn syn_timed_out(&mut self, env: &mut Env<'_>) {
        self.send.retransmit = None;
        let expired = self.expired(env.now, self.send.stalled);
        if self.syn_count > self.options.syn_count.max(1) || expired {
            self.fail(env, self.why());
        } else {
            self.send.backoff += 1;
            self.syn_due = true;
        }
    }

    /// `ETIMEDOUT`, or what an ICMP error said last.
    fn why(&self) -> Failure {
        self.soft_error.map_or(Failure::TimedOut, Failure::Unreachable)
    }

    /// Whether the user time-out (RFC 9293 section 3.9.1.1, RFC 5482) has passed since `since`.
    fn expired(&self, now: Instant, since: Option<Instant>) -> bool {
        let limit = self.options.user_timeout;
        !limit.is_zero() && since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    /// A time-out is not to be slept beyond the user time-out.
    fn clip(&self, at: Instant, since: Option<Instant>) -> Instant {
        match since.filter(|_| !self.options.user_timeout.is_zero()) {
            Some(since) => at.min(since + self.options.user_timeout),
            None => at,
        }
    }

    /// RFC 9293 section 3.8.3.
    fn retransmission_timed_out(&mut self, env: &mut Env<'_>) {
        let most = if self.closed { MAX_ORPHAN_RETRIES } else { MAX_RETRIES };
        // A peer that has closed its window on what was sent, and says so, is not gone (as Linux has it).
        let talks = self.send.window == 0
            && self.heard.is_some_and(|heard| env.now.saturating_duration_since(heard) < MAX_RTO * 2);
        let by_count =
            self.send.backoff >= most && !talks && (self.closed || self.options.user_timeout.is_zero());
        if by_count || self.expired(env.now, self.send.stalled) {
            self.fail(env, self.why());
            return;
        }
        self.send.timed_out(env.now);
        if let Some((at, kind)) = self.send.retransmit {
            self.send.retransmit = Some((self.clip(at, self.send.stalled), kind));
        }
    }

    /// Zero window probes: RFC 9293 section 3.8.6.1. They go on for as long as they are answered.
    pub(super) fn arm_persist(&mut self, now: Instant) {
        if self.persist.is_none() {
            let shift = self.persist_backoff.min(16);
            let wait = self.send.rtt.rto(0).saturating_mul(1 << shift).min(MAX_RTO);
            self.persist = Some(self.clip(now + wait, self.send.stalled));
        }
    }

    fn persist_over(&mut self, env: &mut Env<'_>) {
        self.persist = None;
        let most = if self.closed { MAX_ORPHAN_RETRIES } else { MAX_RETRIES };
        self.send.stalled.get_or_insert(env.now);
        if self.persist_count >= most || self.expired(env.now, self.send.stalled) {
            self.fail(env, self.why());
            return;
        }
        self.persist_count += 1;
        self.persist_backoff += 1;
        if self.send.usable() > 0 {
            // The window is open, but smaller than a segment: silly window avoidance ends here (section 3.8.6.2.1).
            self.force = true;
        } else {
            self.nudge_due = true;
        }
        self.arm_persist(env.now);
    }

    /// Sets the keep-alive timer: RFC 9293 section 3.8.4.
    pub(super) fn arm_keep_alive(&mut self, now: Instant) {
        self.keep_alive =
            (self.options.keep_alive && self.is_synchronized()).then(|| now + self.options.keep_idle);
    }

    fn keep_alive_over(&mut self, env: &mut Env<'_>) {
        let (now, options) = (env.now, &self.options);
        self.keep_alive = None;
        if !options.keep_alive || !self.is_synchronized() {
            return;
        }
        if !self.send.board.is_empty() || self.persist.is_some() {
            // Retransmissions and window probes find out themselves.
            self.keep_alive = Some(now + options.keep_idle);
            return;
        }
        let silent = self.heard.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let by_time =
            !options.user_timeout.is_zero() && self.keep_count > 0 && silent >= options.user_timeout;
        let by_count = options.user_timeout.is_zero() && self.keep_count >= options.keep_count;
        if by_time || by_count {
            self.reset(env);
            self.fail(env, self.why());
            return;
        }
        self.keep_alive = Some(now + options.keep_interval);
        self.keep_count += 1;
        self.nudge_due = true;
    }
}
