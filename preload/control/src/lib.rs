//! What the preload library knows about its process and about the server.
//!
//! - [`sys`]: system calls made directly, past the hooks and without touching `errno`;
//! - [`next`]: the libc's own functions behind the hooks;
//! - [`settings`]: what `freena run` resolved for this program;
//! - [`process`]: which process and thread this is, across fork and vfork;
//! - [`exclusive`]: the process's one lock, under which everything slow happens;
//! - [`own`]: descriptors of the library itself, kept out of the program's way;
//! - [`client`]: requests to the server;
//! - [`route`]: which way datagrams to an address go;
//! - [`confined`]: after a program has locked itself up;
//! - [`log`]: reasons in words, on stderr.
//!
//! Nothing here allocates from the heap: the program's allocator may be what called the hook.

pub mod client;
pub mod confined;
pub mod exclusive;
pub mod log;
pub mod next;
pub mod own;
pub mod process;
pub mod route;
pub mod settings;
pub mod sys;
