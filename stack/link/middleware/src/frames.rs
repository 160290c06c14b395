//! The frames of a burst, as they would stand on the wire.

use freena_stack_api::{Burst, Chunk, Gso};
use freena_wire::segment::{BadSuper, Super, Transport, finish_checksum};
use std::fmt;

/// Why a burst cannot be made into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotSegment {
    /// Its header is not that of a super-packet.
    Header(BadSuper),
    /// Its chunks have another length than it says.
    Payload {
        /// Bytes it says there are.
        claimed: u32,
        /// Bytes in the chunks.
        got: usize,
    },
    /// Its checksum field is not inside the frame.
    Checksum,
}

impl fmt::Display for CannotSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotSegment::Header(bad) => bad.fmt(f),
            CannotSegment::Payload { claimed, got } => {
                write!(f, "burst says {claimed} bytes of payload, its chunks have {got}")
            }
            CannotSegment::Checksum => f.write_str("the checksum field lies outside the headers"),
        }
    }
}

impl std::error::Error for CannotSegment {}

/// Hands each frame of `burst`, its checksum complete, to `each`. `scratch` is memory to use again.
///
/// # Errors
/// Each variant of [`CannotSegment`], before any frame was made.
pub fn frames(
    burst: &Burst<'_>,
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(&mut [u8]),
) -> Result<(), CannotSegment> {
    let got = burst.payload.iter().map(Chunk::len).sum();
    let claimed = burst.payload_len;
    if got != claimed as usize {
        return Err(CannotSegment::Payload { claimed, got });
    }
    let (header, l4) = (burst.header.len(), usize::from(burst.l4));
    let checksum = usize::from(burst.checksum);
    if l4 != 0 && l4 + checksum + 2 > header {
        return Err(CannotSegment::Checksum);
    }
    let transport = match burst.gso {
        Gso::None => {
            scratch.clear();
            scratch.extend_from_slice(burst.header);
            scratch.resize(header + got, 0);
            copy(burst.payload, 0, &mut scratch[header..]);
            if l4 != 0 {
                finish_checksum(scratch, l4, checksum);
            }
            each(scratch);
            return Ok(());
        }
        Gso::Udp => Transport::Udp,
        Gso::Tcp4 | Gso::Tcp6 => Transport::Tcp,
    };
    let plan = Super::new(burst.header, burst.l3.into(), l4, got, burst.segment.into(), transport)
        .map_err(CannotSegment::Header)?;
    for index in 0..plan.frames() {
        let span = plan.span(index);
        scratch.clear();
        scratch.resize(header + span.len, 0);
        plan.emit(index, scratch);
        copy(burst.payload, span.offset, &mut scratch[header..]);
        finish_checksum(scratch, l4, plan.checksum_offset());
        each(scratch);
    }
    Ok(())
}

/// Copies what starts `offset` bytes into the chunks, as much as `out` is long.
pub(crate) fn copy(chunks: &[Chunk<'_>], mut offset: usize, mut out: &mut [u8]) {
    for chunk in chunks {
        if offset >= chunk.len() {
            offset -= chunk.len();
            continue;
        }
        let len = (chunk.len() - offset).min(out.len());
        let (now, later) = out.split_at_mut(len);
        chunk.slice(offset, len).copy_to(now);
        (out, offset) = (later, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::datagram;
    use freena_wire::{parse_frame, udp};

    #[test]
    fn chunks_are_cut_across_their_ends() {
        let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let header = datagram(payload.len());
        let chunks = [Chunk::new(&payload[..3]), Chunk::new(&payload[3..700]), Chunk::new(&payload[700..])];
        let mut burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &chunks,
            payload_len: 1000,
            segment: 300,
            gso: Gso::Udp,
        };
        for (gso, count) in [(Gso::Udp, 4), (Gso::None, 1)] {
            burst.gso = gso;
            let (mut seen, mut frames_seen) = (Vec::<u8>::new(), 0);
            frames(&burst, &mut Vec::new(), |frame| {
                let packet = parse_frame(frame).unwrap();
                let view = udp::Header::parse(packet.payload).unwrap();
                assert_eq!(view.verify(packet.src, packet.dst), Ok(udp::Verdict::Right));
                seen.extend(view.payload());
                frames_seen += 1;
            })
            .unwrap();
            assert!(seen == payload && frames_seen == count);
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let header = datagram(4);
        let chunks = [Chunk::new(b"abc")];
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &chunks,
            payload_len: 4,
            segment: 0,
            gso: Gso::Udp,
        };
        let refusal = |burst: &Burst<'_>| frames(burst, &mut Vec::new(), |_| panic!("no frame")).unwrap_err();
        assert_eq!(refusal(&burst), CannotSegment::Payload { claimed: 4, got: 3 });
        let burst = Burst { payload_len: 3, ..burst };
        assert_eq!(refusal(&burst), CannotSegment::Header(BadSuper::Segment));
        assert_eq!(refusal(&Burst { checksum: 7, ..burst }), CannotSegment::Checksum);
    }
}
