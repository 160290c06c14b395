//! Copies of what the links carry, for `freena trace`.
//!
//! The polling threads filter and copy into rings that the asking process reads; a packet that does not fit is counted and
//! forgotten. They neither wait nor allocate for it, and read nothing of that process but the cursors of its rings.

use super::client::Answer;
use super::policy::Rejected;
use super::requests::os;
use super::{Control, token};
use crate::socket::Counter;
use crate::sys;
use freena_link_middleware::filter::{Filter, MAX_FILTER};
use freena_link_middleware::{Passed, Place, Watcher, Watchers};
use freena_shm_abi::control::{Request, Response};
use freena_shm_abi::trace::{Captured, HEAD, MAX_PACKET, Seen};
use freena_shm_ring::cursor::ProducerCursor;
use freena_shm_ring::mapping::Sizes;
use freena_shm_ring::{Producer, SocketMapping, wake};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::IntoBytes;

/// The most traces at a time.
const MAX_TRACES: usize = 8;
/// Default size of a trace's rings in bytes, of which there is one for each worker.
const RING_SIZE: u32 = 16 << 20;
/// The fewest bytes of a packet: less than the headers is of no use, and the ring's records hold that much anyway.
const MIN_SNAP: usize = 64;

/// A link as a trace names it.
#[derive(Clone, Copy, Debug)]
pub struct LinkName {
    /// Interface.
    pub ifindex: u32,
    /// Queue of the interface.
    pub queue: u32,
}

/// What there is to watch, and who does.
pub(super) struct Traces {
    watchers: Arc<Watchers>,
    /// By [`Place::link`].
    links: Arc<[LinkName]>,
    running: HashMap<u64, Arc<Trace>>,
    next: u64,
}

impl Traces {
    pub(super) fn new(watchers: Arc<Watchers>, links: Arc<[LinkName]>) -> Self {
        Traces { watchers, links, running: HashMap::new(), next: token::TRACES }
    }

    /// How many are running.
    pub(super) fn count(&self) -> usize {
        self.running.len()
    }
}

/// One of them.
struct Trace {
    filter: Filter,
    snap_len: usize,
    /// The only interface to show, or 0.
    ifindex: u32,
    memory: SocketMapping,
    end: OwnedFd,
    /// Positions in the rings. Each is locked by its own worker only, so that nobody ever waits.
    cursors: Vec<Mutex<ProducerCursor>>,
    links: Arc<[LinkName]>,
    /// For each link: packets that the filter let through, and those of them that did not fit.
    counters: Vec<(Counter, Counter)>,
}

impl Watcher for Trace {
    fn take(&self, place: Place, packet: &Passed<'_>) {
        let (Some(link), Some((matched, lost))) = (self.links.get(place.link), self.counters.get(place.link))
        else {
            return;
        };
        if (self.ifindex != 0 && self.ifindex != link.ifindex) || !self.filter.matches(&packet.sight) {
            return;
        }
        matched.add(1);
        if !self.copy(place.worker, *link, packet) {
            lost.add(1);
        }
    }

    fn flush(&self, place: Place) {
        let Some(cursor) = self.cursors.get(place.worker) else { return };
        let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
        Producer::new(self.memory.rx(place.worker), &mut cursor).publish();
        if wake::take_request(&self.memory.page().rx_wake.0.token) {
            // A full queue is readable already; a closed one is reported to the control thread.
            let _ = sys::send(self.end.as_fd(), b"r");
        }
    }
}

impl Trace {
    /// Copies a packet into the ring of a worker; whether it fitted.
    fn copy(&self, worker: usize, link: LinkName, packet: &Passed<'_>) -> bool {
        let Some(cursor) = self.cursors.get(worker) else { return false };
        let original = packet.header.len() + packet.payload.iter().map(|chunk| chunk.len()).sum::<usize>();
        let kept = original.min(self.snap_len);
        let mut head = [0; HEAD];
        // Headers of what is sent are longer than that, and what arrives is in one piece.
        let in_head = packet.header.len().min(HEAD);
        head[..in_head].copy_from_slice(&packet.header[..in_head]);
        let record = Captured {
            len: kept.saturating_sub(HEAD) as u32,
            segment: packet.segment,
            head,
            queue: link.queue as u16,
            outbound: u16::from(packet.sight.outbound),
            ifindex: link.ifindex,
            original: original as u32,
            timestamp: sys::realtime_ns(),
            ..Captured::default()
        };
        let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut producer = Producer::new(self.memory.rx(worker), &mut cursor);
        let Ok(mut slot) = producer.reserve(&record.into()) else { return false };
        let rest = &packet.header[in_head..packet.header.len().min(kept).max(in_head)];
        slot.write(0, rest);
        let mut at = rest.len();
        for chunk in packet.payload {
            let part = chunk.len().min(slot.len() - at);
            // SAFETY: a chunk is readable for its length; it lies in a socket's memory or this process's own, never in the
            // memory of a trace.
            unsafe { slot.write_raw(at, chunk.as_ptr(), part) };
            at += part;
        }
        true
    }

