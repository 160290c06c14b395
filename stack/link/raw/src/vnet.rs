//! The header before each frame of a packet socket with PACKET_VNET_HDR (linux/virtio_net.h, in the host's byte order).

use freena_stack_api::{Burst, Gso, RxChecksum};

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const _: () = assert!(size_of::<VnetHeader>() == 10);

impl VnetHeader {
    /// What the kernel has to do with `burst`.
    pub(crate) fn of(burst: &Burst<'_>) -> Self {
        let mut header = VnetHeader::default();
        if burst.l4 != 0 {
            header.flags = F_NEEDS_CSUM;
            header.csum_start = burst.l4;
            header.csum_offset = burst.checksum;
        }
        if burst.frames() > 1 {
            header.gso_type = match burst.gso {
                Gso::None => GSO_NONE,
                Gso::Udp => GSO_UDP_L4,
                Gso::Tcp4 => GSO_TCPV4,
                Gso::Tcp6 => GSO_TCPV6,
            };
            header.hdr_len = burst.header.len() as u16;
            header.gso_size = burst.segment;
        }
        header
    }

    /// Payload bytes per segment of a received super-packet; 0 for a frame. A datagram that waits for fragmentation
    /// (VIRTIO_NET_HDR_GSO_UDP) is one datagram, not several.
    pub(crate) fn segment(&self) -> u16 {
        match self.gso_type & !GSO_ECN {
            GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 => self.gso_size,
            _ => 0,
        }
    }

    /// What the kernel knows of the checksum of a received frame.
    pub(crate) fn checksum(&self) -> RxChecksum {
        match self.flags {
            flags if flags & F_NEEDS_CSUM != 0 => RxChecksum::MayBePartial,
            flags if flags & F_DATA_VALID != 0 => RxChecksum::Verified,
            _ => RxChecksum::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(payload_len: u32, segment: u16, gso: Gso, l4: u16) -> Burst<'static> {
        Burst { header: &[0; 42], l3: 14, l4, checksum: 6, payload: &[], payload_len, segment, gso }
    }

    #[test]
    fn a_fragment_asks_for_nothing() {
        assert_eq!(VnetHeader::of(&burst(1000, 0, Gso::None, 0)), VnetHeader::default());
    }

    #[test]
    fn a_datagram_asks_for_its_checksum_only() {
        let want = VnetHeader { flags: 1, csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
        assert_eq!(VnetHeader::of(&burst(1000, 0, Gso::None, 34)), want);
        assert_eq!(VnetHeader::of(&burst(1000, 1000, Gso::Udp, 34)), want, "one segment is no super-packet");
    }

    #[test]
    fn a_super_packet_asks_for_segmentation() {
        let header = VnetHeader::of(&burst(1001, 1000, Gso::Udp, 34));
        assert_eq!((header.gso_type, header.hdr_len, header.gso_size), (5, 42, 1000));
    }

    #[test]
    fn received_headers_are_read() {
        let mut header =
            VnetHeader { gso_type: GSO_TCPV4 | GSO_ECN, gso_size: 1448, ..VnetHeader::default() };
        assert_eq!((header.segment(), header.checksum()), (1448, RxChecksum::Unknown));
        header = VnetHeader { gso_type: 3, gso_size: 1480, flags: F_DATA_VALID, ..VnetHeader::default() };
        assert_eq!((header.segment(), header.checksum()), (0, RxChecksum::Verified));
        header.flags |= F_NEEDS_CSUM;
        assert_eq!(header.checksum(), RxChecksum::MayBePartial);
    }
}
