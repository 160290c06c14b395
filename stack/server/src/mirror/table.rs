//! Prefixes in order of address: longest match, and how far around a destination its answer holds.

use std::{collections::BTreeMap, net::IpAddr};

/// An address with its bits at the top, so that both versions are handled alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bits(u128);

impl Bits {
    pub(super) fn of(address: IpAddr) -> Bits {
        Bits(match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        })
    }

    fn masked(self, len: u8) -> Bits {
        Bits(self.0 & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0))
    }

    /// How many bits are alike from the top on.
    fn common(self, other: Bits) -> u8 {
        (self.0 ^ other.0).leading_zeros() as u8
    }
}

/// What is stored for prefixes of one address family.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    entries: BTreeMap<(Bits, u8), Vec<T>>,
    /// How many prefixes there are of each length, so that lengths without any cost nothing.
    lengths: [u32; 129],
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Prefixes { entries: BTreeMap::new(), lengths: [0; 129] }
    }
}

impl<T> Prefixes<T> {
    pub(super) fn insert(&mut self, address: IpAddr, len: u8, value: T) {
        let len = len.min(128);
        let values = self.entries.entry((Bits::of(address).masked(len), len)).or_default();
        if values.is_empty() {
            self.lengths[usize::from(len)] += 1;
        }
        values.push(value);
    }

    /// Removes the first value of that prefix that `is` matches, and says whether there was one.
    pub(super) fn remove(&mut self, address: IpAddr, len: u8, is: impl Fn(&T) -> bool) -> bool {
        let len = len.min(128);
        let key = (Bits::of(address).masked(len), len);
        let Some(values) = self.entries.get_mut(&key) else { return false };
        let Some(at) = values.iter().position(is) else { return false };
        values.remove(at);
        if values.is_empty() {
            self.entries.remove(&key);
            self.lengths[usize::from(len)] -= 1;
        }
        true
    }

    /// The values of each prefix that contains `address`, the longest first.
    pub(super) fn containing(&self, address: IpAddr) -> impl Iterator<Item = (u8, &[T])> {
        let bits = Bits::of(address);
        (0..=128u8).rev().filter(|len| self.lengths[usize::from(*len)] > 0).filter_map(move |len| {
            self.entries.get(&(bits.masked(len), len)).map(|values| (len, values.as_slice()))
        })
    }

    /// The shortest length at which a prefix of `address` overlaps no stored prefix that does not contain it.
    pub(super) fn clear_of_others(&self, address: IpAddr) -> u8 {
        let bits = Bits::of(address);
        // Prefixes nest or are disjoint, so the nearest one on either side diverges from the address last. Those passed
        // over on the way down contain it: at most one of each length.
        let above = self.entries.range((bits, 129)..).next();
        let below =
            self.entries.range(..=(bits, 128)).rev().find(|((start, len), _)| bits.masked(*len) != *start);
        [above, below].into_iter().flatten().map(|((start, _), _)| bits.common(*start) + 1).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(prefixes: &[(&str, u8)]) -> Prefixes<u8> {
        let mut table = Prefixes::default();
        for (address, len) in prefixes {
            table.insert(address.parse().unwrap(), *len, *len);
        }
        table
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let table = table(&[("0.0.0.0", 0), ("10.0.0.0", 8), ("10.1.0.0", 16), ("10.1.2.3", 32)]);
        let lengths = |text| table.containing(address(text)).map(|(len, _)| len).collect::<Vec<_>>();
        assert_eq!(lengths("10.1.2.3"), [32, 16, 8, 0]);
        assert_eq!(lengths("10.1.2.4"), [16, 8, 0]);
        assert_eq!(lengths("11.0.0.1"), [0]);
    }

    /// Against the definition: no address in the prefix is contained in other prefixes than `address` is, and one bit
    /// fewer would let one in.
    #[test]
    fn a_safe_prefix_is_as_short_as_can_be() {
        let prefixes = [0u32, 8, 16, 24, 32, 12, 20, 30, 31]
            .into_iter()
            .flat_map(|len| {
                [0x0a00_0000u32, 0x0a01_0200, 0x0a01_0203, 0x0a01_ff00, 0xc0a8_0000].map(|a| (a, len))
            })
            .map(|(a, len)| (a & u32::MAX.checked_shl(32 - len).unwrap_or(0), len as u8))
            .collect::<Vec<_>>();
        for skip in 0..prefixes.len() {
            let chosen = &prefixes[skip..];
            let mut table = Prefixes::default();
            for (a, len) in chosen {
                table.insert(IpAddr::from(a.to_be_bytes()), *len, ());
            }
            for probe in
                [0x0a01_0203u32, 0x0a01_0204, 0x0a01_02fe, 0x0a02_0000, 0xc0a8_0101, 0x0101_0101, 0, !0]
            {
                let inside = |a: u32, len: u8, b: u32| (a ^ b).leading_zeros() >= u32::from(len);
                let naive = chosen
                    .iter()
                    .filter(|(a, len)| !inside(*a, *len, probe))
                    .map(|(a, _)| (a ^ probe).leading_zeros() as u8 + 1)
                    .max()
                    .unwrap_or(0);
                assert_eq!(
                    table.clear_of_others(IpAddr::from(probe.to_be_bytes())),
                    naive,
                    "{probe:#x} in {chosen:x?}"
                );
            }
        }
    }

    #[test]
    fn removal_forgets_the_length() {
        let mut table = table(&[("fd00::", 64)]);
        assert!(!table.remove(address("fd00::"), 63, |_| true));
        assert!(table.remove(address("fd00::"), 64, |value| *value == 64));
        assert_eq!(table.containing(address("fd00::1")).count(), 0);
        assert_eq!(table.lengths, [0; 129]);
    }
}
