//! A histogram of durations with bounded relative error, as HdrHistogram has: each power of two cut into equal parts.

use serde::{Deserialize, Serialize};

/// Parts that each power of two is cut into: a value is known to 1/32, or 3.2 %.
const PARTS: u64 = 32;
const PARTS_LOG2: u32 = PARTS.ilog2();

/// Counts of nanosecond values. Adding one costs an index computation and an increment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

/// A part of the histogram that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Largest value that falls here, in nanoseconds.
    pub up_to_ns: u64,
    /// How many did.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; index(u64::MAX) + 1].into(), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Adds one value, in nanoseconds.
    pub fn record(&mut self, value: u64) {
        self.counts[index(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many values were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value added, exact; 0 when there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value, rounded up by at most 3.2 %, that at least `percent` of all values do not exceed. 0 when
    /// there is none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for bucket in self.buckets() {
            below += bucket.count;
            if below >= rank {
                return bucket.up_to_ns;
            }
        }
        0
    }

    /// The parts that hold anything, from the smallest values up.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(index, &count)| Bucket { up_to_ns: upper(index).min(self.max), count })
    }
}

/// Values below [`PARTS`] have a part each; above, the exponent and the bits after the leading one choose it.
fn index(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let shift = value.ilog2() - PARTS_LOG2;
    (u64::from(shift) * PARTS + (value >> shift)) as usize
}

/// The largest value with this index.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * PARTS {
        return index;
    }
    let shift = index / PARTS - 1;
    let leading = index - shift * PARTS;
    (((u128::from(leading) + 1) << shift) - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty() {
        let histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.max(), histogram.percentile(50.0)), (0, 0, 0));
    }

    #[test]
    fn the_extremes_have_a_place() {
        let mut histogram = Histogram::default();
        histogram.record(0);
        histogram.record(u64::MAX);
        assert_eq!((histogram.percentile(50.0), histogram.percentile(100.0)), (0, u64::MAX));
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_part(value in any::<u64>()) {
            let upper = upper(index(value));
            prop_assert!(upper >= value);
            prop_assert!(upper - value <= value / PARTS);
            prop_assert_eq!(index(upper), index(value));
        }

        #[test]
        fn percentiles_are_the_exact_ones_within_the_error(
            mut values in prop::collection::vec(0..10_000_000_u64, 1..300), percent in 0.0..100.0_f64
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(value));
            values.sort_unstable();
            let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).max(1);
            let (exact, got) = (values[rank - 1], histogram.percentile(percent));
            prop_assert!(got >= exact && got - exact <= exact / PARTS, "{} for {}", got, exact);
        }
    }
}
