//! The page at the start of a socket's shared memory, and where its rings lie.
//!
//! One memfd per socket, sealed against shrinking and growing: this page, the transmit ring, then one receive ring for
//! each worker thread of the server, so that every ring has one producer and one consumer. Pages that no datagram has
//! touched take no memory.

use crate::app::AppArea;
use crate::stream::StreamArea;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// Size of the page; the transmit ring starts here.
pub const PAGE: usize = 4096;
/// The most receive rings, and so the most worker threads that deliver to one socket.
pub const MAX_RX_RINGS: usize = 16;
/// Smallest ring: two of the largest records.
pub const MIN_RING: u32 = 256 << 10;
/// Largest ring.
pub const MAX_RING: u32 = 64 << 20;

/// A value alone in its cache line, so that the two sides do not take it from each other by writing a neighbour.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// Where things are. Written by the server before the memory is shared; never read back by it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Geometry {
    /// [`crate::MAGIC`].
    pub magic: AtomicU64,
    /// [`crate::ABI_VERSION`].
    pub version: AtomicU32,
    /// Receive rings, 1 to [`MAX_RX_RINGS`].
    pub rx_rings: AtomicU32,
    /// Bytes of the transmit ring, a power of two.
    pub tx_size: AtomicU32,
    /// Bytes of each receive ring, a power of two.
    pub rx_size: AtomicU32,
    /// The server's name for the socket; never reused while the server lives.
    pub socket_id: AtomicU64,
    /// One of [`crate::joint::end`]: whether the rings lie in a joint memory, and which end of it this is.
    pub joint: AtomicU32,
    /// Always 0.
    pub pad: AtomicU32,
}

/// What the producer of a ring tells.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Produced {
    /// End of what may be read.
    pub tail: AtomicU64,
    /// A record's place in the ring is `(position - base) % size`. Changed only while the ring is empty, before the tail.
    pub base: AtomicU64,
}

/// Cursors of a ring, in bytes since the start, never wrapped.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RxCursors {
    /// Written by the server.
    pub produced: Line<Produced>,
    /// Written by the program: start of what it has not read yet.
    pub head: Line<AtomicU64>,
}

/// The readiness token, and what those want of it who wait for edges.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RxWake {
    /// State of the token; see `freena_shm_ring::wake`. Both write it.
    pub token: AtomicU32,
    /// Written by the program: 1 where each arrival has to be an event of its own, also while older data lie unread
    /// (`EPOLLET`, `O_ASYNC`). The server sends one more token then.
    pub eager: AtomicU32,
    /// Written by the server: how many such tokens it has sent.
    pub edges: AtomicU32,
    /// Written by the program: value of `edges` when it last took the ones too many out of the queue.
    pub thinned: AtomicU32,
    /// 1 while the companion's queue of errors (`MSG_ERRQUEUE`) is not empty. The server sets it, a program that has read the
    /// queue writes what it has found.
    pub queued: AtomicU32,
}

/// The page.
#[derive(Debug, Default)]
#[repr(C, align(4096))]
pub struct SocketPage {
    /// Written by the server, once.
    pub geometry: Line<Geometry>,
    /// Written by the program: end of what the server may send. Base of the ring: 0; of a stream's see [`StreamArea`].
    pub tx_tail: Line<AtomicU64>,
    /// Written by the server: start of what it has not sent yet.
    pub tx_head: Line<AtomicU64>,
    /// 1 when the server does not look at the transmit ring and wants a kick; see `freena_shm_ring::kick`. The server
    /// sets it, the program clears it.
    pub tx_kick: Line<AtomicU32>,
    /// The readiness token.
    pub rx_wake: Line<RxWake>,
    /// Pending error, an errno, 0 for none (`SO_ERROR`). The server sets it, the program takes it.
    pub error: Line<AtomicU32>,
    /// Cursors of the receive rings, of which the first `geometry.rx_rings` are in use.
    pub rx: [RxCursors; MAX_RX_RINGS],
    /// What only streams have.
    pub stream: StreamArea,
    /// State that the processes sharing this socket keep among themselves. The server neither reads nor writes it.
    pub app: AppArea,
}

const _: () = assert!(size_of::<SocketPage>() == PAGE);
const _: () = assert!(size_of::<RxCursors>() == 128);

/// Bytes of the whole memfd.
pub const fn total_size(tx_size: u32, rx_size: u32, rx_rings: u32) -> usize {
    PAGE + tx_size as usize + rx_size as usize * rx_rings as usize
}

/// Offset of the transmit ring.
pub const TX_OFFSET: usize = PAGE;

/// Offset of receive ring `index`.
pub const fn rx_offset(tx_size: u32, rx_size: u32, index: usize) -> usize {
    PAGE + tx_size as usize + rx_size as usize * index
}
