//! A host: an engine, its buffers and a simple program.

use super::{MTU, byte, path};
use freena_stack_api::RxChecksum;
use freena_tcp::{Config, Driver, Event, Failure, Flow, Handle, ListenerKey, Path, Tcp, Transmit};
use freena_wire::{Mac, Packet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

/// A packet on the wire: IP payload and what the link says of it.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub bytes: Vec<u8>,
    pub segment: u16,
}

/// A stream as the program sees it.
pub struct Stream {
    /// Bytes that are to be written, and that were.
    pub goal: u64,
    pub written: u64,
    pub acknowledged: u64,
    /// Room in the transmit buffer.
    pub tx_size: u64,
    /// Shut down once all is written.
    pub then_shut: bool,
    pub shut: bool,
    /// What has arrived, by position modulo the size.
    pub rx: Vec<u8>,
    pub readable: u64,
    pub read: u64,
    /// Reads whatever there is.
    pub reads: bool,
    pub connected: bool,
    pub peer_closed: bool,
    pub closed: bool,
    pub failed: Option<Failure>,
    pub released: bool,
    /// The program has closed it.
    pub gone: bool,
    pub urgent: Vec<u64>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "written {}/{} acknowledged {} readable {} read {} shut {} peer_closed {} closed {} failed {:?} gone {}",
            self.written,
            self.goal,
            self.acknowledged,
            self.readable,
            self.read,
            self.shut,
            self.peer_closed,
            self.closed,
            self.failed,
            self.gone
        )
    }
}

impl Stream {
    pub fn new(size: u64) -> Self {
        Stream {
            goal: 0,
            written: 0,
            acknowledged: 0,
            tx_size: 1 << 20,
            then_shut: false,
            shut: false,
            rx: vec![0; size as usize],
            readable: 0,
            read: 0,
            reads: true,
            connected: false,
            peer_closed: false,
            closed: false,
            failed: None,
            released: false,
            gone: false,
            urgent: Vec::new(),
        }
    }
}

pub struct Host {
    pub side: usize,
    pub tcp: Tcp,
    pub path: Path,
    /// Size of receive buffers.
    pub size: u64,
    pub streams: BTreeMap<Handle, Stream>,
    pub accepted: Vec<Handle>,
    /// Refuses connections while set.
    pub full: bool,
    pub events: Vec<Event>,
    pub ignore_backwards: bool,
}

struct Buffers<'a> {
    streams: &'a mut BTreeMap<Handle, Stream>,
    accepted: &'a mut Vec<Handle>,
    path: Path,
    size: u64,
    full: bool,
}

impl Driver for Buffers<'_> {
    fn path(&mut self, _flow: &Flow) -> Option<Path> {
        Some(self.path)
    }

    fn has_room(&mut self, _listener: ListenerKey) -> bool {
        !self.full
    }

    fn accept(&mut self, _listener: ListenerKey, connection: Handle, _flow: &Flow) -> Option<u64> {
        if self.full {
            return None;
        }
        let old = self.streams.insert(connection, Stream::new(self.size));
        assert!(old.is_none_or(|old| old.released), "a handle was given out twice");
        self.accepted.push(connection);
        Some(self.size)
    }

    fn store(&mut self, connection: Handle, position: u64, bytes: &[u8]) {
        let stream = self.streams.get_mut(&connection).expect("it exists");
        assert!(!bytes.is_empty());
        assert!(!stream.gone, "nobody reads it");
        let end = position + bytes.len() as u64;
        assert!(end <= stream.read + stream.rx.len() as u64, "beyond the buffer");
        assert!(position >= stream.readable, "over what can be read");
        let size = stream.rx.len() as u64;
        for (position, byte) in (position..end).zip(bytes) {
            stream.rx[(position % size) as usize] = *byte;
        }
    }
}

