//! From the links into the receive rings.

use super::table::Table;
use super::{RX_BUDGET, Worker, send_token};
use crate::sys;
use freena_shm_abi::{Record, endpoint::octets_of, record::flags};
use freena_shm_ring::{Producer, wake};
use freena_stack_api::Frame;
use freena_udp::{Datagram, Udp};
use freena_wire::{Packet, parse_frame, protocol};

impl Worker {
    /// Takes what has arrived on all links; returns how many frames that were.
    pub(super) fn receive_all(&mut self) -> usize {
        let mut frames = 0;
        let mut failed = None;
        for (index, port) in self.setup.ports.iter_mut().enumerate() {
            if self.lost[index] {
                continue;
            }
            let ifindex = port.ifindex;
            let mut stamp = 0;
            let (udp, table, malformed) = (&mut self.udp, &mut self.table, &mut self.malformed);
            let ring = self.setup.index;
            let received = port.link.receive(RX_BUDGET, &mut |frame| {
                if stamp == 0 {
                    // One clock reading for the batch: the frames in it arrived within microseconds.
                    stamp = sys::realtime_ns();
                }
                match parse_frame(frame.data) {
                    Ok(packet) => take_packet(udp, table, ring, ifindex, &frame, &packet, stamp),
                    Err(_) => *malformed += 1,
                }
            });
            match received {
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
            Producer::new(memory.rx(ring), &mut local.rx).publish();
            if wake::take_request(&memory.page().rx_wake.0) {
                send_token(&local.socket);
            }
        }
    }
}

/// Hands one packet to its engine and what comes out of it to its socket.
fn take_packet(
    udp: &mut Udp,
    table: &mut Table,
    ring: usize,
    ifindex: u32,
    frame: &Frame<'_>,
    packet: &Packet<'_>,
    stamp: u64,
) {
    if packet.protocol != protocol::UDP || packet.fragment.is_some() {
        // The XDP program steers neither here; the raw link sees them, and the kernel has its own copy.
        return;
    }
    if let Ok(datagram) = udp.receive(packet, frame.checksum, frame.segment, ifindex) {
        deliver(table, ring, packet, &datagram, stamp);
    }
}

/// Copies datagrams into the socket's receive ring.
fn deliver(table: &mut Table, ring: usize, packet: &Packet<'_>, datagram: &Datagram<'_>, stamp: u64) {
    let Some(local) = table.get_mut(datagram.socket) else { return };
    let mut record = Record {
        peer: octets_of(datagram.flow.src),
        local: octets_of(datagram.flow.dst),
        peer_port: datagram.flow.src_port,
        ttl: packet.ttl,
        tos: packet.tos,
        ifindex: datagram.flow.ifindex,
        timestamp: stamp,
        ..Record::default()
    };
    let mut producer = Producer::new(local.socket.memory.rx(ring), &mut local.rx);
    let stats = &local.socket.stats;
    let (mut delivered, mut dropped) = (0, 0);
    let mut put = |payload: &[u8]| {
        record.len = payload.len() as u32;
        match producer.reserve(&record) {
            Ok(mut slot) => {
                slot.write(0, payload);
                delivered += 1;
            }
            Err(_) => dropped += 1,
        }
    };
    match datagram.segment {
        0 => put(datagram.payload),
        segment => datagram.payload.chunks(usize::from(segment)).for_each(&mut put),
    }
    if dropped > 0 {
        stats.rx_dropped.add(dropped);
    }
    if delivered > 0 {
        stats.rx_fast.add(delivered);
        if !local.dirty {
            local.dirty = true;
            table.dirty.push(datagram.socket);
        }
    }
}

/// What a record of a datagram from the companion looks like.
pub(super) fn kernel_record(len: usize, truncated: bool) -> Record {
    let cut = if truncated { flags::TRUNCATED } else { 0 };
    Record { len: len as u32, flags: flags::KERNEL | cut, ..Record::default() }
}
