//! From the transmit rings to the links: headers for what the engine wants sent, and bursts.
//!
//! The engine decides what is sent once; whether it left is then the link's matter. What a link does not take waits here and
//! goes first in the next turn. What has no way yet, since the next hop's address is not known, waits until it is.

use super::super::path::{Fast, Path as Way, Unresolved};
use super::super::transmit::give;
use super::engines::Outgoing;
use super::solicit::{FRAME, Solicited, solicitation};
use super::{WAY_LIFETIME, Worker, driver, find_way};
use crate::stream::Stream;
use freena_ip::MIN_V4;
use freena_stack_api::{Burst, Chunk, Gso};
use freena_tcp::IcmpError;
use freena_wire::protocol::UDP;
use freena_wire::{checksum, ethernet, ipv4, ipv6};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bursts staged at a time.
const MAX_STAGED: usize = 64;
/// Rounds of staging and sending in one turn.
const ROUNDS: usize = 4;
/// Segments that wait for the address of their next hop.
const MAX_HELD: usize = 256;
/// How often the address of a next hop is asked for again.
const HOLD: Duration = Duration::from_millis(20);
/// A next hop that has not answered for so long does not exist, if the kernel says so: it asks three times in 3 s.
const PATIENCE: Duration = Duration::from_millis(500);
/// Ethernet, IPv6 and TCP headers with all options.
const MAX_HEADER: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + 60;

/// A burst that waits to be given to its link.
struct Staged {
    /// Keeps the payload where it is. None for segments without.
    #[expect(dead_code, reason = "held for the chunks")]
    stream: Option<Arc<Stream>>,
    /// Payload that is the engine's own: on the heap, so that the chunks stay right when this moves.
    #[expect(dead_code, reason = "held for the chunks")]
    body: Vec<u8>,
    port: usize,
    header: [u8; MAX_HEADER],
    header_len: u8,
    l4: u8,
    checksum: u16,
    // `'static` stands for "as long as `stream`" or `body`.
    chunks: [Chunk<'static>; 2],
    payload_len: u32,
    segment: u16,
    gso: Gso,
}

/// A segment that waits for the address of its next hop.
struct Held {
    outgoing: Outgoing,
    since: Instant,
}

/// What waits. The vectors keep their memory from turn to turn.
#[derive(Default)]
pub(super) struct Stage {
    staged: Vec<Staged>,
    held: Vec<Held>,
    retry_at: Option<Instant>,
    solicited: Solicited,
    ip_id: u16,
}

impl Stage {
    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Stages a solicitation for `next` from `own`.
    fn solicit(&mut self, fast: &Fast, own: Ipv6Addr, next: Ipv6Addr) {
        let mut header = [0; MAX_HEADER];
        header[..FRAME].copy_from_slice(&solicitation(fast.src_mac, own, next));
        self.staged.push(Staged {
            stream: None,
            body: Vec::new(),
            port: fast.port,
            header,
            header_len: FRAME as u8,
            l4: 0,
            checksum: 0,
            chunks: [Chunk::new(&[]); 2],
            payload_len: 0,
            segment: 0,
            gso: Gso::None,
        });
    }

    /// Neighbours have changed.
    pub(super) fn retry_now(&mut self) {
        if let Some(held) = self.held.first() {
            self.retry_at = Some(held.since);
        }
    }
}

impl Worker {
    /// Sends what the engine wants sent; returns how many bursts were taken by links.
    pub(super) fn transmit_streams(&mut self) -> usize {
        self.retry_held();
        let mut taken = 0;
        for _ in 0..ROUNDS {
            while self.streams.stage.staged.len() < MAX_STAGED
                && let Some(outgoing) = self.streams.engines.poll_transmit(self.now, &mut self.streams.table)
            {
                self.stage_segment(outgoing, self.now);
            }
            if self.streams.stage.staged.is_empty() {
                break;
            }
            taken += self.flush_streams();
            if !self.streams.stage.staged.is_empty() {
                break;
            }
        }
        taken
    }

    fn retry_held(&mut self) {
        if self.streams.stage.retry_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.streams.stage.retry_at = None;
        for Held { outgoing, since } in mem::take(&mut self.streams.stage.held) {
            self.stage_segment(outgoing, since);
        }
    }

