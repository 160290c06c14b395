//! The lock-free code of the process boundary.
//!
//! - [`cursor`]: positions of a single-producer single-consumer byte ring, without the bytes;
//! - [`ring`]: the ring itself: [`Record`](freena_shm_abi::Record)s with their payload inline;
//! - [`stream`]: a ring of bytes without records;
//! - [`kick`]: how a program gets the attention of a server that does not look, without a system call when it does;
//! - [`wake`]: how the server makes a program's descriptor readable, without a system call when nobody waits;
//! - [`mapping`]: the sealed memfd behind a socket;
//! - [`joint`]: the one that both ends of a connection on one host share.
//!
//! The memory is shared with a process that may be hostile. No reference to ring bytes is ever made; positions that the
//! other side writes are loaded once and bounded; the own position is kept in private memory.

pub mod cursor;
#[cfg(not(loom))]
pub mod joint;
pub mod kick;
#[cfg(not(loom))]
pub mod mapping;
#[cfg(not(loom))]
pub mod ring;
#[cfg(not(loom))]
pub mod stream;
mod sync;
pub mod wake;

#[cfg(not(loom))]
pub use joint::End;
#[cfg(not(loom))]
pub use mapping::SocketMapping;
#[cfg(not(loom))]
pub use ring::{Channel, Consumer, Message, Producer, Slot, Words};
