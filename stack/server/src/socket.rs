//! A socket as the threads of the server share it.

use freena_shm_abi::server::ServerPage;
use freena_shm_ring::SocketMapping;
use freena_udp::{Binding, SocketKey};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A socket that the server carries. Shared by the control thread and all workers.
#[derive(Debug)]
pub struct Socket {
    /// Never reused.
    pub id: u64,
    /// Index in the tables; reused once all workers have forgotten the socket.
    pub key: SocketKey,
    /// Whether the companion is an `AF_INET6` socket.
    pub ipv6: bool,
    /// Worker that sends for it and watches its descriptors.
    pub home: usize,
    /// The shared memory.
    pub memory: SocketMapping,
    /// A descriptor of the memory, to give to a process that adopts the socket.
    pub memory_fd: OwnedFd,
    /// The server's end of the pair whose other end is the program's descriptor.
    pub peer_end: OwnedFd,
    /// The kernel socket that holds the port.
    pub companion: OwnedFd,
    /// Device and inode of the program's end.
    pub identity: (u64, u64),
    /// Process that handed it over: id and name.
    pub owner: (i32, String),
    /// What it is bound to.
    pub binding: Mutex<Binding>,
    /// The page that every program may read.
    pub server_page: &'static ServerPage,
    /// Counters.
    pub stats: SocketStats,
}

impl Socket {
    /// Gives it a pending error, an errno (`SO_ERROR`).
    pub fn raise(&self, errno: i32) {
        self.memory.page().error.0.store(errno as u32, Ordering::Release);
        self.server_page.errors.fetch_add(1, Ordering::Release);
    }

    /// Says that the companion's queue of errors is not empty.
    pub fn note_queued_error(&self) {
        self.memory.page().rx_wake.0.queued.store(1, Ordering::Release);
        self.server_page.errors.fetch_add(1, Ordering::Release);
    }

    /// What it is bound to.
    pub fn binding(&self) -> Binding {
        *self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters of one socket, each written by one thread at a time.
#[derive(Debug, Default)]
pub struct SocketStats {
    /// Datagrams put into a receive ring by the fast path.
    pub rx_fast: Counter,
    /// Datagrams that other programs of this server have put there, ring to ring.
    pub rx_local: Counter,
    /// Datagrams that came through the companion.
    pub rx_kernel: Counter,
    /// Datagrams dropped because the receive ring was full.
    pub rx_dropped: Counter,
    /// Datagrams sent on the fast path.
    pub tx_fast: Counter,
    /// Datagrams handed to other programs of this server, ring to ring.
    pub tx_local: Counter,
    /// Datagrams sent through the companion.
    pub tx_kernel: Counter,
    /// Datagrams that could not be sent.
    pub tx_dropped: Counter,
    /// Readiness tokens sent.
    pub tokens: Counter,
    /// Kicks received.
    pub kicks: Counter,
}

/// A counter that many may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
