//! From the links into the receive rings.
//!
//! Where a program steers (XDP, tc), every fragment is left to the kernel, and the datagram comes through the companion.
//! The program cannot do better: it takes a frame or passes it, and a fragment that arrives before the first one of its
//! datagram does not tell whose it is. Taken, it would be lost to the kernel's sockets; passed, the datagram would be lost
//! to ours, one part here and the rest there. A raw link without steering shows a copy of all that the kernel gets: there
//! fragments are reassembled here, and the companion's filter keeps the kernel's own copy of the datagram out.

use super::addresses::Locals;
use super::pace;
use super::path::Paths;
use super::streams::Streams;
use super::table::Table;
use super::{Worker, send_token};
use crate::mirror::LOOPBACK_IFINDEX;
use crate::sys::{self, Epoll};
use freena_ip::Reassembler;
use freena_shm_abi::{Record, endpoint::octets_of, record::flags, socket::RxWake};
use freena_shm_ring::{Producer, wake};
use freena_stack_api::{Frame, RxChecksum};
use freena_udp::{Datagram, Udp};
use freena_wire::{Packet, parse_frame, protocol};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Worker {
    /// Takes what has arrived on all links; returns how many frames that were.
    pub(super) fn receive_all(&mut self) -> usize {
        let mut frames = 0;
        let mut failed = None;
        for (index, port) in self.setup.ports.iter_mut().enumerate() {
            if self.lost[index] {
                continue;
            }
            let mut intake = Intake {
                now: self.now,
                locals: port.sees_all.then_some(&mut self.locals),
                streams: self.streams.is_used().then_some((&mut self.streams, &mut self.paths, &self.epoll)),
                malformed: &mut self.malformed,
                reassembler: &mut self.reassembler,
                delivery: Delivery {
                    udp: &mut self.udp,
                    table: &mut self.table,
                    ring: self.setup.index,
                    ifindex: port.ifindex,
                    stamp: 0,
                },
            };
            match port.link.receive(port.budget, &mut |frame| intake.take(&frame)) {
                Ok(count) => frames += count,
                Err(error) => failed = Some((index, error)),
            }
        }
        self.publish();
        if let Some((index, error)) = failed {
            self.lose(index, error);
        }
        frames
    }

    /// Makes the deliveries of this turn visible and wakes those who wait.
    pub(super) fn publish(&mut self) {
        while let Some(key) = self.table.dirty.pop() {
            let ring = self.setup.index;
            let Some(local) = self.table.get_mut(key) else { continue };
            local.dirty = false;
            let memory = &local.socket.memory;
            let mut producer = Producer::new(memory.rx(ring), &mut local.rx);
            producer.publish();
            if producer.reach() >= pace::NEAR {
                self.pressed.push(key);
            }
            let wake = &memory.page().rx_wake.0;
            if wake::take_request(&wake.token) || wants_edge(wake) {
                send_token(&local.socket);
            }
        }
    }
}

/// Whether data that have just been published, while a token for older ones lies in the queue, have to be told by one more.
/// Counts it. What does not fit into the queue is not told: the kernel drops what its own queue does not take, untold.
pub(super) fn wants_edge(wake: &RxWake) -> bool {
    let wants = wake.eager.load(Ordering::Relaxed) != 0 && wake::is_sent(&wake.token);
    if wants {
        wake.edges.fetch_add(1, Ordering::Relaxed);
    }
    wants
}

/// Takes the frames of one link.
struct Intake<'a> {
    now: Instant,
    /// Where the link shows packets to others too: which addresses are ours.
    locals: Option<&'a mut Locals>,
    /// Where there are streams: they, and what they need.
    streams: Option<(&'a mut Streams, &'a mut Paths, &'a Epoll)>,
    malformed: &'a mut u64,
    reassembler: &'a mut Reassembler,
    delivery: Delivery<'a>,
}

