//! One queue of an interface.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use freena_link_raw::{Device, GsoSender, SendStats};
use freena_stack_api::{Burst, Frame, Link, LinkInfo, LinkStats, RxChecksum};
use xsk_rs::{FillQueue, RxQueue, Umem, umem::frame::FrameDesc};

use crate::{
    Mode, XdpInterface,
    send::RingSender,
    umem::{self, pending_error},
};

/// Frames taken from the ring at once.
const BATCH: usize = 64;
/// Bytes before a frame in the UMEM that the kernel keeps for XDP programs (XDP_PACKET_HEADROOM).
const HEADROOM: u32 = 256;
/// Empty calls of `receive` between two looks at whether the interface still exists.
const CHECK_EVERY: u32 = 1024;

/// Whether the driver shall use the UMEM itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver can.
    #[default]
    Auto,
    /// No: the kernel copies.
    Off,
    /// Yes, or the link cannot be opened.
    Require,
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transmit {
    /// Through the AF_XDP ring with zero-copy, through a packet socket with GSO in copy mode.
    #[default]
    Auto,
    /// Through a packet socket with GSO.
    Gso,
    /// Through the AF_XDP ring.
    AfXdp,
}

/// Settings of a link.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Frames of the UMEM: all to receive into where a packet socket sends, one half to send from where the AF_XDP ring
    /// does. A power of two, 64 to 1,048,576. Default 4,096, which is 8 MiB.
    pub frames: u32,
    /// Bytes per frame, 2,048 or 4,096, of which 256 are the kernel's. Default 2,048, for an MTU up to 1,778.
    pub frame_size: u32,
    /// Default [`ZeroCopy::Auto`].
    pub zero_copy: ZeroCopy,
    /// Default [`Transmit::Auto`].
    pub transmit: Transmit,
}

impl Default for Options {
    fn default() -> Self {
        Options { frames: 4096, frame_size: 2048, zero_copy: ZeroCopy::Auto, transmit: Transmit::Auto }
    }
}

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a usable number of frames.
    #[error("{0} frames: expected a power of two from 64 to 1048576")]
    Frames(u32),
    /// Not a usable size.
    #[error("frame size {0}: expected 2048 or 4096 bytes")]
    FrameSize(u32),
    /// The interface has no such queue.
    #[error("interface {interface} has {queues} queues, there is no queue {queue}")]
    Queue {
        /// Name of the interface.
        interface: String,
        /// The queue that was asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
    /// The kernel refused a step. `EBUSY`: another AF_XDP socket is bound to the queue, and
    /// still was after half a second. `ENOBUFS`, `EPERM`: more than
    /// RLIMIT_MEMLOCK, without CAP_IPC_LOCK. `EOPNOTSUPP`: no zero-copy in the driver.
    #[error("AF_XDP on interface {interface}, queue {queue}: {what}: {source}{}", hint(source))]
    Kernel {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The step.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What an error means, where its text misleads.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => " (it exceeds RLIMIT_MEMLOCK, which CAP_IPC_LOCK lifts)",
        _ => "",
    }
}

/// An AF_XDP socket on one queue of an interface. Dropping it frees the queue.
pub struct AfXdpLink {
    device: Device,
    queue: u32,
    mode: Mode,
    reason: String,
    zero_copy: bool,
    checksum: RxChecksum,
    umem: Umem,
    rx: RxQueue,
    fill: FillQueue,
    batch: [FrameDesc; BATCH],
    sender: Sender,
    received: LinkStats,
    empty_calls: u32,
    gone: Option<i32>,
}

enum Sender {
    Gso(GsoSender),
    Ring(RingSender),
}

impl AfXdpLink {
    /// Binds to `queue` of `interface` and takes what the program redirects there.
    ///
    /// # Errors
    /// Each variant of [`OpenError`].
    pub fn open(interface: &XdpInterface, queue: u32, options: Options) -> Result<AfXdpLink, OpenError> {
        let device = interface.device().clone();
        let queues = interface.queues();
        if queue >= queues {
            return Err(OpenError::Queue { interface: device.name, queue, queues });
        }
        let failed = |what, source| OpenError::Kernel { interface: device.name.clone(), queue, what, source };
        let mut parts = umem::bind(&device, queue, &options)?;
        let by_ring = match options.transmit {
            Transmit::Auto => parts.zero_copy,
            Transmit::Gso => false,
            Transmit::AfXdp => true,
        };
        let sender = if by_ring {
            let send = parts.frames.split_off(parts.frames.len() / 2);
            let room = (options.frame_size - HEADROOM) as usize;
            Sender::Ring(RingSender::new(parts.umem.clone(), parts.tx, parts.completion, send, room))
        } else {
            Sender::Gso(
                GsoSender::open(&device).map_err(|error| failed("packet socket to send with", error))?,
            )
        };
        // SAFETY: the frames are new, of this UMEM, and nobody else has their descriptors.
        let filled = unsafe { parts.fill.produce(&parts.frames) };
        debug_assert_eq!(filled, parts.frames.len());
        interface
            .register(queue, parts.rx.fd().as_raw_fd())
            .map_err(|error| failed("entry in the map of sockets", error))?;
        Ok(AfXdpLink {
            queue,
            mode: interface.mode(),
            reason: reason(interface, &options, parts.zero_copy),
            zero_copy: parts.zero_copy,
            checksum: if device.is_software() { RxChecksum::MayBePartial } else { RxChecksum::Unknown },
            device,
            umem: parts.umem,
            rx: parts.rx,
            fill: parts.fill,
            batch: [FrameDesc::default(); BATCH],
            sender,
            received: LinkStats::default(),
            empty_calls: 0,
            gone: None,
        })
    }

