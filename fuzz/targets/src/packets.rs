//! Targets that read packets.

use freena_ebpf_abi::{FlowKey, Verdict, classify};
use freena_ip::{Limits, Reassembler};
use freena_wire::{Fragment, Mac, Packet, icmp, parse_frame, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const UDP: u8 = 17;

/// A received frame, and the transport headers in it.
pub fn frame(bytes: &[u8]) {
    let Ok(packet) = parse_frame(bytes) else { return };
    let span = bytes.as_ptr_range();
    let payload = packet.payload.as_ptr_range();
    assert!(span.start <= payload.start && payload.end <= span.end, "payload outside the frame");
    assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4());
    if let Some(fragment) = packet.fragment {
        assert!(fragment.offset.is_multiple_of(8));
        assert!(fragment.more || fragment.offset > 0, "a whole packet is no fragment");
    }
    if let Ok(header) = udp::Header::parse(packet.payload) {
        assert!(header.payload().len() + 8 <= packet.payload.len());
        let _ = (header.verify(packet.src, packet.dst), header.is_partial(packet.src, packet.dst));
    }
    if let Ok(error) = icmp::parse(&packet) {
        let _ = error.quote.ports();
    }
}

/// The XDP program's classifier; where the stack's own parser accepts the frame, too, they agree about the flow.
pub fn xdp_parse(bytes: &[u8]) {
    let verdict = classify(bytes);
    let Ok(packet) = parse_frame(bytes) else { return };
    if packet.fragment.is_some() {
        assert!(!matches!(verdict, Verdict::Flow(_)), "a fragment taken for a whole packet");
        return;
    }
    if let (Verdict::Flow(key), UDP, Ok(header)) =
        (verdict, packet.protocol, udp::Header::parse(packet.payload))
    {
        assert_eq!(key, FlowKey::new(packet.dst, header.dst_port(), UDP));
    }
}

/// Payload of every datagram: a byte tells its offset, so that a misplaced fragment shows.
static CONTENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..1_u32 << 17).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect());

/// Fragments in any order, honest about their content but not about their bounds, while time passes.
///
/// Each takes eight bytes: which datagram, flags, offset, length, and how long after the one before.
pub fn reassembly(bytes: &[u8]) {
    let limits = Limits { bytes: 256 << 10, bytes_per_source: 128 << 10, datagrams: 8, ..Limits::default() };
    let (most, most_datagrams) = (limits.bytes, limits.datagrams);
    let mut reassembler = Reassembler::new(limits);
    let mut now = Instant::now();
    for step in bytes.as_chunks::<8>().0 {
        let [which, flags, o1, o2, l1, l2, tos, wait] = *step;
        let (src, dst): (IpAddr, IpAddr) = if flags & 2 == 0 {
            (Ipv4Addr::new(192, 0, 2, which >> 4).into(), Ipv4Addr::LOCALHOST.into())
        } else {
            (
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(which >> 4)).into(),
                Ipv6Addr::LOCALHOST.into(),
            )
        };
        let offset = u16::from_le_bytes([o1, o2]) & !7;
        let len = usize::from(u16::from_le_bytes([l1, l2]));
        let payload = &CONTENT[usize::from(offset)..][..len];
        let fragment = Fragment { id: u32::from(which & 15), offset, more: flags & 1 != 0 };
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let packet = Packet {
            ether_src: mac,
            ether_dst: mac,
            src,
            dst,
            protocol: UDP,
            ttl: 64,
            tos,
            fragment: (flags & 4 == 0).then_some(fragment),
            payload,
            l3: 14,
        };
        now += Duration::from_millis(u64::from(wait) * 100);
        reassembler.handle_timeout(now);
        if let Ok(Some(whole)) = reassembler.handle_fragment(now, &packet) {
            assert!(whole.payload == &CONTENT[..whole.payload.len()], "put together wrongly");
            assert_eq!((whole.src, whole.dst, whole.protocol), (src, dst, UDP));
        }
        assert!(reassembler.memory() <= most && reassembler.len() <= most_datagrams);
        assert!(reassembler.poll_timeout().is_none_or(|deadline| deadline > now));
    }
    // Time takes everything with it.
    while let Some(deadline) = reassembler.poll_timeout() {
        reassembler.handle_timeout(deadline);
    }
    assert_eq!((reassembler.memory(), reassembler.len()), (0, 0));
}
