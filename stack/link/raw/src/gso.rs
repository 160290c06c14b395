//! Sending through a packet socket, one message per burst, segmented by the kernel.
//!
//! AF_XDP in copy mode makes one skb per frame, which is its limit; here the stack below sees one skb per burst.

use std::{io, os::fd::AsRawFd, ptr};

use freena_stack_api::{Burst, Gso};
use socket2::Socket;

use crate::{
    Device, Frames,
    frames::{MAX_VECTORS, is_sendable},
    packet,
    vnet::VnetHeader,
};

/// Bursts per sendmmsg.
const BATCH: usize = 64;
/// Vectors of one sendmmsg.
const VECTORS: usize = 4 * MAX_VECTORS;
/// Bytes that may wait below the socket, in the queueing discipline and the driver.
const SEND_BUFFER: usize = 4 << 20;

/// What a sender counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendStats {
    /// Frames sent, after segmentation.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames given up.
    pub dropped: u64,
}

impl SendStats {
    /// Counts `burst` as sent.
    pub fn sent(&mut self, burst: &Burst<'_>) {
        let frames = u64::from(burst.frames());
        self.frames += frames;
        self.bytes += frames * burst.header.len() as u64 + u64::from(burst.payload_len);
    }

    /// Counts `burst` as given up.
    pub fn gave_up(&mut self, burst: &Burst<'_>) {
        self.dropped += if burst.segment == 0 { 1 } else { u64::from(burst.frames()) };
    }
}

/// Whether the kernel segments UDP from a virtio-net header (Linux 6.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum UdpGso {
    Untried,
    Works,
    Refused,
}

/// Sends bursts through a packet socket that receives nothing.
pub struct GsoSender {
    socket: Socket,
    udp_gso: UdpGso,
    /// One frame, for a kernel that does not segment. Empty until needed.
    frame: Vec<u8>,
    messages: Messages,
    stats: SendStats,
}

/// Memory for the arguments of sendmmsg, kept so that no call allocates.
struct Messages {
    headers: Box<[VnetHeader; BATCH]>,
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `messages` are made, used and forgotten within one call of `GsoSender::send`,
// on one thread; between calls nothing reads them.
unsafe impl Send for Messages {}

/// What to do after an error of the first message.
enum After {
    /// Try the same burst later.
    Wait,
    /// Try it at once.
    Again,
    /// It can never be sent.
    GiveUp,
    /// Nothing can be sent.
    Fail,
}

impl GsoSender {
    /// Most frames that a burst may become.
    pub const MAX_SEGMENTS: u32 = 64;
    /// Most payload of a UDP burst, in bytes: an IPv4 packet of 65,535 bytes without its headers.
    pub const MAX_BURST: u32 = 65_507;

    /// Opens a packet socket on the interface.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW; `ENODEV`, `ENETDOWN` where the interface is gone.
    pub fn open(device: &Device) -> io::Result<Self> {
        let socket = packet::open()?;
        packet::grow_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER);
        packet::bind(&socket, device.index, packet::RECEIVE_NOTHING)?;
        Ok(GsoSender {
            socket,
            udp_gso: UdpGso::Untried,
            frame: Vec::new(),
            messages: Messages {
                headers: Box::new([VnetHeader::default(); BATCH]),
                vectors: Vec::with_capacity(VECTORS),
                messages: Vec::with_capacity(BATCH),
            },
            stats: SendStats::default(),
        })
    }

    /// Lets UDP bursts be segmented in software, as if the kernel were older than 6.2.
    pub fn without_udp_gso(mut self) -> Self {
        self.udp_gso = UdpGso::Refused;
        self
    }

