//! A super-packet as the frames that a wire would carry.

use super::reader::Packet;
use freena_link_middleware::frames;
use freena_stack_api::{Burst, Chunk, Gso};
use freena_wire::{checksum, parse_frame, protocol};

/// The frames of a packet; `None` where there is nothing to cut or complete, or it is not all there.
pub(super) fn cut(packet: &Packet) -> Option<Vec<Packet>> {
    if packet.data.len() < packet.original {
        return None;
    }
    let parsed = parse_frame(&packet.data).ok()?;
    let upper = parsed.payload;
    let l4 = upper.as_ptr().addr() - packet.data.as_ptr().addr();
    let (field, header, gso) = match parsed.protocol {
        protocol::UDP => (6, 8, Gso::Udp),
        protocol::TCP if parsed.src.is_ipv4() => (16, usize::from(upper.get(12)? >> 4) * 4, Gso::Tcp4),
        protocol::TCP => (16, usize::from(upper.get(12)? >> 4) * 4, Gso::Tcp6),
        _ => return None,
    };
    let (header, payload) = (packet.data.get(..l4 + header)?, upper.get(header..)?);
    if parsed.fragment.is_some() {
        return None;
    }
    // Until somebody completes it, the checksum field holds the sum of the pseudo-header.
    let pseudo = checksum::pseudo(parsed.src, parsed.dst, parsed.protocol, upper.len() as u16)?;
    let got = u16::from_be_bytes([*upper.get(field)?, *upper.get(field + 1)?]);
    if got != pseudo.partial() {
        return None;
    }
    let burst = Burst {
        header,
        l3: parsed.l3 as u16,
        l4: l4 as u16,
        checksum: field as u16,
        payload: &[Chunk::new(payload)],
        payload_len: payload.len() as u32,
        segment: packet.segment,
        gso: if packet.segment == 0 { Gso::None } else { gso },
    };
    let mut all = Vec::new();
    let snap = if packet.snap == 0 { usize::MAX } else { packet.snap };
    let each = |frame: &mut [u8]| {
        let data = frame[..frame.len().min(snap)].to_vec();
        let (interface, original) = (packet.interface.clone(), frame.len());
        all.push(Packet { interface, data, original, segment: 0, ..*packet });
    };
    frames(&burst, &mut Vec::new(), each).ok()?;
    Some(all)
}
