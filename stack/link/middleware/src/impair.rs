//! Makes a good network a bad one.

use crate::{
    dice::{BadProbability, Dice, Impairments},
    frames,
};
use freena_stack_api::{Burst, Chunk, Frame, Gso, Link, LinkInfo, LinkStats, RxChecksum};
use std::{cmp::Reverse, collections::BinaryHeap, io, os::fd::RawFd, time::Instant};

/// The most frames held back in one direction. Those beyond are lost, and counted so.
pub const MAX_HELD: usize = 4096;

/// Which directions of a link are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// What is received.
    Receive,
    /// What is sent.
    Transmit,
    /// Both.
    Both,
}

/// What was done to frames, in both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impaired {
    /// Lost.
    pub lost: u64,
    /// Came twice.
    pub duplicated: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Lost because [`MAX_HELD`] others were held back.
    pub overflowed: u64,
}

/// A link that loses, delays, duplicates, reorders and damages frames.
///
/// Super-packets that are sent are segmented first, so that each frame has a fate of its own; those received share one.
/// A frame that is late goes on in the first call of `receive` or `transmit` after its time; nothing wakes a thread that
/// sleeps on [`Link::wait_fd`] for it, so poll, or sleep no longer than until [`Link::poll_timeout`].
pub struct Impair<L> {
    link: L,
    clock: Box<dyn Fn() -> Instant + Send>,
    receiving: Option<Direction>,
    sending: Option<Direction>,
    scratch: Vec<u8>,
}

struct Direction {
    dice: Dice,
    held: BinaryHeap<Reverse<Held>>,
    number: u64,
    done: Impaired,
}

/// A frame on its way, in order of time and then of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    number: u64,
    data: Vec<u8>,
    /// Length of the headers, for frames to send.
    header: usize,
    segment: u16,
    checksum: Sum,
}

/// [`RxChecksum`], with an order so that [`Held`] can have one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sum {
    Unknown,
    MayBePartial,
    Verified,
}

impl Direction {
    /// Throws the dice for a frame and holds the copies of it.
    fn take(&mut self, now: Instant, data: &[u8], header: usize, segment: u16, checksum: RxChecksum) {
        let fate = self.dice.fate(data.len());
        let copies = fate.copies.iter().flatten();
        match copies.clone().count() {
            0 => self.done.lost += 1,
            1 => {}
            _ => self.done.duplicated += 1,
        }
        for delay in copies {
            if self.held.len() >= MAX_HELD {
                self.done.overflowed += 1;
                continue;
            }
            let mut data = data.to_vec();
            let mut checksum = match checksum {
                RxChecksum::Unknown => Sum::Unknown,
                RxChecksum::MayBePartial => Sum::MayBePartial,
                RxChecksum::Verified => Sum::Verified,
            };
            if fate.damage(&mut data) {
                self.done.corrupted += 1;
                // Nobody may vouch for it any more.
                checksum = Sum::Unknown;
            }
            self.number += 1;
            self.held.push(Reverse(Held {
                due: now + *delay,
                number: self.number,
                data,
                header,
                segment,
                checksum,
            }));
        }
    }

    fn due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    fn next_due(&mut self, now: Instant) -> Option<Held> {
        self.due().filter(|due| *due <= now)?;
        self.held.pop().map(|Reverse(held)| held)
    }
}

impl<L: Link> Impair<L> {
    /// Makes `link` as bad as `impairments` say. `seed` decides what happens to which frame; `clock` tells the time, the
    /// system's by `Instant::now`.
    ///
    /// # Errors
    /// [`BadProbability`].
    pub fn new(
        link: L,
        impairments: Impairments,
        directions: Directions,
        seed: u64,
        clock: impl Fn() -> Instant + Send + 'static,
    ) -> Result<Self, BadProbability> {
        let direction = |seed| {
            let dice = Dice::new(impairments, seed)?;
            Ok(Some(Direction { dice, held: BinaryHeap::new(), number: 0, done: Impaired::default() }))
        };
        let (receiving, sending) = match directions {
            Directions::Receive => (direction(seed)?, None),
            Directions::Transmit => (None, direction(!seed)?),
            Directions::Both => (direction(seed)?, direction(!seed)?),
        };
        Ok(Impair { link, clock: Box::new(clock), receiving, sending, scratch: Vec::new() })
    }

