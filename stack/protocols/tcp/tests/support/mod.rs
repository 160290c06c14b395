//! Two engines, a wire and a clock in one process. Every run repeats from its seed.
#![allow(dead_code, reason = "each test uses some of it")]

pub mod host;
pub mod script;
pub mod wire;

pub use host::{Host, Stream};
pub use wire::Wire;

use freena_tcp::{Event, Flow, Handle, ListenerKey, Listening, Options, Path};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const MTU: u32 = 1500;
pub const PORT: u16 = 80;

/// The byte at a position of a stream; `side` tells the directions apart.
pub fn byte(side: usize, position: u64) -> u8 {
    ((position ^ (side as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// A moment to begin at.
#[allow(clippy::disallowed_methods, reason = "there is no other way to have an `Instant`")]
pub fn epoch() -> Instant {
    Instant::now()
}

/// Two hosts and what lies between them.
pub struct Pair {
    pub now: Instant,
    pub start: Instant,
    pub hosts: [Host; 2],
    pub wire: Wire,
}

/// A path that takes super-packets of 64 KiB.
pub fn path(mtu: u32) -> Path {
    Path { mtu, max_burst: 65_000, max_segments: 64 }
}

pub fn address(side: usize) -> IpAddr {
    [10, 0, 0, side as u8 + 1].into()
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        let now = epoch();
        Pair { now, start: now, hosts: [Host::new(0, seed), Host::new(1, seed)], wire: Wire::new(seed) }
    }

    /// Host 1 listens.
    pub fn listen(&mut self, options: Options) -> ListenerKey {
        let listening =
            Listening { local: address(1), port: PORT, dual: false, share: false, ifindex: 0, options };
        self.hosts[1].tcp.listen(1, listening);
        1
    }

    /// Host 0 connects from a port.
    pub fn connect(&mut self, port: u16, options: &Options) -> Handle {
        let flow = Flow { local: address(0), local_port: port, peer: address(1), peer_port: PORT };
        let host = &mut self.hosts[0];
        let (path, size) = (host.path, host.size);
        let handle = host.tcp.connect(self.now, flow, path, size, options).expect("room");
        host.streams.insert(handle, Stream::new(size));
        handle
    }

    /// Listens, connects and waits for both.
    pub fn established(seed: u64, options: Options) -> (Self, Handle, Handle) {
        let mut pair = Pair::new(seed);
        let (a, b) = pair.establish(options);
        (pair, a, b)
    }

    pub fn establish(&mut self, options: Options) -> (Handle, Handle) {
        self.listen(options);
        let client = self.connect(40_000, &options);
        self.run_until(Duration::from_secs(60), |pair| {
            pair.hosts[0].streams[&client].connected && !pair.hosts[1].accepted.is_empty()
        });
        let server = self.hosts[1].accepted[0];
        (client, server)
    }

    /// Lets everything happen that is due now: events, programs, packets.
    pub fn settle(&mut self) {
        for side in 0..2 {
            let host = &mut self.hosts[side];
            host.turn(self.now);
            while let Some(transmit) = host.tcp.poll_transmit(self.now) {
                host.check_transmit(&transmit);
                let payload: Vec<u8> =
                    transmit.payload.clone().map(|position| byte(side, position)).collect();
                self.wire.send(self.now, side, &transmit, &payload);
            }
        }
    }

    /// Goes to the next moment at which something happens; `false` if there is none.
    pub fn step(&mut self) -> bool {
        self.settle();
        let timeouts = self.hosts.iter().filter_map(|host| host.tcp.poll_timeout());
        let Some(next) = timeouts.chain(self.wire.next()).min() else { return false };
        self.now = self.now.max(next);
        while let Some((side, packet)) = self.wire.receive(self.now) {
            self.hosts[side].deliver(self.now, &packet);
            if self.wire.eager {
                self.settle();
            }
        }
        for host in &mut self.hosts {
            host.tcp.handle_timeout(self.now);
        }
        true
    }

    /// Steps until something holds.
    pub fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Pair) -> bool) {
        let end = self.now + most;
        loop {
            self.settle();
            if done(self) {
                return;
            }
            assert!(self.step(), "everything is quiet, and it is not done: {self:?}");
            assert!(self.now <= end, "it takes too long: {self:?}");
        }
    }

    /// Steps for a time, or until everything is quiet.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let timeouts = self.hosts.iter().filter_map(|host| host.tcp.poll_timeout());
            match timeouts.chain(self.wire.next()).min() {
                Some(next) if next <= end => {
                    self.step();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub fn stream(&mut self, side: usize, handle: Handle) -> &mut Stream {
        self.hosts[side].streams.get_mut(&handle).expect("it exists")
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "after {:?}, {} packets on the wire", self.elapsed(), self.wire.len())?;
        for (side, host) in self.hosts.iter().enumerate() {
            writeln!(f, "host {side}: {:?}; next {:?}", host.tcp.stats(), host.tcp.poll_timeout())?;
            for (handle, stream) in &host.streams {
                let (state, info) = (host.tcp.state(*handle), host.tcp.info(*handle));
                writeln!(f, "  {handle:?} {state:?} {stream:?}\n    {info:?}")?;
            }
        }
        Ok(())
    }
}

/// What a host's program heard, for tests that look at single events.
pub fn is_failure(event: &Event) -> bool {
    matches!(event, Event::Failed(..))
}
