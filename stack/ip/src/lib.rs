//! What IPv4 and IPv6 need besides headers: fragmentation, reassembly, identification, and the path MTU.
//!
//! Everything is sans-IO: time is passed in, nothing is sent, and payload that is sent stays where it lies.
#![forbid(unsafe_code)]

mod fragment;
mod id;
mod pmtu;
mod reassembly;

pub use fragment::{CannotFragment, Piece, Pieces, emit_v4, emit_v6};
pub use id::Identification;
pub use pmtu::{MIN_V4, MIN_V6, PathMtu};
pub use reassembly::{Counters, Limits, Reassembled, Reassembler, Why};
