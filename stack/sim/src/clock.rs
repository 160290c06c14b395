//! Time that passes on request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock whose copies all show the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    nanoseconds: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl Clock {
    /// A clock that stands still.
    pub fn new() -> Clock {
        Clock { start: Instant::now(), nanoseconds: Arc::new(AtomicU64::new(0)) }
    }

    /// The time it shows.
    pub fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    /// How far it was advanced.
    pub fn elapsed(&self) -> Duration {
        // Nothing else is published by the clock, so no ordering is needed.
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(by, Ordering::Relaxed);
    }

    /// Lets time pass until `then`. It never goes back.
    pub fn advance_to(&self, then: Instant) {
        let then = then.saturating_duration_since(self.start).as_nanos();
        self.nanoseconds.fetch_max(u64::try_from(then).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
