//! Wrappers around any [`Link`](freena_stack_api::Link): one writes what passes to a pcapng capture, one makes a good
//! network a bad one.
#![forbid(unsafe_code)]

mod dice;
mod frames;
mod impair;
mod trace;

pub use dice::{BadProbability, Dice, Fate, Impairments};
pub use frames::{CannotSegment, frames};
pub use impair::{Directions, Impair, Impaired, MAX_HELD};
pub use trace::Trace;

#[cfg(test)]
mod loopback;
