//! From the transmit rings to the links.
//!
//! A turn first stages bursts: it takes records from the rings of all active sockets, joins those that may leave together
//! (`freena_udp::coalesce`), and writes their headers. Payload stays in the rings; links read it from there. Then all bursts are given to
//! their links at once, and only afterwards is the room in the rings given back.
//!
//! A datagram that is larger than the path MTU leaves as fragments, each a burst of its own ([`fragment`]).

mod fragment;

pub(super) use fragment::Resume;

use super::path::{Fast, Key, Path};
use super::{Port, Worker, companion};
use freena_ip::{MIN_V4, Pieces};
use freena_shm_abi::{Record, endpoint::ip_of, record::flags};
use freena_shm_ring::cursor::ConsumerCursor;
use freena_shm_ring::{Consumer, Message};
use freena_stack_api::{Burst, Chunk, Gso};
use freena_udp::SocketKey;
use freena_udp::coalesce::{Header, Limits, Run};
use freena_wire::{checksum, ethernet, ipv4, ipv6, protocol, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::{io, mem};

/// Records taken from one socket in one turn.
pub(super) const RECORDS_PER_SOCKET: u32 = 512;
/// Bursts staged in one turn.
const MAX_BURSTS: usize = 64;
/// Default TTL and hop limit (RFC 1700; Linux `ip_default_ttl`).
pub(super) const DEFAULT_TTL: u8 = 64;

/// A burst that waits to be given to its link.
struct Staged {
    socket: SocketKey,
    /// Position of its first record.
    start: u64,
    port: usize,
    header: Range<usize>,
    l4: u16,
    chunks: Range<usize>,
    payload_len: u32,
    segment: u16,
    gso: Gso,
    /// Datagrams that have left with it; of fragments only the last counts.
    datagrams: u32,
    /// Which fragment of its datagram it is.
    fragment: Option<Resume>,
}

/// The bursts of a turn. The vectors keep their memory from turn to turn.
#[derive(Default)]
pub(super) struct Stage {
    bursts: Vec<Staged>,
    headers: Vec<u8>,
    // `'static` stands for "until `flush` at the end of the turn", which empties it.
    chunks: Vec<Chunk<'static>>,
    /// Datagrams whose fragments are staged, and memory for further ones.
    copies: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    ip_id: u16,
    stats: FragmentStats,
}

/// What was sent in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct FragmentStats {
    /// Datagrams.
    pub datagrams: u64,
    /// Their fragments.
    pub fragments: u64,
}

/// A run of records and the way it takes.
struct Open {
    run: Run,
    fast: Fast,
    start: u64,
    first_chunk: usize,
    gso_segment: Option<u16>,
}

/// Why staging of a socket ended.
enum End {
    Empty,
    Budget,
    Corrupt(freena_shm_ring::cursor::Corrupt),
}

impl Worker {
    /// Sends what waits in the rings of active sockets; returns how many datagrams were taken.
    pub(super) fn transmit_all(&mut self) -> usize {
        let mut taken = 0;
        let mut index = 0;
        while index < self.table.active.len() {
            let key = self.table.active[index];
            let before = self.table.active.len();
            taken += self.transmit_socket(key);
            // The socket may have been closed, which takes it out of the list.
            index += usize::from(self.table.active.len() == before);
            if self.stage.bursts.len() >= MAX_BURSTS {
                self.flush();
                // Whoever was served first comes last in the next turn.
                let len = self.table.active.len();
                self.table.active.rotate_left(index.min(len));
                break;
            }
        }
        self.flush();
        // What was handed over to other sockets.
        self.publish();
        self.settle_active();
        taken
    }

    /// Stages the records of one socket.
    fn transmit_socket(&mut self, key: SocketKey) -> usize {
        let mut taken = 0;
        let end = loop {
            let Some(local) = self.table.get_mut(key) else { return taken };
            if taken as u32 >= RECORDS_PER_SOCKET || self.stage.bursts.len() >= MAX_BURSTS {
                break End::Budget;
            }
            let socket = local.socket.clone();
            let start = local.tx.head;
            let first = match Consumer::new(socket.memory.tx(), &mut local.tx).next() {
                Ok(Some(message)) => message,
                Ok(None) => break End::Empty,
                Err(corrupt) => break End::Corrupt(corrupt),
            };
            local.last_sent = self.now;
            let path = self.path_of(key, &first.record);
            if let Path::Fast(fast) = path {
                match carriage(&fast, &first.record) {
                    Carriage::Whole => {
                        taken += 1 + self.stage_run(key, start, &first, fast);
                        continue;
                    }
                    Carriage::Fragments(pieces) => {
                        taken += 1;
                        self.stage_fragments(key, start, &first, &fast, pieces);
                        continue;
                    }
                    Carriage::Kernel => {}
                }
            }
            if !self.flush_before(key, start) {
                break End::Budget;
            }
            taken += 1;
            if let Path::Local(here) = path
                && let Some(more) = self.hand_over(key, &first, here)
            {
                taken += more;
                continue;
            }
            let Some(local) = self.table.get_mut(key) else { return taken };
            if !companion::send(&socket, &first) {
                local.tx.head = start;
                break End::Budget;
            }
            Consumer::new(socket.memory.tx(), &mut local.tx).release();
        };
        if let End::Corrupt(corrupt) = end {
            let id = self.table.get(key).map(|local| local.socket.id);
            tracing::warn!(socket = id, %corrupt, "a program broke its transmit ring: the socket is closed");
            self.unstage(key);
            self.abandon(key);
        }
        taken
    }

