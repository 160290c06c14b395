//! The preload library: the C functions that it puts in the libc's place, and nothing else.
//!
//! A hook calls one function of the interface layer, and turns what that says into a return value and `errno`, or goes
//! on to the next library. Those that may block are `extern "C-unwind"` and have no destructor pending when they do:
//! pthread_cancel(3) unwinds through them by force.

mod data;
mod descriptors;
mod exec;
#[cfg(target_arch = "x86_64")]
mod print;
mod result;
mod stdio;
mod system_call;
mod wait;

use freena_preload_interface as interface;
use freena_preload_services as services;

/// Whether the library has anything to do with a descriptor.
#[inline]
fn is_ours(fd: core::ffi::c_int) -> bool {
    interface::table::is_tracked(fd) || services::table::is_inserted(fd)
}

/// Called by the dynamic linker before the program's own code.
extern "C" fn construct() {
    // SAFETY: constructors run one after the other, before any thread of the program.
    unsafe {
        interface::start();
        services::start();
    }
    (0..=2).for_each(stdio::standard);
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCT: extern "C" fn() = construct;

/// Called at the end of the program.
extern "C" fn destruct() {
    services::opened::exit();
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCT: extern "C" fn() = destruct;
