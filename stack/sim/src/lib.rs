//! Two hosts, a cable and a clock in one process: protocol engines are tested on it without namespaces or waiting, and
//! every run repeats from its seed.
//!
//! Time passes only when [`Clock::advance`] or [`Network::advance_to_next`] makes it pass.
#![forbid(unsafe_code)]

mod clock;
mod network;

pub use clock::Clock;
pub use freena_link_middleware::{BadProbability, Impairments};
pub use network::{Config, Network, SimLink};