    /// Sends what is staged of a socket before its record at `start` is dealt with at once: room is given back in order.
    /// False if not all of it has left.
    fn flush_before(&mut self, key: SocketKey, start: u64) -> bool {
        if self.stage.bursts.iter().all(|staged| staged.socket != key) {
            return true;
        }
        let Some(taken) = self.table.get(key).map(|local| local.tx) else { return false };
        let rewind = |worker: &mut Worker, cursor| worker.table.get_mut(key).map(|local| local.tx = cursor);
        rewind(self, ConsumerCursor { head: start, ..taken });
        self.flush();
        let all_left = self.table.get(key).is_some_and(|local| local.tx.head == start);
        all_left && rewind(self, taken).is_some()
    }

    fn path_of(&mut self, key: SocketKey, record: &Record) -> Path {
        let Some(local) = self.table.get(key) else { return Path::Kernel };
        let asked = ip_of(&record.local);
        let bound = local.binding.local;
        let src = [asked, bound].into_iter().find(|ip| !ip.is_unspecified());
        // The scope of a link-local destination is its interface.
        let ifindex = [record.ifindex, local.binding.ifindex, record.scope].into_iter().find(|i| *i != 0);
        let dst = ip_of(&record.peer);
        if dst.is_multicast() || dst.is_unspecified() {
            return Path::Kernel;
        }
        self.paths.find(Key { dst, src, ifindex: ifindex.unwrap_or(0) }, self.now)
    }

    /// Stages `first` and all that may leave with it; returns how many more records were taken.
    fn stage_run(&mut self, key: SocketKey, start: u64, first: &Message<'_>, fast: Fast) -> usize {
        let Some(local) = self.table.get_mut(key) else { return 0 };
        let socket = local.socket.clone();
        let record = &first.record;
        let header = header_of(record);
        let own_segment =
            (record.segment != 0 && u32::from(record.segment) < record.len).then_some(record.segment);
        let alone = own_segment.is_some() || record.flags & flags::NO_CHECKSUM != 0;
        let limits = Limits {
            segments: if alone { 1 } else { fast.max_segments },
            bytes: fast.max_burst.min(65_507),
            segment: max_payload(&fast),
        };
        let mut open = Open {
            run: Run::start(header, record.len, limits),
            fast,
            start,
            first_chunk: self.stage.chunks.len(),
            gso_segment: own_segment,
        };
        self.stage.push_chunk(first);
        let mut more = 0;
        loop {
            let before = local.tx.head;
            let mut consumer = Consumer::new(socket.memory.tx(), &mut local.tx);
            // A corrupt ring is met again by the caller, after this run has been staged.
            let Ok(Some(message)) = consumer.next() else {
                local.tx.head = before;
                break;
            };
            let record = &message.record;
            let belongs = record.segment == 0 && open.run.accept(&header_of(record), record.len);
            if !belongs {
                local.tx.head = before;
                break;
            }
            self.stage.push_chunk(&message);
            more += 1;
        }
        let src_port = local.binding.port;
        self.stage.close(key, &open, src_port, record.flags & flags::NO_CHECKSUM != 0);
        more
    }

