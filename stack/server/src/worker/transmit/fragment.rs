//! Datagrams that the path takes only in pieces (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! All fragments come from one private copy, which the checksum is computed over: the ring can change under our hands,
//! and fragments of two versions of a payload would make a datagram that nobody sent.

use super::{Stage, Staged, emit_ethernet, v4_header, v6_header};
use crate::worker::Worker;
use crate::worker::path::Fast;
use freena_ip::{Pieces, emit_v4, emit_v6};
use freena_shm_abi::{endpoint::ip_of, record::flags};
use freena_shm_ring::Message;
use freena_stack_api::{Chunk, Gso};
use freena_udp::SocketKey;
use freena_udp::coalesce::Header;
use freena_wire::{checksum, ethernet, ipv4, ipv6, protocol, segment, udp};
use std::net::IpAddr;

/// Where to go on with a datagram of which the link has taken some fragments, but not all.
///
/// Starting over would send the first ones again and again to a link that is short of room, and none of it would ever
/// become a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Resume {
    /// Position of its record in the transmit ring.
    at: u64,
    /// Identification of its fragments.
    id: u32,
    /// Offset of the first fragment that is still to be sent.
    offset: usize,
}

impl Worker {
    /// Stages `message` as `pieces`.
    pub(super) fn stage_fragments(
        &mut self,
        key: SocketKey,
        start: u64,
        message: &Message<'_>,
        fast: &Fast,
        pieces: Pieces,
    ) {
        let Some(local) = self.table.get_mut(key) else { return };
        let resume = local.resume.take();
        let src_port = local.binding.port;
        let dst = ip_of(&message.record.peer);
        // Where the path MTU has changed meanwhile, the fragments do not fit together any more.
        let resume = resume.filter(|r| r.at == start && pieces.clone().any(|piece| piece.offset == r.offset));
        let resume = resume.unwrap_or_else(|| {
            let id = self.setup.network.next_id(fast.src, dst);
            Resume { at: start, id, offset: 0 }
        });
        self.stage.push_fragments(key, src_port, message, fast, pieces, resume);
    }
}

impl Stage {
    /// Queues those of `pieces` that `from` says are still to be sent.
    fn push_fragments(
        &mut self,
        socket: SocketKey,
        src_port: u16,
        message: &Message<'_>,
        fast: &Fast,
        pieces: Pieces,
        from: Resume,
    ) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.resize(udp::HEADER_LEN + message.record.len as usize, 0);
        message.read(0, &mut copy[udp::HEADER_LEN..]);
        let header = super::header_of(&message.record);
        let dst = ip_of(&header.peer);
        finish_udp(&mut copy, fast.src, dst, src_port, &header);
        // SAFETY: the bytes lie in the heap memory of `copy`, which moves to `copies` and stays there unchanged until `flush`
        // has emptied `chunks`.
        let whole: Chunk<'static> = unsafe { Chunk::from_raw(copy.as_ptr(), copy.len()) };
        self.copies.push(copy);
        for piece in pieces.filter(|piece| piece.offset >= from.offset) {
            let at = self.headers.len();
            emit_headers(&mut self.headers, fast, dst, &header, from.id, piece);
            self.chunks.push(whole.slice(piece.offset, piece.len));
            self.bursts.push(Staged {
                socket,
                start: from.at,
                port: fast.port,
                header: at..self.headers.len(),
                l4: 0,
                chunks: self.chunks.len() - 1..self.chunks.len(),
                payload_len: piece.len as u32,
                segment: 0,
                gso: Gso::None,
                datagrams: u32::from(!piece.more),
                fragment: Some(Resume { offset: piece.offset, ..from }),
            });
        }
    }
}

impl Resume {
    /// Nothing has been sent of the datagram if this is its first fragment.
    pub(super) fn is_start(&self) -> bool {
        self.offset == 0
    }
}

/// Writes the UDP header in front of the payload, with the checksum over the whole.
fn finish_udp(datagram: &mut [u8], src: IpAddr, dst: IpAddr, src_port: u16, header: &Header) {
    let payload_len = (datagram.len() - udp::HEADER_LEN) as u16;
    let pseudo = checksum::pseudo(src, dst, protocol::UDP, datagram.len() as u16);
    let partial = pseudo.map_or(0, |sum| sum.partial());
    let has_checksum = header.flags & flags::NO_CHECKSUM == 0;
    let field = if has_checksum { partial } else { 0 };
    udp::Repr { src_port, dst_port: header.peer_port, payload_len }.emit(field, datagram);
    if has_checksum {
        segment::finish_checksum(datagram, 0, udp::CHECKSUM_OFFSET);
    }
}

/// Appends Ethernet and IP header of one fragment.
fn emit_headers(
    out: &mut Vec<u8>,
    fast: &Fast,
    dst: IpAddr,
    header: &Header,
    id: u32,
    piece: freena_ip::Piece,
) {
    let at = out.len();
    let l3 = ethernet::HEADER_LEN;
    match (fast.src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.resize(at + l3 + ipv4::HEADER_LEN, 0);
            let packet = v4_header(src, dst, header, id as u16, false, piece.len as u16);
            emit_v4(&packet, piece, &mut out[at + l3..]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.resize(at + l3 + ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN, 0);
            let packet = v6_header(src, dst, header, piece.len as u16);
            emit_v6(&packet, id, piece, &mut out[at + l3..]);
        }
        // `carriage` lets no such pair through.
        _ => unreachable!("source and destination of different IP versions"),
    }
    emit_ethernet(fast, dst, &mut out[at..]);
}

#[cfg(test)]
mod tests;
