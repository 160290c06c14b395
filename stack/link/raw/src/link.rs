//! A link on a packet socket alone.

use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use freena_stack_api::{Burst, Frame, Link, LinkInfo, LinkStats};
use socket2::Socket;

use crate::{Device, GsoSender, SteeredInterface, filter, packet, vnet::VnetHeader};

/// Frames per recvmmsg.
const BATCH: usize = 32;
/// Room for one frame: an Ethernet header before the largest IP packet, super-packets included.
const SLOT: usize = 14 + 65_535 + 1;

/// Settings of a raw link.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Bytes that the kernel may hold for the link, its own bookkeeping included. Default 32 MiB, 16 ms at 16 Gb/s; cut to
    /// `net.core.rmem_max` without CAP_NET_ADMIN.
    pub receive_buffer: usize,
    /// Let the kernel segment bursts. Default true.
    pub gso: bool,
    /// Why this link and not AF_XDP, for [`LinkInfo::reason`].
    pub reason: String,
    /// Receive what this interface steers, and nothing else. Default `None`: receive every IP packet for this host.
    pub steering: Option<&'a SteeredInterface>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { receive_buffer: 32 << 20, gso: true, reason: "asked for".to_owned(), steering: None }
    }
}

/// A link that receives and sends through packet sockets. It sees every queue of the interface as one.
///
/// Without steering the kernel gets every frame as well: the server must hold a socket for each port it owns, so that the
/// kernel answers nobody, and discard what that socket receives.
pub struct RawLink {
    device: Device,
    socket: Socket,
    sender: GsoSender,
    steered: bool,
    reason: String,
    batch: Batch,
    received: LinkStats,
    dropped: Cell<u64>,
}

/// Memory for the arguments of recvmmsg. Pages of a slot that no frame reached are never touched.
struct Batch {
    headers: Box<[VnetHeader; BATCH]>,
    slots: Vec<u8>,
    vectors: Box<[[libc::iovec; 2]; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
}

// SAFETY: the pointers point into boxes and a vector that the same value owns and never resizes, so they move along
// with it to another thread and nobody else has them.
unsafe impl Send for Batch {}

impl Batch {
    fn new() -> Self {
        let null = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zero is a valid `mmsghdr`: integers and null pointers.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Batch {
            headers: Box::new([VnetHeader::default(); BATCH]),
            slots: vec![0; BATCH * SLOT],
            vectors: Box::new([[null; 2]; BATCH]),
            messages: Box::new([message; BATCH]),
        }
    }

    /// Receives at most `want` frames and returns how many came, 0 where none waits.
    fn receive(&mut self, socket: &Socket, want: usize) -> io::Result<usize> {
        let slots = self.slots.chunks_exact_mut(SLOT);
        let parts =
            self.headers.iter_mut().zip(slots).zip(self.vectors.iter_mut()).zip(self.messages.iter_mut());
        for (((header, slot), vectors), message) in parts.take(want) {
            vectors[0] =
                libc::iovec { iov_base: ptr::from_mut(header).cast(), iov_len: size_of::<VnetHeader>() };
            vectors[1] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            message.msg_hdr.msg_iov = vectors.as_mut_ptr();
            message.msg_hdr.msg_iovlen = vectors.len();
        }
        // SAFETY: the first `want` messages, of `BATCH` that exist, point to two vectors each, and these to a header and
        // a slot of their own with the lengths given; all belong to `self` and nobody else uses them during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                want.min(BATCH) as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if received >= 0 {
            return Ok(received as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => Ok(0),
            _ => Err(error),
        }
    }

    /// Frame `index` of those received last; `None` where it did not fit into its slot.
    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let message = &self.messages[index];
        let len = (message.msg_len as usize).checked_sub(size_of::<VnetHeader>())?;
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let header = &self.headers[index];
        let data = &self.slots[index * SLOT..][..len];
        Some(Frame { data, checksum: header.checksum(), segment: header.segment() })
    }
}

impl RawLink {
    /// Opens the interface `name` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `ENODEV` where there is none; `EPERM` without CAP_NET_RAW; `ENETDOWN` while it is down; `ENOPROTOOPT` on a kernel
    /// older than 4.20 (PACKET_IGNORE_OUTGOING); [`io::ErrorKind::InvalidInput`] where another interface is steered.
    pub fn open(name: &str, options: Options<'_>) -> io::Result<Self> {
        let device = Device::open(name)?;
        let reason = match options.steering {
            Some(steering) if steering.device().index != device.index => {
                let message =
                    format!("steering of {name}: expected its own, got that of {}", steering.device().name);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Some(steering) => format!("{}; {}", options.reason, steering.reason()),
            None => options.reason,
        };
        let mut sender = GsoSender::open(&device)?;
        if !options.gso {
            sender = sender.without_udp_gso();
        }
        let socket = packet::open()?;
        packet::set(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
        packet::grow_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer);
        // The filter is in place before the first frame can be.
        match options.steering {
            Some(steering) => steering.filter(&socket)?,
            None => socket.attach_filter(&filter::unicast_ip())?,
        }
        packet::bind(&socket, device.index, packet::RECEIVE_ALL)?;
        Ok(RawLink {
            device,
            socket,
            sender,
            steered: options.steering.is_some(),
            reason,
            batch: Batch::new(),
            received: LinkStats::default(),
            dropped: Cell::new(0),
        })
    }

    /// The interface.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Link for RawLink {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            interface: self.device.name.clone(),
            ifindex: self.device.index,
            queue: 0,
            receive: if self.steered { "raw, steered by tc" } else { "raw" }.to_owned(),
            send: self.sender.describe().to_owned(),
            reason: self.reason.clone(),
            max_burst: GsoSender::MAX_BURST,
            max_segments: GsoSender::MAX_SEGMENTS,
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut total = 0;
        while total < budget {
            let want = BATCH.min(budget - total);
            let received = match self.batch.receive(&self.socket, want) {
                Ok(received) => received,
                // What arrived before is told first. The kernel tells an error once; a lasting one comes back.
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            };
            for index in 0..received {
                match self.batch.frame(index) {
                    Some(frame) => {
                        self.received.rx_frames += 1;
                        self.received.rx_bytes += frame.data.len() as u64;
                        sink(frame);
                    }
                    None => self.received.rx_dropped += 1,
                }
            }
            total += received;
            if received < want {
                break;
            }
        }
        Ok(total)
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        self.sender.transmit(bursts)
    }

    fn wait_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn stats(&self) -> LinkStats {
        // The kernel forgets what it told.
        self.dropped.set(self.dropped.get() + packet::dropped(&self.socket));
        let sent = self.sender.stats();
        LinkStats {
            rx_dropped: self.received.rx_dropped + self.dropped.get(),
            tx_frames: sent.frames,
            tx_bytes: sent.bytes,
            tx_dropped: sent.dropped,
            ..self.received
        }
    }
}