    /// Gives all staged bursts to their links and the room in the rings back.
    fn flush(&mut self) {
        let stage = &mut self.stage;
        if stage.bursts.is_empty() {
            return;
        }
        let staged = mem::take(&mut stage.bursts);
        let bursts: Vec<Burst<'_>> = staged
            .iter()
            .map(|s| Burst {
                header: &stage.headers[s.header.clone()],
                l3: ethernet::HEADER_LEN as u16,
                l4: s.l4,
                checksum: 6,
                payload: &stage.chunks[s.chunks.clone()],
                payload_len: s.payload_len,
                segment: s.segment,
                gso: s.gso,
            })
            .collect();
        let (sent, lost) = give(&mut self.setup.ports, &bursts, |at| staged[at].port);
        drop(bursts);
        stage.headers.clear();
        stage.chunks.clear();
        stage.spare.append(&mut stage.copies);
        // In order, so that the first burst that was not taken decides where its socket goes on.
        let mut stopped: Vec<SocketKey> = Vec::new();
        for (burst, sent) in staged.iter().zip(&sent) {
            let Some(local) = self.table.get_mut(burst.socket) else { continue };
            if stopped.contains(&burst.socket) {
                continue;
            }
            if *sent {
                local.socket.stats.tx_fast.add(u64::from(burst.datagrams));
                if burst.fragment.is_some() {
                    stage.stats.fragments += 1;
                    stage.stats.datagrams += u64::from(burst.datagrams);
                }
            } else {
                local.tx.head = burst.start;
                local.resume = burst.fragment.filter(|fragment| !fragment.is_start());
                stopped.push(burst.socket);
            }
        }
        for burst in &staged {
            if let Some(local) = self.table.get_mut(burst.socket) {
                let socket = local.socket.clone();
                Consumer::new(socket.memory.tx(), &mut local.tx).release();
            }
        }
        self.stage.bursts = staged;
        self.stage.bursts.clear();
        for (port, error) in lost {
            self.lose(port, error);
            self.paths.forget();
        }
    }

    /// Takes back what is staged of a socket that is about to go.
    fn unstage(&mut self, key: SocketKey) {
        self.stage.bursts.retain(|staged| staged.socket != key);
    }

    /// After sending: reads messages of programs that wait for room, and ends sockets that are closed and empty.
    fn settle_active(&mut self) {
        let mut index = 0;
        while index < self.table.active.len() {
            let key = self.table.active[index];
            let Some(local) = self.table.get(key) else {
                self.table.active.swap_remove(index);
                continue;
            };
            if local.unread || local.closing {
                let channel = local.socket.memory.tx();
                let tail = channel.tail().load(std::sync::atomic::Ordering::Acquire);
                let used = tail.wrapping_sub(local.tx.head);
                if local.closing && used == 0 {
                    self.forget(key);
                    self.tell(super::Event::Closed(key));
                    continue;
                }
                if used <= channel.size() / 2 {
                    self.drain_peer(key);
                }
            }
            index += 1;
        }
    }
}

impl Stage {
    /// What was sent in pieces so far.
    pub(super) fn fragment_stats(&self) -> FragmentStats {
        self.stats
    }

    fn push_chunk(&mut self, message: &Message<'_>) {
        // SAFETY: the payload lies in the mapping of a socket that the table holds; the chunk is gone at the end of
        // `flush`, in the same turn, and sockets are only dropped between turns or after `unstage`.
        let chunk = unsafe { Chunk::from_raw(message.as_ptr(), message.record.len as usize) };
        self.chunks.push(chunk);
    }

    /// Writes the headers of a finished run and queues it.
    fn close(&mut self, socket: SocketKey, open: &Open, src_port: u16, no_checksum: bool) {
        let run = &open.run;
        let fast = &open.fast;
        let dst = ip_of(&run.header().peer);
        let payload_len = run.bytes();
        let datagrams = match open.gso_segment {
            Some(segment) => payload_len.div_ceil(u32::from(segment)),
            None => run.count(),
        };
        let (gso, segment) = match (open.gso_segment, run.count()) {
            (Some(segment), _) => (Gso::Udp, segment),
            (None, 1) => (Gso::None, 0),
            (None, _) => (Gso::Udp, run.segment() as u16),
        };
        let at = self.headers.len();
        let l3 = ethernet::HEADER_LEN;
        let ip_len = if dst.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        let l4 = l3 + ip_len;
        self.headers.resize(at + l4 + udp::HEADER_LEN, 0);
        let out = &mut self.headers[at..];
        emit_ethernet(fast, dst, out);
        let udp_len = payload_len as u16 + udp::HEADER_LEN as u16;
        let header = run.header();
        match (fast.src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let id = self.ip_id;
                self.ip_id = self.ip_id.wrapping_add(datagrams as u16);
                let whole = is_whole_only(fast.mtu, header.flags);
                v4_header(src, dst, header, id, whole, udp_len).emit(&mut out[l3..]);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                v6_header(src, dst, header, udp_len).emit(&mut out[l3..]);
            }
            // `carriage` lets no such pair through.
            _ => unreachable!("source and destination of different IP versions"),
        }
        let pseudo = checksum::pseudo(fast.src, dst, protocol::UDP, udp_len);
        let partial = if no_checksum { 0 } else { pseudo.map_or(0, |sum| sum.partial()) };
        udp::Repr { src_port, dst_port: run.header().peer_port, payload_len: payload_len as u16 }
            .emit(partial, &mut out[l4..]);
        self.bursts.push(Staged {
            socket,
            start: open.start,
            port: fast.port,
            header: at..self.headers.len(),
            l4: if no_checksum { 0 } else { l4 as u16 },
            chunks: open.first_chunk..self.chunks.len(),
            payload_len,
            segment,
            gso,
            datagrams,
            fragment: None,
        });
    }
}