    /// Stages what the engine wants sent, or holds it. `since`: when it was first tried.
    fn stage_segment(&mut self, outgoing: Outgoing, since: Instant) {
        let transmit = &outgoing.transmit;
        let streams = &mut self.streams;
        let mut connection = transmit.connection.and_then(|handle| streams.table.get_mut(handle));
        if let Some((fast, until)) = connection.as_ref().and_then(|connection| connection.way)
            && self.now < until
        {
            self.stage_by(&fast, outgoing);
            return;
        }
        let ifindex = connection.as_ref().map_or(0, |connection| connection.stream.ifindex);
        match find_way(&mut self.paths, &transmit.flow, ifindex, self.now) {
            Way::Fast(fast) => {
                if let Some(connection) = &mut connection {
                    connection.way = Some((fast, self.now + WAY_LIFETIME));
                    let path = driver::path_of(&fast);
                    if let (true, Some(handle)) = (path != connection.path, transmit.connection) {
                        connection.path = path;
                        streams.engines.set_path(self.now, handle, path);
                    }
                }
                self.stage_by(&fast, outgoing);
            }
            Way::Unresolved(unresolved) => self.hold(outgoing, since, &unresolved),
            // No route, or the address has become our own: lost, as on the way. The engine tries again.
            Way::Local(_) | Way::Kernel => {}
        }
    }

    fn hold(&mut self, outgoing: Outgoing, since: Instant, hop: &Unresolved) {
        let transmit = &outgoing.transmit;
        if hop.failed && self.now.duration_since(since) > PATIENCE {
            let quoted = std::array::from_fn(|at| transmit.header[at]);
            let engines = &mut self.streams.engines;
            engines.handle_icmp(outgoing.protocol, self.now, &transmit.flow, quoted, IcmpError::Host);
            return;
        }
        self.paths.solicit(hop);
        // The kernel may have had no address to ask from.
        if self.now.duration_since(since) >= HOLD
            && let (IpAddr::V6(own), IpAddr::V6(next)) = (transmit.flow.local, hop.next)
            && self.streams.stage.solicited.may(hop.fast.port, hop.next, self.now)
        {
            self.streams.stage.solicit(&hop.fast, own, next);
        }
        let stage = &mut self.streams.stage;
        stage.retry_at.get_or_insert(self.now + HOLD);
        // A retransmission takes the place of what it repeats.
        let same = |held: &&mut Held| {
            let other = &held.outgoing.transmit;
            other.flow == transmit.flow && other.header[4..8] == transmit.header[4..8]
        };
        if let Some(held) = stage.held.iter_mut().find(same) {
            held.outgoing = outgoing;
        } else if stage.held.len() < MAX_HELD {
            stage.held.push(Held { outgoing, since });
        }
    }

