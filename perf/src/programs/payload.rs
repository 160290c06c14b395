//! The datagrams that the benchmark programs exchange.
//!
//! ```text
//!  0        8                                size-8     size
//!  +--------+--------------------------------+----------+
//!  | number |             body               |  check   |    all integers little-endian
//!  +--------+--------------------------------+----------+
//! ```
//!
//! The check depends on number and size, so a datagram that was cut, padded or stitched together is noticed at the cost
//! of two loads. The body is written and compared in one of [`SAMPLE`] datagrams only: both ends are to measure the
//! path, not themselves.

use thiserror::Error;

/// Smallest datagram that has room for number and check, in bytes.
pub const MIN_SIZE: usize = 16;
/// Largest UDP payload over IPv4, in bytes: 65,535 less 20 (IPv4 header) and 8 (UDP header).
pub const MAX_SIZE: usize = 65_507;
/// One datagram of so many carries, and is checked for, a body of its own.
pub const SAMPLE: u64 = 256;

/// The number of the mark that ends a stream.
const END: u64 = u64::MAX;
/// 2^64 divided by the golden ratio, the usual odd multiplier that spreads every input bit upwards.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a valid datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// The datagram of this number, counted from 0.
    Data(u64),
    /// The sender is done, having sent so many datagrams.
    End(u64),
}

/// Why a datagram is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// Not the size that every datagram of this stream has.
    #[error("a datagram of {got} bytes, expected {expected}")]
    Size {
        /// Bytes received.
        got: usize,
        /// Bytes that each datagram of this stream has.
        expected: usize,
    },
    /// Number and check disagree.
    #[error("datagram {number}: its last 8 bytes do not belong to it")]
    Check {
        /// The number that its first 8 bytes claim.
        number: u64,
    },
    /// A byte of the body is not what was written.
    #[error("datagram {number}: byte {offset} is not what was sent")]
    Body {
        /// The datagram's number.
        number: u64,
        /// Offset of the first such byte.
        offset: usize,
    },
}

/// Writes datagram `number` into `buffer`, whose length is the datagram's size.
///
/// # Panics
/// When `buffer` is shorter than [`MIN_SIZE`].
pub fn write(buffer: &mut [u8], number: u64) {
    let size = buffer.len();
    put(buffer, number, check(number, size));
    if number.is_multiple_of(SAMPLE) {
        for (offset, byte) in body(buffer).iter_mut().enumerate() {
            *byte = body_byte(number, offset);
        }
    }
}

/// Writes the mark that ends a stream of `total` datagrams.
///
/// # Panics
/// When `buffer` is shorter than [`MIN_SIZE`].
pub fn write_end(buffer: &mut [u8], total: u64) {
    put(buffer, END, total);
}

/// Reads a received datagram of a stream whose datagrams are `size` bytes long.
///
/// # Errors
/// [`Corrupt`], by what is wrong with it.
pub fn read(datagram: &[u8], size: usize) -> Result<Datagram, Corrupt> {
    let (Some(head), Some(tail)) = (datagram.first_chunk(), datagram.last_chunk()) else {
        return Err(Corrupt::Size { got: datagram.len(), expected: size });
    };
    if datagram.len() != size || size < MIN_SIZE {
        return Err(Corrupt::Size { got: datagram.len(), expected: size });
    }
    let (number, tail) = (u64::from_le_bytes(*head), u64::from_le_bytes(*tail));
    if number == END {
        return Ok(Datagram::End(tail));
    }
    if tail != check(number, size) {
        return Err(Corrupt::Check { number });
    }
    if number.is_multiple_of(SAMPLE) {
        let body = &datagram[8..size - 8];
        if let Some(offset) = (0..body.len()).find(|&offset| body[offset] != body_byte(number, offset)) {
            return Err(Corrupt::Body { number, offset: offset + 8 });
        }
    }
    Ok(Datagram::Data(number))
}

fn put(buffer: &mut [u8], head: u64, tail: u64) {
    let size = buffer.len();
    assert!(size >= MIN_SIZE, "a datagram of {size} bytes has no room for its number and check");
    buffer[..8].copy_from_slice(&head.to_le_bytes());
    buffer[size - 8..].copy_from_slice(&tail.to_le_bytes());
}

fn body(buffer: &mut [u8]) -> &mut [u8] {
    let end = buffer.len() - 8;
    &mut buffer[8..end]
}

fn check(number: u64, size: usize) -> u64 {
    (number ^ ((size as u64) << 48)).wrapping_mul(SPREAD)
}

fn body_byte(number: u64, offset: usize) -> u8 {
    ((number / SAMPLE) as u8).wrapping_add((offset as u8).wrapping_mul(31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 0..END, size in MIN_SIZE..2048) {
            let mut buffer = vec![0xAA; size];
            write(&mut buffer, number);
            prop_assert_eq!(read(&buffer, size), Ok(Datagram::Data(number)));
        }

        #[test]
        fn the_end_is_read(total in any::<u64>(), size in MIN_SIZE..2048) {
            let mut buffer = vec![0xAA; size];
            write_end(&mut buffer, total);
            prop_assert_eq!(read(&buffer, size), Ok(Datagram::End(total)));
        }

        #[test]
        fn a_changed_bit_of_a_sampled_datagram_is_noticed(
            n in 0..1_000_u64, size in MIN_SIZE..512, bit in any::<prop::sample::Index>()
        ) {
            let mut buffer = vec![0; size];
            write(&mut buffer, n * SAMPLE);
            let bit = bit.index(size * 8);
            buffer[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&buffer, size).is_err());
        }

        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), size in 0_usize..64) {
            let _ = read(&bytes, size);
        }
    }

    #[test]
    fn a_cut_datagram_is_named() {
        let mut buffer = [0; 64];
        write(&mut buffer, 7);
        assert_eq!(read(&buffer[..63], 64), Err(Corrupt::Size { got: 63, expected: 64 }));
        assert_eq!(read(&[], 64), Err(Corrupt::Size { got: 0, expected: 64 }));
    }

    #[test]
    fn halves_of_two_datagrams_are_noticed() {
        let (mut one, mut two) = ([0; 64], [0; 64]);
        write(&mut one, 1);
        write(&mut two, 2);
        one[32..].copy_from_slice(&two[32..]);
        assert_eq!(read(&one, 64), Err(Corrupt::Check { number: 1 }));
    }
}
