//! Fragmentation on sending (RFC 791 section 3.2, RFC 8200 section 4.5).

use freena_wire::{Fragment, ipv4, ipv6};
use std::{fmt, ops::Range};

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotFragment {
    /// The payload is longer than an IP packet can carry: `EMSGSIZE`.
    TooLong {
        /// Its length.
        len: usize,
        /// The most there can be.
        max: usize,
    },
    /// The MTU has no room for the headers and 8 bytes of payload.
    Mtu {
        /// The MTU.
        mtu: usize,
        /// The least that will do.
        least: usize,
    },
}

impl fmt::Display for CannotFragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotFragment::TooLong { len, max } => {
                write!(f, "payload of {len} bytes, at most {max} fit a packet")
            }
            CannotFragment::Mtu { mtu, least } => write!(f, "MTU of {mtu}, fragments need {least}"),
        }
    }
}

impl std::error::Error for CannotFragment {}

/// One fragment. Offset and length are those of its part of the IP payload, transport header included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts.
    pub offset: usize,
    /// Its length.
    pub len: usize,
    /// Whether further fragments follow.
    pub more: bool,
}

impl Piece {
    /// Which bytes it carries of the data behind a transport header of `header_len` bytes. The header itself goes into
    /// the first fragment.
    ///
    /// Fragments have room for at least 8 bytes, so a UDP header is never torn; do not use it with longer ones.
    pub fn data(&self, header_len: usize) -> Range<usize> {
        self.offset.saturating_sub(header_len)..(self.offset + self.len).saturating_sub(header_len)
    }
}

/// The fragments of a packet, in order. A payload that fits is one, with `more` unset.
#[derive(Clone, Debug)]
pub struct Pieces {
    total: usize,
    per: usize,
    offset: Option<usize>,
}

impl Pieces {
    /// Cuts `payload_len` bytes for IPv4 packets of at most `mtu` bytes.
    ///
    /// # Errors
    /// Each variant of [`CannotFragment`].
    pub fn v4(payload_len: usize, mtu: usize) -> Result<Pieces, CannotFragment> {
        Pieces::new(payload_len, mtu, ipv4::HEADER_LEN, ipv4::MAX_LEN - ipv4::HEADER_LEN)
    }

    /// Cuts `payload_len` bytes for IPv6 packets of at most `mtu` bytes. They need a fragment header even where there is
    /// only one, so do not ask for what fits whole.
    ///
    /// # Errors
    /// Each variant of [`CannotFragment`].
    pub fn v6(payload_len: usize, mtu: usize) -> Result<Pieces, CannotFragment> {
        Pieces::new(payload_len, mtu, ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN, 0xffff)
    }

    fn new(total: usize, mtu: usize, headers: usize, max: usize) -> Result<Pieces, CannotFragment> {
        if total > max {
            return Err(CannotFragment::TooLong { len: total, max });
        }
        let least = headers + 8;
        if mtu < least {
            return Err(CannotFragment::Mtu { mtu, least });
        }
        Ok(Pieces { total, per: (mtu - headers) & !7, offset: Some(0) })
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let offset = self.offset?;
        let left = self.total - offset;
        // Only fragments with more to follow are bound to multiples of 8, and `per` is at most 7 short of the MTU.
        let more = left > self.per;
        let len = left.min(self.per);
        self.offset = more.then_some(offset + len);
        Some(Piece { offset, len, more })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.offset.map_or(0, |offset| (self.total - offset).div_ceil(self.per).max(1));
        (left, Some(left))
    }
}

impl ExactSizeIterator for Pieces {}

/// Writes the IPv4 header of `piece` to the first [`ipv4::HEADER_LEN`] bytes of `out`. `packet` describes the whole; its
/// identification must be one from [`Identification`](crate::Identification).
///
/// # Panics
/// If `out` is shorter.
pub fn emit_v4(packet: &ipv4::Repr, piece: Piece, out: &mut [u8]) {
    let fragment = ipv4::Repr {
        dont_fragment: false,
        more_fragments: piece.more,
        fragment_offset: piece.offset as u16,
        payload_len: piece.len as u16,
        ..*packet
    };
    fragment.emit(out);
}

/// Writes the IPv6 and fragment headers of `piece` to the first 48 bytes of `out`. `packet` describes the whole.
///
/// # Panics
/// If `out` is shorter.
pub fn emit_v6(packet: &ipv6::Repr, id: u32, piece: Piece, out: &mut [u8]) {
    let fragment = ipv6::Repr {
        next_header: ipv6::FRAGMENT,
        payload_len: (piece.len + ipv6::FRAGMENT_LEN) as u16,
        ..*packet
    };
    fragment.emit(out);
    let place = Fragment { id, offset: piece.offset as u16, more: piece.more };
    ipv6::emit_fragment(packet.next_header, place, &mut out[ipv6::HEADER_LEN..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_of_the_largest_size_over_ethernet() {
        let pieces = Pieces::v4(65_515, 1500).unwrap();
        assert_eq!(pieces.len(), 45);
        let last = pieces.clone().last().unwrap();
        assert_eq!(last, Piece { offset: 44 * 1480, len: 395, more: false });
        let first = Pieces::v4(65_515, 1500).unwrap().next().unwrap();
        assert_eq!((first.data(8), last.data(8)), (0..1472, 65_112..65_507));
    }

    #[test]
    fn what_cannot_be_cut_says_why() {
        let error = |pieces: Result<Pieces, CannotFragment>| pieces.unwrap_err().to_string();
        assert_eq!(error(Pieces::v4(65_516, 1500)), "payload of 65516 bytes, at most 65515 fit a packet");
        assert_eq!(error(Pieces::v6(65_536, 1500)), "payload of 65536 bytes, at most 65535 fit a packet");
        assert_eq!(error(Pieces::v4(100, 27)), "MTU of 27, fragments need 28");
        assert_eq!(error(Pieces::v6(100, 55)), "MTU of 55, fragments need 56");
    }

    proptest! {
        #[test]
        fn pieces_follow_one_another_and_fit(total in 0usize..=65_515, mtu in 68usize..9000, v6: bool) {
            let (pieces, headers) = if v6 { (Pieces::v6(total, mtu), 48) } else { (Pieces::v4(total, mtu), 20) };
            let pieces = pieces.unwrap();
            let (count, mut at, mut seen) = (pieces.len(), 0, 0);
            for piece in pieces {
                seen += 1;
                prop_assert_eq!(piece.offset, at);
                prop_assert!(piece.len + headers <= mtu);
                prop_assert!(piece.more == (piece.offset + piece.len < total));
                prop_assert!(!piece.more || piece.len % 8 == 0 && piece.len > 0);
                at += piece.len;
            }
            prop_assert_eq!((at, seen), (total, count));
        }
    }
}
