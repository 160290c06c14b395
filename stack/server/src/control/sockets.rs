//! The sockets that the server carries.

use crate::socket::Socket;
use freena_ebpf_abi::FlowKey;
use freena_udp::SocketKey;
use std::collections::HashMap;
use std::sync::Arc;

/// A socket and what the control thread alone knows of it.
pub(super) struct Entry {
    pub(super) socket: Arc<Socket>,
    /// What is steered to it.
    pub(super) keys: Vec<FlowKey>,
    /// Why it is carried.
    pub(super) reason: String,
}

/// All of them.
pub(super) struct Sockets {
    entries: Vec<Option<Entry>>,
    by_identity: HashMap<(u64, u64), SocketKey>,
    next_id: u64,
    limit: usize,
}

impl Sockets {
    pub(super) fn new(limit: u32) -> Self {
        Sockets { entries: Vec::new(), by_identity: HashMap::new(), next_id: 1, limit: limit as usize }
    }

    /// A free slot and a name for a new socket, `None` at the limit.
    pub(super) fn vacancy(&mut self) -> Option<(SocketKey, u64)> {
        if self.by_identity.len() >= self.limit {
            return None;
        }
        // A slot is free as soon as its entry is gone: commands keep their order, so each worker forgets the old socket
        // before it hears of the new one.
        let slot = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let id = self.next_id;
        self.next_id += 1;
        Some((slot as SocketKey, id))
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let key = entry.socket.key;
        self.by_identity.insert(entry.socket.identity, key);
        self.entries[key as usize] = Some(entry);
    }

    pub(super) fn remove(&mut self, key: SocketKey) -> Option<Entry> {
        let entry = self.entries.get_mut(key as usize)?.take()?;
        self.by_identity.remove(&entry.socket.identity);
        Some(entry)
    }

    pub(super) fn get_mut(&mut self, key: SocketKey) -> Option<&mut Entry> {
        self.entries.get_mut(key as usize)?.as_mut()
    }

    /// The socket whose application end has this device and inode.
    pub(super) fn find(&mut self, identity: (u64, u64)) -> Option<&mut Entry> {
        let key = *self.by_identity.get(&identity)?;
        self.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.by_identity.len()
    }
}
