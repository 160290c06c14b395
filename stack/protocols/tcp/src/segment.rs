//! Segments as the engine sees them, and headers that it makes.

use crate::{Flow, Transmit};
use freena_wire::tcp::{self, flag};

/// A segment that arrived, or several merged into one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: tcp::Options,
    pub(crate) payload: &'a [u8],
    /// Payload bytes of the largest segment in it.
    pub(crate) size: u32,
    /// Segments in it.
    pub(crate) count: u32,
}

impl<'a> Segment<'a> {
    /// Reads a header. `segment`: payload bytes per segment of a super-packet, or 0.
    pub(crate) fn new(header: &tcp::Header<'a>, segment: u16) -> Self {
        let payload = header.payload();
        let len = payload.len() as u32;
        let (size, count) = match u32::from(segment) {
            0 => (len, 1),
            size => (size.min(len), len.div_ceil(size).max(1)),
        };
        Segment {
            sequence: header.sequence(),
            acknowledgement: header.acknowledgement(),
            flags: header.flags(),
            window: header.window(),
            urgent: header.urgent(),
            options: header.options(),
            payload,
            size,
            count,
        }
    }

    #[inline]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What it takes of the sequence space (`SEG.LEN`).
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }

    /// The reset that answers a segment for which there is no connection: RFC 9293 section 3.10.7.1.
    pub(crate) fn reset(&self, flow: Flow) -> Transmit {
        let (sequence, acknowledgement, flags) = match self.has(flag::ACK) {
            true => (self.acknowledgement, 0, flag::RST),
            false => (0, self.sequence.wrapping_add(self.len()), flag::RST | flag::ACK),
        };
        Head { sequence, acknowledgement, flags, ..Head::default() }.alone(flow)
    }
}

/// The fields of a header that the engine chooses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: tcp::Options,
}

impl Head {
    /// A segment without payload, and of no connection.
    pub(crate) fn alone(&self, flow: Flow) -> Transmit {
        let repr = tcp::Repr {
            src_port: flow.local_port,
            dst_port: flow.peer_port,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: self.flags,
            window: self.window,
            urgent: self.urgent,
            options: self.options,
        };
        let mut header = [0; tcp::MAX_HEADER_LEN];
        let header_len = repr.emit(0, &mut header) as u8;
        Transmit {
            connection: None,
            flow,
            header,
            header_len,
            payload: 0..0,
            body: Vec::new(),
            segment: 0,
            ttl: 64,
            tos: 0,
        }
    }
}
