//! What a connection sees of the engine around it.

use crate::{Stats, Transmit};
use freena_stack_api::Events;
use std::collections::VecDeque;
use std::time::Instant;

/// Most answers that wait to be sent; more are dropped, their causes will come again.
const MAX_REPLIES: usize = 1024;
/// Most challenge acknowledgements in a second (RFC 5961 section 7): Linux's default before it was made infinite,
/// counted per engine.
const MAX_CHALLENGES: u32 = 1000;

/// Lent to a connection for the time of a call.
pub(crate) struct Env<'a> {
    pub(crate) now: Instant,
    /// Milliseconds, for timestamps.
    pub(crate) clock: u32,
    pub(crate) events: &'a mut Events,
    pub(crate) stats: &'a mut Stats,
    pub(crate) replies: &'a mut Replies,
}

/// Answers that belong to no connection.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    queue: VecDeque<Transmit>,
    second: Option<Instant>,
    challenges: u32,
}

impl Replies {
    pub(crate) fn push(&mut self, transmit: Transmit) {
        if self.queue.len() < MAX_REPLIES {
            self.queue.push_back(transmit);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        self.queue.pop_front()
    }

    /// Whether a challenge acknowledgement may be sent now.
    pub(crate) fn may_challenge(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.saturating_duration_since(second).as_secs() >= 1) {
            self.second = Some(now);
            self.challenges = 0;
        }
        self.challenges += 1;
        self.challenges <= MAX_CHALLENGES
    }
}