    fn seen(&self) -> Vec<Seen> {
        let seen = |(link, (matched, lost)): (&LinkName, &(Counter, Counter))| Seen {
            matched: matched.get(),
            lost: lost.get(),
            ifindex: link.ifindex,
            queue: link.queue,
        };
        self.links.iter().zip(&self.counters).map(seen).collect()
    }
}

impl Control {
    /// Begins a trace.
    pub(super) fn trace(
        &mut self,
        client: u64,
        request: &Request,
        filter: Option<OwnedFd>,
    ) -> Result<Answer, Rejected> {
        self.may_trace(client)?;
        if self.traces.running.len() >= MAX_TRACES {
            return Err((libc::EBUSY, format!("{MAX_TRACES} traces are running, which is the limit")));
        }
        let filter = match filter {
            Some(fd) => read_filter(fd)?,
            None => Filter::default(),
        };
        if request.ifindex != 0 && !self.is_served(request.ifindex) {
            return Err((libc::ENODEV, format!("interface {} is not served", request.ifindex)));
        }
        let snap_len = match request.snap_len {
            0 => MAX_PACKET,
            len => (len as usize).clamp(MIN_SNAP, MAX_PACKET),
        };
        let ring = if request.rx_size == 0 { RING_SIZE } else { request.rx_size };
        let workers = self.workers.len();
        // Nothing is ever sent to the links: the transmit ring is the smallest there is, and takes no memory.
        let (memory, memory_fd) =
            SocketMapping::create(Sizes::clamp(0, ring, workers as u32), 0).map_err(os)?;
        let (end, far_end) = sys::seqpacket_pair().map_err(os)?;
        let token = self.traces.next;
        self.traces.next += 1;
        self.epoll.add(end.as_raw_fd(), libc::EPOLLIN | libc::EPOLLRDHUP, token).map_err(os)?;
        let links = self.traces.links.clone();
        let trace = Arc::new(Trace {
            filter,
            snap_len,
            ifindex: request.ifindex,
            memory,
            end,
            cursors: (0..workers).map(|_| Mutex::default()).collect(),
            counters: links.iter().map(|_| <(Counter, Counter)>::default()).collect(),
            links,
        });
        self.traces.watchers.add(trace.clone());
        self.traces.running.insert(token, trace);
        tracing::info!(token, "a trace begins");
        Ok(Answer { response: Response::new(), fds: vec![far_end, memory_fd] })
    }

    /// A trace shows what other users send.
    fn may_trace(&self, client: u64) -> Result<(), Rejected> {
        let uid = self.clients.get(&client).map_or(u32::MAX, |client| client.credentials.uid);
        // SAFETY: no arguments, cannot fail.
        let own = unsafe { libc::geteuid() };
        if uid == 0 || uid == own {
            return Ok(());
        }
        Err((
            libc::EPERM,
            format!("user {uid} may not trace: it shows what others send; root and user {own} may"),
        ))
    }

    /// The reader has had enough, or is gone.
    pub(super) fn end_trace(&mut self, token: u64) {
        let Some(trace) = self.traces.running.remove(&token) else { return };
        let watcher: Arc<dyn Watcher> = trace.clone();
        self.traces.watchers.remove(&watcher);
        let _ = self.epoll.remove(trace.end.as_raw_fd());
        let _ = sys::send(trace.end.as_fd(), trace.seen().as_bytes());
        // A link that sleeps keeps the trace, and so its end, until it is used again.
        // SAFETY: plain system call on an owned descriptor.
        unsafe { libc::shutdown(trace.end.as_raw_fd(), libc::SHUT_RDWR) };
        tracing::info!(token, "a trace has ended");
    }
}

fn read_filter(fd: OwnedFd) -> Result<Filter, Rejected> {
    let bad = |words: String| (libc::EINVAL, words);
    let mut bytes = [0; MAX_FILTER + 1];
    // At an offset, which pipes and sockets do not have: reading them might block.
    let len = File::from(fd).read_at(&mut bytes, 0).map_err(os)?;
    let text = std::str::from_utf8(&bytes[..len]).map_err(|error| bad(format!("filter: {error}")))?;
    Filter::parse(text).map_err(|error| bad(error.to_string()))
}
