//! From ring to ring: datagrams between programs of this host that are both carried by this server.
//!
//! The worker of the sender moves the record from the transmit ring into its own receive ring of the receiver. No packet is
//! built and no system call made, except to wake a receiver that sleeps. What the receiver reads is what the kernel's
//! loopback would have told it: source address, interface, TTL, TOS.
//!
//! A run of records to one destination shares the look-up; all are published together at the end of the turn.

use super::path::Here;
use super::transmit::{DEFAULT_TTL, RECORDS_PER_SOCKET};
use super::{Worker, sys};
use freena_shm_abi::Record;
use freena_shm_abi::endpoint::{ip_of, octets_of};
use freena_shm_ring::{Consumer, Message, Producer};
use freena_udp::{Flow, SocketKey};
use std::net::IpAddr;

/// Largest payload over IPv4: 65,535 less the IPv4 and UDP headers.
const MAX_V4: u32 = 65_507;
/// Most segments in one send (`UDP_MAX_SEGMENTS`, udp(7)).
const MAX_SEGMENTS: u32 = 64;

impl Worker {
    /// Hands `first` over, and what follows it to the same destination; returns how many more records were taken. `None`:
    /// no socket of this server would hear it, or the kernel would refuse it; nothing has happened then.
    pub(super) fn hand_over(&mut self, key: SocketKey, first: &Message<'_>, here: Here) -> Option<usize> {
        let sender = self.table.get(key)?;
        let flow = Flow {
            src: here.src,
            src_port: sender.binding.port,
            dst: ip_of(&first.record.peer),
            dst_port: first.record.peer_port,
            ifindex: here.ifindex,
        };
        let receiver = self.udp.find(&flow)?;
        if !is_sendable(&first.record, &flow) {
            return None;
        }
        let (from, mut tx) = (sender.socket.clone(), sender.tx);
        let to = self.table.get_mut(receiver)?;
        let mut producer = Producer::new(to.socket.memory.rx(self.setup.index), &mut to.rx);
        if !to.dirty {
            producer.begin_batch();
        }
        let mut consumer = Consumer::new(from.memory.tx(), &mut tx);
        let template = arrival(&flow);
        let (mut message, mut records, mut sent, mut dropped) = (*first, 0, 0, 0);
        loop {
            let datagrams = datagrams(&message.record);
            sent += datagrams;
            if !put(&mut producer, &template, &message) {
                dropped += datagrams;
            }
            records += 1;
            // A corrupt ring is met again by the caller, after this run.
            match consumer.next() {
                Ok(Some(next))
                    if records < RECORDS_PER_SOCKET as usize
                        && is_same_way(&next.record, &first.record)
                        && is_sendable(&next.record, &flow) =>
                {
                    message = next;
                }
                _ => break consumer.rewind(message.end),
            }
        }
        consumer.release();
        from.stats.tx_local.add(sent);
        if dropped > 0 {
            to.socket.stats.rx_dropped.add(dropped);
        }
        if sent > dropped {
            to.socket.stats.rx_local.add(sent - dropped);
            if !to.dirty {
                to.dirty = true;
                self.table.dirty.push(receiver);
            }
        }
        self.table.get_mut(key)?.tx = tx;
        Some(records - 1)
    }
}

/// What the receiver is told of every datagram of a flow.
fn arrival(flow: &Flow) -> Record {
    // Only such an address needs its interface to be answered.
    let is_link_local = matches!(flow.src, IpAddr::V6(src) if src.is_unicast_link_local());
    Record {
        peer: octets_of(flow.src),
        local: octets_of(flow.dst),
        peer_port: flow.src_port,
        ifindex: flow.ifindex,
        scope: if is_link_local { flow.ifindex } else { 0 },
        timestamp: sys::realtime_ns(),
        ..Record::default()
    }
}

/// Copies a record into the receiver's ring; false if that is full.
fn put(producer: &mut Producer<'_, '_>, template: &Record, message: &Message<'_>) -> bool {
    let sent = &message.record;
    let record = Record {
        len: sent.len,
        // Uncut, as `UDP_SEGMENT` crosses the kernel's loopback: who has not asked for `UDP_GRO` reads one at a time.
        segment: if is_cut(sent) { sent.segment } else { 0 },
        ttl: if sent.ttl == 0 { DEFAULT_TTL } else { sent.ttl },
        tos: sent.tos,
        ..*template
    };
    let Ok(mut slot) = producer.reserve(&record) else { return false };
    // SAFETY: `Consumer::next` has checked that `sent.len` bytes are readable there, in a transmit ring, which is never
    // the receive ring that they are copied to.
    unsafe { slot.write_raw(0, message.as_ptr(), sent.len as usize) };
    true
}

fn is_cut(record: &Record) -> bool {
    record.segment != 0 && u32::from(record.segment) < record.len
}

fn datagrams(record: &Record) -> u64 {
    if is_cut(record) { u64::from(record.len.div_ceil(u32::from(record.segment))) } else { 1 }
}

/// Whether the kernel would send it.
fn is_sendable(record: &Record, flow: &Flow) -> bool {
    flow.dst_port != 0
        && (flow.dst.is_ipv6() || record.len <= MAX_V4)
        && datagrams(record) <= u64::from(MAX_SEGMENTS)
}

/// Whether a record goes where another one goes.
fn is_same_way(one: &Record, other: &Record) -> bool {
    (one.peer, one.peer_port, one.local, one.ifindex, one.scope)
        == (other.peer, other.peer_port, other.local, other.ifindex, other.scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str) -> Flow {
        let ip = |text: &str| text.parse().expect("an address");
        Flow { src: ip(src), src_port: 9, dst: ip(dst), dst_port: 7, ifindex: 3 }
    }

    #[test]
    fn what_the_kernel_refuses_is_left_to_it() {
        let record = |len, segment| Record { len, segment, ..Record::default() };
        let (v4, v6) = (flow("127.0.0.1", "127.0.0.1"), flow("::1", "::1"));
        assert!(is_sendable(&record(65_507, 0), &v4) && !is_sendable(&record(65_508, 0), &v4));
        assert!(is_sendable(&record(65_527, 0), &v6));
        assert!(is_sendable(&record(6400, 100), &v4) && !is_sendable(&record(6401, 100), &v4));
        assert!(!is_sendable(&record(1, 0), &Flow { dst_port: 0, ..v4 }));
    }

    #[test]
    fn segments_are_counted_as_datagrams() {
        let count = |len, segment| datagrams(&Record { len, segment, ..Record::default() });
        assert_eq!((count(0, 0), count(100, 0), count(100, 100), count(101, 100)), (1, 1, 1, 2));
    }

    #[test]
    fn a_link_local_source_has_its_interface() {
        assert_eq!(arrival(&flow("fe80::1", "fe80::1")).scope, 3);
        assert_eq!(arrival(&flow("fd00::1", "fd00::1")).scope, 0);
        let record = arrival(&flow("127.0.0.1", "127.0.0.2"));
        assert_eq!(ip_of(&record.peer).to_string(), "127.0.0.1");
        assert_eq!(ip_of(&record.local).to_string(), "127.0.0.2");
    }
}
