//! Two links joined by a cable.

use crate::Clock;
use freena_link_middleware::{BadProbability, Dice, Impairments, frames};
use freena_stack_api::{Burst, Frame, Link, LinkInfo, LinkStats, RxChecksum};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const ETHERNET_LEN: usize = 14;

/// What a network is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What happens to which frame follows from this alone.
    pub seed: u64,
    /// Most bytes in a packet, from the IP header on; longer ones are dropped. Default 1500.
    pub mtu: usize,
    /// Time from one end to the other. Default 1 ms.
    pub latency: Duration,
    /// How bad the cable is, in both directions. Default: perfect.
    pub impairments: Impairments,
    /// Most frames on their way in one direction; those beyond are dropped. Default 4096.
    pub in_flight: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            seed: 0,
            mtu: 1500,
            latency: Duration::from_millis(1),
            impairments: Impairments::default(),
            in_flight: 4096,
        }
    }
}

/// The cable between two [`SimLink`]s, seen from outside.
pub struct Network {
    clock: Clock,
    cables: [Arc<Mutex<Cable>>; 2],
}

impl Network {
    /// A network and its two ends, `sim0` and `sim1`.
    ///
    /// # Errors
    /// [`BadProbability`].
    pub fn pair(config: Config, clock: &Clock) -> Result<(Network, SimLink, SimLink), BadProbability> {
        let cable = |seed| {
            let dice = Dice::new(config.impairments, seed)?;
            let cable =
                Cable { config, dice, frames: BinaryHeap::new(), number: 0, down: false, overflowed: 0 };
            Ok(Arc::new(Mutex::new(cable)))
        };
        let cables = [cable(config.seed)?, cable(!config.seed)?];
        let end = |index: usize| SimLink {
            ifindex: index as u32 + 1,
            clock: clock.clone(),
            outward: Arc::clone(&cables[index]),
            inward: Arc::clone(&cables[1 - index]),
            stats: LinkStats::default(),
            arrived: Vec::new(),
            scratch: Vec::new(),
        };
        let (one, other) = (end(0), end(1));
        Ok((Network { clock: clock.clone(), cables }, one, other))
    }

    /// When the next frame arrives at either end.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.cables
            .iter()
            .filter_map(|cable| lock(cable).frames.peek().map(|Reverse(flying)| flying.due))
            .min()
    }

    /// Lets time pass until the next frame arrives, or `deadline` if that is earlier. `false`: there is neither.
    pub fn advance_to_next(&self, deadline: Option<Instant>) -> bool {
        let Some(next) = self.next_arrival().into_iter().chain(deadline).min() else { return false };
        self.clock.advance_to(next);
        true
    }

    /// Takes the interfaces at both ends down, or up again. While they are down both links fail with `ENETDOWN`, and what
    /// was on its way is lost.
    pub fn set_down(&self, down: bool) {
        for cable in &self.cables {
            let mut cable = lock(cable);
            cable.down = down;
            cable.frames.clear();
        }
    }
}

/// One direction.
struct Cable {
    config: Config,
    dice: Dice,
    frames: BinaryHeap<Reverse<Flying>>,
    number: u64,
    down: bool,
    overflowed: u64,
}

/// A frame on its way, in order of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    due: Instant,
    number: u64,
    data: Vec<u8>,
}

impl Cable {
    fn carry(&mut self, now: Instant, data: &[u8]) {
        let fate = self.dice.fate(data.len());
        for delay in fate.copies.into_iter().flatten() {
            if self.frames.len() >= self.config.in_flight {
                self.overflowed += 1;
                continue;
            }
            let mut data = data.to_vec();
            fate.damage(&mut data);
            self.number += 1;
            let due = now + self.config.latency + delay;
            self.frames.push(Reverse(Flying { due, number: self.number, data }));
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.down { Err(io::ErrorKind::NetworkDown.into()) } else { Ok(()) }
    }
}

/// A panic elsewhere leaves a cable as usable as it was: every change to it is whole.
fn lock(cable: &Mutex<Cable>) -> MutexGuard<'_, Cable> {
    cable.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a [`Network`]. It takes super-packets and segments them as the kernel does.
pub struct SimLink {
    ifindex: u32,
    clock: Clock,
    outward: Arc<Mutex<Cable>>,
    inward: Arc<Mutex<Cable>>,
    stats: LinkStats,
    arrived: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Link for SimLink {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            interface: format!("sim{}", self.ifindex - 1),
            ifindex: self.ifindex,
            queue: 0,
            receive: "simulated".into(),
            send: "simulated, GSO in software".into(),
            reason: "a network inside this process".into(),
            max_burst: 65_507,
            max_segments: 64,
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let now = self.clock.now();
        self.arrived.clear();
        {
            // Let go of before the frames are handed over, for the sink may drive the other end.
            let mut cable = lock(&self.inward);
            cable.check()?;
            while self.arrived.len() < budget
                && cable.frames.peek().is_some_and(|Reverse(flying)| flying.due <= now)
                && let Some(Reverse(flying)) = cable.frames.pop()
            {
                self.arrived.push(flying.data);
            }
        }
        for data in &self.arrived {
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += data.len() as u64;
            sink(Frame { data, checksum: RxChecksum::Unknown, segment: 0 });
        }
        Ok(self.arrived.len())
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let now = self.clock.now();
        let mut cable = lock(&self.outward);
        cable.check()?;
        let longest = cable.config.mtu + ETHERNET_LEN;
        for burst in bursts {
            let made = frames(burst, &mut self.scratch, |frame| {
                if frame.len() > longest {
                    self.stats.tx_dropped += 1;
                    return;
                }
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += frame.len() as u64;
                cable.carry(now, frame);
            });
            if made.is_err() {
                self.stats.tx_dropped += 1;
            }
        }
        Ok(bursts.len())
    }

    /// -1: there is nothing to sleep on where time does not pass by itself. See [`Network::advance_to_next`].
    fn wait_fd(&self) -> RawFd {
        -1
    }

    fn stats(&self) -> LinkStats {
        LinkStats { rx_dropped: lock(&self.inward).overflowed, ..self.stats }
    }
}

#[cfg(test)]
mod tests;
