//! Identification values for packets that are, or may be, fragmented (RFC 6864, RFC 7739).

use std::{collections::hash_map::RandomState, hash::BuildHasher, net::IpAddr};

/// Counters that flows share. More make it harder to learn of one flow from another's values.
const BUCKETS: usize = 2048;

/// Gives out identification values.
///
/// Each (source, destination, protocol) counts up from an offset of its own, so that its values repeat as late as
/// possible, and nobody who does not know the key can tell another flow's values from his own (RFC 7739 section 5.3).
pub struct Identification {
    key: RandomState,
    counters: Box<[u32]>,
}

impl Default for Identification {
    fn default() -> Self {
        Identification::new()
    }
}

impl Identification {
    /// A generator with a random key.
    pub fn new() -> Identification {
        let key = RandomState::new();
        let counters = (0..BUCKETS).map(|bucket| key.hash_one(bucket) as u32).collect();
        Identification { key, counters }
    }

    /// The first of `count` consecutive values. IPv4 uses the low 16 bits.
    pub fn next(&mut self, src: IpAddr, dst: IpAddr, protocol: u8, count: u32) -> u32 {
        let hash = self.key.hash_one((src, dst, protocol));
        let counter = &mut self.counters[hash as usize % BUCKETS];
        let value = counter.wrapping_add((hash >> 32) as u32);
        *counter = counter.wrapping_add(count);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_flow_repeats_only_after_every_value() {
        let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut ids = Identification::new();
        let seen: HashSet<u16> = (0..65_536).map(|_| ids.next(src, dst, 17, 1) as u16).collect();
        assert_eq!(seen.len(), 65_536);
        let first = ids.next(src, dst, 17, 44);
        assert_eq!(ids.next(src, dst, 17, 1), first.wrapping_add(44));
    }

    #[test]
    fn flows_and_generators_differ() {
        let src = IpAddr::from([10, 0, 0, 1]);
        let (mut one, mut two) = (Identification::new(), Identification::new());
        let values = |ids: &mut Identification| {
            (0..32u8).map(|last| ids.next(src, [10, 0, 0, last].into(), 17, 1)).collect::<HashSet<_>>()
        };
        assert_eq!(values(&mut one).len(), 32);
        assert_ne!(values(&mut one), values(&mut two));
    }
}
