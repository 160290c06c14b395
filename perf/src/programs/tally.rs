//! What became of the datagrams of one stream: received, lost, duplicated, reordered.

/// How far back a late datagram can be told from a duplicate, in datagrams.
const WINDOW: u64 = 1 << 16;

/// Counts by sequence number.
///
/// Reordering is RFC 4737's singleton (section 3.4): a datagram whose number is smaller than one seen before.
#[derive(Debug, Clone)]
pub struct Tally {
    /// One bit for each of the last [`WINDOW`] numbers below `next`: seen.
    seen: Box<[u64]>,
    /// One more than the highest number seen (`NextExp` of RFC 4737).
    next: u64,
    /// Distinct datagrams.
    received: u64,
    duplicates: u64,
    reordered: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            seen: vec![0; (WINDOW / 64) as usize].into(),
            next: 0,
            received: 0,
            duplicates: 0,
            reordered: 0,
        }
    }
}

impl Tally {
    /// Counts the datagram of this number.
    #[inline]
    pub fn record(&mut self, number: u64) {
        if number >= self.next {
            self.forget(number);
            self.next = number + 1;
        } else if self.next - number > WINDOW {
            // Too old to tell: counted as late, the kinder of the two.
            self.reordered += 1;
            self.received += 1;
            return;
        } else if self.is_seen(number) {
            self.duplicates += 1;
            return;
        } else {
            self.reordered += 1;
        }
        self.received += 1;
        self.seen[word(number)] |= bit(number);
    }

    /// Distinct datagrams received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Datagrams received again, within the last 65,536 numbers.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Datagrams that came after one with a higher number.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Datagrams of the stream that never came. `sent` is how many there were; without it, those after the highest
    /// number seen cannot be missed.
    #[must_use]
    pub fn lost(&self, sent: Option<u64>) -> u64 {
        sent.unwrap_or(0).max(self.next).saturating_sub(self.received)
    }

    /// Clears what the bits of `next..=number` said about numbers one window earlier.
    fn forget(&mut self, number: u64) {
        if number - self.next >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for number in self.next..=number {
            self.seen[word(number)] &= !bit(number);
        }
    }

    fn is_seen(&self, number: u64) -> bool {
        self.seen[word(number)] & bit(number) != 0
    }
}

fn word(number: u64) -> usize {
    ((number % WINDOW) / 64) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn tally(numbers: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        numbers.into_iter().for_each(|number| tally.record(number));
        tally
    }

    #[test]
    fn a_gap_is_lost_until_it_is_filled() {
        assert_eq!(tally([0, 1, 4]).lost(None), 2);
        let filled = tally([0, 1, 4, 2, 3]);
        assert_eq!((filled.lost(None), filled.reordered(), filled.duplicates()), (0, 2, 0));
    }

    #[test]
    fn the_tail_is_lost_only_when_its_length_is_known() {
        assert_eq!(tally([0, 1]).lost(None), 0);
        assert_eq!(tally([0, 1]).lost(Some(10)), 8);
    }

    #[test]
    fn bits_of_the_window_before_are_forgotten() {
        let late = tally((0..WINDOW).chain([WINDOW + 9, WINDOW + 3]));
        assert_eq!((late.reordered(), late.duplicates(), late.lost(None)), (1, 0, 8));
        let jump = tally([0, 5, 5 + 3 * WINDOW, 4 + 3 * WINDOW]);
        assert_eq!((jump.reordered(), jump.duplicates()), (1, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(0..2_000_u64, 0..500)) {
            let tally = tally(numbers.iter().copied());
            let (mut seen, mut duplicates, mut reordered, mut highest) = (HashSet::new(), 0, 0, None);
            for &number in &numbers {
                if !seen.insert(number) {
                    duplicates += 1;
                } else if highest.is_some_and(|highest| number < highest) {
                    reordered += 1;
                }
                highest = highest.max(Some(number));
            }
            prop_assert_eq!(tally.received(), seen.len() as u64);
            prop_assert_eq!(tally.duplicates(), duplicates);
            prop_assert_eq!(tally.reordered(), reordered);
            prop_assert_eq!(tally.lost(None), highest.map_or(0, |h| h + 1) - seen.len() as u64);
        }
    }
}
