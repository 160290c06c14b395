//! What is known of a library's connections without asking it, and what must hold of what it says.

use crate::convert;
use freena_stack_api::stream::{Flow, Path, State};

/// A connection. Its number is its index in [`Connections`].
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) flow: Flow,
    pub(crate) path: Path,
    /// Size of the receive buffer.
    pub(crate) buffer: u64,
    /// What the program has written.
    pub(crate) written: u64,
    /// What the peer has of it.
    pub(crate) acknowledged: u64,
    /// End of what was sent at least once.
    pub(crate) sent: u64,
    /// What has arrived in order.
    pub(crate) received: u64,
    /// End of what has been stored.
    pub(crate) stored: u64,
    /// What the program has read.
    pub(crate) read: u64,
    pub(crate) connected: bool,
    pub(crate) peer_closed: bool,
    /// The program has ended its direction.
    pub(crate) shut: bool,
    /// Both directions have ended, or it has failed.
    pub(crate) over: bool,
    /// The program has closed or aborted it.
    pub(crate) closed: bool,
}

impl Connection {
    pub(crate) fn new(flow: Flow, path: Path, buffer: u64, connected: bool) -> Self {
        Connection {
            flow,
            path,
            buffer,
            written: 0,
            acknowledged: 0,
            sent: 0,
            received: 0,
            stored: 0,
            read: 0,
            connected,
            peer_closed: false,
            shut: false,
            over: false,
            closed: false,
        }
    }

    /// Most bytes of header and payload in a packet.
    pub(crate) fn room(&self) -> u32 {
        convert::room(&self.path, self.flow.peer.is_ipv4())
    }

    pub(crate) fn state(&self) -> State {
        match (self.over, self.connected, self.shut || self.closed, self.peer_closed) {
            (true, ..) => State::Closed,
            (_, false, ..) => State::SynSent,
            (_, _, false, false) => State::Established,
            (_, _, false, true) => State::CloseWait,
            (_, _, true, true) => State::LastAck,
            (_, _, true, false) => State::FinWait1,
        }
    }

    /// Whether the program has let so much lie that the peer may wait for it to read.
    pub(crate) fn is_crowded(&self) -> bool {
        (self.received - self.read).saturating_mul(2) >= self.buffer
    }
}

/// Connections by number.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    most: usize,
}

impl Connections {
    pub(crate) fn new(most: u32) -> Self {
        Connections { slots: Vec::new(), free: Vec::new(), most: most as usize }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Connection> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Connection> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// Takes a number, whose connection is still to be filled in. `None`: all are taken.
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        (self.slots.len() < self.most).then(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        })
    }

    pub(crate) fn fill(&mut self, number: u32, connection: Connection) {
        self.slots[number as usize] = Some(connection);
    }

    /// Gives a number back.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Connection> {
        let slot = self.slots.get_mut(number as usize)?;
        let connection = slot.take();
        self.free.push(number);
        connection
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Connection)> {
        self.slots.iter_mut().enumerate().filter_map(|(number, slot)| Some((number as u32, slot.as_mut()?)))
    }
}
