//! What becomes of a frame in a bad network, decided by chance that can be repeated.

use std::{fmt, time::Duration};

/// Bytes at the start of a frame that are never damaged: with another Ethernet header it would be lost, not damaged.
const ETHERNET_LEN: usize = 14;

/// How bad a network is. The default is a perfect one. Probabilities are from 0 (never) to 1 (always), for each frame by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairments {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame comes twice.
    pub duplicate: f64,
    /// Probability that a frame is held back by [`reorder_delay`](Impairments::reorder_delay), so that later ones pass it.
    pub reorder: f64,
    /// Probability that one bit behind the Ethernet header is wrong.
    pub corrupt: f64,
    /// Time by which every frame is late.
    pub delay: Duration,
    /// The most by which it is later still, evenly distributed. Frames less apart than this change places.
    pub jitter: Duration,
    /// See [`reorder`](Impairments::reorder). Default 1 ms.
    pub reorder_delay: Duration,
}

impl Default for Impairments {
    fn default() -> Self {
        Impairments {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder_delay: Duration::from_millis(1),
        }
    }
}

/// A probability that is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadProbability {
    /// Which one.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

impl fmt::Display for BadProbability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "probability of {} is {}, expected 0 to 1", self.name, self.value)
    }
}

impl std::error::Error for BadProbability {}

/// What becomes of one frame: how late each copy of it arrives. Neither copy: it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Delays of the copies that arrive.
    pub copies: [Option<Duration>; 2],
    /// The bit to turn over, counted from the start of the frame.
    pub wrong_bit: Option<usize>,
}

impl Fate {
    /// Damages `frame` if that is its fate, and says whether it is.
    pub fn damage(&self, frame: &mut [u8]) -> bool {
        let Some(byte) = self.wrong_bit.and_then(|bit| frame.get_mut(bit / 8)) else { return false };
        *byte ^= 1 << (self.wrong_bit.unwrap_or(0) % 8);
        true
    }
}

/// Decides fates. The same seed and the same frames, by number and length, give the same fates on every machine.
#[derive(Clone, Debug)]
pub struct Dice {
    impairments: Impairments,
    state: u64,
}

impl Dice {
    /// Dice for a network that is this bad.
    ///
    /// # Errors
    /// [`BadProbability`] for the first probability that is not between 0 and 1.
    pub fn new(impairments: Impairments, seed: u64) -> Result<Dice, BadProbability> {
        let Impairments { loss, duplicate, reorder, corrupt, .. } = impairments;
        for (name, value) in
            [("loss", loss), ("duplicate", duplicate), ("reorder", reorder), ("corrupt", corrupt)]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(BadProbability { name, value });
            }
        }
        Ok(Dice { impairments, state: seed })
    }

    /// The fate of the next frame, `len` bytes long.
    pub fn fate(&mut self, len: usize) -> Fate {
        // Every frame takes the same number of throws, so that changing one probability leaves the rest as it was.
        let [lost, twice, damaged] =
            [self.impairments.loss, self.impairments.duplicate, self.impairments.corrupt]
                .map(|p| self.happens(p));
        let bit = self.next();
        let mut copies = [0, 1].map(|_| Some(self.delay()));
        if !twice {
            copies[1] = None;
        }
        if lost {
            copies = [None; 2];
        }
        let bits = len.saturating_sub(ETHERNET_LEN) * 8;
        let wrong_bit = (damaged && bits > 0).then(|| ETHERNET_LEN * 8 + bit as usize % bits);
        Fate { copies, wrong_bit }
    }

    fn delay(&mut self) -> Duration {
        let late = self.happens(self.impairments.reorder);
        let part = self.unit();
        let Impairments { delay, jitter, reorder_delay, .. } = self.impairments;
        delay + jitter.mul_f64(part) + if late { reorder_delay } else { Duration::ZERO }
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// From 0 to just below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(impairments: Impairments, seed: u64) -> Vec<Fate> {
        let mut dice = Dice::new(impairments, seed).unwrap();
        (0..10_000).map(|_| dice.fate(114)).collect()
    }

    #[test]
    fn a_seed_repeats() {
        let bad =
            Impairments { loss: 0.1, corrupt: 0.5, jitter: Duration::from_millis(3), ..Default::default() };
        assert_eq!(fates(bad, 1), fates(bad, 1));
        assert_ne!(fates(bad, 1), fates(bad, 2));
    }

    #[test]
    fn probabilities_are_kept() {
        let bad = Impairments { loss: 0.1, duplicate: 0.2, corrupt: 0.3, reorder: 0.4, ..Default::default() };
        let fates = fates(bad, 7);
        let count = |is: &dyn Fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
        assert!((900..1100).contains(&count(&|fate| fate.copies == [None; 2])));
        assert!((1650..1950).contains(&count(&|fate| fate.copies[1].is_some())));
        assert!((2800..3200).contains(&count(&|fate| fate.wrong_bit.is_some())));
        assert!((3400..3800).contains(&count(&|fate| fate.copies[0] == Some(Duration::from_millis(1)))));
        assert!(fates.iter().filter_map(|fate| fate.wrong_bit).all(|bit| (14 * 8..114 * 8).contains(&bit)));
    }

    #[test]
    fn a_perfect_network_does_nothing() {
        let kept = Fate { copies: [Some(Duration::ZERO), None], wrong_bit: None };
        assert!(fates(Impairments::default(), 3).into_iter().all(|fate| fate == kept));
    }

    #[test]
    fn what_is_no_probability_is_refused() {
        for value in [-0.1, 1.1, f64::NAN] {
            let error = Dice::new(Impairments { reorder: value, ..Default::default() }, 0).unwrap_err();
            assert_eq!(error.to_string(), format!("probability of reorder is {value}, expected 0 to 1"));
        }
    }
}
