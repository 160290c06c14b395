//! Which queued datagrams may leave as one burst.
//!
//! The kernel's UDP GSO (and a device's) cuts a super-packet into datagrams of equal size, the last of which may be shorter. So a
//! run of datagrams is one burst when all go the same way with the same header fields and all but the last have the same
//! length.

/// Everything besides the payload that must be equal within a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination address, IPv4-mapped for IPv4.
    pub peer: [u8; 16],
    /// Source address asked for, or all zeros.
    pub local: [u8; 16],
    /// Destination port.
    pub peer_port: u16,
    /// TTL or hop limit, 0 for the default.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Flags of the record.
    pub flags: u16,
    /// Interface asked for, or 0.
    pub ifindex: u32,
    /// Flow label.
    pub flow: u32,
}

/// What a link can take in one burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams; 1 switches coalescing off.
    pub segments: u32,
    /// Payload bytes in all.
    pub bytes: u32,
    /// Payload bytes of one datagram: what fits the path MTU.
    pub segment: u32,
}

/// A run of datagrams under construction.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    header: Header,
    limits: Limits,
    segment: u32,
    bytes: u32,
    count: u32,
    closed: bool,
}

impl Run {
    /// Starts a run with its first datagram.
    pub fn start(header: Header, len: u32, limits: Limits) -> Self {
        // An empty datagram has no payload to cut, so it leaves alone; so does one that must be fragmented.
        let closed = limits.segments <= 1 || len == 0 || len > limits.segment;
        Run { header, limits, segment: len, bytes: len, count: 1, closed }
    }

    /// Adds a datagram and returns whether it belongs to the run.
    pub fn accept(&mut self, header: &Header, len: u32) -> bool {
        let fits = !self.closed
            && len != 0
            && len <= self.segment
            && self.count < self.limits.segments
            && self.bytes + len <= self.limits.bytes
            && *header == self.header;
        if fits {
            self.bytes += len;
            self.count += 1;
            self.closed = len < self.segment;
        }
        fits
    }

    /// Datagrams in the run.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Payload bytes in the run.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes of each datagram but the last.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// What all have in common.
    pub fn header(&self) -> &Header {
        &self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header =
        Header { peer: [1; 16], local: [0; 16], peer_port: 9, ttl: 0, tos: 0, flags: 0, ifindex: 0, flow: 0 };
    const LIMITS: Limits = Limits { segments: 64, bytes: 65_507, segment: 1472 };

    /// Splits a sequence into runs, as the driver does.
    fn runs(datagrams: &[(u16, u32)], limits: Limits) -> Vec<Vec<(u16, u32)>> {
        let mut all: Vec<Vec<(u16, u32)>> = Vec::new();
        let mut run: Option<Run> = None;
        for &(port, len) in datagrams {
            let header = Header { peer_port: port, ..HEADER };
            if run.as_mut().is_some_and(|run| run.accept(&header, len)) {
                all.last_mut().unwrap().push((port, len));
            } else {
                run = Some(Run::start(header, len, limits));
                all.push(vec![(port, len)]);
            }
        }
        all
    }

    #[test]
    fn equal_sizes_share_a_burst_and_a_short_one_ends_it() {
        let got = runs(&[(1, 100), (1, 100), (1, 60), (1, 60), (1, 100)], LIMITS);
        assert_eq!(got, [vec![(1, 100), (1, 100), (1, 60)], vec![(1, 60)], vec![(1, 100)]]);
    }

    #[test]
    fn another_destination_starts_another_burst() {
        assert_eq!(runs(&[(1, 9), (2, 9), (2, 9)], LIMITS), [vec![(1, 9)], vec![(2, 9), (2, 9)]]);
    }

    #[test]
    fn empty_and_oversized_datagrams_leave_alone() {
        let got = runs(&[(1, 0), (1, 0), (1, 2000), (1, 2000), (1, 9)], LIMITS);
        assert_eq!(got.len(), 5);
    }

    #[test]
    fn limits_hold() {
        assert_eq!(runs(&[(1, 64); 130], LIMITS).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
        assert_eq!(runs(&[(1, 1472); 90], LIMITS).iter().map(Vec::len).collect::<Vec<_>>(), [44, 44, 2]);
    }

    proptest! {
        #[test]
        fn every_run_is_a_valid_super_packet(datagrams in proptest::collection::vec((1u16..3, 0u32..3000), 0..300)) {
            let runs = runs(&datagrams, LIMITS);
            prop_assert_eq!(runs.concat(), datagrams, "nothing is lost or reordered");
            for run in runs {
                prop_assert!(run.len() <= 64);
                prop_assert!(run.iter().all(|(port, _)| *port == run[0].0));
                if run.len() > 1 {
                    prop_assert!(run.iter().map(|(_, len)| len).sum::<u32>() <= LIMITS.bytes);
                    let (last, body) = run.split_last().unwrap();
                    prop_assert!(body.iter().all(|(_, len)| *len == run[0].1 && *len > 0 && *len <= LIMITS.segment));
                    prop_assert!(last.1 <= run[0].1 && last.1 > 0);
                }
            }
        }
    }
}