/// Bursts that their links took, by index, and links that failed for good.
pub(super) type Given = (Vec<bool>, Vec<(usize, io::Error)>);

/// Gives bursts to their links, neighbours for one link together. `port_of` tells whose one is. What is given to a link that
/// fails for good counts as taken: it is lost, as when a cable is cut.
pub(super) fn give(ports: &mut [Port], bursts: &[Burst<'_>], port_of: impl Fn(usize) -> usize) -> Given {
    let mut lost = Vec::new();
    let mut taken = vec![false; bursts.len()];
    let mut at = 0;
    while at < bursts.len() {
        let port = port_of(at);
        let until = at + (at..bursts.len()).take_while(|index| port_of(*index) == port).count();
        match ports[port].link.transmit(&bursts[at..until]) {
            Ok(count) => taken[at..at + count].fill(true),
            Err(error) => {
                taken[at..until].fill(true);
                lost.push((port, error));
            }
        }
        at = until;
    }
    (taken, lost)
}

fn header_of(record: &Record) -> Header {
    Header {
        peer: record.peer,
        local: record.local,
        peer_port: record.peer_port,
        ttl: record.ttl,
        tos: record.tos,
        flags: record.flags,
        ifindex: record.ifindex,
        flow: record.flow,
    }
}

/// The most payload of one unfragmented datagram.
fn max_payload(fast: &Fast) -> u32 {
    let headers = if fast.src.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN } + udp::HEADER_LEN;
    fast.mtu.saturating_sub(headers as u32)
}

/// How a record leaves.
#[derive(Debug)]
enum Carriage {
    /// As one packet, or as many as `UDP_SEGMENT` makes of it.
    Whole,
    /// As these fragments.
    Fragments(Pieces),
    /// By the companion: what the kernel refuses, it refuses with the right error.
    Kernel,
}

/// How the fast path can carry a record.
fn carriage(fast: &Fast, record: &Record) -> Carriage {
    let dst = ip_of(&record.peer);
    if fast.src.is_ipv4() != dst.is_ipv4() || record.peer_port == 0 {
        return Carriage::Kernel;
    }
    let limit = max_payload(fast);
    let segment = u32::from(record.segment);
    if segment != 0 && segment < record.len {
        let can_cut = segment <= limit
            && record.len <= fast.max_burst.min(65_507)
            && record.len.div_ceil(segment) <= fast.max_segments;
        return if can_cut { Carriage::Whole } else { Carriage::Kernel };
    }
    if record.len <= limit {
        return Carriage::Whole;
    }
    if record.flags & flags::DONT_FRAGMENT != 0 {
        // EMSGSIZE for IP_PMTUDISC_DO; for IP_PMTUDISC_PROBE it leaves nevertheless, up to the interface's MTU.
        return Carriage::Kernel;
    }
    let (len, mtu) = (record.len as usize + udp::HEADER_LEN, fast.mtu as usize);
    let pieces = if dst.is_ipv4() { Pieces::v4(len, mtu) } else { Pieces::v6(len, mtu) };
    pieces.map_or(Carriage::Kernel, Carriage::Fragments)
}

/// Whether routers are told not to cut an IPv4 packet, as `ip_dont_fragment` of Linux decides it: a path whose MTU is the
/// least that is believed may in truth have an even smaller one.
fn is_whole_only(mtu: u32, asked: u16) -> bool {
    let may_cut = mtu <= MIN_V4 || asked & flags::MAY_FRAGMENT != 0;
    !may_cut || asked & flags::DONT_FRAGMENT != 0
}

fn emit_ethernet(fast: &Fast, dst: IpAddr, out: &mut [u8]) {
    let ethertype = if dst.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
    ethernet::Repr { dst: fast.dst_mac, src: fast.src_mac, ethertype }.emit(out);
}

fn v4_header(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    header: &Header,
    id: u16,
    dont_fragment: bool,
    payload_len: u16,
) -> ipv4::Repr {
    ipv4::Repr {
        src,
        dst,
        protocol: protocol::UDP,
        ttl: ttl_of(header),
        tos: header.tos,
        id,
        dont_fragment,
        more_fragments: false,
        fragment_offset: 0,
        payload_len,
    }
}

fn v6_header(src: Ipv6Addr, dst: Ipv6Addr, header: &Header, payload_len: u16) -> ipv6::Repr {
    ipv6::Repr {
        src,
        dst,
        next_header: protocol::UDP,
        hop_limit: ttl_of(header),
        traffic_class: header.tos,
        flow_label: header.flow,
        payload_len,
    }
}

fn ttl_of(header: &Header) -> u8 {
    if header.ttl == 0 { DEFAULT_TTL } else { header.ttl }
}

#[cfg(test)]
mod tests;
