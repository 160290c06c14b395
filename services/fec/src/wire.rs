//! What goes over the wire: kind (1 byte), then by kind, numbers in big endian.

/// Before a message: kind, number.
pub(crate) const SOURCE: usize = 5;
/// Before a repair: kind, number of the first message of the block, messages, repairs, index of this one.
pub(crate) const REPAIR: usize = 8;
/// Before each message in a block: its length.
pub(crate) const LENGTH: usize = 2;
/// A report: kind, messages expected and received since the last one.
pub(crate) const REPORT: usize = 9;
/// Most messages of a block.
pub(crate) const MAX_BLOCK: usize = 64;
/// Most repairs of a block.
pub(crate) const MAX_REPAIRS: usize = 32;

const KIND_SOURCE: u8 = 0;
const KIND_REPAIR: u8 = 1;
const KIND_REPORT: u8 = 2;

/// A repair datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repair<'a> {
    pub(crate) first: u32,
    pub(crate) messages: usize,
    pub(crate) repairs: usize,
    pub(crate) index: usize,
    pub(crate) shard: &'a [u8],
}

/// What a receiver has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) expected: u32,
    pub(crate) received: u32,
}

/// A datagram of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header<'a> {
    Source(u32, &'a [u8]),
    Repair(Repair<'a>),
    Report(Report),
}

impl<'a> Header<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        match *bytes.first()? {
            KIND_SOURCE => Some(Self::Source(word(1)?, bytes.get(SOURCE..)?)),
            KIND_REPAIR => {
                let &[messages, repairs, index] = bytes.get(5..REPAIR)? else { return None };
                let (messages, repairs, index) = (messages.into(), repairs.into(), index.into());
                let shard = bytes.get(REPAIR..)?;
                let good = (1..=MAX_BLOCK).contains(&messages)
                    && (1..=MAX_REPAIRS).contains(&repairs)
                    && index < repairs
                    && shard.len() >= LENGTH
                    && shard.len().is_multiple_of(2);
                good.then_some(Self::Repair(Repair { first: word(1)?, messages, repairs, index, shard }))
            }
            KIND_REPORT => {
                let report = Report { expected: word(1)?, received: word(5)? };
                (bytes.len() == REPORT && report.received <= report.expected).then_some(Self::Report(report))
            }
            _ => None,
        }
    }
}

pub(crate) fn source(number: u32) -> [u8; SOURCE] {
    let mut head = [KIND_SOURCE; SOURCE];
    head[1..].copy_from_slice(&number.to_be_bytes());
    head
}

/// Writes a repair, and tells its length.
pub(crate) fn write_repair(it: &Repair<'_>, out: &mut [u8]) -> Option<usize> {
    let length = REPAIR + it.shard.len();
    let out = out.get_mut(..length)?;
    out[0] = KIND_REPAIR;
    out[1..5].copy_from_slice(&it.first.to_be_bytes());
    out[5..REPAIR].copy_from_slice(&[it.messages as u8, it.repairs as u8, it.index as u8]);
    out[REPAIR..].copy_from_slice(it.shard);
    Some(length)
}

/// Writes a report, and tells its length.
pub(crate) fn write_report(it: Report, out: &mut [u8]) -> Option<usize> {
    let out = out.get_mut(..REPORT)?;
    out[0] = KIND_REPORT;
    out[1..5].copy_from_slice(&it.expected.to_be_bytes());
    out[5..].copy_from_slice(&it.received.to_be_bytes());
    Some(REPORT)
}
