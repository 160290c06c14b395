//! A link for tests that receives what it is told to and keeps what it sends.

use freena_stack_api::{Burst, Frame, Link, LinkInfo, LinkStats, RxChecksum};
use freena_wire::{Mac, checksum, ethernet, ipv4, protocol, udp};
use std::{collections::VecDeque, io, os::fd::RawFd};

#[derive(Default)]
pub(crate) struct Loopback {
    pub(crate) arrived: VecDeque<Vec<u8>>,
    pub(crate) sent: Vec<Vec<u8>>,
    /// Bursts it takes in a call; all if `None`.
    pub(crate) takes: Option<usize>,
}

impl Link for Loopback {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            interface: "test0".into(),
            ifindex: 1,
            queue: 0,
            receive: "memory".into(),
            send: "memory".into(),
            reason: "a test".into(),
            max_burst: 65_507,
            max_segments: 64,
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let count = budget.min(self.arrived.len());
        for data in self.arrived.drain(..count) {
            sink(Frame { data: &data, checksum: RxChecksum::Verified, segment: 0 });
        }
        Ok(count)
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let count = bursts.len().min(self.takes.unwrap_or(usize::MAX));
        for burst in &bursts[..count] {
            crate::frames(burst, &mut Vec::new(), |frame| self.sent.push(frame.to_vec())).unwrap();
        }
        Ok(count)
    }

    fn wait_fd(&self) -> RawFd {
        -1
    }

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

/// Headers of a UDP datagram with the sum of the pseudo-header in the checksum field.
pub(crate) fn datagram(payload: usize) -> Vec<u8> {
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let len = (payload + udp::HEADER_LEN) as u16;
    let mut header = vec![0; 42];
    ethernet::Repr { dst: Mac([2; 6]), src: Mac([4; 6]), ethertype: ethernet::IPV4 }.emit(&mut header);
    let ip = ipv4::Repr {
        src,
        dst,
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len,
    };
    ip.emit(&mut header[14..]);
    let pseudo = checksum::pseudo_v4(src, dst, protocol::UDP, len).partial();
    udp::Repr { src_port: 1, dst_port: 2, payload_len: payload as u16 }.emit(pseudo, &mut header[34..]);
    header
}
