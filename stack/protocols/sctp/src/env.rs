//! What the engine lends an association.

use crate::cookie::Secrets;
use crate::wire;
use freena_stack_api::Events;
use freena_stack_api::stream::{Flow, MAX_HEADER, Stats, Transmit};
use std::collections::VecDeque;
use std::time::Instant;

/// Most answers that wait to be sent.
const MAX_REPLIES: usize = 1024;

/// The engine's, for the time of a call.
pub(crate) struct Env<'a> {
    pub(crate) now: Instant,
    pub(crate) events: &'a mut Events,
    pub(crate) stats: &'a mut Stats,
    pub(crate) replies: &'a mut Replies,
    pub(crate) secrets: &'a mut Secrets,
}

/// Packets that belong to no association, or to one that is over.
#[derive(Debug, Default)]
pub(crate) struct Replies(VecDeque<Transmit>);

impl Replies {
    pub(crate) fn push(&mut self, transmit: Transmit) {
        if self.0.len() < MAX_REPLIES {
            self.0.push_back(transmit);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        self.0.pop_front()
    }
}

/// A packet of these chunks. Headers are written whole, checksum included.
pub(crate) fn packet(flow: Flow, tag: u32, chunks: Vec<u8>, (ttl, tos): (u8, u8)) -> Transmit {
    let common = wire::header(flow.local_port, flow.peer_port, tag, &chunks);
    let mut header = [0; MAX_HEADER];
    header[..common.len()].copy_from_slice(&common);
    Transmit {
        connection: None,
        flow,
        header,
        header_len: common.len() as u8,
        payload: 0..0,
        body: chunks,
        segment: 0,
        ttl,
        tos,
    }
}
