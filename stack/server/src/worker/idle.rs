//! When a worker that has nothing to do spins and when it sleeps.

use std::time::{Duration, Instant};

/// The three poll modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PollMode {
    /// Never sleep: lowest latency, one core taken whole.
    Busy,
    /// Spin for a while after the last work, giving the core to whoever is waiting for it, then sleep.
    Adaptive,
    /// Sleep at once.
    Interrupt,
}

/// Keeps the time since the last work.
pub(super) struct Idle {
    mode: PollMode,
    spin: Duration,
    last_work: Instant,
}

impl Idle {
    pub(super) fn new(mode: PollMode, spin: Duration) -> Self {
        Idle { mode, spin, last_work: Instant::now() }
    }

    pub(super) fn worked(&mut self, now: Instant) {
        self.last_work = now;
    }

    pub(super) fn woke(&mut self) {
        self.last_work = Instant::now();
    }

    pub(super) fn should_sleep(&self, now: Instant) -> bool {
        match self.mode {
            PollMode::Busy => false,
            PollMode::Adaptive => now.saturating_duration_since(self.last_work) >= self.spin,
            PollMode::Interrupt => true,
        }
    }

    /// One round of spinning, for something that a program is to do. Yields, since on a machine with few cores it may be
    /// waiting for this very core.
    pub(super) fn give_way(&self) {
        match self.mode {
            PollMode::Busy => std::hint::spin_loop(),
            PollMode::Adaptive | PollMode::Interrupt => std::thread::yield_now(),
        }
    }
}
