//! Cutting a burst into whole frames, for a driver that takes single frames only.

use freena_stack_api::{Burst, Chunk, Gso};
use freena_wire::segment::{Super, Transport, finish_checksum};

use crate::GsoSender;

/// Most vectors of one message (UIO_MAXIOV), the two headers among them.
pub(crate) const MAX_VECTORS: usize = 1024;

/// Whether any link could send it: one IP packet before it is cut, and no more frames and chunks than are allowed.
pub(crate) fn is_sendable(burst: &Burst<'_>) -> bool {
    let packet = burst.header.len().saturating_sub(usize::from(burst.l3)) + burst.payload_len as usize;
    packet <= 65_535
        && burst.payload.len() + 2 <= MAX_VECTORS
        && (burst.gso == Gso::None || (burst.segment != 0 && burst.frames() <= GsoSender::MAX_SEGMENTS))
}

/// The frames of a burst, written one after the other, each complete with lengths and checksums.
pub struct Frames<'a> {
    header: &'a [u8],
    l4: usize,
    checksum: usize,
    segments: Option<Super<'a>>,
    payload: &'a [Chunk<'a>],
    /// Bytes of `payload[0]` that are written already.
    consumed: usize,
    payload_len: usize,
    next: usize,
    count: usize,
}

impl<'a> Frames<'a> {
    /// The frames of `burst`; `None` where it exceeds a limit or its header does not describe what it says it is.
    pub fn new(burst: &Burst<'a>) -> Option<Self> {
        if !is_sendable(burst) {
            return None;
        }
        let (l3, l4) = (usize::from(burst.l3), usize::from(burst.l4));
        let payload_len = burst.payload_len as usize;
        let checksum = usize::from(burst.checksum);
        if burst.payload.iter().map(Chunk::len).sum::<usize>() != payload_len
            || (l4 != 0 && l4 + checksum + 2 > burst.header.len())
        {
            return None;
        }
        let transport = match burst.gso {
            Gso::None => None,
            Gso::Udp => Some(Transport::Udp),
            Gso::Tcp4 | Gso::Tcp6 => Some(Transport::Tcp),
        };
        let segments = match transport {
            Some(transport) => {
                let segment = usize::from(burst.segment);
                Some(Super::new(burst.header, l3, l4, payload_len, segment, transport).ok()?)
            }
            None => None,
        };
        let count = segments.as_ref().map_or(1, Super::frames);
        Some(Frames {
            header: burst.header,
            l4,
            checksum,
            segments,
            payload: burst.payload,
            consumed: 0,
            payload_len,
            next: 0,
            count,
        })
    }

    /// How many frames are still to be written.
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// Length of the longest frame.
    pub fn longest(&self) -> usize {
        self.header.len() + self.segments.as_ref().map_or(self.payload_len, |segments| segments.span(0).len)
    }

    /// Writes the next frame to the start of `out` and returns its length; `None` after the last.
    ///
    /// # Panics
    /// If `out` is shorter than [`Frames::longest`].
    pub fn write(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.next == self.count {
            return None;
        }
        let payload = match &self.segments {
            Some(segments) => segments.emit(self.next, out).len,
            None => {
                out[..self.header.len()].copy_from_slice(self.header);
                self.payload_len
            }
        };
        self.next += 1;
        let len = self.header.len() + payload;
        let frame = &mut out[..len];
        self.copy_payload(&mut frame[self.header.len()..]);
        if self.l4 != 0 {
            // Summed over the copy: nobody else can change it any more.
            finish_checksum(frame, self.l4, self.checksum);
        }
        Some(len)
    }

    fn copy_payload(&mut self, mut to: &mut [u8]) {
        while let (false, Some(chunk)) = (to.is_empty(), self.payload.first()) {
            let len = to.len().min(chunk.len() - self.consumed);
            let (now, later) = to.split_at_mut(len);
            chunk.slice(self.consumed, len).copy_to(now);
            to = later;
            self.consumed += len;
            if self.consumed == chunk.len() {
                self.payload = &self.payload[1..];
                self.consumed = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
