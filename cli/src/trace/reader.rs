//! The reading side of a trace.

use freena_shm_abi::trace::{Captured, HEAD, Seen};
use freena_shm_ring::cursor::ConsumerCursor;
use freena_shm_ring::{Consumer, SocketMapping, wake};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// Packets taken from a ring before the others have their turn.
const BATCH: usize = 1024;

/// A link of the server.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) interface: String,
    pub(super) ifindex: u32,
    pub(super) queue: u32,
    pub(super) description: String,
}

/// A packet that was carried.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Number of its link.
    pub(super) link: usize,
    /// Name of its interface.
    pub(super) interface: String,
    pub(super) outbound: bool,
    /// Since 1970-01-01 UTC.
    pub(super) time: Duration,
    /// Payload bytes per segment of a super-packet, else 0.
    pub(super) segment: u16,
    /// Bytes that it had.
    pub(super) original: usize,
    /// Those of them that were kept.
    pub(super) data: Vec<u8>,
    /// Bytes to keep of each frame that it is cut into, 0 for all.
    pub(super) snap: usize,
}

/// The rings of a trace, and the end that tells of them.
pub(super) struct Reader {
    end: OwnedFd,
    memory: SocketMapping,
    cursors: Vec<ConsumerCursor>,
    pub(super) links: Vec<Link>,
    snap: usize,
}

impl Reader {
    /// Joins what the server sent.
    pub(super) fn new(mut fds: Vec<OwnedFd>, links: Vec<Link>, snap: usize) -> io::Result<Reader> {
        let (Some(memory), Some(end)) = (fds.pop(), fds.pop()) else {
            return Err(io::Error::other("the server sent no two descriptors"));
        };
        let memory = SocketMapping::open(memory.as_fd())?;
        let cursors = vec![ConsumerCursor::default(); memory.sizes().rx_rings as usize];
        Ok(Reader { end, memory, cursors, links, snap })
    }

    /// Takes what is there, in the order of time; returns at once.
    ///
    /// # Errors
    /// A ring cannot be read.
    pub(super) fn read(&mut self) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        for (ring, cursor) in self.cursors.iter_mut().enumerate() {
            let mut consumer = Consumer::new(self.memory.rx(ring), cursor);
            for _ in 0..BATCH {
                let Some(message) = consumer.next().map_err(io::Error::other)? else { break };
                let captured = Captured::from(message.record);
                let original = captured.original as usize;
                let mut data = vec![0; HEAD + captured.len as usize];
                data[..HEAD].copy_from_slice(&captured.head);
                message.read(0, &mut data[HEAD..]);
                data.truncate(original);
                let link = self.links.iter().position(|link| {
                    (link.ifindex, link.queue) == (captured.ifindex, u32::from(captured.queue))
                });
                let Some(link) = link else { continue };
                packets.push(Packet {
                    link,
                    interface: self.links[link].interface.clone(),
                    outbound: captured.outbound != 0,
                    time: Duration::from_nanos(captured.timestamp),
                    segment: captured.segment,
                    original,
                    data,
                    snap: self.snap,
                });
            }
            consumer.release();
        }
        packets.sort_by_key(|packet| packet.time);
        Ok(packets)
    }

    /// Waits until there is something, or the time is over, or a signal comes.
    ///
    /// # Errors
    /// The server is gone, or a ring cannot be read.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<Vec<Packet>> {
        let packets = self.read()?;
        if !packets.is_empty() {
            return Ok(packets);
        }
        let word = &self.memory.page().rx_wake.0.token;
        wake::arm(word);
        let packets = self.read()?;
        if !packets.is_empty() {
            return Ok(packets);
        }
        if self.poll(limit)? {
            let mut token = [0; 8];
            if self.receive(&mut token, libc::MSG_DONTWAIT)? == 0 {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "freena-stack has ended"));
            }
            wake::token_taken(&self.memory.page().rx_wake.0.token, false);
        }
        self.read()
    }

    /// Ends the trace: what the server saw on each link. What it had published can still be read.
    pub(super) fn finish(&mut self) -> Vec<Seen> {
        // SAFETY: plain system call on an owned descriptor.
        unsafe { libc::shutdown(self.end.as_raw_fd(), libc::SHUT_WR) };
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut message = vec![0; 64 << 10];
        // Tokens may lie before it.
        while let Some(left) = deadline.checked_duration_since(Instant::now())
            && self.poll(Some(left)).unwrap_or(false)
        {
            match self.receive(&mut message, libc::MSG_DONTWAIT) {
                Ok(0) | Err(_) => break,
                Ok(len) if len % size_of::<Seen>() == 0 => {
                    let each = message[..len].chunks_exact(size_of::<Seen>());
                    return each.filter_map(|bytes| Seen::read_from_bytes(bytes).ok()).collect();
                }
                Ok(_) => {}
            }
        }
        Vec::new()
    }

    /// Whether something came before the time was over.
    fn poll(&self, limit: Option<Duration>) -> io::Result<bool> {
        let mut fd = libc::pollfd { fd: self.end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = limit.map_or(-1, |limit| i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1));
        // SAFETY: one writable pollfd.
        match unsafe { libc::poll(&mut fd, 1, limit) } {
            0 => Ok(false),
            1.. => Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
        }
    }

    fn receive(&self, to: &mut [u8], flags: i32) -> io::Result<usize> {
        // SAFETY: a writable slice.
        let len = unsafe { libc::recv(self.end.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), flags) };
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok(len as usize) }
    }
}
