//! The traits and types at which the parts of the stack meet: links below, protocol engines above.
//!
//! A link moves frames, an engine is sans-IO, and only `stack/server` joins them.

mod chunk;
mod events;
mod link;
mod listeners;
mod slab;
pub mod stream;
mod timers;

pub use chunk::Chunk;
pub use events::Events;
pub use link::{Burst, Frame, Gso, Link, LinkInfo, LinkStats, RxChecksum};
pub use listeners::Listeners;
pub use slab::Slab;
pub use timers::Timers;
