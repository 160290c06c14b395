//! Wrappers around any [`Link`](freena_stack_api::Link): one writes what passes to a pcapng capture, one shows it to
//! whoever asks while the link is in use, one makes a good network a bad one.
#![forbid(unsafe_code)]

mod dice;
pub mod filter;
mod frames;
mod impair;
mod tap;
mod trace;

pub use dice::{BadProbability, Dice, Fate, Impairments};
pub use frames::{CannotSegment, frames};
pub use impair::{Directions, Impair, Impaired, MAX_HELD};
pub use tap::{Passed, Place, Tap, Watcher, Watchers};
pub use trace::Trace;

#[cfg(test)]
mod loopback;
