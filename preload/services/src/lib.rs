//! Services inserted into the flows of a program that knows nothing of them.
//!
//! This layer stands between hooks and interface: what a program writes passes the services before it goes down, and what comes
//! up passes them before the program reads it. Below may be the kernel's socket or the framework's.
//!
//! - [`plan`]: which flows get which services, as `freena run` has resolved it; [`table`]: which descriptors have any;
//! - [`opened`]: where flows begin and end: connect, accept, duplicates, close, exit;
//! - [`calls`]: reading, writing and options; [`stream`]: one stream; `datagrams`: one socket for datagrams;
//! - `board`: where flows are shown to `freena status`;
//! - [`courier`]: the thread that goes on with what a program does not wait for; [`below`]: the socket underneath.
//!
//! # Rules
//! - Where nothing is configured a hook pays one load and a comparison ([`table::is_inserted`]).
//! - The cipher text of a stream stays in the kernel's queue until the program has all of its plain text, so that poll, select
//!   and epoll are the kernel's, wherever they are called. `SO_RCVLOWAT` keeps parts of frames from looking like data: it is set
//!   to what the frame still needs.
//! - No lock is held where a call may block, and no destructor is pending there: a cancelled thread is unwound by force.
//! - Unlike the layers below, this one uses the heap, for flows with services alone.

pub mod below;
mod board;
pub mod calls;
pub mod courier;
mod datagrams;
pub mod opened;
mod owner;
pub mod plan;
mod slot;
pub mod stream;
pub mod table;

pub use owner::around_fork;

use freena_preload_control::process;

/// Reads the plan and loads its services; nothing happens without one. Called once, by the constructor, behind the interface's.
///
/// # Safety
/// Only for the library's constructor: no other thread runs yet.
pub unsafe fn start() {
    // SAFETY: the caller's.
    if unsafe { plan::load() } {
        process::start();
        board::start();
        table::start();
        owner::start();
        opened::adopt_inherited();
    }
}

/// What this crate's calls fail with, as the interface's do.
fn errno(errno: i32) -> freena_preload_interface::outcome::Stop {
    freena_preload_control::sys::Errno(errno).into()
}
