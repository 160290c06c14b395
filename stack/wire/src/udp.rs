//! UDP (RFC 768).

use crate::{Header as Layer, Malformed, Sum, be16, checksum, protocol, put16};
use core::net::IpAddr;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// A datagram whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8]);

/// What a datagram's checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// There is none, which IPv4 allows (RFC 768).
    Absent,
    /// The field holds the sum of the pseudo-header only: the sender left the rest to an offload. Right only on a link
    /// where frames never leave the host.
    Partial,
}

impl<'a> Header<'a> {
    /// Checks the length. IP payload beyond it is cut off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::ShortLength`], [`Malformed::LongLength`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        if payload.len() < HEADER_LEN {
            return Err(Malformed::Truncated {
                header: Layer::Udp,
                expected: HEADER_LEN,
                got: payload.len(),
            });
        }
        let len = usize::from(be16(payload, 4));
        if len < HEADER_LEN {
            return Err(Malformed::ShortLength { header: Layer::Udp, least: HEADER_LEN, got: len });
        }
        if len > payload.len() {
            return Err(Malformed::LongLength { header: Layer::Udp, claimed: len, available: payload.len() });
        }
        Ok(Header(&payload[..len]))
    }

    /// Source port; 0 where the sender expects no answer.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16(self.0, 2)
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0, CHECKSUM_OFFSET)
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }

    /// Judges the checksum, from the cheapest test to the dearest: a partial sum is recognised without reading the
    /// payload.
    ///
    /// # Errors
    /// [`Malformed::Checksum`]; [`Malformed::NoChecksum`] for 0 over IPv6 (RFC 8200 section 8.1; the exceptions of RFC
    /// 6936 are for tunnels). Addresses of two versions are [`Malformed::Version`].
    #[inline]
    pub fn verify(&self, src: IpAddr, dst: IpAddr) -> Result<Verdict, Malformed> {
        let Some(pseudo) = checksum::pseudo(src, dst, protocol::UDP, self.0.len() as u16) else {
            let version = |address: IpAddr| if address.is_ipv4() { 4 } else { 6 };
            return Err(Malformed::Version { expected: version(dst), got: version(src) });
        };
        let field = self.checksum();
        if field == 0 {
            return if src.is_ipv4() { Ok(Verdict::Absent) } else { Err(Malformed::NoChecksum) };
        }
        if field == pseudo.partial() {
            // A right checksum may have this value too. Both are to be taken where partial sums are.
            return match self.complete(pseudo) {
                true => Ok(Verdict::Right),
                false => Ok(Verdict::Partial),
            };
        }
        if self.complete(pseudo) {
            return Ok(Verdict::Right);
        }
        let without = pseudo.bytes(&self.0[..CHECKSUM_OFFSET]).bytes(&self.0[HEADER_LEN..]);
        Err(Malformed::Checksum { header: Layer::Udp, got: field, expected: without.nonzero_checksum() })
    }

    /// Whether the field holds the sum of the pseudo-header only: all that a receiver has to look at where such sums
    /// are to be accepted.
    #[inline]
    pub fn is_partial(&self, src: IpAddr, dst: IpAddr) -> bool {
        checksum::pseudo(src, dst, protocol::UDP, self.0.len() as u16)
            .is_some_and(|pseudo| pseudo.partial() == self.checksum())
    }

    #[inline]
    fn complete(&self, pseudo: Sum) -> bool {
        pseudo.bytes(self.0).checksum() == 0
    }
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Bytes of payload, at most 65,527.
    pub payload_len: u16,
}

impl Repr {
    /// The fields of a view.
    pub fn parse(view: &Header<'_>) -> Repr {
        Repr {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            payload_len: view.payload().len() as u16,
        }
    }

    /// Writes the header to the first [`HEADER_LEN`] bytes of `out`, with `checksum` as it is: a full one, 0 for none,
    /// or a pseudo-header's [`Sum::partial`] for an offload to complete.
    ///
    /// # Panics
    /// If `out` is shorter.
    #[inline]
    pub fn emit(&self, checksum: u16, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        put16(out, 0, self.src_port);
        put16(out, 2, self.dst_port);
        put16(out, 4, self.payload_len + HEADER_LEN as u16);
        put16(out, CHECKSUM_OFFSET, checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::finish_checksum;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn datagram(src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
        let repr = Repr { src_port: 1, dst_port: 2, payload_len: payload.len() as u16 };
        let mut bytes = vec![0; HEADER_LEN];
        let pseudo = checksum::pseudo(src, dst, protocol::UDP, (payload.len() + HEADER_LEN) as u16).unwrap();
        repr.emit(pseudo.partial(), &mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn addresses(v6: bool) -> (IpAddr, IpAddr) {
        match v6 {
            false => ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()),
            true => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
        }
    }

    #[test]
    fn zero_means_none_over_ipv4_only() {
        for v6 in [false, true] {
            let (src, dst) = addresses(v6);
            let mut bytes = datagram(src, dst, b"x");
            put16(&mut bytes, CHECKSUM_OFFSET, 0);
            let verdict = Header::parse(&bytes).unwrap().verify(src, dst);
            assert_eq!(verdict, if v6 { Err(Malformed::NoChecksum) } else { Ok(Verdict::Absent) });
        }
    }

    #[test]
    fn lengths_are_bounded_by_the_packet() {
        let (src, dst) = addresses(false);
        let mut bytes = datagram(src, dst, b"abc");
        assert_eq!(
            Header::parse(&bytes[..7]).unwrap_err(),
            Malformed::Truncated { header: Layer::Udp, expected: 8, got: 7 }
        );
        bytes[5] = 12;
        assert_eq!(
            Header::parse(&bytes).unwrap_err(),
            Malformed::LongLength { header: Layer::Udp, claimed: 12, available: 11 }
        );
        bytes[5] = 7;
        assert_eq!(
            Header::parse(&bytes).unwrap_err(),
            Malformed::ShortLength { header: Layer::Udp, least: 8, got: 7 }
        );
        bytes[5] = 10;
        assert_eq!(Header::parse(&bytes).unwrap().payload(), b"ab");
    }

    proptest! {
        #[test]
        fn right_partial_and_wrong_are_told_apart(v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..200),
                                                  flip in 1u16..0xffff) {
            let (src, dst) = addresses(v6);
            let mut bytes = datagram(src, dst, &payload);
            let view = Header::parse(&bytes).unwrap();
            prop_assert!(view.is_partial(src, dst));
            let verdict = view.verify(src, dst);
            prop_assert!(matches!(verdict, Ok(Verdict::Partial | Verdict::Right)), "{verdict:?}");
            finish_checksum(&mut bytes, 0, CHECKSUM_OFFSET);
            let view = Header::parse(&bytes).unwrap();
            prop_assert_eq!(view.verify(src, dst), Ok(Verdict::Right));
            let right = view.checksum();
            put16(&mut bytes, CHECKSUM_OFFSET, right ^ flip);
            let view = Header::parse(&bytes).unwrap();
            match view.verify(src, dst) {
                Err(Malformed::Checksum { got, expected, .. }) => prop_assert_eq!((got, expected), (right ^ flip, right)),
                Err(Malformed::NoChecksum) | Ok(Verdict::Absent) => prop_assert_eq!(right ^ flip, 0),
                other => prop_assert!(other == Ok(Verdict::Partial) && view.is_partial(src, dst), "{other:?}"),
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Header::parse(&bytes);
        }
    }
}
