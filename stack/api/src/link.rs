//! The boundary below: a link receives and sends Ethernet frames on one queue of one interface.

use crate::Chunk;
use std::{io, os::fd::RawFd, time::Instant};

/// What is known of the transport checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: verify it.
    Unknown,
    /// The sending side may have left the sum of the pseudo-header in the field, for an offload that never happens
    /// because the frame never leaves the host (veth and its like). Accept exactly that value, or a right checksum.
    MayBePartial,
    /// Verified, or known to be right, by the kernel or the device.
    Verified,
}

/// A received frame, lent for the time of the call.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the Ethernet destination address on, without the frame check sequence.
    pub data: &'a [u8],
    /// What is known of its transport checksum.
    pub checksum: RxChecksum,
    /// Payload bytes per segment where `data` is a super-packet that the kernel did not segment; otherwise 0.
    pub segment: u16,
}

/// How a burst is to be cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// It is one frame.
    None,
    /// One UDP datagram per segment (`SKB_GSO_UDP_L4`, Linux 4.18; virtio-net's from 6.2).
    Udp,
    /// One TCP segment per segment over IPv4.
    Tcp4,
    /// One TCP segment per segment over IPv6.
    Tcp6,
}

/// One frame to send, or several that share their headers, back to back.
///
/// `header` is complete for a payload of all the chunks together: for a super-packet the IP and UDP lengths cover the
/// whole of it, as the kernel's GSO wants them, and the transport checksum field holds the sum of that pseudo-header,
/// not complemented. Whoever segments it (the kernel, or a link in software) corrects lengths, checksums and the IPv4
/// identification in each frame.
#[derive(Clone, Copy)]
pub struct Burst<'a> {
    /// Ethernet, IP and transport headers.
    pub header: &'a [u8],
    /// Offset of the IP header in `header`.
    pub l3: u16,
    /// Offset of the transport header in `header`; the checksum starts here. 0 where no checksum is to be filled in
    /// (fragments).
    pub l4: u16,
    /// Offset of the checksum field from `l4`: 6 for UDP, 16 for TCP.
    pub checksum: u16,
    /// The payload, in order.
    pub payload: &'a [Chunk<'a>],
    /// Bytes of all the chunks together.
    pub payload_len: u32,
    /// Payload bytes per frame; the last frame may have less. Not 0 unless `gso` is `None`.
    pub segment: u16,
    /// How it is to be cut.
    pub gso: Gso,
}

impl Burst<'_> {
    /// How many frames it becomes.
    pub fn frames(&self) -> u32 {
        if self.gso == Gso::None { 1 } else { self.payload_len.div_ceil(u32::from(self.segment)).max(1) }
    }
}

/// What a link is, for `freena status`. All of it in words that tell a user why.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub ifindex: u32,
    /// Queue of the interface.
    pub queue: u32,
    /// How frames are received: `af_xdp native zero-copy`, `af_xdp native copy`, `af_xdp skb copy`, `raw`,
    /// `raw, steered by tc`.
    pub receive: String,
    /// How frames are sent: `af_xdp`, `packet socket with GSO`, ...
    pub send: String,
    /// Why these and not faster ones.
    pub reason: String,
    /// The most payload bytes, after the IP header, that one burst may carry (65,507 for UDP GSO; 0 without GSO).
    pub max_burst: u32,
    /// The most frames one burst may become (1 without GSO).
    pub max_segments: u32,
}

/// What a link counted since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes in them.
    pub rx_bytes: u64,
    /// Frames lost before the link could hand them over (full ring, no free UMEM frame, kernel drops).
    pub rx_dropped: u64,
    /// Frames sent, after segmentation.
    pub tx_frames: u64,
    /// Bytes in them.
    pub tx_bytes: u64,
    /// Frames that could not be sent (no buffers, interface down).
    pub tx_dropped: u64,
}

/// A link back-end on one queue. Owned by one polling thread.
pub trait Link: Send {
    /// What it is.
    fn info(&self) -> LinkInfo;

    /// Hands over at most `budget` frames that have arrived and returns how many. Never blocks.
    ///
    /// # Errors
    /// The interface is gone or down for good (`ENODEV`, `ENETDOWN`, `ENXIO`).
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize>;

    /// Sends `bursts` in order and returns how many were taken; the rest may be tried again later. Never blocks.
    /// A burst that can never be sent is counted as dropped and as taken.
    ///
    /// # Errors
    /// As for [`Link::receive`].
    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize>;

    /// Descriptor that polls readable when frames have arrived, to sleep on.
    fn wait_fd(&self) -> RawFd;

    /// What it counted.
    fn stats(&self) -> LinkStats;

    /// When to call [`Link::receive`] at the latest, although [`Link::wait_fd`] is not readable. Only links that hold frames
    /// back have such a time.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn info(&self) -> LinkInfo {
        (**self).info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        (**self).receive(budget, sink)
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        (**self).transmit(bursts)
    }

    fn wait_fd(&self) -> RawFd {
        (**self).wait_fd()
    }

    fn stats(&self) -> LinkStats {
        (**self).stats()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }
}