    /// What was done so far.
    pub fn impaired(&self) -> Impaired {
        let both = [&self.receiving, &self.sending].into_iter().flatten().map(|direction| direction.done);
        both.fold(Impaired::default(), |sum, done| Impaired {
            lost: sum.lost + done.lost,
            duplicated: sum.duplicated + done.duplicated,
            corrupted: sum.corrupted + done.corrupted,
            overflowed: sum.overflowed + done.overflowed,
        })
    }

    /// The link below.
    pub fn get_ref(&self) -> &L {
        &self.link
    }

    /// Sends what is due. What the link below has no room for stays.
    fn flush(&mut self) -> io::Result<()> {
        let now = (self.clock)();
        let Some(sending) = &mut self.sending else { return Ok(()) };
        while let Some(held) = sending.next_due(now) {
            let (header, payload) = held.data.split_at(held.header);
            let chunks = [Chunk::new(payload)];
            let burst = Burst {
                header,
                l3: 14,
                // The checksum is complete already.
                l4: 0,
                checksum: 0,
                payload: &chunks,
                payload_len: payload.len() as u32,
                segment: 0,
                gso: Gso::None,
            };
            if self.link.transmit(&[burst])? == 0 {
                sending.held.push(Reverse(held));
                break;
            }
        }
        Ok(())
    }
}

impl<L: Link> Link for Impair<L> {
    fn info(&self) -> LinkInfo {
        self.link.info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        self.flush()?;
        let now = (self.clock)();
        let Some(receiving) = &mut self.receiving else { return self.link.receive(budget, sink) };
        self.link.receive(budget, &mut |frame| {
            receiving.take(now, frame.data, 0, frame.segment, frame.checksum);
        })?;
        let mut count = 0;
        while count < budget
            && let Some(held) = receiving.next_due(now)
        {
            let checksum = match held.checksum {
                Sum::Unknown => RxChecksum::Unknown,
                Sum::MayBePartial => RxChecksum::MayBePartial,
                Sum::Verified => RxChecksum::Verified,
            };
            sink(Frame { data: &held.data, checksum, segment: held.segment });
            count += 1;
        }
        Ok(count)
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let now = (self.clock)();
        let Some(sending) = &mut self.sending else { return self.link.transmit(bursts) };
        for burst in bursts {
            let header = burst.header.len();
            let made = frames(burst, &mut self.scratch, |frame| {
                sending.take(now, frame, header, 0, RxChecksum::Unknown);
            });
            if made.is_err() {
                sending.done.lost += 1;
            }
        }
        self.flush()?;
        Ok(bursts.len())
    }

    fn wait_fd(&self) -> RawFd {
        self.link.wait_fd()
    }

    fn stats(&self) -> LinkStats {
        let (mut stats, mut dropped) = (self.link.stats(), [0; 2]);
        for (direction, dropped) in [&self.receiving, &self.sending].into_iter().zip(&mut dropped) {
            *dropped =
                direction.as_ref().map_or(0, |direction| direction.done.lost + direction.done.overflowed);
        }
        stats.rx_dropped += dropped[0];
        stats.tx_dropped += dropped[1];
        stats
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = [&self.receiving, &self.sending].into_iter().flatten().filter_map(Direction::due).min();
        [own, self.link.poll_timeout()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::{Loopback, datagram};
    use freena_wire::{parse_frame, udp};
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    type Time = Arc<Mutex<Instant>>;

    fn impaired(impairments: Impairments, directions: Directions) -> (Impair<Loopback>, Time) {
        let time = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&time);
        let link = Loopback::default();
        (Impair::new(link, impairments, directions, 42, move || *clock.lock().unwrap()).unwrap(), time)
    }

    fn receive(link: &mut Impair<Loopback>, budget: usize) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let count = link.receive(budget, &mut |frame| got.push(frame.data.to_vec())).unwrap();
        assert_eq!(count, got.len());
        got
    }

