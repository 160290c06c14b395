//! A worker's view of the sockets.

use super::pace::Pace;
use super::transmit::Resume;
use crate::socket::Socket;
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor};
use freena_udp::{Binding, SocketKey};
use std::sync::Arc;
use std::time::Instant;

/// What a worker keeps about a socket, in its private memory.
pub(super) struct Local {
    /// The socket.
    pub(super) socket: Arc<Socket>,
    /// What it is bound to.
    pub(super) binding: Binding,
    /// Position in this worker's receive ring.
    pub(super) rx: ProducerCursor,
    /// Whether records wait to be published in it.
    pub(super) dirty: bool,
    /// How its program keeps up with it.
    pub(super) pace: Pace,
    /// Position in the transmit ring (home worker only).
    pub(super) tx: ConsumerCursor,
    /// Whether the transmit ring is looked at in every turn.
    pub(super) active: bool,
    /// Whether messages wait on the server's end of the pair.
    pub(super) unread: bool,
    /// Whether the last descriptor of the program is closed.
    pub(super) closing: bool,
    /// When a datagram was last taken from the transmit ring.
    pub(super) last_sent: Instant,
    /// Where to go on with the datagram at the front of the transmit ring, some of whose fragments are sent.
    pub(super) resume: Option<Resume>,
}

impl Local {
    pub(super) fn new(socket: Arc<Socket>, binding: Binding, now: Instant) -> Self {
        Local {
            socket,
            binding,
            rx: ProducerCursor::default(),
            dirty: false,
            pace: Pace::default(),
            tx: ConsumerCursor::default(),
            active: false,
            unread: false,
            closing: false,
            last_sent: now,
            resume: None,
        }
    }
}

/// All sockets of a worker.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Option<Local>>,
    /// Sockets whose transmit ring is looked at.
    pub(super) active: Vec<SocketKey>,
    /// Sockets with records to publish.
    pub(super) dirty: Vec<SocketKey>,
}

impl Table {
    pub(super) fn get(&self, key: SocketKey) -> Option<&Local> {
        self.slots.get(key as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: SocketKey) -> Option<&mut Local> {
        self.slots.get_mut(key as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Local> {
        self.slots.iter().flatten()
    }

    pub(super) fn insert(&mut self, local: Local) {
        let index = local.socket.key as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(local);
    }

    pub(super) fn remove(&mut self, key: SocketKey) -> Option<Local> {
        self.active.retain(|k| *k != key);
        self.dirty.retain(|k| *k != key);
        self.slots.get_mut(key as usize)?.take()
    }
}
