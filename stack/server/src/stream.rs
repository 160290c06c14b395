//! A stream socket as the threads of the server share it: a listener or a connection.
//!
//! Connections that peers open are made by the workers, those that programs open by the control thread. All are in one
//! [`Registry`], so that the control thread finds what workers have made. What is steered to a listener must go on being
//! steered while one of its connections lives, also when the listener is closed: they share its [`Lease`].

use crate::remembered::Remembered;
use crate::sys::{self, EventFd};
use crate::worker::Event;
use crossbeam::channel::Sender;
use freena_shm_abi::Endpoint;
use freena_shm_abi::stream::{Accepted, accepted, ask, state};
use freena_shm_ring::SocketMapping;
use freena_shm_ring::joint::{self, End};
use freena_shm_ring::mapping::Sizes;
use freena_wire::protocol::UDP;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use zerocopy::IntoBytes;

/// Default size of a connection's transmit ring in bytes.
const TX_SIZE: u32 = 1 << 20;
/// Default size of a connection's receive ring in bytes.
const RX_SIZE: u32 = 4 << 20;
/// Send buffer of both ends of a pair, in bytes as setsockopt takes it: some kicks fit, a fill of 8 KiB takes it all.
pub const PAIR_BUFFER: i32 = 8 << 10;
/// What `SO_PROTOCOL` says of QUIC: the number that Linux' work on QUIC in the kernel uses (include/uapi/linux/in.h there).
const IPPROTO_QUIC: u32 = 261;
/// Names of streams start here, those of datagram sockets at 1.
const FIRST_ID: u64 = 1 << 32;

/// A stream socket that the server carries.
#[derive(Debug)]
pub struct Stream {
    /// Never reused.
    pub id: u64,
    /// Whether the program's socket is an `AF_INET6` one.
    pub ipv6: bool,
    /// IP protocol numbers by which it may be carried, the preferred one first.
    pub protocols: Box<[u8]>,
    /// The one that carries it; of a listener the preferred one.
    carried_by: AtomicU8,
    /// Worker that it belongs to.
    pub home: usize,
    /// The shared memory.
    pub memory: SocketMapping,
    /// A descriptor of the memory, to give to a process that adopts the socket.
    pub memory_fd: OwnedFd,
    /// Where it is joined: a descriptor of the memory that it shares with its peer, likewise.
    pub joint_fd: Option<Arc<OwnedFd>>,
    /// The server's end of the pair whose other end is the program's descriptor.
    pub peer_end: OwnedFd,
    /// Device and inode of the program's end.
    pub identity: (u64, u64),
    /// The kernel socket for what the kernel must answer. Connections that peers opened get one when it is asked for.
    pub companion: OnceLock<Arc<OwnedFd>>,
    /// Process that it was made for.
    pub owner: Arc<Owner>,
    /// Own address.
    pub local: (IpAddr, u16),
    /// Peer's address; none for a listener.
    pub peer: Option<(IpAddr, u16)>,
    /// Interface index of a link-local address, else 0.
    pub scope: u32,
    /// Interface that it is bound to, or that a link-local address belongs to; 0 for any.
    pub ifindex: u32,
    /// What is steered for it.
    pub lease: Arc<Lease>,
}

impl Stream {
    /// IP protocol number that carries it; of a listener the preferred one.
    pub fn protocol(&self) -> u8 {
        self.carried_by.load(Ordering::Relaxed)
    }

    /// Whether its program reads and writes messages, having opened it as SCTP.
    pub fn has_messages(&self) -> bool {
        self.memory.page().stream.asked.flags.load(Ordering::Relaxed) & ask::MESSAGES != 0
    }

    /// Another protocol carries it from now on. The program is told.
    pub fn set_protocol(&self, protocol: u8) {
        self.carried_by.store(protocol, Ordering::Relaxed);
        // Among streams that of UDP means QUIC, for which Linux has a number that is no IP protocol's.
        let shown = if protocol == UDP { IPPROTO_QUIC } else { protocol.into() };
        self.memory.page().stream.told.protocol.store(shown, Ordering::Relaxed);
    }

    /// The kernel socket for what the kernel must answer, made now where there is none yet.
    ///
    /// # Errors
    /// No descriptors.
    pub fn companion(&self) -> io::Result<OwnedFd> {
        if let Some(companion) = self.companion.get() {
            return companion.try_clone();
        }
        let domain = if self.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let fd: OwnedFd = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?.into();
        self.companion.get_or_init(|| Arc::new(fd)).try_clone()
    }
}

