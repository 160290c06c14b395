//! Commands that run in a namespace.

use crate::netns::Namespace;
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{io, ptr};

/// A command that will run in `namespace`, with a `/sys` that shows that namespace's devices, as ip-netns(8) arranges it.
///
/// What is spawned from it is killed when the thread that spawned it ends (`PR_SET_PDEATHSIG`): nothing outlives a test,
/// however it ends.
pub fn command(namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let (descriptor, parent) = (namespace.descriptor(), std::process::id().cast_signed());
    let enter = move || enter(descriptor, parent);
    // SAFETY: between fork and exec only async-signal-safe things are allowed: `enter` makes bare system calls with
    // constants and integers. The namespace's descriptor is open in the child if it was in the parent; were it closed,
    // setns would fail and spawn would say so.
    unsafe { command.pre_exec(enter) };
    command
}

fn enter(namespace: RawFd, parent: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: takes nothing. The parent may have died before the call above, when nobody would be told.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: takes integers only.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })?;
    // SAFETY: takes integers only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (none, slave) = (ptr::null(), libc::MS_REC | libc::MS_SLAVE);
    // SAFETY: constant C strings; null is allowed for what a change of propagation does not use.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, slave, ptr::null()) })?;
    // Refused where the system's own /sys is locked, as in some containers; most programs never look.
    // SAFETY: constant C strings; no data.
    unsafe { libc::mount(c"freena".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, ptr::null()) };
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
