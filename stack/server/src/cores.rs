//! Which core a polling thread runs on when the user does not say.

use std::fs::{self, File};

/// Prefix of the names of polling threads, by which servers recognise each other's.
pub const THREAD_PREFIX: &str = "freena-poll-";

/// Held while a server chooses its cores and pins its threads, so that two that start at once do not choose the same.
///
/// It is a lock on the program file, the one thing that servers in different namespaces share. Where it cannot be had,
/// two servers may share a core: slower, not wrong.
pub struct Choice(
    #[allow(dead_code, reason = "kept for its lock, which goes with the descriptor")] Option<File>,
);

impl Choice {
    /// Waits for the other servers that are choosing.
    pub fn begin() -> Self {
        let own = File::open("/proc/self/exe").ok().filter(|file| file.lock().is_ok());
        Choice(own)
    }
}

/// The cores this process may run on, those first on which the fewest polling threads of other servers are pinned.
///
/// Two servers on one machine (in two network namespaces, say) must not share a core while another is free.
pub fn least_used() -> Vec<usize> {
    let mut cores: Vec<(usize, usize)> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| (0, core.id)).collect();
    for pinned in pinned_elsewhere() {
        if let Some(entry) = cores.iter_mut().find(|(_, id)| *id == pinned) {
            entry.0 += 1;
        }
    }
    cores.sort();
    cores.into_iter().map(|(_, id)| id).collect()
}

/// Cores of all polling threads on this machine that are pinned to exactly one.
fn pinned_elsewhere() -> Vec<usize> {
    let own = std::process::id().to_string();
    let mut cores = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let is_server =
            fs::read_to_string(process.path().join("comm")).is_ok_and(|c| c.trim() == "freena-stack");
        if pid == own || !is_server {
            continue;
        }
        for thread in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            if status.lines().next().is_some_and(|line| line.contains(THREAD_PREFIX)) {
                let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                cores.extend(list.and_then(|list| list.trim().parse::<usize>().ok()));
            }
        }
    }
    cores
}