    /// Sends `payload` as one super-packet with 10 bytes in a frame.
    fn send(link: &mut Impair<Loopback>, payload: &[u8]) {
        let header = datagram(payload.len());
        let chunks = [Chunk::new(payload)];
        let payload_len = payload.len() as u32;
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &chunks,
            payload_len,
            segment: 10,
            gso: Gso::Udp,
        };
        assert_eq!(link.transmit(&[burst]).unwrap(), 1);
    }

    #[test]
    fn a_delayed_frame_arrives_in_time_and_in_order() {
        let bad = Impairments { delay: Duration::from_millis(5), ..Default::default() };
        let (mut link, time) = impaired(bad, Directions::Receive);
        link.link.arrived.extend((0..10).map(|n| vec![n; 60]));
        let start = *time.lock().unwrap();
        assert!(receive(&mut link, 64).is_empty());
        assert_eq!(link.poll_timeout(), Some(start + Duration::from_millis(5)));
        *time.lock().unwrap() += Duration::from_millis(5);
        assert_eq!(receive(&mut link, 4).len(), 4);
        let rest: Vec<u8> = receive(&mut link, 64).iter().map(|data| data[0]).collect();
        assert_eq!(rest, [4, 5, 6, 7, 8, 9]);
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn each_frame_of_a_super_packet_has_its_own_fate() {
        let bad = Impairments { loss: 0.3, duplicate: 0.1, ..Default::default() };
        let (mut link, _) = impaired(bad, Directions::Transmit);
        send(&mut link, &[9; 10_000]);
        let done = link.impaired();
        assert!((250..350).contains(&done.lost) && (40..100).contains(&done.duplicated), "{done:?}");
        assert_eq!(link.link.sent.len() as u64, 1000 - done.lost + done.duplicated);
        assert_eq!(link.stats().tx_dropped, done.lost);
        for frame in &link.link.sent {
            let packet = parse_frame(frame).unwrap();
            let view = udp::Header::parse(packet.payload).unwrap();
            assert_eq!(
                (view.payload(), view.verify(packet.src, packet.dst)),
                (&[9; 10][..], Ok(udp::Verdict::Right))
            );
        }
    }

    #[test]
    fn a_damaged_frame_is_noticed() {
        let (mut link, _) =
            impaired(Impairments { corrupt: 1.0, ..Default::default() }, Directions::Transmit);
        send(&mut link, &[9; 5000]);
        assert_eq!((link.link.sent.len(), link.impaired().corrupted), (500, 500));
        for frame in &link.link.sent {
            let right = parse_frame(frame).and_then(|packet| {
                let view = udp::Header::parse(packet.payload)?;
                view.verify(packet.src, packet.dst)
            });
            assert!(right != Ok(udp::Verdict::Right), "{frame:x?}");
        }
        let (mut link, _) = impaired(Impairments { corrupt: 1.0, ..Default::default() }, Directions::Both);
        link.link.arrived.push_back(vec![0; 60]);
        link.receive(1, &mut |frame| assert_eq!(frame.checksum, RxChecksum::Unknown)).unwrap();
    }

    #[test]
    fn reordered_frames_come_after_later_ones_and_none_is_lost() {
        let (mut link, time) =
            impaired(Impairments { reorder: 0.2, ..Default::default() }, Directions::Receive);
        let mut order = Vec::new();
        for n in 0..200u8 {
            link.link.arrived.push_back(vec![n; 60]);
            order.extend(receive(&mut link, 8).iter().map(|data| data[0]));
            *time.lock().unwrap() += Duration::from_micros(300);
        }
        *time.lock().unwrap() += Duration::from_millis(2);
        order.extend(receive(&mut link, 64).iter().map(|data| data[0]));
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert_eq!(order, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let bad = Impairments { delay: Duration::from_secs(1), ..Default::default() };
        let (mut link, _) = impaired(bad, Directions::Receive);
        link.link.arrived.extend((0..5000).map(|_| vec![0; 60]));
        assert!(receive(&mut link, 5000).is_empty());
        assert_eq!(link.impaired().overflowed, 5000 - MAX_HELD as u64);
        assert_eq!(link.stats().rx_dropped, 5000 - MAX_HELD as u64);
    }
}