    /// How it sends, in words.
    pub fn describe(&self) -> &'static str {
        match self.udp_gso {
            UdpGso::Refused => {
                "packet socket, one frame per segment (the kernel refuses UDP GSO, needs Linux 6.2)"
            }
            UdpGso::Untried | UdpGso::Works => "packet socket with GSO",
        }
    }

    /// What it counted.
    pub fn stats(&self) -> SendStats {
        self.stats
    }

    /// See [`freena_stack_api::Link::transmit`].
    ///
    /// # Errors
    /// `ENETDOWN`, `ENODEV`, `ENXIO`: the interface is down or gone.
    pub fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(first) = bursts.get(taken) {
            if !is_sendable(first) {
                self.stats.gave_up(first);
                taken += 1;
                continue;
            }
            let sent = if self.in_software(first) {
                self.send_segments(first).map(|()| 1)
            } else {
                self.send(&bursts[taken..])
            };
            let error = match sent {
                Ok(sent) => {
                    bursts[taken..taken + sent].iter().for_each(|burst| self.stats.sent(burst));
                    taken += sent;
                    continue;
                }
                Err(error) => error,
            };
            match self.after(&error, first) {
                After::Wait => return Ok(taken),
                After::Again => {}
                After::GiveUp => {
                    self.stats.gave_up(first);
                    taken += 1;
                }
                // What was taken is told first; the next call meets the error again.
                After::Fail if taken > 0 => return Ok(taken),
                After::Fail => return Err(error),
            }
        }
        Ok(taken)
    }

    fn in_software(&self, burst: &Burst<'_>) -> bool {
        self.udp_gso == UdpGso::Refused && is_super_udp(burst)
    }

    fn after(&mut self, error: &io::Error, burst: &Burst<'_>) -> After {
        match error.raw_os_error().unwrap_or(0) {
            libc::EINTR => After::Again,
            // The socket's own buffer is full, or memory is short.
            libc::EAGAIN | libc::ENOMEM => After::Wait,
            // The device dropped the frame. Some segments of a super-packet may have passed: it is not sent twice.
            // Unless it was not the first of its call: then sendmmsg told only how many passed, and it comes here once more.
            libc::ENOBUFS if burst.frames() == 1 => After::Wait,
            libc::ENETDOWN | libc::ENODEV | libc::ENXIO => After::Fail,
            libc::EINVAL if self.udp_gso == UdpGso::Untried && is_super_udp(burst) => {
                self.udp_gso = UdpGso::Refused;
                After::Again
            }
            _ => After::GiveUp,
        }
    }

    /// Sends the longest run from the start of `bursts` that one call takes, and returns how many the kernel took.
    fn send(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let Messages { headers, vectors, messages } = &mut self.messages;
        vectors.clear();
        messages.clear();
        let udp_gso = self.udp_gso;
        let run = bursts.iter().zip(headers.iter_mut()).take_while(|(burst, _)| {
            is_sendable(burst) && !(udp_gso == UdpGso::Refused && is_super_udp(burst))
        });
        for (burst, header) in run {
            if vectors.len() + 2 + burst.payload.len() > VECTORS {
                break;
            }
            *header = VnetHeader::of(burst);
            let start = vectors.len();
            vectors.push(vector(ptr::from_ref(header).cast(), size_of::<VnetHeader>()));
            vectors.push(vector(burst.header.as_ptr(), burst.header.len()));
            vectors.extend(burst.payload.iter().map(|chunk| vector(chunk.as_ptr(), chunk.len())));
            // SAFETY: all zero is a valid `mmsghdr`: integers and null pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iovlen = vectors.len() - start;
            messages.push(message);
        }
        // Only now that the vectors do not move any more can they be pointed to.
        let mut rest = vectors.as_mut_slice();
        for message in messages.iter_mut() {
            let (own, others) = rest.split_at_mut(message.msg_hdr.msg_iovlen);
            message.msg_hdr.msg_iov = own.as_mut_ptr();
            rest = others;
        }
        // SAFETY: each message points to its part of `vectors`, which nobody touches before the call returns; the vectors
        // point to `headers`, to the headers of `bursts`, and to chunks, for which
        // `Chunk::from_raw` vouches. The kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        if self.udp_gso == UdpGso::Untried && bursts[..sent as usize].iter().any(is_super_udp) {
            self.udp_gso = UdpGso::Works;
        }
        Ok(sent as usize)
    }

    /// Sends `burst` frame by frame. A frame that finds no room after the first is lost, as in a full device queue.
    fn send_segments(&mut self, burst: &Burst<'_>) -> io::Result<()> {
        let Some(mut frames) = Frames::new(burst) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let prefix = size_of::<VnetHeader>();
        // The zero bytes in front ask the kernel for nothing: the frame is complete.
        self.frame.resize((prefix + frames.longest()).max(self.frame.len()), 0);
        let mut first = true;
        while let Some(len) = frames.write(&mut self.frame[prefix..]) {
            match self.socket.send(&self.frame[..prefix + len]) {
                Err(error) if first => return Err(error),
                _ => first = false,
            }
        }
        Ok(())
    }
}

fn is_super_udp(burst: &Burst<'_>) -> bool {
    burst.gso == Gso::Udp && burst.frames() > 1
}

/// A vector to read from; `iovec` has no const pointer.
fn vector(base: *const u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len }
}
