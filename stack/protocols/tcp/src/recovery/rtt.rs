//! Round-trip times and the retransmission time-out (RFC 6298), with Linux's bounds.

use std::time::{Duration, Instant};

/// Before anything was measured (RFC 6298 section 2.1).
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The variation counts for at least this much: Linux's `TCP_RTO_MIN`, in place of the 1 s of RFC 6298 section 2.4.
const MIN_VARIATION: Duration = Duration::from_millis(200);
/// Linux's `TCP_RTO_MAX` (RFC 6298 section 2.5 asks for 60 s or more).
pub(crate) const MAX_RTO: Duration = Duration::from_secs(120);
/// How long a smallest round-trip time is believed (RFC 8985 section 6.1 step 1; as Linux's `tcp_min_rtt_wlen`).
const MIN_RTT_LIFE: Duration = Duration::from_secs(300);

/// The estimator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    /// Smoothed round-trip time.
    pub(crate) smoothed: Option<Duration>,
    /// Its variation.
    pub(crate) variation: Duration,
    min: Option<(Duration, Instant)>,
}

impl Rtt {
    /// Takes a measurement: RFC 6298 sections 2.2 and 2.3.
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
        if self.min.is_none_or(|(min, at)| rtt <= min || now.saturating_duration_since(at) > MIN_RTT_LIFE) {
            self.min = Some((rtt, now));
        }
    }

    /// The smallest round-trip time of late.
    #[inline]
    pub(crate) fn min(&self) -> Option<Duration> {
        self.min.map(|(min, _)| min)
    }

    /// The time-out, doubled `backoff` times (RFC 6298 section 5.5).
    #[inline]
    pub(crate) fn rto(&self, backoff: u32) -> Duration {
        let base = match self.smoothed {
            None => INITIAL_RTO,
            Some(smoothed) => smoothed + (self.variation * 4).max(MIN_VARIATION),
        };
        base.min(MAX_RTO).saturating_mul(1 << backoff.min(16)).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6298_section_2() {
        let ms = Duration::from_millis;
        let now = crate::tests::epoch();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.rto(0), ms(1000));
        rtt.sample(now, ms(400));
        assert_eq!((rtt.smoothed, rtt.variation, rtt.rto(0)), (Some(ms(400)), ms(200), ms(1200)));
        rtt.sample(now, ms(200));
        assert_eq!((rtt.smoothed, rtt.variation), (Some(ms(375)), ms(200)));
        assert_eq!(rtt.min(), Some(ms(200)));
        for _ in 0..100 {
            rtt.sample(now, ms(10));
        }
        assert!(rtt.rto(0) >= ms(210) && rtt.rto(0) < ms(215), "{:?}", rtt.rto(0));
        assert_eq!(rtt.rto(20), MAX_RTO);
    }
}
