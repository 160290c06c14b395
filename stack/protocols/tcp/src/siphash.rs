//! SipHash-2-4 (Aumasson and Bernstein, 2012), keyed with the engine's secret: the standard library's hasher cannot be.

use crate::Flow;
use std::net::IpAddr;

/// A keyed hash of 64-bit words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SipHash {
    key: [u64; 2],
}

impl SipHash {
    /// From 16 bytes of key.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let (low, high) = key.split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 of 16 bytes"));
        SipHash { key: [word(low), word(high)] }
    }

    /// Hashes whole words.
    pub(crate) fn words(&self, words: &[u64]) -> u64 {
        let [k0, k1] = self.key;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let length = (words.len() as u64 * 8) << 56;
        for word in words.iter().copied().chain([length]) {
            v[3] ^= word;
            rounds(&mut v, 2);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        rounds(&mut v, 4);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }

    /// Hashes the ends of a connection and one more word.
    pub(crate) fn flow(&self, flow: &Flow, more: u64) -> u64 {
        let [a, b] = address(flow.local);
        let [c, d] = address(flow.peer);
        let ports = u64::from(flow.local_port) << 16 | u64::from(flow.peer_port);
        self.words(&[a, b, c, d, ports, more])
    }
}

fn address(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn rounds(v: &mut [u64; 4], count: usize) {
    for _ in 0..count {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_reference_implementation() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let hash = SipHash::new(key);
        let words = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        // `vectors_sip64` for 0, 8 and 16 bytes 00 01 02 ...
        assert_eq!(hash.words(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash.words(&words[..1]), 0x93f5_f579_9a93_2462);
        assert_eq!(hash.words(&words), 0x3f2a_cc7f_57c2_9bdb);
    }
}
