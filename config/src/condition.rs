//! The items that the conditions of a rule list: ports, addresses, roles.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::value::{InvalidValue, is_xml_space};

/// One port or a range of ports, both ends included: `21` or `1024-2048`. 0 is no port of a flow and not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

const PORT_EXPECTED: &str = "a port from 1 to 65535 or a range such as 1024-2048";

impl PortRange {
    /// The ports from `first` to `last`.
    ///
    /// # Errors
    ///
    /// When `first` is 0 or greater than `last`.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidValue> {
        let range = Self { first, last };
        if first > last {
            return Err(InvalidValue::described(format!("the range {range}"), "the lower port first")
                .help(format!("write {last}-{first}")));
        }
        if first == 0 { Err(InvalidValue::new(&range.to_string(), PORT_EXPECTED)) } else { Ok(range) }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        // `u16::from_str` alone would take a sign.
        let port = |text: &str| {
            let text = text.trim_matches(is_xml_space);
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or_else(|| InvalidValue::new(value, PORT_EXPECTED))
        };
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        Self::new(port(first)?, port(last)?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// An IPv4 or IPv6 address with a prefix length: `10.0.0.0/8`, `2001:db8::/32`, `::1`.
///
/// IPv4 addresses are always written as such: an IPv4-mapped IPv6 address of a flow (`::ffff:10.0.0.1`) is taken as the
/// IPv4 address it stands for, so `::/0` means every flow over IPv6 and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPrefix {
    address: IpAddr,
    length: u8,
}

impl AddressPrefix {
    /// All addresses that share their first `length` bits with `address`.
    ///
    /// # Errors
    ///
    /// When `length` is greater than 32 (IPv4) or 128 (IPv6), a bit of `address` after the prefix is set, or `address` is an
    /// IPv4-mapped IPv6 address.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, InvalidValue> {
        let prefix = Self { address, length };
        let invalid = |expected: String| InvalidValue::new(&prefix.to_string(), expected);
        if length > bits(address) {
            return Err(invalid(format!("a prefix length from 0 to {}", bits(address))));
        }
        if address.to_canonical() != address {
            return Err(invalid("an IPv4 address written as one".into())
                .help(format!("write {} with the prefix length of IPv4", address.to_canonical())));
        }
        let masked = mask(address, length);
        if masked != address {
            let right = Self { address: masked, length };
            return Err(invalid("a prefix whose further bits are zero".into())
                .help(format!("write {right}, or {address} for the one address")));
        }
        Ok(prefix)
    }

    /// The first address of the prefix.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that an address must share.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` is in the prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.length) == self.address
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with all bits after the first `length` cleared. A shift by the full width, for length 0, clears all.
fn mask(address: IpAddr, length: u8) -> IpAddr {
    let host = u32::from(bits(address).saturating_sub(length));
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).into()),
    }
}

impl FromStr for AddressPrefix {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        let invalid = || {
            InvalidValue::new(value, "an IPv4 or IPv6 address or prefix, such as 10.0.0.0/8 or 2001:db8::1")
        };
        let (address, length) = value.split_once('/').map_or((value, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let length = match length {
            None => bits(address),
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| invalid())?
            }
            Some(_) => return Err(invalid()),
        };
        Self::new(address, length)
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == bits(self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.length)
        }
    }
}

/// The part that this application's socket plays in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It opened the flow: connect(2), or the first datagram.
    Client,
    /// It was reached by the flow: accept(2), or received the first datagram.
    Server,
}

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Client, Self::Server];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl FromStr for Role {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        Self::ALL.into_iter().find(|role| role.as_str() == value).ok_or_else(|| {
            InvalidValue::new(value, "client, server or *").suggest(value, Self::ALL.map(Self::as_str))
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
