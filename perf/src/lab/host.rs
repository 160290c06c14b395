//! One host of the lab: commands that run in its network namespace.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

/// A network namespace with the addresses it has.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: File,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    mac: [u8; 6],
}

impl Host {
    pub(super) fn open(name: &str, v4: Ipv4Addr, v6: Ipv6Addr, mac: [u8; 6]) -> io::Result<Self> {
        let namespace = File::open(Path::new("/run/netns").join(name))?;
        Ok(Self { name: name.into(), namespace, v4, v6, mac })
    }

    /// The namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// The Ethernet address of its interface.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// A command that will run in this host: in its network namespace, with a `/sys` that shows that namespace's
    /// devices, as ip-netns(8) arranges it.
    ///
    /// What is spawned from it is killed when the *thread* that spawned it ends (`PR_SET_PDEATHSIG`): spawn from one
    /// that lives as long as the child should.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.namespace.as_raw_fd();
        let parent = std::process::id().cast_signed();
        let enter = move || enter(namespace, parent);
        // SAFETY: `enter` runs between fork and exec, where only async-signal-safe things are allowed: it makes bare
        // system calls, with constants and integers captured by value, and neither allocates nor locks. The descriptor
        // it uses is open in the child if it was in the parent; were the Host gone by then, setns would fail with
        // EBADF or EINVAL and spawn would say so.
        unsafe { command.pre_exec(enter) };
        command
    }
}

fn enter(namespace: i32, parent: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: takes nothing. The parent may have died before the call above, when nobody would be told.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: takes integers only.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })?;
    // SAFETY: takes integers only. Parent and child share no memory that this would pull from under anybody.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (none, private) = (ptr::null(), libc::MS_REC | libc::MS_SLAVE);
    // SAFETY: a constant C string; null is allowed for what a change of propagation does not use.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, ptr::null()) })?;
    // Refused where the system's own /sys is locked, as in some containers; a program then sees the outer devices
    // there, and most never look.
    // SAFETY: constant C strings; no data.
    unsafe { libc::mount(c"freena".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, ptr::null()) };
    Ok(())
}

/// Unmounts what is mounted at `path`, a namespace's name; nothing when there is none.
pub(super) fn detach(path: &Path) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    // SAFETY: a valid C string for the length of the call.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