impl Intake<'_> {
    fn take(&mut self, frame: &Frame<'_>) {
        if self.delivery.stamp == 0 {
            // One clock reading for the batch: the frames in it arrived within microseconds.
            self.delivery.stamp = sys::realtime_ns();
        }
        let Ok(packet) = parse_frame(frame.data) else {
            *self.malformed += 1;
            return;
        };
        // For streams there is nothing to look for where nothing steers: the kernel answers there.
        let stream = match &self.streams {
            Some((streams, ..)) if packet.protocol != protocol::UDP => streams.carries(packet.protocol),
            _ => packet.protocol == protocol::TCP,
        };
        if stream && packet.fragment.is_none() {
            if let (Some((streams, paths, epoll)), None) = (&mut self.streams, &self.locals) {
                let segment = (&packet, frame.checksum, frame.segment);
                streams.receive(paths, epoll, self.now, segment, self.delivery.ifindex);
            }
            return;
        }
        // The protocol of an IPv6 fragment is known for sure only when it is whole (RFC 8200 section 4.5).
        let fragment = packet.fragment.is_some();
        let may_be_udp = packet.protocol == protocol::UDP || (fragment && packet.src.is_ipv6());
        // Loopback addresses mean this host on every host, so from a wire they are a lie (RFC 1122 section 3.2.1.3, RFC 4291
        // section 2.5.3).
        let is_wire = self.delivery.ifindex != LOOPBACK_IFINDEX;
        if is_wire && (packet.src.is_loopback() || packet.dst.is_loopback()) {
            *self.malformed += 1;
            return;
        }
        if !may_be_udp || self.locals.as_mut().is_some_and(|locals| !locals.contains(packet.dst)) {
            // A raw link shows it, and the kernel has its own copy.
            return;
        }
        if fragment {
            self.take_fragment(&packet);
        } else if !self.delivery.take(&packet, frame.checksum, frame.segment)
            && let (Some((streams, paths, epoll)), None) = (&mut self.streams, &self.locals)
            && streams.carries(protocol::UDP)
        {
            // No program's datagram socket has the port: it may be QUIC's.
            self.delivery.udp.disclaim();
            let segment = (&packet, frame.checksum, frame.segment);
            streams.receive(paths, epoll, self.now, segment, self.delivery.ifindex);
        }
    }

    /// Puts a fragment in its place. Refused ones are counted by reason.
    fn take_fragment(&mut self, packet: &Packet<'_>) {
        let Ok(Some(whole)) = self.reassembler.handle_fragment(self.now, packet) else { return };
        if whole.protocol != protocol::UDP {
            return;
        }
        let whole = Packet {
            protocol: whole.protocol,
            ttl: whole.ttl,
            tos: whole.tos,
            fragment: None,
            payload: whole.payload,
            ..*packet
        };
        // Whatever is known of a fragment's checksum says nothing of the datagram's. It is never a partial one: who cuts
        // a packet completes its checksum first, Linux in `ip_do_fragment` and `ip6_fragment` too.
        self.delivery.take(&whole, RxChecksum::Unknown, 0);
    }
}

/// Hands packets to the engine and what comes out of it to the sockets.
struct Delivery<'a> {
    udp: &'a mut Udp,
    table: &'a mut Table,
    /// Receive ring of this worker.
    ring: usize,
    ifindex: u32,
    /// Time of arrival, 0 until the first frame.
    stamp: u64,
}

impl Delivery<'_> {
    /// Whether there is a socket for it. What is not delivered is counted by the engine.
    fn take(&mut self, packet: &Packet<'_>, checksum: RxChecksum, segment: u16) -> bool {
        match self.udp.receive(packet, checksum, segment, self.ifindex) {
            Ok(datagram) => self.deliver(packet, &datagram),
            Err(refused) => return refused != freena_udp::Drop::NoSocket,
        }
        true
    }

    /// Copies datagrams into the socket's receive ring.
    fn deliver(&mut self, packet: &Packet<'_>, datagram: &Datagram<'_>) {
        let Some(local) = self.table.get_mut(datagram.socket) else { return };
        let mut record = Record {
            peer: octets_of(datagram.flow.src),
            local: octets_of(datagram.flow.dst),
            peer_port: datagram.flow.src_port,
            ttl: packet.ttl,
            tos: packet.tos,
            ifindex: datagram.flow.ifindex,
            timestamp: self.stamp,
            ..Record::default()
        };
        let mut producer = Producer::new(local.socket.memory.rx(self.ring), &mut local.rx);
        let stats = &local.socket.stats;
        // Several datagrams that came together stay together: one copy, one record. Who has not asked for `UDP_GRO` reads them
        // one at a time.
        record.len = datagram.payload.len() as u32;
        record.segment = datagram.segment;
        let count = match usize::from(datagram.segment) {
            0 => 1,
            segment => datagram.payload.len().div_ceil(segment) as u64,
        };
        if !local.dirty {
            producer.begin_batch();
        }
        let Ok(mut slot) = producer.reserve(&record) else { return stats.rx_dropped.add(count) };
        slot.write(0, datagram.payload);
        stats.rx_fast.add(count);
        if !local.dirty {
            local.dirty = true;
            self.table.dirty.push(datagram.socket);
        }
    }
}

/// What a record of a datagram from the companion looks like.
pub(super) fn kernel_record(len: usize, truncated: bool) -> Record {
    let cut = if truncated { flags::TRUNCATED } else { 0 };
    Record { len: len as u32, flags: flags::KERNEL | cut, ..Record::default() }
}
