//! CUBIC (RFC 9438). Windows in segments here, as in the RFC.

use super::Acknowledged;
use std::time::{Duration, Instant};

/// RFC 9438 section 4.6.
const BETA: f64 = 0.7;
/// RFC 9438 section 5.
const C: f64 = 0.4;

/// The variables of RFC 9438 section 4.1.2.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cubic {
    /// `W_max`.
    max: f64,
    /// `cwnd_prior`.
    prior: f64,
    /// Since when congestion avoidance has lasted.
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// `K`, in seconds.
    k: f64,
    /// `W_max`, or the window where it was larger.
    origin: f64,
    /// `W_est`.
    estimate: f64,
    /// The window, fractions included.
    window: f64,
}

impl Cubic {
    /// RFC 9438 sections 4.2 to 4.5; returns the window in bytes.
    pub(super) fn acknowledged(&mut self, ack: &Acknowledged, window: u64, mss: u64) -> u64 {
        let segments = window as f64 / mss as f64;
        let max = self.max;
        let epoch = self.epoch.get_or_insert_with(|| {
            let (k, origin) = match max > segments {
                true => (((max - segments) / C).cbrt(), max),
                false => (0.0, segments),
            };
            Epoch { start: ack.now, k, origin, estimate: segments, window: segments }
        });
        if (epoch.window - segments).abs() > 1.0 {
            epoch.window = segments;
        }
        let acked = ack.bytes as f64 / mss as f64;
        let at = |t: f64| C * (t - epoch.k).powi(3) + epoch.origin;
        let t = ack.now.saturating_duration_since(epoch.start).as_secs_f64();
        // Section 4.3: `alpha` is 1 once the window is back where it was.
        let alpha = if epoch.estimate >= self.prior { 1.0 } else { 3.0 * (1.0 - BETA) / (1.0 + BETA) };
        epoch.estimate += alpha * acked / epoch.window;
        if at(t) < epoch.estimate {
            epoch.window = epoch.window.max(epoch.estimate);
        } else {
            // Section 4.2.
            let target = at(t + ack.rtt.as_secs_f64()).clamp(epoch.window, 1.5 * epoch.window);
            epoch.window += (target - epoch.window) * (acked / epoch.window).min(1.0);
        }
        (epoch.window * mss as f64) as u64
    }

    /// RFC 9438 sections 4.6 and 4.7 (fast convergence); returns the threshold in bytes.
    pub(super) fn lost(&mut self, window: u64, mss: u64) -> u64 {
        let segments = window as f64 / mss as f64;
        self.prior = segments;
        self.max = if segments < self.max { segments * (1.0 + BETA) / 2.0 } else { segments };
        self.epoch = None;
        (window as f64 * BETA) as u64
    }

    /// RFC 9438 section 4.8: after a time-out congestion avoidance starts at its own window.
    pub(super) fn timed_out(&mut self) {
        self.max = 0.0;
    }

    /// RFC 9438 section 5.8: time in which nothing was sent does not count.
    pub(super) fn paused(&mut self, time: Duration) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start += time;
        }
    }
}