impl Host {
    pub fn new(side: usize, seed: u64) -> Self {
        let mut secret = [side as u8; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { secret, max_connections: 1000, max_half_open: 100, max_time_wait: 100 };
        Host::with(side, config)
    }

    pub fn with(side: usize, config: Config) -> Self {
        Host {
            side,
            tcp: Tcp::new(config),
            path: path(MTU),
            size: 1 << 20,
            streams: BTreeMap::new(),
            accepted: Vec::new(),
            full: false,
            events: Vec::new(),
            ignore_backwards: false,
        }
    }

    /// A packet has arrived.
    pub fn deliver(&mut self, now: Instant, datagram: &Datagram) {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let packet = Packet {
            ether_src: mac,
            ether_dst: mac,
            src: datagram.src,
            dst: datagram.dst,
            protocol: 6,
            ttl: 64,
            tos: 0,
            fragment: None,
            payload: &datagram.bytes,
            l3: 14,
        };
        let mut buffers = Buffers {
            streams: &mut self.streams,
            accepted: &mut self.accepted,
            path: self.path,
            size: self.size,
            full: self.full,
        };
        let checksum = RxChecksum::Verified;
        let _ = self.tcp.handle_packet(now, &packet, checksum, datagram.segment, 1, &mut buffers);
        // What was received must be taken before more of it comes: the next packet may overtake `readable`.
        self.hear();
    }

    fn hear(&mut self) {
        let peer = 1 - self.side;
        while let Some(event) = self.tcp.poll_event() {
            self.events.push(event);
            let (Event::Connected(handle)
            | Event::Received { connection: handle, .. }
            | Event::Acknowledged { connection: handle, .. }
            | Event::PeerClosed(handle)
            | Event::Urgent { connection: handle, .. }
            | Event::Closed(handle)
            | Event::Failed(handle, _)
            | Event::SoftError(handle, _)
            | Event::Released(handle)) = event;
            let stream = self.streams.get_mut(&handle).expect("an event of a connection that exists");
            assert!(!stream.released, "{event:?} after Released");
            match event {
                Event::Connected(_) => stream.connected = true,
                Event::Received { position, .. } => {
                    assert!(position > stream.readable && !stream.peer_closed, "{event:?} {stream:?}");
                    let size = stream.rx.len() as u64;
                    for position in stream.readable..position {
                        let got = stream.rx[(position % size) as usize];
                        assert_eq!(got, byte(peer, position), "the byte at {position}");
                    }
                    stream.readable = position;
                }
                Event::Acknowledged { position, .. } => {
                    assert!(
                        position > stream.acknowledged && position <= stream.written,
                        "{event:?} {stream:?}"
                    );
                    stream.acknowledged = position;
                }
                Event::PeerClosed(_) => {
                    assert!(!std::mem::replace(&mut stream.peer_closed, true));
                }
                Event::Closed(_) => {
                    assert!(stream.peer_closed && stream.acknowledged == stream.written, "{stream:?}");
                    assert!(!std::mem::replace(&mut stream.closed, true));
                }
                Event::Failed(_, failure) => {
                    assert!(!stream.closed && stream.failed.is_none());
                    stream.failed = Some(failure);
                }
                Event::Urgent { position, .. } => stream.urgent.push(position),
                Event::SoftError(..) => {}
                Event::Released(_) => {
                    assert!(stream.gone, "nobody has closed it");
                    stream.released = true;
                }
            }
        }
    }

    /// The program's turn: reads and writes.
    pub fn turn(&mut self, now: Instant) {
        self.hear();
        for (&handle, stream) in &mut self.streams {
            if stream.gone || stream.failed.is_some() {
                continue;
            }
            let room = stream.tx_size - (stream.written - stream.acknowledged);
            let len = room.min(stream.goal - stream.written);
            if len > 0 && !stream.shut {
                stream.written += len;
                self.tcp.written(now, handle, stream.written).expect("it is open");
            }
            if stream.then_shut && !stream.shut && stream.written == stream.goal {
                stream.shut = true;
                self.tcp.shutdown(now, handle);
            }
            if stream.reads && stream.read < stream.readable {
                stream.read = stream.readable;
                self.tcp.read(now, handle, stream.read);
            }
        }
        self.hear();
    }

    pub fn close(&mut self, now: Instant, handle: Handle) {
        let stream = self.streams.get_mut(&handle).expect("it exists");
        if stream.gone {
            return;
        }
        stream.gone = true;
        let unread = stream.read < stream.readable;
        self.tcp.close(now, handle, unread);
        self.hear();
    }

    pub fn abort(&mut self, now: Instant, handle: Handle) {
        let stream = self.streams.get_mut(&handle).expect("it exists");
        if stream.gone {
            return;
        }
        stream.gone = true;
        self.tcp.abort(now, handle);
        self.hear();
    }

    /// What must hold for every packet.
    pub fn check_transmit(&self, transmit: &Transmit) {
        let Some(handle) = transmit.connection else {
            assert!(transmit.payload.is_empty());
            return;
        };
        let stream = &self.streams[&handle];
        let len = transmit.payload.end - transmit.payload.start;
        assert!(len == 0 || transmit.payload.end <= stream.written, "bytes that were not written");
        assert!(len == 0 || transmit.payload.start >= stream.acknowledged, "bytes that may be gone");
        let most = u64::from(self.path.max_burst).max(u64::from(self.path.mtu));
        assert!(len <= most && len < 65_536, "{len} bytes in one packet");
        let headers = 20 + u64::from(transmit.header_len);
        if transmit.segment == 0 {
            assert!(len + headers <= u64::from(self.path.mtu), "{transmit:?}");
        } else {
            assert!(u64::from(transmit.segment) + headers <= u64::from(self.path.mtu), "{transmit:?}");
            assert!(len > u64::from(transmit.segment));
            assert!(len.div_ceil(u64::from(transmit.segment)) <= u64::from(self.path.max_segments));
        }
    }
}