    /// Whether the driver uses the UMEM itself.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Nothing came: wakes a driver that waits for fill entries, and looks now and then whether the interface is there.
    fn idle(&mut self) -> io::Result<()> {
        if let Some(errno) = self.gone {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.rx.fd_mut(), 0)?;
        }
        if let Sender::Ring(sender) = &mut self.sender
            && sender.is_busy()
        {
            sender.kick()?;
        }
        self.empty_calls = self.empty_calls.wrapping_add(1);
        if self.empty_calls.is_multiple_of(CHECK_EVERY) {
            // The kernel tells once.
            return pending_error(self.rx.fd().as_raw_fd())
                .inspect_err(|error| self.gone = error.raw_os_error());
        }
        Ok(())
    }
}

impl Link for AfXdpLink {
    fn info(&self) -> LinkInfo {
        let mode = if self.mode == Mode::Native { "native" } else { "skb" };
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        LinkInfo {
            interface: self.device.name.clone(),
            ifindex: self.device.index,
            queue: self.queue,
            receive: format!("af_xdp {mode} {copy}"),
            send: match &self.sender {
                Sender::Gso(sender) => sender.describe().to_owned(),
                Sender::Ring(_) => "af_xdp".to_owned(),
            },
            reason: self.reason.clone(),
            max_burst: GsoSender::MAX_BURST,
            max_segments: GsoSender::MAX_SEGMENTS,
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut total = 0;
        while total < budget {
            let want = BATCH.min(budget - total);
            // SAFETY: the ring is that of this UMEM.
            let count = unsafe { self.rx.consume(&mut self.batch[..want]) };
            if count == 0 {
                break;
            }
            let frames = &self.batch[..count];
            for desc in frames {
                // SAFETY: the kernel handed the frame over through the RX ring and does not touch it until it is in the
                // fill ring again, below; the lent slice does not outlive the sink's call.
                let data = unsafe { self.umem.data(desc) }.contents();
                self.received.rx_bytes += data.len() as u64;
                sink(Frame { data, checksum: self.checksum, segment: 0 });
            }
            self.received.rx_frames += count as u64;
            // SAFETY: the frames came out of the RX ring just now, and nothing refers to them any more.
            let recycled = unsafe { self.fill.produce(frames) };
            debug_assert_eq!(recycled, count, "the fill ring has room for every frame");
            total += count;
        }
        if total == 0 {
            self.idle()?;
        }
        Ok(total)
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        match &mut self.sender {
            Sender::Gso(sender) => sender.transmit(bursts),
            Sender::Ring(sender) => sender.transmit(bursts),
        }
    }

    fn wait_fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    fn stats(&self) -> LinkStats {
        let sent: SendStats = match &self.sender {
            Sender::Gso(sender) => sender.stats(),
            Sender::Ring(sender) => sender.stats(),
        };
        let kernel = self.rx.fd().xdp_statistics().unwrap_or_default();
        LinkStats {
            rx_dropped: kernel.rx_dropped() + kernel.rx_ring_full(),
            tx_frames: sent.frames,
            tx_bytes: sent.bytes,
            tx_dropped: sent.dropped,
            ..self.received
        }
    }
}

/// Why the link is as it is.
fn reason(interface: &XdpInterface, options: &Options, zero_copy: bool) -> String {
    let copy = match (zero_copy, options.zero_copy) {
        (true, _) => "the driver has zero-copy".to_owned(),
        (false, ZeroCopy::Off) => "copy mode asked for".to_owned(),
        (false, _) if interface.mode() == Mode::Skb => "SKB mode has no zero-copy".to_owned(),
        (false, _) => format!("driver '{}' has no zero-copy", interface.device().driver),
    };
    let mut reason = format!("{}; {copy}", interface.reason());
    if interface.device().is_software() {
        reason.push_str("; checksums left to an offload are accepted on this interface");
    }
    reason
}
