//! Ethernet II.

use crate::{Header, Malformed, be16, put16};
use core::{fmt, net::IpAddr};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 14;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// An Ethernet (EUI-48) address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of every station.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether it names a group of stations, all of them included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The group to which packets to the multicast address `group` go (RFC 1112 section 6.4, RFC 2464 section 7);
    /// `None` where the address is not multicast.
    pub fn of_group(group: IpAddr) -> Option<Mac> {
        if !group.is_multicast() {
            return None;
        }
        Some(Mac(match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                [0x01, 0x00, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(group) => {
                let octets = group.octets();
                [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
            }
        }))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8]);

impl<'a> View<'a> {
    /// Checks that the header is whole.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        if frame.len() < HEADER_LEN {
            return Err(Malformed::Truncated {
                header: Header::Ethernet,
                expected: HEADER_LEN,
                got: frame.len(),
            });
        }
        Ok(View(frame))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        let b = self.0;
        Mac([b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        let b = self.0;
        Mac([b[6], b[7], b[8], b[9], b[10], b[11]])
    }

    /// What the payload is; below 0x600 it is the length of an 802.3 frame.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        be16(self.0, 12)
    }

    /// All that follows the header, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// What the payload is.
    pub ethertype: u16,
}

impl Repr {
    /// The fields of a view.
    pub fn parse(view: &View<'_>) -> Repr {
        Repr { dst: view.dst(), src: view.src(), ethertype: view.ethertype() }
    }

    /// Writes the header to the first [`HEADER_LEN`] bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        out[..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        put16(out, 12, self.ethertype);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_short_frame_is_refused_with_its_length() {
        let error = View::parse(&[0; 13]).unwrap_err();
        assert_eq!(error.to_string(), "Ethernet header needs 14 bytes, the packet has 13");
    }

    #[test]
    fn groups_map_to_stations() {
        let of = |address: &str| Mac::of_group(address.parse().unwrap());
        assert_eq!(of("224.129.2.3").unwrap().to_string(), "01:00:5e:01:02:03");
        assert_eq!(of("ff02::1:ff00:42").unwrap().to_string(), "33:33:ff:00:00:42");
        assert_eq!(of("10.0.0.1"), None);
    }

    #[test]
    fn round_trip() {
        let repr = Repr { dst: Mac::BROADCAST, src: Mac([2, 0, 0, 0, 0, 1]), ethertype: IPV6 };
        let mut frame = [0; 20];
        repr.emit(&mut frame);
        assert_eq!(Repr::parse(&View::parse(&frame).unwrap()), repr);
        assert!(repr.dst.is_multicast() && !repr.src.is_multicast());
    }
}