impl Stream {
    /// Puts a connection of this listener's into its queue: a message with the program's end and all else that belongs to it.
    ///
    /// # Errors
    /// `WouldBlock` for a full queue, `BrokenPipe` if nobody can accept any more.
    pub fn hand_out(
        &self,
        connection: &Stream,
        application_end: &OwnedFd,
        peer_end: Option<&OwnedFd>,
    ) -> io::Result<()> {
        // A program sees addresses in the family of its socket.
        let endpoint = |(ip, port)| {
            let family = if self.ipv6 { 6 } else { 4 };
            Endpoint { family, ..Endpoint::new(ip, port, connection.scope) }
        };
        let message = Accepted {
            kind: accepted::FRAMEWORK,
            pad: 0,
            socket_id: connection.id,
            local: endpoint(connection.local),
            peer: endpoint(connection.peer.unwrap_or(connection.local)),
        };
        let mut fds = vec![application_end.as_fd(), connection.memory_fd.as_fd()];
        fds.extend(connection.joint_fd.as_deref().map(AsFd::as_fd));
        fds.extend(peer_end.map(AsFd::as_fd));
        sys::send_with_fds(self.peer_end.as_fd(), message.as_bytes(), &fds).map(drop)
    }
}

/// For whom a socket is carried, and why.
#[derive(Debug)]
pub struct Owner {
    /// Process id.
    pub pid: i32,
    /// Name of the program.
    pub program: String,
    /// Why it is carried.
    pub reason: String,
}

/// What a new socket consists of besides its names.
#[derive(Debug)]
pub struct Parts {
    id: u64,
    memory: SocketMapping,
    memory_fd: OwnedFd,
    joint_fd: Option<Arc<OwnedFd>>,
    peer_end: OwnedFd,
    identity: (u64, u64),
    /// The program's end.
    pub application_end: OwnedFd,
}

impl Parts {
    /// The shared memory.
    pub fn memory(&self) -> &SocketMapping {
        &self.memory
    }

    /// Joins the parts and the names; returns the program's end beside the socket.
    pub fn name(self, names: Names) -> (Stream, OwnedFd) {
        let Names { ipv6, protocols, home, companion, owner, local, peer, scope, ifindex, lease } = names;
        let stream = Stream {
            id: self.id,
            ipv6,
            carried_by: AtomicU8::new(0),
            protocols,
            home,
            memory: self.memory,
            memory_fd: self.memory_fd,
            joint_fd: self.joint_fd,
            peer_end: self.peer_end,
            identity: self.identity,
            companion: companion.map_or_else(OnceLock::new, |fd| OnceLock::from(Arc::new(fd))),
            owner,
            local,
            peer,
            scope,
            ifindex,
            lease,
        };
        if let Some(preferred) = stream.protocols.first() {
            stream.set_protocol(*preferred);
        }
        (stream, self.application_end)
    }
}

/// What a socket is called and where it belongs: the fields of [`Stream`] that [`Parts`] has not.
pub struct Names {
    pub ipv6: bool,
    pub protocols: Box<[u8]>,
    pub home: usize,
    pub companion: Option<OwnedFd>,
    pub owner: Arc<Owner>,
    pub local: (IpAddr, u16),
    pub peer: Option<(IpAddr, u16)>,
    pub scope: u32,
    pub ifindex: u32,
    pub lease: Arc<Lease>,
}

/// Keeps something steered to the workers as long as it exists.
#[derive(Debug)]
pub struct Lease {
    /// The control thread's name for it.
    pub id: u64,
    /// Holds the UDP port where QUIC may carry what it is for.
    #[expect(dead_code, reason = "held for its end")]
    pub udp_port: Option<OwnedFd>,
    /// Who learns that it is over.
    pub events: (Sender<Event>, Arc<EventFd>),
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The control thread outlives the workers; if it is gone, the process is ending.
        let _ = self.events.0.send(Event::LeaseEnded(self.id));
        self.events.1.signal();
    }
}

/// All stream sockets that a program holds.
#[derive(Debug)]
pub struct Registry {
    /// Names the sockets of this run of the server.
    pub boot_id: u64,
    limit: usize,
    next_id: AtomicU64,
    by_identity: Mutex<HashMap<(u64, u64), Arc<Stream>>>,
    /// By which protocols peers were reached.
    pub remembered: Remembered,
}

