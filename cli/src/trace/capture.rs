//! Packets as a pcapng file (draft-ietf-opsawg-pcapng).

use super::reader::{Link, Packet};
use freena_shm_abi::trace::Seen;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Value of `if_tsresol` for nanoseconds: 10 to the minus ninth.
const NANOSECONDS: u8 = 9;
/// Bits 0 and 1 of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture that is being written: an interface for each link, numbered as they are.
pub(super) struct Capture<W: Write = BufWriter<Box<dyn Write>>> {
    writer: PcapNgWriter<W>,
    links: Vec<Link>,
    begun: Duration,
}

impl Capture {
    /// Begins a file, or the standard output for `-`.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn create(path: &Path, links: &[Link]) -> miette::Result<Capture> {
        let wrap = |error: io::Error| miette::miette!("{}: {error}", path.display());
        let output: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).map_err(wrap)?)
        };
        Capture::new(BufWriter::new(output), links).map_err(wrap)
    }
}

impl<W: Write> Capture<W> {
    fn new(writer: W, links: &[Link]) -> io::Result<Self> {
        let application = concat!("freena trace ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let mut writer = PcapNgWriter::with_section_header(writer, section).map_err(into_io)?;
        for link in links {
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Owned(link.interface.clone())),
                    InterfaceDescriptionOption::IfDescription(Cow::Owned(link.description.clone())),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            writer.write_pcapng_block(interface).map_err(into_io)?;
        }
        let mut capture = Capture { writer, links: links.to_owned(), begun: now() };
        // So that a reader of the pipe can begin.
        capture.flush()?;
        Ok(capture)
    }

    pub(super) fn write(&mut self, packet: &Packet) -> io::Result<()> {
        let mut options = vec![EnhancedPacketOption::Flags(if packet.outbound { OUTBOUND } else { INBOUND })];
        if packet.segment != 0 {
            let comment = format!("super-packet, {} bytes of payload per segment", packet.segment);
            options.push(EnhancedPacketOption::Comment(Cow::Owned(comment)));
        }
        let block = EnhancedPacketBlock {
            interface_id: packet.link as u32,
            timestamp: packet.time,
            original_len: packet.original as u32,
            data: Cow::Borrowed(&packet.data),
            options,
        };
        self.writer.write_pcapng_block(block).map(drop).map_err(into_io)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// Ends the capture with what the server saw on each link, lost packets among it.
    pub(super) fn finish(mut self, seen: &[Seen]) -> io::Result<()> {
        let end = now();
        for (number, link) in self.links.iter().enumerate() {
            let Some(seen) =
                seen.iter().find(|seen| (seen.ifindex, seen.queue) == (link.ifindex, link.queue))
            else {
                continue;
            };
            let block = InterfaceStatisticsBlock {
                interface_id: number as u32,
                timestamp: halves(end),
                options: vec![
                    InterfaceStatisticsOption::IsbStartTime(halves(self.begun)),
                    InterfaceStatisticsOption::IsbEndTime(halves(end)),
                    InterfaceStatisticsOption::IsbIfRecv(seen.matched),
                    InterfaceStatisticsOption::IsbIfDrop(seen.lost),
                ],
            };
            self.writer.write_pcapng_block(block).map_err(into_io)?;
        }
        self.flush()
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A time as this block has it: the upper half first, whatever the order of bytes, which the writer does not know.
fn halves(time: Duration) -> u64 {
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    if cfg!(target_endian = "little") { time.rotate_left(32) } else { time }
}

fn into_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn what_is_written_can_be_read() {
        let link =
            Link { interface: "eth0".to_owned(), ifindex: 2, queue: 1, description: "queue 1".to_owned() };
        let mut capture = Capture::new(Vec::new(), &[link]).unwrap();
        let packet = Packet {
            link: 0,
            interface: "eth0".to_owned(),
            outbound: true,
            time: Duration::new(1_700_000_000, 5),
            segment: 1448,
            original: 100,
            data: vec![7; 60],
            snap: 0,
        };
        capture.write(&packet).unwrap();
        // What `finish` writes must stay readable here.
        let mut bytes = capture.writer.get_mut().clone();
        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let mut blocks = 0;
        while let Some(block) = reader.next_block() {
            blocks += 1;
            if let Block::EnhancedPacket(read) = block.unwrap() {
                assert_eq!((read.data.as_ref(), read.original_len), (&[7u8; 60][..], 100));
                assert_eq!(read.timestamp, packet.time);
                assert_eq!(read.options[0], EnhancedPacketOption::Flags(OUTBOUND));
            }
        }
        assert_eq!(blocks, 2);
        bytes.clear();
        let seen = Seen { matched: 9, lost: 3, ifindex: 2, queue: 1 };
        capture.finish(&[seen]).unwrap();
    }

    #[test]
    fn the_upper_half_of_a_time_comes_first() {
        let bytes = halves(Duration::from_nanos(0x0102_0304_0506_0708)).to_ne_bytes();
        let (upper, lower) = bytes.split_at(4);
        assert_eq!(u32::from_ne_bytes(upper.try_into().unwrap()), 0x0102_0304);
        assert_eq!(u32::from_ne_bytes(lower.try_into().unwrap()), 0x0506_0708);
    }
}
