//! The memory that both ends of a connection on one host share: what one end sends is what the other receives.
//!
//! An ordinary socket's rings lie behind its page, and the server is at their other side. A *joined* stream socket has a
//! memory of one page, of which only geometry and [`crate::app::AppArea`] are in use and which its peer never sees, and
//! beside it the joint memory: a page for each end, then the ring of what the first end sends, then that of the second.
//!
//! | part of an end's joint page | written by | for |
//! |---|---|---|
//! | `tx_tail`, `stream.asked` | the end itself | its peer, and the server when the end is closed |
//! | `tx_head` | the peer, which reads that ring | the end itself |
//! | `rx_wake`, `stream.told.rx_kick` | both | as between program and server: see `freena_shm_ring::wake` and `kick` |
//! | `error`, `stream.told` | the peer; the server when the peer is closed | the end itself |
//!
//! Its cursors of receive rings are not in use: an end receives from its peer's transmit ring, by that one's words. The peer
//! is another program, perhaps another user's: an end bounds every word that it reads here, as the server does.

use crate::socket::PAGE;

/// Which end of a joint memory: [`crate::socket::Geometry::joint`].
pub mod end {
    /// None: the socket is not joined.
    pub const NONE: u32 = 0;
    /// The one that connected.
    pub const CONNECTING: u32 = 1;
    /// The one that was accepted.
    pub const ACCEPTED: u32 = 2;
}

/// Bytes of a joint memory whose rings have `ring` bytes each.
pub const fn total_size(ring: u32) -> usize {
    2 * PAGE + 2 * ring as usize
}

/// Offset of the page of an end: 0 for the connecting one, 1 for the accepted.
pub const fn page_offset(index: usize) -> usize {
    PAGE * index
}

/// Offset of the ring of what an end sends.
pub const fn ring_offset(ring: u32, index: usize) -> usize {
    2 * PAGE + ring as usize * index
}
