//! What waits to be accepted: connections of ours, and those that the kernel's listener has taken.
//!
//! Both are messages in the queue of the listener's application end, with descriptors beside them. What the queue does not
//! take waits here. As many may wait altogether as with the kernel: one more than the backlog; beyond, SYNs are not answered,
//! and the kernel's listener keeps what it has.

use super::table::{Handout, Listener};
use super::{Worker, token};
use crate::sys;
use freena_shm_abi::Endpoint;
use freena_shm_abi::stream::{Accepted, accepted};
use freena_tcp::ListenerKey;
use freena_wire::protocol;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::Duration;
use zerocopy::IntoBytes;

/// How often a full queue is tried again while nothing else happens.
pub(super) const RETRY: Duration = Duration::from_millis(5);
/// Connections taken from the kernel's listener at a time.
const BUDGET: usize = 64;

/// Memory that one message takes in a queue.
static MESSAGE: LazyLock<Option<usize>> = LazyLock::new(|| {
    let (from, _to) = sys::seqpacket_pair().ok()?;
    sys::send(from.as_fd(), &[0; size_of::<Accepted>()]).ok()?;
    sys::unreceived(from.as_fd()).ok().filter(|bytes| *bytes > 0)
});

impl Listener {
    /// Whether one connection more may wait for accept(2) (`sk_acceptq_is_full` of Linux). The kernel is asked how many were
    /// accepted only where it matters.
    pub(super) fn has_room(&mut self) -> bool {
        let others = self.pending.len();
        if others + self.queued > self.backlog
            && let (Some(message), Ok(bytes)) = (*MESSAGE, sys::unreceived(self.stream.peer_end.as_fd()))
        {
            self.queued = bytes / message;
        }
        others + self.queued <= self.backlog
    }
}

impl Worker {
    /// Puts what waits into the listeners' queues.
    pub(super) fn hand_out(&mut self) {
        let table = &mut self.streams.table;
        let mut crowded = std::mem::take(&mut table.crowded);
        crowded.retain(|key| {
            let Some(listener) = table.listener(*key) else { return false };
            while let Some(handout) = listener.pending.front() {
                match send(&listener.stream, handout) {
                    Ok(()) => {
                        listener.pending.pop_front();
                        listener.queued += 1;
                    }
                    // Nobody can accept any more: the listener's end is reported soon.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => listener.pending.clear(),
                    Err(_) => return true,
                }
            }
            listener.kernel_waits
        });
        let waiting = |key: &ListenerKey| table.listener(*key).is_some_and(|listener| listener.kernel_waits);
        let waiting: Vec<ListenerKey> = crowded.iter().copied().filter(waiting).collect();
        table.crowded = crowded;
        waiting.into_iter().for_each(|key| self.accept_from_kernel(key));
    }

    /// Takes what the kernel's listener has.
    pub(super) fn accept_from_kernel(&mut self, key: ListenerKey) {
        let table = &mut self.streams.table;
        let Some(listener) = table.listener(key) else { return };
        let Some(companion) = listener.stream.companion.get().cloned() else { return };
        // Where QUIC is the only protocol nothing comes in unencrypted; and TCP has no messages.
        let is_sealed = *listener.stream.protocols == [protocol::UDP];
        let has_messages = listener.stream.has_messages();
        listener.kernel_waits = false;
        for taken in 0.. {
            // No edge will tell of those that stay.
            listener.kernel_waits = taken == BUDGET || !listener.has_room();
            if listener.kernel_waits {
                break;
            }
            match sys::accept(companion.as_fd()) {
                // It ends as a port does that nobody listens at, as far as can be said after the handshake.
                Ok((fd, local, peer)) if has_messages || is_sealed && !is_within(&local, &peer) => {
                    let _ = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
                }
                Ok((fd, local, peer)) => listener.pending.push_back(Handout::Kernel(fd, local, peer)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if (listener.kernel_waits || !listener.pending.is_empty()) && !table.crowded.contains(&key) {
            table.crowded.push(key);
        }
    }

    /// Something has happened to a listener's descriptor.
    pub(super) fn listener_ready(&mut self, key: ListenerKey, events: u32) {
        let Some(listener) = self.streams.table.listener(key) else { return };
        if events & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            self.streams.registry.remove(&listener.stream);
            self.unlisten(key);
            self.tell(super::super::Event::ListenerClosed(key));
            return;
        }
        // Nothing that a program may say to a listener matters; it must only not fill the queue.
        let mut message = [0u8; 8];
        let peer = listener.stream.peer_end.as_fd();
        for _ in 0..16 {
            if !matches!(sys::receive(peer, &mut message), Ok(len) if len > 0) {
                break;
            }
        }
    }

    /// What an event in the epoll set about streams is about.
    pub(in super::super) fn stream_ready(&mut self, data: u64, events: u32) {
        let index = data as u32;
        match data & token::KIND {
            token::STREAM => self.peer_of_stream_ready(index, data >> token::GENERATION_SHIFT, events),
            token::LISTENER => self.listener_ready(index, events),
            token::KERNEL_LISTENER => self.accept_from_kernel(index),
            _ => {}
        }
    }
}

/// Whether a connection of the kernel's never leaves this host.
fn is_within(local: &SocketAddr, peer: &SocketAddr) -> bool {
    local.ip() == peer.ip() || peer.ip().to_canonical().is_loopback()
}

fn send(listener: &crate::stream::Stream, handout: &Handout) -> io::Result<()> {
    let to = listener.peer_end.as_fd();
    // A program sees addresses in the family of its socket.
    let endpoint = |ip: IpAddr, port, scope| {
        let family = if listener.ipv6 { 6 } else { 4 };
        Endpoint { family, ..Endpoint::new(ip, port, scope) }
    };
    let from_name = |name: &SocketAddr| {
        let scope = match name {
            SocketAddr::V6(name) => name.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        endpoint(name.ip(), name.port(), scope)
    };
    match handout {
        Handout::Framework(stream, application_end) => listener.hand_out(stream, application_end, None)?,
        Handout::Kernel(fd, local, peer) => {
            let message = Accepted {
                kind: accepted::KERNEL,
                pad: 0,
                socket_id: 0,
                local: from_name(local),
                peer: from_name(peer),
            };
            sys::send_with_fds(to, message.as_bytes(), &[fd.as_fd()])?;
        }
    }
    Ok(())
}
