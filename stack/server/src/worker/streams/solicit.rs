//! Neighbour solicitations of our own (RFC 4861 section 7.2.2).
//!
//! The kernel resolves neighbours, but where it is only asked to (`NTF_USE`), it solicits IPv6 ones from its link-local
//! address, and says nothing while that is tentative: for a second and more after a link has come up. The address that a
//! connection has is as good. The answer goes to the kernel, which knows by then that it waits for one.

use freena_wire::{Mac, checksum, ethernet, ipv6, protocol};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Ethernet and IPv6 headers, the solicitation with its target, the option with our address.
pub(super) const FRAME: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + 24 + 8;
/// A neighbour is not solicited more often (`RETRANS_TIMER`, section 10).
const RETRANS_TIMER: Duration = Duration::from_secs(1);
/// Neighbours that are solicited at a time.
const MAX: usize = 64;

/// Whom we have solicited of late.
#[derive(Default)]
pub(super) struct Solicited(Vec<((usize, IpAddr), Instant)>);

impl Solicited {
    /// Whether a neighbour by a port may be solicited now. It is noted then.
    pub(super) fn may(&mut self, port: usize, neighbour: IpAddr, now: Instant) -> bool {
        self.0.retain(|(_, at)| now.duration_since(*at) < RETRANS_TIMER);
        let may = self.0.len() < MAX && !self.0.iter().any(|(known, _)| *known == (port, neighbour));
        if may {
            self.0.push(((port, neighbour), now));
        }
        may
    }
}

/// The frame that asks for the address of `target`.
pub(super) fn solicitation(mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> [u8; FRAME] {
    let [.., a, b, c] = target.octets();
    // The solicited-node multicast address (RFC 4291 section 2.7.1), and its group on Ethernet (RFC 2464 section 7).
    let dst = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut frame = [0; FRAME];
    let ethertype = ethernet::IPV6;
    ethernet::Repr { dst: Mac([0x33, 0x33, 0xff, a, b, c]), src: mac, ethertype }.emit(&mut frame);
    let l4 = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
    let repr = ipv6::Repr {
        src,
        dst,
        next_header: protocol::ICMPV6,
        // Section 7.1.1: so that no router can have forwarded it.
        hop_limit: 255,
        traffic_class: 0,
        flow_label: 0,
        payload_len: (FRAME - l4) as u16,
    };
    repr.emit(&mut frame[ethernet::HEADER_LEN..]);
    // Type and code; four bytes are reserved. The option: source link-layer address, one unit of eight bytes.
    frame[l4] = 135;
    frame[l4 + 8..l4 + 24].copy_from_slice(&target.octets());
    frame[l4 + 24..l4 + 26].copy_from_slice(&[1, 1]);
    frame[l4 + 26..].copy_from_slice(&mac.0);
    let sum = checksum::pseudo_v6(&src, &dst, protocol::ICMPV6, (FRAME - l4) as u32).bytes(&frame[l4..]);
    frame[l4 + 2..l4 + 4].copy_from_slice(&sum.checksum().to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use freena_wire::parse_frame;

    #[test]
    fn a_solicitation_is_as_the_rfc_has_it() {
        let (src, target) = ("fd00::1".parse().unwrap(), "fd00::1:2:3".parse().unwrap());
        let frame = solicitation(Mac([2, 0, 0, 0, 0, 7]), src, target);
        let packet = parse_frame(&frame).expect("a packet");
        let dst: Ipv6Addr = "ff02::1:ff02:3".parse().unwrap();
        assert_eq!((packet.src, packet.dst, packet.ttl), (src.into(), dst.into(), 255));
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 2, 0, 3]);
        let len = packet.payload.len() as u32;
        let sum = checksum::pseudo_v6(&src, &dst, protocol::ICMPV6, len).bytes(packet.payload);
        assert_eq!((len, sum.checksum()), (32, 0));
        assert_eq!(packet.payload[8..24], target.octets());
        assert_eq!(packet.payload[24..], [1, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_neighbour_is_solicited_once_in_a_second() {
        let (mut solicited, now) = (Solicited::default(), Instant::now());
        let [one, other]: [IpAddr; 2] = ["fd00::2", "fd00::3"].map(|text| text.parse().unwrap());
        assert!(solicited.may(0, one, now) && solicited.may(1, one, now) && solicited.may(0, other, now));
        assert!(!solicited.may(0, one, now + RETRANS_TIMER / 2));
        assert!(solicited.may(0, one, now + RETRANS_TIMER));
    }
}
