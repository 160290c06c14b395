//! Verification of the Internet checksum, for protocols that use it.

use freena_stack_api::RxChecksum;
use freena_wire::{Packet, checksum};

/// Whether the checksum at `offset` of the packet's payload is right, or need not be.
pub(crate) fn holds(packet: &Packet<'_>, offset: usize, known: RxChecksum) -> bool {
    let Some(field) = packet.payload.get(offset..offset + 2) else { return false };
    let length = packet.payload.len() as u16;
    let Some(pseudo) = checksum::pseudo(packet.src, packet.dst, packet.protocol, length) else {
        return false;
    };
    match known {
        RxChecksum::Verified => true,
        // Looked at first: on such a link nearly every packet has it, and it costs no pass over the payload.
        RxChecksum::MayBePartial if field == pseudo.partial().to_be_bytes() => true,
        RxChecksum::MayBePartial | RxChecksum::Unknown => pseudo.bytes(packet.payload).checksum() == 0,
    }
}
