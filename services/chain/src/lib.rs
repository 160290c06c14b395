//! The services of a flow in a chain, sans-IO: bytes and time in, bytes and deadlines out.
//!
//! A [`Plan`] says which services apply to which flows. [`StreamFlow`] and [`DatagramFlow`] carry one flow each: they frame what
//! passes the services, agree with the peer before anything of the program's is sent, and end the flow with a reason if
//! anything is not as it should be. `docs/services.md` describes what goes over the wire.
#![deny(unsafe_code)]

mod agreement;
mod buffer;
mod change;
mod datagram;
mod error;
mod flow;
mod offer;
mod pipeline;
mod plan;
mod random;
mod stream;
mod wire;

pub use buffer::Buffer;
pub use change::Change;
pub use datagram::{Arrived, DatagramFlow};
pub use error::{Alert, FlowError};
pub use flow::{Flow, Resolved, Role, Wishes};
pub use pipeline::Figure;
pub use plan::{Decision, Plan, PlanError, PlanRule, PlanService};
pub use stream::{Opened, State, StreamFlow};

/// Most bytes of the program's in a frame of a stream: what a reader must wait for, and buffer, before it gets any of them.
pub const MAX_CHUNK: usize = 16 * 1024;
/// How long the agreement with the peer of a stream may take, in nanoseconds.
pub const PATIENCE: u64 = 10_000_000_000;
/// How long a server that may talk to peers without freena waits for a peer that says nothing, in nanoseconds: FTP and SMTP
/// clients wait for the server to speak.
pub const PLAIN_PATIENCE: u64 = 1_000_000_000;

/// Why bytes of the program are not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The peer has not agreed yet: more must be read first.
    Agreement,
    /// A service holds the flow back until then, in nanoseconds.
    Until(u64),
}

/// What became of bytes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How many were taken.
    pub consumed: usize,
    /// Why the rest was not.
    pub blocked: Option<Blocked>,
}