impl Registry {
    /// An empty one that takes up to `limit` sockets.
    pub fn new(limit: u32) -> Self {
        Registry {
            // Unique enough for a name, no secret.
            boot_id: sys::realtime_ns() ^ (u64::from(std::process::id()) << 48),
            limit: limit as usize,
            next_id: AtomicU64::new(FIRST_ID),
            by_identity: Mutex::default(),
            remembered: Remembered::default(),
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<(u64, u64), Arc<Stream>>> {
        self.by_identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no room for another one beside `others`.
    pub fn is_full(&self, others: usize) -> bool {
        self.streams().len() + others >= self.limit
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.streams().len()
    }

    /// Makes what a socket consists of. 0 stands for the default size.
    ///
    /// # Errors
    /// No memory or no descriptors.
    pub fn make(&self, tx: u32, rx: u32) -> io::Result<Parts> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let pick = |wanted: u32, default| if wanted == 0 { default } else { wanted };
        let (memory, memory_fd) =
            SocketMapping::create(Sizes::clamp(pick(tx, TX_SIZE), pick(rx, RX_SIZE), 1), id)?;
        self.assemble(id, memory, memory_fd, None)
    }

    /// Makes what the two ends of a joined connection consist of: first the one that connects. 0 stands for the default size
    /// of what is sent in each direction.
    ///
    /// # Errors
    /// As [`Registry::make`].
    pub fn make_joined(&self, ring: u32) -> io::Result<[Parts; 2]> {
        let ring = Sizes::clamp(if ring == 0 { TX_SIZE } else { ring }, 0, 1).tx;
        let joint = Arc::new(joint::create(ring)?);
        let make = |end| {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let (memory, memory_fd) = SocketMapping::create_joined(joint.as_fd(), end, ring, id)?;
            self.assemble(id, memory, memory_fd, Some(joint.clone()))
        };
        Ok([make(End::Connecting)?, make(End::Accepted)?])
    }

    fn assemble(
        &self,
        id: u64,
        memory: SocketMapping,
        memory_fd: OwnedFd,
        joint_fd: Option<Arc<OwnedFd>>,
    ) -> io::Result<Parts> {
        memory.page().stream.asked.linger.store(-1, Ordering::Relaxed);
        let (peer_end, application_end) = sys::seqpacket_pair()?;
        sys::set_option(&application_end, libc::SOL_SOCKET, libc::SO_SNDBUF, PAIR_BUFFER)?;
        // Any process that inherits or receives the application end recognises it by the name of its peer.
        sys::bind_abstract(&peer_end, &format!("freena-socket:{:016x}:{id}", self.boot_id))?;
        let identity = sys::identity(&application_end)?;
        Ok(Parts { id, memory, memory_fd, joint_fd, peer_end, identity, application_end })
    }

    /// Enters a socket.
    pub fn insert(&self, stream: Arc<Stream>) {
        self.streams().insert(stream.identity, stream);
    }

    /// Takes a socket out, unless another one has its place already.
    pub fn remove(&self, stream: &Stream) {
        let mut streams = self.streams();
        if streams.get(&stream.identity).is_some_and(|found| found.id == stream.id) {
            streams.remove(&stream.identity);
        }
    }

    /// The socket whose application end has this device and inode.
    pub fn find(&self, identity: (u64, u64)) -> Option<Arc<Stream>> {
        self.streams().get(&identity).cloned()
    }

    /// The connection between these addresses and ports.
    pub fn connection(&self, local: (IpAddr, u16), peer: (IpAddr, u16)) -> Option<Arc<Stream>> {
        let streams = self.streams();
        streams.values().find(|stream| stream.local == local && stream.peer == Some(peer)).cloned()
    }

    /// The sockets that would be connected by a protocol between these addresses, and are not yet.
    pub fn connecting(&self, protocol: u8, local: IpAddr, peer: IpAddr) -> Vec<Arc<Stream>> {
        let streams = self.streams();
        let is_it = |stream: &&Arc<Stream>| {
            let state = stream.memory.page().stream.told.state.load(Ordering::Relaxed);
            stream.local.0 == local
                && stream.peer.is_some_and(|(ip, _)| ip == peer)
                && stream.protocols.contains(&protocol)
                && state::is_connecting(state)
        };
        streams.values().filter(is_it).cloned().collect()
    }

    /// All of them, by age.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        let mut all: Vec<_> = self.streams().values().cloned().collect();
        all.sort_unstable_by_key(|stream| stream.id);
        all
    }
}
