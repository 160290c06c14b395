//! A bad wire.

use super::host::Datagram;
use freena_tcp::Transmit;
use freena_wire::tcp::flag;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A generator of numbers that only look random (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / ((1_u64 << 53) as f64) < probability
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Chooses packets to lose, by sender and content.
pub type Lose = Box<dyn FnMut(usize, &Datagram) -> bool>;

/// What happens to packets on their way.
pub struct Wire {
    pub latency: Duration,
    pub loss: f64,
    pub duplication: f64,
    /// Probability and delay of a packet that others overtake.
    pub reordering: (f64, Duration),
    /// Super-packets arrive whole; otherwise they are cut up, and each segment has its own fate.
    pub whole: bool,
    /// Bits per second, 0 for no limit.
    pub rate: u64,
    /// Bytes that wait for their turn at most.
    pub queue: u64,
    /// Hosts answer each packet before they see the next.
    pub eager: bool,
    /// Packets that are lost by their number on this wire, whatever the loss.
    pub lose: Lose,
    pub sent: u64,
    pub lost: u64,
    busy: [Option<Instant>; 2],
    in_flight: BTreeMap<(Instant, u64), (usize, Datagram)>,
    serial: u64,
    rng: Rng,
}

impl Wire {
    pub fn new(seed: u64) -> Self {
        Wire {
            latency: Duration::from_millis(10),
            loss: 0.0,
            duplication: 0.0,
            reordering: (0.0, Duration::ZERO),
            whole: false,
            rate: 0,
            queue: 256 << 10,
            eager: true,
            lose: Box::new(|_, _| false),
            sent: 0,
            lost: 0,
            busy: [None; 2],
            in_flight: BTreeMap::new(),
            serial: 0,
            rng: Rng::new(seed),
        }
    }

    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes a packet from a host.
    pub fn send(&mut self, now: Instant, side: usize, transmit: &Transmit, payload: &[u8]) {
        let header = &transmit.header[..usize::from(transmit.header_len)];
        let datagram = |header: &[u8], payload: &[u8], segment| Datagram {
            src: transmit.flow.local,
            dst: transmit.flow.peer,
            bytes: [header, payload].concat(),
            segment,
        };
        if transmit.segment == 0 || self.whole {
            self.put(now, side, datagram(header, payload, transmit.segment));
            return;
        }
        // As the kernel's tcp_gso_segment.
        let chunks = payload.chunks(usize::from(transmit.segment));
        let last = chunks.len() - 1;
        let sequence = u32::from_be_bytes(header[4..8].try_into().unwrap());
        for (index, chunk) in chunks.enumerate() {
            let mut header = header.to_vec();
            let offset = index as u32 * u32::from(transmit.segment);
            header[4..8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
            if index != last {
                header[13] &= !(flag::PSH | flag::FIN);
            }
            self.put(now, side, datagram(&header, chunk, 0));
        }
    }

    fn put(&mut self, now: Instant, side: usize, datagram: Datagram) {
        self.sent += 1;
        if (self.lose)(side, &datagram) || self.rng.chance(self.loss) {
            self.lost += 1;
            return;
        }
        let mut at = now;
        if self.rate > 0 {
            let free = self.busy[side].unwrap_or(now).max(now);
            let bytes = |time: Duration| (time.as_secs_f64() * self.rate as f64 / 8.0) as u64;
            if bytes(free - now) > self.queue {
                self.lost += 1;
                return;
            }
            at = free + Duration::from_secs_f64((datagram.bytes.len() + 34) as f64 * 8.0 / self.rate as f64);
            self.busy[side] = Some(at);
        }
        at += self.latency;
        if self.rng.chance(self.duplication) {
            let later = self.latency.mul_f64(self.rng.below(100) as f64 / 100.0);
            self.arrive(at + later, 1 - side, datagram.clone());
        }
        if self.rng.chance(self.reordering.0) {
            at += self.reordering.1.mul_f64(self.rng.below(100) as f64 / 100.0);
        }
        self.arrive(at, 1 - side, datagram);
    }

    fn arrive(&mut self, at: Instant, side: usize, datagram: Datagram) {
        self.serial += 1;
        self.in_flight.insert((at, self.serial), (side, datagram));
    }

    /// When the next packet arrives.
    pub fn next(&self) -> Option<Instant> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    /// A packet that has arrived: where, and what.
    pub fn receive(&mut self, now: Instant) -> Option<(usize, Datagram)> {
        let entry = self.in_flight.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        Some(entry.remove())
    }
}
