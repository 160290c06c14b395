//! Sockets of the framework inside a program.
//!
//! A hook calls one function here and gets an [`outcome::Outcome`]: a value, an error, or the word to leave the call to the kernel.
//!
//! - [`table`]: what each descriptor is; [`socket`]: what a framework socket has in this process; [`lock`]: who may
//!   touch its rings;
//! - [`takeover`]: how a kernel socket becomes one of the framework, and is found again after exec;
//! - [`send`], [`receive`], [`ancillary`]: datagrams; [`stream`]: connections and listeners; [`token`]: readiness that the kernel can see;
//! - [`poll`], [`select`], [`epoll`]: waiting; [`watch`]: looking instead of being woken;
//! - [`names`], [`options`], [`companion`]: what the kernel's own socket knows;
//! - [`descriptors`]: duplicates, flags, closing; [`exec`], [`spawn`], [`program`]: new programs.
//!
//! # Rules
//! - Nothing here allocates from the heap, panics on what a program passes, or changes `errno` of a call that succeeds.
//! - A call that may block goes through [`freena_preload_control::next`] and holds nothing while it does: no lock, no
//!   reference to a socket, no destructor. A thread cancelled there is unwound by force.

pub mod address;
pub mod ancillary;
pub mod companion;
pub mod descriptors;
pub mod epoll;
mod errors;
pub mod exec;
pub mod lock;
pub mod names;
pub mod options;
pub mod outcome;
pub mod poll;
pub mod program;
pub mod receive;
pub mod select;
pub mod send;
pub mod socket;
pub mod spawn;
pub mod stream;
pub mod table;
pub mod takeover;
pub mod token;
pub mod watch;

use freena_preload_control::{next, process, settings};

/// Sets everything up. Called once, before the program's own code.
///
/// # Safety
/// Only for the library's constructor: no other thread runs yet.
pub unsafe fn start() {
    next::resolve();
    // SAFETY: the constructor is the only one to run (contract).
    unsafe { settings::load() };
    if !settings::get().is_active() {
        return;
    }
    watch::start();
    process::start();
    if table::start() {
        takeover::adopt_inherited();
    }
}
