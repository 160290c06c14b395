//! One direction of a path between two hosts: a rate with a queue before it, then a delay, and some frames are lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a path is like.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// From one end to the other, beside the time that the rate makes.
    pub delay: Duration,
    /// Part of all frames that is lost, 0 to 1.
    pub loss: f64,
    /// Bits each second; `None` for no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for their turn where there is a rate; frames that find no room are lost.
    pub queue: u64,
}

/// The frames on their way.
#[derive(Debug)]
pub struct Path {
    quality: Quality,
    random: u64,
    /// When the last frame has left the queue.
    busy: Option<Instant>,
    frames: VecDeque<(Instant, Vec<u8>)>,
}

impl Path {
    /// An empty one. The same seed loses the same frames.
    #[must_use]
    pub fn new(quality: Quality, seed: u64) -> Self {
        Self { quality, random: seed, busy: None, frames: VecDeque::new() }
    }

    /// SplitMix64, as a number from 0 to 1.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }

    /// A frame enters. `header`: bytes in front that are not on the wire.
    pub fn enter(&mut self, now: Instant, frame: &[u8], header: usize) {
        if self.random() < self.quality.loss {
            return;
        }
        let mut leaves = now;
        if let Some(rate) = self.quality.rate {
            let begins = self.busy.map_or(now, |busy| busy.max(now));
            let waiting = (begins - now).as_secs_f64() * rate as f64 / 8.0;
            let bytes = frame.len() - header;
            if waiting + bytes as f64 > self.quality.queue as f64 {
                return;
            }
            leaves = begins + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
            self.busy = Some(leaves);
        }
        self.frames.push_back((leaves + self.quality.delay, frame.to_vec()));
    }

    /// The next frame that has arrived.
    pub fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.frames.pop_front_if(|(due, _)| *due <= now).map(|(_, frame)| frame)
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.frames.front().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUALITY: Quality =
        Quality { delay: Duration::from_millis(20), loss: 0.0, rate: None, queue: 10_000 };

    #[test]
    fn frames_arrive_in_order_after_the_delay() {
        let now = Instant::now();
        let mut path = Path::new(QUALITY, 1);
        path.enter(now, &[1; 100], 0);
        path.enter(now + Duration::from_millis(1), &[2; 100], 0);
        assert_eq!(path.next(), Some(now + Duration::from_millis(20)));
        assert_eq!(path.leave(now + Duration::from_millis(19)), None);
        assert_eq!(path.leave(now + Duration::from_millis(20)), Some(vec![1; 100]));
        assert_eq!(path.leave(now + Duration::from_millis(20)), None);
        assert_eq!(path.leave(now + Duration::from_millis(21)), Some(vec![2; 100]));
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_loses_them() {
        let now = Instant::now();
        // 1000 bytes take a millisecond.
        let mut path = Path::new(Quality { rate: Some(8_000_000), ..QUALITY }, 1);
        (0..50).for_each(|_| path.enter(now, &[0; 1010], 10));
        let arrived: Vec<_> = std::iter::from_fn(|| {
            let at = path.next()?;
            path.leave(at).map(|_| at - now)
        })
        .collect();
        assert_eq!(arrived.len(), 10, "the queue holds 10,000 bytes");
        let expected: Vec<_> = (1..=10).map(|at| Duration::from_millis(20 + at)).collect();
        let close = arrived.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) < Duration::from_micros(1));
        assert!(close, "{arrived:?}");
    }

    #[test]
    fn so_many_are_lost() {
        let mut path = Path::new(Quality { loss: 0.01, ..QUALITY }, 7);
        let now = Instant::now();
        (0..100_000).for_each(|_| path.enter(now, &[0; 60], 0));
        assert!((98_800..99_200).contains(&path.frames.len()), "{}", path.frames.len());
    }
}
