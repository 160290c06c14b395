//! What a lab leaves in the system while it exists, and its removal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where iproute2 keeps named network namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "freena-";
/// What the name of a lab's directory ends with.
pub(super) const SUFFIX: &str = ".lab";

/// What must be removed. Emptied by the first [`Remains::clear`].
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) namespaces: Vec<String>,
    pub(super) directory: Option<PathBuf>,
}

impl Remains {
    /// Removes everything. Failures are passed over: there is nobody to tell who could do more, and the next lab
    /// sweeps again.
    pub(super) fn clear(&mut self) {
        for name in self.namespaces.drain(..) {
            remove_namespace(&name);
        }
        if let Some(directory) = self.directory.take() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// What the names of a lab's namespaces and directory begin with.
pub(super) fn prefix(pid: u32, serial: u32) -> String {
    if serial == 0 { format!("{PREFIX}{pid}") } else { format!("{PREFIX}{pid}.{serial}") }
}

/// Removes what labs of dead processes left behind.
pub(super) fn sweep() {
    let ours = |name: &String| is_stale(name) && ["-a", "-b", "-w"].iter().any(|end| name.ends_with(end));
    for name in names(Path::new(NAMESPACES)).filter(ours) {
        remove_namespace(&name);
    }
    let temporary = std::env::temp_dir();
    for name in names(&temporary).filter(|name| is_stale(name) && name.ends_with(SUFFIX)) {
        let path = temporary.join(name);
        // Not what another user chose to call so, and nothing that a link of that name points to.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == this_user()) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// The user that files made by this process belong to.
fn this_user() -> u32 {
    fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid())
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Whether this is the name of something that a lab made whose process is no more.
fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process that made what has this name: `freena-<pid>[.<serial>]-<rest>`.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.split('.').next()?.parse().ok()
}

fn remove_namespace(name: &str) {
    // Not by `ip netns delete`: on the way out of a signal no child should be needed. This is what it does.
    let path = Path::new(NAMESPACES).join(name);
    super::host::detach(&path);
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner("freena-12-a"), Some(12));
        assert_eq!(owner("freena-12.3-b"), Some(12));
        assert_eq!(owner(&format!("{}-x1Y2z3", prefix(7, 1))), Some(7));
        for other in ["freena-12", "freena-x-a", "freena--a", "firewall-12-a", "freena-control-1"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_dead_are_stale() {
        assert!(!is_stale(&format!("freena-{}-a", std::process::id())));
        // Above the kernel's PID_MAX_LIMIT (2^22), so never a process.
        assert!(is_stale("freena-4194305-a"));
    }
}
