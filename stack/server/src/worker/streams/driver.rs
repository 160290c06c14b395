//! What the engine asks for in the middle of a segment.

use super::super::path::{Fast, Path as Way, Paths, Unresolved};
use super::table::{Connection, Handout, Table};
use super::{find_way, options, watch};
use crate::stream::{Names, Registry};
use crate::sys::Epoll;
use freena_shm_abi::stream::state;
use freena_tcp::{Driver, Flow, Handle, ListenerKey, Path};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Most bytes of IP and TCP headers with all options that are used.
const HEADERS: u32 = 40 + 60;

/// The engine's surroundings.
pub(super) struct Host<'a> {
    pub(super) table: &'a mut Table,
    pub(super) registry: &'a Registry,
    /// IP protocol of the segment.
    pub(super) protocol: u8,
    /// Number of the worker.
    pub(super) index: usize,
    pub(super) paths: &'a mut Paths,
    pub(super) epoll: &'a Epoll,
    pub(super) now: Instant,
    /// Where the segment came in.
    pub(super) ifindex: u32,
}

/// A way in the engine's terms.
pub(super) fn path_of(fast: &Fast) -> Path {
    let cuts = fast.max_segments > 1;
    let max_burst = if cuts { fast.max_burst.min(65_535 - HEADERS) } else { fast.mtu };
    Path { mtu: fast.mtu, max_burst, max_segments: fast.max_segments }
}

impl Host<'_> {
    /// The interface that a peer with a link-local address is on, else 0.
    fn scope_of(&self, peer: IpAddr) -> u32 {
        match peer {
            IpAddr::V6(peer) if peer.is_unicast_link_local() => self.ifindex,
            _ => 0,
        }
    }
}

impl Driver for Host<'_> {
    fn path(&mut self, flow: &Flow) -> Option<Path> {
        let scope = self.scope_of(flow.peer);
        match find_way(self.paths, flow, scope, self.now) {
            Way::Fast(fast) | Way::Unresolved(Unresolved { fast, .. }) => Some(path_of(&fast)),
            Way::Local(_) | Way::Kernel => None,
        }
    }

    fn has_room(&mut self, key: ListenerKey) -> bool {
        let full = self.registry.is_full(0);
        !full && self.table.listener(key).is_some_and(super::table::Listener::has_room)
    }

    fn accept(&mut self, key: ListenerKey, handle: Handle, flow: &Flow) -> Option<u64> {
        let scope = self.scope_of(flow.peer);
        let path = self.path(flow)?;
        if !self.has_room(key) {
            return None;
        }
        let listener = self.table.listener(key)?;
        let parts = match self.registry.make(0, 0) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%error, "cannot make an accepted connection");
                return None;
            }
        };
        let stream_page = &parts.memory().page().stream;
        options::inherit(&listener.stream.memory.page().stream.asked, &stream_page.asked);
        stream_page.told.state.store(state::ESTABLISHED, Ordering::Relaxed);
        let options = options::of(&stream_page.asked);
        let room = u64::from(parts.memory().sizes().rx);
        let (stream, application_end) = parts.name(Names {
            ipv6: listener.stream.ipv6,
            protocols: [self.protocol].into(),
            home: self.index,
            companion: None,
            owner: listener.stream.owner.clone(),
            local: (flow.local, flow.local_port),
            peer: Some((flow.peer, flow.peer_port)),
            scope,
            ifindex: scope,
            lease: listener.stream.lease.clone(),
        });
        if let Err(error) = watch(self.epoll, handle, &stream) {
            tracing::warn!(%error, "cannot watch an accepted connection");
            return None;
        }
        let stream = Arc::new(stream);
        listener.pending.push_back(Handout::Framework(stream.clone(), application_end));
        if !self.table.crowded.contains(&key) {
            self.table.crowded.push(key);
        }
        self.registry.insert(stream.clone());
        let mut connection = Connection::new(stream, *flow, path, options, self.now);
        connection.flags = connection.stream.memory.page().stream.asked.flags.load(Ordering::Relaxed);
        connection.accepted = true;
        connection.established = true;
        self.table.insert(handle, connection);
        Some(room)
    }

    fn store(&mut self, handle: Handle, position: u64, bytes: &[u8]) {
        let Some(connection) = self.table.get_mut(handle) else { return };
        let pipe = connection.stream.memory.rx_pipe();
        // What is published is the program's to read; what lies beyond the ring would overwrite that. The engine keeps to
        // both, so nothing is cut here.
        let known = connection.rx.tail.saturating_sub(position).min(bytes.len() as u64);
        let room = (connection.read + pipe.size()).saturating_sub(position).min(bytes.len() as u64);
        debug_assert!(room == bytes.len() as u64, "the engine stores beyond the window");
        let Some(bytes) = bytes.get(known as usize..room as usize).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let position = position + known;
        if position == connection.rx.tail && connection.stored <= position {
            connection.rx.rebase(&pipe);
        }
        // SAFETY: `bytes` lies in a frame, not in the ring; the position is not before the tail, and its end within a ring of
        // what the program has read, as cut above.
        unsafe { pipe.copy_in(connection.rx.base, position, bytes.as_ptr(), bytes.len()) };
        connection.stored = connection.stored.max(position + bytes.len() as u64);
        let offset = position.wrapping_sub(connection.rx.base) & (pipe.size() - 1);
        connection.touch(offset + bytes.len() as u64);
    }
}
