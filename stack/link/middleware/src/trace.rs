//! Captures what passes a link, for Wireshark and tcpdump.

use crate::frames::copy;
use freena_stack_api::{Burst, Chunk, Frame, Gso, Link, LinkInfo, LinkStats};
use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use std::{
    borrow::Cow,
    io::{self, Write},
    os::fd::RawFd,
    time::{Duration, Instant, SystemTime},
};

/// Value of `if_tsresol` for nanoseconds: 10 to the minus ninth.
const NANOSECONDS: u8 = 9;
/// Bits 0 and 1 of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A link that writes every frame, in both directions, to a pcapng capture: nanosecond timestamps, the direction in
/// `epb_flags`, the interface's name.
///
/// A super-packet is written whole, as the kernel's own captures show it, with its segment size in a comment; the
/// checksums of what is sent are those that the link below was given to complete. What the link below did not take is not
/// written. A writer that fails ends the capture, not the traffic: see [`Trace::error`]. Wrap a file into a
/// [`BufWriter`](io::BufWriter).
pub struct Trace<L, W: Write> {
    link: L,
    capture: Capture<W>,
}

struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    clock: Box<dyn FnMut() -> Duration + Send>,
    scratch: Vec<u8>,
    error: Option<io::Error>,
}

impl<L: Link, W: Write> Trace<L, W> {
    /// Begins a capture with the time of the system's clock.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(link: L, writer: W) -> io::Result<Self> {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Trace::with_clock(link, writer, clock)
    }

    /// Begins a capture with the time, since 1970-01-01 UTC, that `clock` tells.
    ///
    /// # Errors
    /// The writer's.
    pub fn with_clock(
        link: L,
        writer: W,
        clock: impl FnMut() -> Duration + Send + 'static,
    ) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(writer).map_err(into_io)?;
        let info = link.info();
        let description = format!("queue {}, receive: {}, send: {}", info.queue, info.receive, info.send);
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(info.interface)),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(description)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        writer.write_pcapng_block(interface).map_err(into_io)?;
        let capture = Capture { writer, clock: Box::new(clock), scratch: Vec::new(), error: None };
        Ok(Trace { link, capture })
    }

    /// What ended the capture, if something did.
    pub fn error(&self) -> Option<&io::Error> {
        self.capture.error.as_ref()
    }

    /// Gives back the link and the writer, which was flushed.
    ///
    /// # Errors
    /// What ended the capture, or flushing it.
    pub fn finish(self) -> io::Result<(L, W)> {
        if let Some(error) = self.capture.error {
            return Err(error);
        }
        let mut writer = self.capture.writer.into_inner();
        writer.flush()?;
        Ok((self.link, writer))
    }
}

impl<W: Write> Capture<W> {
    fn write(&mut self, data: &[u8], direction: u32, segment: u16) {
        if self.error.is_some() {
            return;
        }
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if segment != 0 {
            let comment = format!("super-packet, {segment} bytes of payload per segment");
            options.push(EnhancedPacketOption::Comment(Cow::Owned(comment)));
        }
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: (self.clock)(),
            original_len: data.len() as u32,
            data: Cow::Borrowed(data),
            options,
        };
        self.error = self.writer.write_pcapng_block(packet).map_err(into_io).err();
    }

    fn write_burst(&mut self, burst: &Burst<'_>) {
        let mut whole = std::mem::take(&mut self.scratch);
        whole.clear();
        whole.extend_from_slice(burst.header);
        let payload = burst.payload.iter().map(Chunk::len).sum::<usize>();
        whole.resize(burst.header.len() + payload, 0);
        copy(burst.payload, 0, &mut whole[burst.header.len()..]);
        self.write(&whole, OUTBOUND, if burst.gso == Gso::None { 0 } else { burst.segment });
        self.scratch = whole;
    }
}

fn into_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

impl<L: Link, W: Write + Send> Link for Trace<L, W> {
    fn info(&self) -> LinkInfo {
        self.link.info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let capture = &mut self.capture;
        self.link.receive(budget, &mut |frame| {
            capture.write(frame.data, INBOUND, frame.segment);
            sink(frame);
        })
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let taken = self.link.transmit(bursts)?;
        for burst in bursts.iter().take(taken) {
            self.capture.write_burst(burst);
        }
        Ok(taken)
    }

    fn wait_fd(&self) -> RawFd {
        self.link.wait_fd()
    }

    fn stats(&self) -> LinkStats {
        self.link.stats()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.link.poll_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::{Loopback, datagram};
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn both_directions_are_written_with_their_time() {
        let mut link = Loopback { takes: Some(1), ..Default::default() };
        link.arrived.push_back(b"an arriving frame".to_vec());
        let mut time = Duration::new(1_700_000_000, 123_456_788);
        let clock = move || {
            time += Duration::from_nanos(1);
            time
        };
        let mut trace = Trace::with_clock(link, Vec::new(), clock).unwrap();
        assert_eq!(trace.receive(8, &mut |frame| assert_eq!(frame.data, b"an arriving frame")).unwrap(), 1);
        let (header, payload) = (datagram(100), [7; 100]);
        let chunks = [Chunk::new(&payload[..30]), Chunk::new(&payload[30..])];
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &chunks,
            payload_len: 100,
            segment: 40,
            gso: Gso::Udp,
        };
        assert_eq!(trace.transmit(&[burst, burst]).unwrap(), 1);
        let (link, bytes) = trace.finish().unwrap();
        assert_eq!(link.sent.len(), 3);

        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                Block::InterfaceDescription(interface) => {
                    let name = InterfaceDescriptionOption::IfName("test0".into());
                    assert!(interface.options.contains(&name));
                    assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                }
                other => panic!("{other:?}"),
            }
        }
        let [arrived, sent] = packets.as_slice() else { panic!("{} packets", packets.len()) };
        assert_eq!(arrived.data.as_ref(), b"an arriving frame");
        assert_eq!(arrived.timestamp, Duration::new(1_700_000_000, 123_456_789));
        assert_eq!(arrived.options, [EnhancedPacketOption::Flags(INBOUND)]);
        assert_eq!(sent.data.as_ref(), [&header[..], &payload[..]].concat());
        assert_eq!(sent.timestamp - arrived.timestamp, Duration::from_nanos(1));
        assert_eq!(sent.options[0], EnhancedPacketOption::Flags(OUTBOUND));
        assert!(matches!(&sent.options[1], EnhancedPacketOption::Comment(text) if text.contains("40 bytes")));
    }

    #[test]
    fn a_full_disk_ends_the_capture_not_the_traffic() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut link = Loopback::default();
        link.arrived.extend([vec![0; 500], vec![1; 500]]);
        let mut trace = Trace::new(link, Full(400)).unwrap();
        assert_eq!(trace.receive(8, &mut |_| {}).unwrap(), 2);
        assert_eq!(trace.error().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
    }
}
