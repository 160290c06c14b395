//! Memory that idle connections do not keep.
//!
//! The rings are files without pages until something is written to them, and a burst leaves pages behind. Of a receive ring
//! that has been read empty, and whose connection has been quiet for a while, all but the beginning is given back to the
//! kernel. The worker is its only writer, so nothing can be lost. A transmit ring is the program's: it may be writing where
//! nothing is published yet.

use super::table::Connection;
use super::{Worker, generation, programs};
use crate::sys;
use freena_shm_abi::socket::rx_offset;
use freena_shm_ring::cursor::REBASE_AT;
use freena_tcp::Handle;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a connection must have been quiet: giving back and getting pages costs more than keeping them for so long.
const IDLE: Duration = Duration::from_secs(1);
/// What is kept: an empty ring starts anew here.
const KEPT: u64 = REBASE_AT;

/// A connection whose receive ring has more pages than it needs while idle.
pub(super) struct Grown {
    handle: Handle,
    generation: u64,
    since: Instant,
}

impl Connection {
    /// Takes note of bytes stored in the receive ring, ending at this offset from its beginning.
    pub(super) fn touch(&mut self, end: u64) {
        self.touched = self.touched.max(end);
    }

    /// Has it looked at later, if it keeps pages. To be called when it becomes quiet.
    pub(super) fn grown(&mut self, handle: Handle, now: Instant) -> Option<Grown> {
        let grown = self.touched > KEPT && !self.is_grown;
        self.is_grown |= grown;
        grown.then(|| Grown { handle, generation: generation(&self.stream), since: now })
    }

    /// Whether all that was stored has been read.
    fn is_drained(&self) -> bool {
        let read = programs::read_position(self) == Some(self.rx.tail);
        read && self.arrived == self.rx.tail && self.stored <= self.rx.tail
    }
}

impl Worker {
    /// Gives back what idle connections keep.
    pub(in super::super) fn shrink_idle_streams(&mut self) {
        let now = self.now;
        let table = &mut self.streams.table;
        while let Some(Grown { handle, generation: seen, .. }) =
            table.grown.pop_front_if(|oldest| now.duration_since(oldest.since) > IDLE)
        {
            let Some(connection) = table.get_mut(handle) else { continue };
            if generation(&connection.stream) != seen {
                continue;
            }
            connection.is_grown = false;
            if connection.active {
                // It comes here again when it becomes quiet.
                continue;
            }
            if now.duration_since(connection.last_work) <= IDLE || !connection.is_drained() {
                let again = connection.grown(handle, now);
                table.grown.extend(again);
                continue;
            }
            connection.touched = KEPT;
            let sizes = connection.stream.memory.sizes();
            let start = rx_offset(sizes.tx, sizes.rx, 0) as u64 + KEPT;
            if let Err(error) =
                sys::punch_hole(connection.stream.memory_fd.as_fd(), start, u64::from(sizes.rx) - KEPT)
            {
                tracing::debug!(socket = connection.stream.id, %error, "cannot give memory back");
            }
        }
    }
}