    /// Writes the headers of a segment and stages it.
    fn stage_by(&mut self, fast: &Fast, outgoing: Outgoing) {
        let Outgoing { mut transmit, protocol, checksum: field } = outgoing;
        let streams = &mut self.streams;
        let body = mem::take(&mut transmit.body);
        let mut payload_len = transmit.payload.end.wrapping_sub(transmit.payload.start);
        let mut chunks = [Chunk::new(&[]); 2];
        let mut stream = None;
        if payload_len > 0 {
            let connection = transmit.connection.and_then(|handle| streams.table.get(handle));
            let Some(connection) = connection else { return };
            let (start, end) = (transmit.payload.start, transmit.payload.end);
            if start < connection.tx.head || end > connection.tx.tail || payload_len > 0xffff {
                // Acknowledged while it was held.
                return;
            }
            let pipe = connection.stream.memory.tx_pipe();
            let spans = pipe.spans(connection.tx.base, start, payload_len as usize);
            // SAFETY: spans lie in the mapping of `stream`, which the staged burst keeps.
            chunks = spans.map(|span| unsafe { Chunk::from_raw(span.data, span.len) });
            stream = Some(connection.stream.clone());
        } else if !body.is_empty() {
            payload_len = body.len() as u64;
            // SAFETY: the bytes are those of `body`, which the staged burst keeps and nobody changes.
            chunks[0] = unsafe { Chunk::from_raw(body.as_ptr(), body.len()) };
        }
        let header_len = usize::from(transmit.header_len).min(60);
        let l3 = ethernet::HEADER_LEN;
        let flow = &transmit.flow;
        let length = header_len as u32 + payload_len as u32;
        let Some(pseudo) = checksum::pseudo(flow.local, flow.peer, protocol, length as u16) else {
            return;
        };
        let mut header = [0; MAX_HEADER];
        let gso = if transmit.segment == 0 || payload_len <= u64::from(transmit.segment) {
            Gso::None
        } else if protocol == UDP {
            Gso::Udp
        } else if flow.peer.is_ipv4() {
            Gso::Tcp4
        } else {
            Gso::Tcp6
        };
        let (ethertype, l4) = match (flow.local, flow.peer) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let segments =
                    if gso == Gso::None { 1 } else { payload_len.div_ceil(transmit.segment.into()) };
                let id = streams.stage.ip_id;
                streams.stage.ip_id = id.wrapping_add(segments as u16);
                let repr = ipv4::Repr {
                    src,
                    dst,
                    protocol,
                    ttl: transmit.ttl,
                    tos: transmit.tos,
                    id,
                    // As `ip_dont_fragment` of Linux: a path whose MTU is the least that is believed may in truth have
                    // an even smaller one.
                    dont_fragment: fast.mtu > MIN_V4,
                    more_fragments: false,
                    fragment_offset: 0,
                    payload_len: length as u16,
                };
                repr.emit(&mut header[l3..]);
                (ethernet::IPV4, l3 + ipv4::HEADER_LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let repr = ipv6::Repr {
                    src,
                    dst,
                    next_header: protocol,
                    hop_limit: transmit.ttl,
                    traffic_class: transmit.tos,
                    flow_label: 0,
                    payload_len: length as u16,
                };
                repr.emit(&mut header[l3..]);
                (ethernet::IPV6, l3 + ipv6::HEADER_LEN)
            }
            _ => return,
        };
        ethernet::Repr { dst: fast.dst_mac, src: fast.src_mac, ethertype }.emit(&mut header);
        header[l4..l4 + header_len].copy_from_slice(&transmit.header[..header_len]);
        let field = field.filter(|at| usize::from(*at) + 2 <= header_len);
        if let Some(at) = field {
            let at = l4 + usize::from(at);
            header[at..at + 2].copy_from_slice(&pseudo.partial().to_be_bytes());
        }
        if let Some(stream) = &stream
            && let Some(handle) = transmit.connection
        {
            let told = &stream.memory.page().stream.told;
            told.sent.store(streams.engines.sent(handle), Ordering::Relaxed);
        }
        streams.stage.staged.push(Staged {
            stream,
            body,
            port: fast.port,
            header,
            header_len: (l4 + header_len) as u8,
            // 0: there is no checksum to be filled in.
            l4: if field.is_some() { l4 as u8 } else { 0 },
            checksum: field.unwrap_or(0),
            chunks,
            payload_len: payload_len as u32,
            segment: if gso == Gso::None { 0 } else { transmit.segment },
            gso,
        });
    }

    /// Gives what is staged to the links; returns how many bursts they took.
    fn flush_streams(&mut self) -> usize {
        let staged = mem::take(&mut self.streams.stage.staged);
        let bursts: Vec<Burst<'_>> = staged
            .iter()
            .map(|s| Burst {
                header: &s.header[..s.header_len.into()],
                l3: ethernet::HEADER_LEN as u16,
                l4: s.l4.into(),
                checksum: s.checksum,
                payload: used(&s.chunks),
                payload_len: s.payload_len,
                segment: s.segment,
                gso: s.gso,
            })
            .collect();
        let (sent, lost) = give(&mut self.setup.ports, &bursts, |at| staged[at].port);
        drop(bursts);
        let taken = sent.iter().filter(|sent| **sent).count();
        let mut sent = sent.into_iter();
        let mut staged = staged;
        staged.retain(|_| !sent.next().unwrap_or(false));
        self.streams.stage.staged = staged;
        for (port, error) in lost {
            self.lose(port, error);
            self.paths.forget();
        }
        taken
    }
}

/// The chunks that have something in them.
fn used<'a>(chunks: &'a [Chunk<'static>; 2]) -> &'a [Chunk<'a>] {
    let count = chunks.iter().take_while(|chunk| !chunk.is_empty()).count();
    &chunks[..count]
}
