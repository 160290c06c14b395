//! What a worker keeps of its connections and listeners, in its private memory.

use super::super::path::Fast;
use super::engines::{join, split};
use super::memory::Grown;
use crate::stream::{Lease, Stream};
use freena_shm_ring::stream::{ReaderCursor, WriterCursor};
use freena_stack_api::Chunk;
use freena_stack_api::stream::Source;
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
    /// How far from its beginning the receive ring has been written to.
    pub(super) touched: u64,
    /// Whether it is in the list of those that keep pages.
    pub(super) is_grown: bool,
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
    /// Whether it is in the list of quiet ones that have such.
    pub(super) stuffed: bool,
    /// Whether the peer opened it.
    pub(super) accepted: bool,
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
            touched: 0,
            is_grown: false,
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
            stuffed: false,
            accepted: false,
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

/// What a connection leaves behind while the engine waits for old duplicates: what is steered, and the kernel socket that
/// holds the port.
pub(super) struct Remains {
    pub(super) until: Instant,
    #[expect(dead_code, reason = "held for their end")]
    pub(super) held: (Arc<Lease>, Arc<OwnedFd>),
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
    /// What listen(2) was told.
    pub(super) backlog: usize,
    /// Connections that wait beside the listener's queue.
    pub(super) pending: VecDeque<Handout>,
    /// The most that can be in the queue, not accepted yet.
    pub(super) queued: usize,
    /// Whether the kernel's listener has some for which there was no room.
    pub(super) kernel_waits: bool,
}

/// All of a worker's.
#[derive(Default)]
pub(super) struct Table {
    /// By engine, and in it by number.
    slots: Vec<Vec<Option<Box<Connection>>>>,
    listeners: Vec<Option<Listener>>,
    /// What is left of connections, by age.
    pub(super) remains: VecDeque<Remains>,
    /// Connections whose words are looked at.
    pub(super) active: Vec<Handle>,
    /// Connections with something to publish.
    pub(super) dirty: Vec<Handle>,
    /// Connections that keep pages which they may not need, by when they became quiet.
    pub(super) grown: VecDeque<Grown>,
    /// Quiet connections with unread messages, which fill their program's send buffer.
    pub(super) stuffed: Vec<Handle>,
    /// When they are looked at next.
    pub(super) stuffed_until: Option<Instant>,
    /// Listeners whose queue did not take all.
    pub(super) crowded: Vec<ListenerKey>,
}

impl Table {
    pub(super) fn get(&self, handle: Handle) -> Option<&Connection> {
        let (engine, Handle(index)) = split(handle);
        self.slots.get(engine)?.get(index as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Connection> {
        let (engine, Handle(index)) = split(handle);
        self.slots.get_mut(engine)?.get_mut(index as usize)?.as_deref_mut()
    }

    /// The connections, by handle.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Connection)> {
        self.slots.iter().enumerate().flat_map(|(engine, slots)| {
            let live = slots.iter().enumerate();
            live.filter_map(move |(index, slot)| Some((join(engine, index), slot.as_deref()?)))
        })
    }

    /// As [`Table::iter`].
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut Connection)> {
        self.slots.iter_mut().enumerate().flat_map(|(engine, slots)| {
            let live = slots.iter_mut().enumerate();
            live.filter_map(move |(index, slot)| Some((join(engine, index), slot.as_deref_mut()?)))
        })
    }

    pub(super) fn insert(&mut self, handle: Handle, connection: Connection) {
        let (engine, Handle(index)) = split(handle);
        if self.slots.len() <= engine {
            self.slots.resize_with(engine + 1, Vec::new);
        }
        let (slots, index) = (&mut self.slots[engine], index as usize);
        if slots.len() <= index {
            slots.resize_with(index + 1, || None);
        }
        slots[index] = Some(Box::new(connection));
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<Box<Connection>> {
        let (engine, Handle(index)) = split(handle);
        let connection = self.slots.get_mut(engine)?.get_mut(index as usize)?.take()?;
        if connection.active {
            self.active.retain(|other| *other != handle);
        }
        if connection.dirty {
            self.dirty.retain(|other| *other != handle);
        }
        if connection.stuffed {
            self.stuffed.retain(|other| *other != handle);
        }
        Some(connection)
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
        if let Some(connection) = self.get_mut(handle)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(handle);
        }
    }
}

impl Source for Table {
    fn load(&mut self, connection: Handle, position: u64, to: &mut [u8]) -> bool {
        let Some(connection) = self.get(connection) else { return false };
        let end = position.checked_add(to.len() as u64);
        if position < connection.tx.head || end.is_none_or(|end| end > connection.tx.tail) {
            return false;
        }
        let pipe = connection.stream.memory.tx_pipe();
        let mut to = to;
        for span in pipe.spans(connection.tx.base, position, to.len()) {
            let (part, rest) = to.split_at_mut(span.len);
            // SAFETY: the span lies in the mapping of the stream, which the connection keeps.
            unsafe { Chunk::from_raw(span.data, span.len) }.copy_to(part);
            to = rest;
        }
        true
    }
}
