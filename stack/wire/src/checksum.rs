//! The Internet checksum (RFC 1071), computed incrementally where that is cheaper (RFC 1624).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A ones' complement sum under way.
///
/// The sum is kept in the machine's byte order, which RFC 1071 section 2 (B) allows: only the result is swapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Sum = Sum(0);

    /// Adds a run of bytes that starts at an even offset. An odd last byte is padded with a zero byte, so no further
    /// run may follow it by this call; see [`Sum::then`].
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        Sum(self.0 + u64::from(fold(native(bytes))))
    }

    /// Adds one 16-bit word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Sum {
        Sum(self.0 + word.to_be() as u64)
    }

    /// Adds one 32-bit word.
    #[inline]
    #[must_use]
    pub const fn word32(self, word: u32) -> Sum {
        self.word((word >> 16) as u16).word(word as u16)
    }

    /// Adds the sum of a run that starts `at` bytes into what is summed: swapped where that is odd.
    #[inline]
    #[must_use]
    pub const fn then(self, run: Sum, at: usize) -> Sum {
        let folded = fold(run.0);
        Sum(self.0 + if at % 2 == 1 { folded.swap_bytes() } else { folded } as u64)
    }

    /// The sum in 16 bits, not complemented: what a checksum field holds while the rest is left to an offload.
    #[inline]
    #[must_use]
    pub const fn partial(self) -> u16 {
        u16::from_be(fold(self.0))
    }

    /// The checksum: the complement of the sum.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.partial()
    }

    /// The checksum for a field in which 0 means none: 0 is sent as its equal, 0xffff (RFC 768).
    #[inline]
    #[must_use]
    pub const fn nonzero_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// Sum of the pseudo-header of IPv4 (RFC 768, RFC 9293 section 3.1). `len` is that of transport header and payload.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    Sum::ZERO.word32(src.to_bits()).word32(dst.to_bits()).word(u16::from(protocol)).word(len)
}

/// Sum of the pseudo-header of IPv6 (RFC 8200 section 8.1). `len` is that of transport header and payload.
#[inline]
pub fn pseudo_v6(src: &Ipv6Addr, dst: &Ipv6Addr, protocol: u8, len: u32) -> Sum {
    Sum::ZERO.bytes(&src.octets()).bytes(&dst.octets()).word32(len).word(u16::from(protocol))
}

/// Sum of the pseudo-header of either version; `None` where the addresses are not of one version.
#[inline]
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: u16) -> Option<Sum> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(pseudo_v4(src, dst, protocol, len)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some(pseudo_v6(&src, &dst, protocol, u32::from(len))),
        _ => None,
    }
}

/// The checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// Ones' complement sum of two 16-bit words.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Adds the end-around carries until 16 bits are left. Zero only if `sum` is.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// Sums 32-bit words into eight 64-bit lanes, which the compiler turns into vector instructions; a lane would overflow
/// only after 128 GiB.
#[inline]
fn native(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        let sum = Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        let ones = [0xff; 65_535];
        assert_eq!(Sum::ZERO.bytes(&ones).checksum(), naive(&ones));
    }

    #[test]
    fn zero_is_sent_as_ones() {
        assert_eq!(Sum::ZERO.word(0xffff).checksum(), 0);
        assert_eq!(Sum::ZERO.word(0xffff).nonzero_checksum(), 0xffff);
    }

    proptest! {
        #[test]
        fn equals_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).checksum(), naive(&bytes));
        }

        #[test]
        fn runs_of_any_length_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..600), cuts in proptest::collection::vec(0usize..600, 0..5)) {
            let mut cuts: std::vec::Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let sum = cuts.windows(2).fold(Sum::ZERO, |sum, cut| {
                sum.then(Sum::ZERO.bytes(&bytes[cut[0]..cut[1]]), cut[0])
            });
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }

        #[test]
        fn an_update_equals_summing_again(mut bytes in proptest::collection::vec(any::<u8>(), 4..64), at in 0usize..31, new: u16) {
            let at = at.min(bytes.len() / 2 - 1) * 2;
            let before = naive(&bytes);
            let old = crate::be16(&bytes, at);
            crate::put16(&mut bytes, at, new);
            let (got, want) = (update(before, old, new), naive(&bytes));
            // The two zeros of ones' complement are one value.
            prop_assert!(got == want || (got | want == 0xffff && got & want == 0), "{got:#x} {want:#x}");
        }

        #[test]
        fn both_pseudo_headers_equal_their_bytes(src: [u8; 16], dst: [u8; 16], protocol: u8, len: u16) {
            let [s, d] = [src, dst].map(|a| [a[0], a[1], a[2], a[3]]);
            let mut v4 = [s, d].concat();
            v4.extend([0, protocol]);
            v4.extend(len.to_be_bytes());
            prop_assert_eq!(pseudo_v4(s.into(), d.into(), protocol, len).checksum(), naive(&v4));
            let mut v6 = [src, dst].concat();
            v6.extend(u32::from(len).to_be_bytes());
            v6.extend([0, 0, 0, protocol]);
            prop_assert_eq!(pseudo_v6(&src.into(), &dst.into(), protocol, u32::from(len)).checksum(), naive(&v6));
        }
    }
}
