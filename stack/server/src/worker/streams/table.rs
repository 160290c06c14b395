//! What a worker keeps of its connections and listeners, in its private memory.

use super::super::path::Fast;
use crate::stream::{Lease, Stream};
use freena_shm_ring::stream::{ReaderCursor, WriterCursor};
use freena_tcp::{Flow, Handle, ListenerKey, Options, Path};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// A connection.
pub(super) struct Connection {
    pub(super) stream: Arc<Stream>,
    pub(super) flow: Flow,
    /// Receive ring. Its tail is what is published.
    pub(super) rx: WriterCursor,
    /// End of what has arrived in order.
    pub(super) arrived: u64,
    /// End of what has been stored, in order or not.
    pub(super) stored: u64,
    /// What the engine was told to be read.
    pub(super) read: u64,
    /// Transmit ring. Its head is what the peer has acknowledged.
    pub(super) tx: ReaderCursor,
    /// What the engine was told.
    pub(super) options: Options,
    pub(super) flags: u32,
    pub(super) shut: u32,
    pub(super) urgent: u64,
    /// The way by which its segments leave, and until when it is believed.
    pub(super) way: Option<(Fast, Instant)>,
    /// What the engine knows of it.
    pub(super) path: Path,
    /// Whether its words are looked at in every turn.
    pub(super) active: bool,
    /// Whether it is in the list of those with something to publish.
    pub(super) dirty: bool,
    /// Whether messages wait on the server's end of the pair.
    pub(super) unread: bool,
    /// Whether the handshake is complete.
    pub(super) established: bool,
    /// Whether the peer has ended its direction.
    pub(super) peer_closed: bool,
    /// Whether the program has been told so.
    pub(super) peer_closed_told: bool,
    /// Whether the last descriptor of the program is closed.
    pub(super) closing: bool,
    /// Whether both directions have ended, or an error has ended them.
    pub(super) over: bool,
    /// When the program or the peer last did something.
    pub(super) last_work: Instant,
    /// When its figures were last shown.
    pub(super) last_shown: Instant,
}

impl Connection {
    pub(super) fn new(stream: Arc<Stream>, flow: Flow, path: Path, options: Options, now: Instant) -> Self {
        Connection {
            stream,
            flow,
            rx: WriterCursor::default(),
            arrived: 0,
            stored: 0,
            read: 0,
            tx: ReaderCursor::default(),
            options,
            flags: 0,
            shut: 0,
            urgent: 0,
            way: None,
            path,
            active: false,
            dirty: false,
            unread: false,
            established: false,
            peer_closed: false,
            peer_closed_told: false,
            closing: false,
            over: false,
            last_work: now,
            last_shown: now,
        }
    }
}

/// What becomes of a place in the table.
pub(super) enum Slot {
    /// Nobody's.
    Free,
    /// A connection. Boxed: it is large, and the table may have many free places.
    Live(Box<Connection>),
    /// The program is gone and all is sent; the engine waits for old duplicates. The port stays taken: what is steered, and
    /// the kernel socket that holds it.
    Waiting(#[expect(dead_code, reason = "held for its end")] (Arc<Lease>, Option<Arc<OwnedFd>>)),
}

/// A connection that waits to be put into a listener's queue.
pub(super) enum Handout {
    /// One of ours; the program's end of it.
    Framework(Arc<Stream>, OwnedFd),
    /// One that came by the kernel's listener.
    Kernel(OwnedFd, std::net::SocketAddr, std::net::SocketAddr),
}

/// A listener.
pub(super) struct Listener {
    pub(super) stream: Arc<Stream>,
    /// The most connections that may wait beside the listener's queue.
    pub(super) backlog: usize,
    /// Whether its connections share their port with those of others.
    pub(super) pending: VecDeque<Handout>,
}

/// All of a worker's.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    listeners: Vec<Option<Listener>>,
    /// Connections whose words are looked at.
    pub(super) active: Vec<Handle>,
    /// Connections with something to publish.
    pub(super) dirty: Vec<Handle>,
    /// Listeners whose queue did not take all.
    pub(super) crowded: Vec<ListenerKey>,
}

impl Table {
    pub(super) fn get(&self, handle: Handle) -> Option<&Connection> {
        match self.slots.get(handle.0 as usize)? {
            Slot::Live(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Connection> {
        match self.slots.get_mut(handle.0 as usize)? {
            Slot::Live(connection) => Some(connection),
            _ => None,
        }
    }

    /// The connections, by handle.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Live(connection) => Some((Handle(index as u32), &**connection)),
            _ => None,
        })
    }

    /// As [`Table::iter`].
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut Connection)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Live(connection) => Some((Handle(index as u32), &mut **connection)),
            _ => None,
        })
    }

    /// Puts something in the place of `handle`; returns what was there.
    pub(super) fn replace(&mut self, handle: Handle, slot: Slot) -> Slot {
        let index = handle.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || Slot::Free);
        }
        let before = std::mem::replace(&mut self.slots[index], slot);
        if let Slot::Live(connection) = &before {
            if connection.active {
                self.active.retain(|other| *other != handle);
            }
            if connection.dirty {
                self.dirty.retain(|other| *other != handle);
            }
        }
        before
    }

    pub(super) fn listener(&mut self, key: ListenerKey) -> Option<&mut Listener> {
        self.listeners.get_mut(key as usize)?.as_mut()
    }

    pub(super) fn insert_listener(&mut self, key: ListenerKey, listener: Listener) {
        let index = key as usize;
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        self.listeners[index] = Some(listener);
    }

    pub(super) fn remove_listener(&mut self, key: ListenerKey) -> Option<Listener> {
        self.crowded.retain(|other| *other != key);
        self.listeners.get_mut(key as usize)?.take()
    }

    /// Puts a connection on the list of those with something to publish.
    pub(super) fn soil(&mut self, handle: Handle) {
        if let Some(Slot::Live(connection)) = self.slots.get_mut(handle.0 as usize)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(handle);
        }
    }
}
