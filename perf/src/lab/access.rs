//! The privileges that a lab needs: those of root, or those that anybody has inside a user namespace of their own.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use super::LabError;

/// Set for the program that [`enter`] executes inside the user namespace.
const MARK: &str = "FREENA_LAB_USER_NAMESPACE";
/// Bits of a capability set, from capability.h.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Where the privileges come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// This process has them on the machine itself.
    Root,
    /// Only inside a user namespace: no BPF, so no AF_XDP.
    UserNamespace,
}

/// Sees to it that this process can make a lab. Without the capabilities for it, the program is executed again, with the
/// same arguments, as root of new user, network and mount namespaces, where `/run` is its own; then this does not return.
///
/// Call it first in `main`: a process with several threads cannot enter a user namespace.
///
/// # Errors
/// [`LabError::Access`] where the system lets nobody make user namespaces (`user.max_user_namespaces`, AppArmor's
/// `kernel.apparmor_restrict_unprivileged_userns`), or where the process has several threads (`EINVAL`).
pub fn enter() -> Result<Access, LabError> {
    let inside = env::var_os(MARK).is_some();
    if has_capabilities() {
        return Ok(if inside { Access::UserNamespace } else { Access::Root });
    }
    if inside {
        let source = io::ErrorKind::PermissionDenied.into();
        return Err(LabError::Access { step: "checking its capabilities", source });
    }
    match reenter()? {}
}

/// Whether the capabilities are in the effective set, which /proc tells without a system call of its own.
fn has_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    effective(&status).is_some_and(|set| set & needed == needed)
}

fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// Enters the namespaces and executes this program again.
fn reenter() -> Result<Infallible, LabError> {
    let failed = |step| move |source| LabError::Access { step, source };
    // SAFETY: these take and return integers only.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    // SAFETY: takes integers only; fails with EINVAL where other threads exist.
    check(unsafe { libc::unshare(flags) }).map_err(failed("making namespaces"))?;
    // user_namespaces(7): who has no CAP_SETGID outside must give up setgroups before mapping a group.
    fs::write("/proc/self/setgroups", "deny").map_err(failed("giving up setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("mapping the user to root"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("mapping the group to root"))?;
    let none = ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: a constant C string; null is allowed for what a change of propagation does not use.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, ptr::null()) })
        .map_err(failed("making its mounts private"))?;
    // SAFETY: constant C strings; no data.
    check(unsafe { libc::mount(c"tmpfs".as_ptr(), c"/run".as_ptr(), c"tmpfs".as_ptr(), 0, ptr::null()) })
        .map_err(failed("mounting a /run of its own"))?;
    let mut arguments = env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    Err(failed("executing itself again")(again.args(arguments).env(MARK, "1").exec()))
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(effective("CapPrm:\t0\nCapEff:\t0000000000201000\n"), Some(CAP_NET_ADMIN | CAP_SYS_ADMIN));
        assert_eq!(effective("CapEff:\tnone\n"), None);
        assert_eq!(effective(""), None);
    }
}
