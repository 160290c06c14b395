//! What a filter looks at.

use freena_wire::protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv6 extension headers followed; nobody sends more.
const MAX_EXTENSIONS: usize = 8;

/// Addresses and ports of a packet, as far as its headers tell. Headers that are cut or wrong tell less, never fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Source and destination.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Protocol above IP.
    pub protocol: Option<u8>,
    /// Source and destination port, of a first or only fragment.
    pub ports: Option<(u16, u16)>,
    /// Whether it was sent.
    pub outbound: bool,
}

impl Sight {
    /// Looks at a frame, or at its headers alone.
    pub fn new(frame: &[u8], outbound: bool) -> Sight {
        let mut sight = Sight { outbound, ..Sight::default() };
        let _ = sight.look(frame);
        sight
    }

    /// Notes what there is; `None` where it ends.
    fn look(&mut self, frame: &[u8]) -> Option<()> {
        match frame.get(12..14)? {
            [0x08, 0x00] => self.look_v4(frame.get(14..)?),
            [0x86, 0xdd] => self.look_v6(frame.get(14..)?),
            _ => None,
        }
    }

    fn look_v4(&mut self, packet: &[u8]) -> Option<()> {
        let header = packet.get(..20)?;
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv4Addr::from_octets(header.get(at..at + 4)?.try_into().ok()?).into())
        };
        self.addresses = Some((address(12)?, address(16)?));
        self.protocol = Some(header[9]);
        let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
        self.look_ports(packet.get(usize::from(header[0] & 15) * 4..)?, is_first)
    }

    fn look_v6(&mut self, packet: &[u8]) -> Option<()> {
        let header = packet.get(..40)?;
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv6Addr::from_octets(header.get(at..at + 16)?.try_into().ok()?).into())
        };
        self.addresses = Some((address(8)?, address(24)?));
        let (mut next, mut rest, mut is_first) = (header[6], packet.get(40..)?, true);
        for _ in 0..MAX_EXTENSIONS {
            let len = match next {
                // Hop-by-hop options, routing, destination options: in units of 8 bytes beyond the first.
                0 | 43 | 60 => usize::from(*rest.get(1)?) * 8 + 8,
                // Fragment.
                44 => {
                    is_first = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) & 0xfff8 == 0;
                    8
                }
                _ => break,
            };
            (next, rest) = (*rest.first()?, rest.get(len..)?);
        }
        self.protocol = Some(next);
        self.look_ports(rest, is_first)
    }

    fn look_ports(&mut self, payload: &[u8], is_first: bool) -> Option<()> {
        let has_ports = matches!(self.protocol, Some(protocol::TCP | protocol::UDP | protocol::SCTP));
        if is_first && has_ports {
            let [a, b, c, d] = *payload.first_chunk::<4>()?;
            self.ports = Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        }
        Some(())
    }
}
