//! The process boundary: every byte layout that a program (through the preload library) and `freena-stack` share.
//!
//! - [`socket`]: the page at the start of each socket's shared memory, with the cursors of its rings;
//! - [`record`]: what one datagram looks like inside a ring;
//! - [`stream`]: what stream sockets have besides, and what a listener's queue holds;
//! - [`joint`]: the memory that both ends of a connection on one host share;
//! - [`control`]: the messages on the control socket;
//! - [`server`]: the page that all programs may read;
//! - [`flows`]: what programs show of their flows with services;
//! - [`trace`]: copies of the packets that the links carry;
//! - [`trust`]: whom a program lets serve it.
//!
//! Everything is `repr(C)`, its size is asserted, and a change that the other side would misread raises
//! [`ABI_VERSION`]. Both sides refuse another version by name.
//!
//! Who trusts whom: a program trusts the server (if it is one that [`trust`] allows), the server trusts nothing that a program can write. Each field says who
//! writes it. The server loads a field that a program writes once, bounds it, and keeps its own positions in private
//! memory. Where a program shares memory with another one ([`joint`]), it trusts that one as little.
#![no_std]
#![forbid(unsafe_code)]

pub mod app;
pub mod control;
pub mod endpoint;
pub mod flows;
pub mod joint;
pub mod message;
pub mod record;
pub mod server;
pub mod socket;
pub mod stream;
pub mod trace;
pub mod trust;

pub use endpoint::Endpoint;
pub use record::Record;

/// First eight bytes of every shared page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"freena\0\0");

/// Version of everything in this crate.
pub const ABI_VERSION: u32 = 7;
