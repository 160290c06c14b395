//! Segmentation in software, as the kernel's generic segmentation offload does it (`net/core/gso.c`,
//! `net/ipv4/udp_offload.c`, `net/ipv4/tcp_offload.c`, Linux 6.18), for links whose driver takes single frames only.
//!
//! A super-packet is one header, complete for the whole payload, and the payload. Each frame made of it gets that header
//! with the lengths, the IPv4 identification and checksum, the TCP sequence number and flags put right. Its transport
//! checksum field holds the sum of the frame's own pseudo-header; [`finish_checksum`] completes it once the payload
//! lies behind the header, where a process that shares the original can no longer change it.

use crate::{Sum, be16, be32, checksum, ipv4, ipv6, put16, put32, udp};
use core::fmt;

/// The transport of a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each frame is a UDP datagram of its own (`SKB_GSO_UDP_L4`).
    Udp,
    /// Each frame is a TCP segment of one stream (`SKB_GSO_TCPV4`, `SKB_GSO_TCPV6`).
    Tcp,
}

/// Why a header does not describe a super-packet. All offsets in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSuper {
    /// No IP header of version 4 or 6 at this offset, or not a whole one.
    Ip(usize),
    /// The transport header at this offset does not reach exactly to the end of the headers.
    Transport(usize),
    /// The payload of one frame is 0 bytes.
    Segment,
    /// A frame made of it would exceed the 65,535 bytes of an IP packet.
    TooLong(usize),
}

impl fmt::Display for BadSuper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadSuper::Ip(at) => write!(f, "no whole IPv4 or IPv6 header at offset {at}"),
            BadSuper::Transport(at) => {
                write!(f, "the transport header at offset {at} does not end where the headers end")
            }
            BadSuper::Segment => f.write_str("0 payload bytes per frame"),
            BadSuper::TooLong(len) => write!(f, "frames with {len} payload bytes exceed an IP packet"),
        }
    }
}

impl core::error::Error for BadSuper {}

/// The part of the payload that one frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts in the payload of the super-packet.
    pub offset: usize,
    /// Bytes in it.
    pub len: usize,
}

/// A super-packet whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct Super<'a> {
    header: &'a [u8],
    l3: usize,
    l4: usize,
    payload_len: usize,
    segment: usize,
    transport: Transport,
    v4: bool,
}

impl<'a> Super<'a> {
    /// A super-packet of `header` (from the Ethernet header to the end of the transport header, IP at `l3`, transport at
    /// `l4`) and `payload_len` bytes, to be cut into frames of `segment` payload bytes.
    ///
    /// # Errors
    /// Each variant of [`BadSuper`].
    pub fn new(
        header: &'a [u8],
        l3: usize,
        l4: usize,
        payload_len: usize,
        segment: usize,
        transport: Transport,
    ) -> Result<Self, BadSuper> {
        let v4 = match header.get(l3).map(|byte| byte >> 4) {
            Some(4) => true,
            Some(6) => false,
            _ => return Err(BadSuper::Ip(l3)),
        };
        let ip_len = if v4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        if l4 < l3 + ip_len || header.len() < l4 || (v4 && l3 + usize::from(header[l3] & 15) * 4 != l4) {
            return Err(BadSuper::Ip(l3));
        }
        let transport_len = match (transport, header.get(l4 + 12)) {
            (Transport::Udp, _) => udp::HEADER_LEN,
            (Transport::Tcp, Some(offset)) => usize::from(offset >> 4) * 4,
            (Transport::Tcp, None) => 0,
        };
        let least = if transport == Transport::Udp { udp::HEADER_LEN } else { 20 };
        if transport_len < least || header.len() - l4 != transport_len {
            return Err(BadSuper::Transport(l4));
        }
        if segment == 0 {
            return Err(BadSuper::Segment);
        }
        let longest = segment.min(payload_len);
        // The IPv4 length field counts the header, the IPv6 one does not.
        let counted_from = if v4 { l3 } else { l3 + ipv6::HEADER_LEN };
        if header.len() - counted_from + longest > 0xffff {
            return Err(BadSuper::TooLong(longest));
        }
        Ok(Super { header, l3, l4, payload_len, segment, transport, v4 })
    }

    /// How many frames it becomes. Without payload it is still one.
    #[inline]
    pub fn frames(&self) -> usize {
        self.payload_len.div_ceil(self.segment).max(1)
    }

    /// The payload of frame `index`.
    #[inline]
    pub fn span(&self, index: usize) -> Span {
        let offset = (index * self.segment).min(self.payload_len);
        Span { offset, len: self.segment.min(self.payload_len - offset) }
    }

    /// Writes the header of frame `index` to the start of `out` and says which payload belongs behind it.
    ///
    /// # Panics
    /// If `out` is shorter than the header.
    #[inline]
    pub fn emit(&self, index: usize, out: &mut [u8]) -> Span {
        let span = self.span(index);
        let out = &mut out[..self.header.len()];
        out.copy_from_slice(self.header);
        let ip_payload = self.header.len() - self.l4 + span.len;
        if self.v4 {
            // inet_gso_segment() counts the identification up, whether or not DF is set.
            let id = be16(out, self.l3 + 4).wrapping_add(index as u16);
            ipv4::refit(&mut out[self.l3..self.l4], ip_payload, id);
        } else {
            let extensions = self.l4 - self.l3 - ipv6::HEADER_LEN;
            put16(out, self.l3 + 4, (extensions + ip_payload) as u16);
        }
        let whole = (self.header.len() - self.l4 + self.payload_len) as u32;
        let checksum_at = self.l4 + self.checksum_offset();
        let partial = with_length(be16(out, checksum_at), whole, ip_payload as u32);
        put16(out, checksum_at, partial);
        match self.transport {
            Transport::Udp => put16(out, self.l4 + 4, ip_payload as u16),
            Transport::Tcp => self.fix_tcp(index, span, out),
        }
        span
    }

    /// Offset of the checksum field from the transport header.
    #[inline]
    pub fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Udp => 6,
            Transport::Tcp => 16,
        }
    }

    /// Sequence number on, FIN and PSH on the last segment only, CWR on the first only (`tcp_gso_segment`).
    fn fix_tcp(&self, index: usize, span: Span, out: &mut [u8]) {
        const FIN_PSH: u8 = 0x01 | 0x08;
        const CWR: u8 = 0x80;
        let sequence = be32(out, self.l4 + 4).wrapping_add(span.offset as u32);
        put32(out, self.l4 + 4, sequence);
        if index + 1 < self.frames() {
            out[self.l4 + 13] &= !FIN_PSH;
        }
        if index > 0 {
            out[self.l4 + 13] &= !CWR;
        }
    }
}

/// The pseudo-header sum `partial` with the length `new` in place of `old`.
#[inline]
fn with_length(partial: u16, old: u32, new: u32) -> u16 {
    let old = Sum::ZERO.word32(old).partial();
    let new = Sum::ZERO.word32(new).partial();
    checksum::add(checksum::add(partial, !old), new)
}

/// Completes the transport checksum of `frame`, whose field at `l4 + offset` holds the sum of the pseudo-header and
/// whose payload is in place. A result of 0 becomes 0xffff, as in `skb_checksum_help`.
///
/// `frame` must end with the payload: no padding.
///
/// # Panics
/// If the field is not inside the frame.
#[inline]
pub fn finish_checksum(frame: &mut [u8], l4: usize, offset: usize) {
    let sum = Sum::ZERO.bytes(&frame[l4..]).nonzero_checksum();
    put16(frame, l4 + offset, sum);
}

#[cfg(test)]
mod tests;
