//! A file of flows, read while programs write to it.

use super::{Flow, Programs};
use freena_shm_abi::MAGIC;
use freena_shm_abi::flows::{FLOWS_VERSION, Head, MAX_SOURCE, PROCESSES, RECORDS, Record, SIZE, Told, state};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use zerocopy::FromBytes;

/// How often a record is read that somebody writes.
const TRIES: usize = 100;

/// What the file says.
///
/// # Errors
/// It cannot be read, or is none of this version's.
pub(super) fn file(path: &Path) -> io::Result<Programs> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut bytes = vec![0; size_of::<Head>()];
    file.read_exact_at(&mut bytes, 0)?;
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let magic = bytes[..8] == MAGIC.to_ne_bytes();
    if !magic || word(offset_of!(Head, version)) != FLOWS_VERSION || file.metadata()?.len() != SIZE as u64 {
        return Err(io::Error::other("no file of flows, or another version's"));
    }
    let source = offset_of!(Head, source);
    let source_len = (word(offset_of!(Head, source_len)) as usize).min(MAX_SOURCE);
    let places = offset_of!(Head, processes);
    let pids = (0..PROCESSES).map(|index| word(places + 4 * index));
    let mut processes: Vec<u32> = pids.filter(|pid| lives(*pid, u64::MAX)).collect();
    processes.sort_unstable();
    processes.dedup();
    Ok(Programs {
        source: super::text(&bytes[source..], source_len),
        processes,
        lost: word(offset_of!(Head, lost)),
        flows: (0..RECORDS).filter_map(|index| flow(&file, index)).collect(),
    })
}

/// The flow of a record. Those of processes that are gone are told if they have failed.
fn flow(file: &File, index: usize) -> Option<Flow> {
    let at = (size_of::<Head>() + index * size_of::<Record>()) as u64;
    let word = |offset: usize| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at + offset as u64).ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    if word(offset_of!(Record, pid))? == 0 {
        return None;
    }
    (0..TRIES)
        .find_map(|_| {
            let before = word(offset_of!(Record, sequence))?;
            let mut bytes = [0; size_of::<Told>()];
            file.read_exact_at(&mut bytes, at + offset_of!(Record, told) as u64).ok()?;
            let pid = word(offset_of!(Record, pid))?;
            let same = before % 2 == 0 && word(offset_of!(Record, sequence))? == before;
            same.then(|| Flow { pid, lives: false, told: Told::read_from_bytes(&bytes).expect("its bytes") })
        })
        .map(|flow| Flow { lives: lives(flow.pid, flow.told.begun), ..flow })
        .filter(|flow| flow.pid != 0 && flow.told.begun != 0)
        .filter(|flow| flow.lives || flow.told.state == state::FAILED)
}

/// Whether the process lives that had this number at a time of CLOCK_MONOTONIC: not another that has it now.
fn lives(pid: u32, at: u64) -> bool {
    if pid == 0 {
        return false;
    }
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // proc_pid_stat(5): behind the name, which may have blanks, the state is field 3, the time it began field 22.
    let fields: Vec<&str> =
        text.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    // SAFETY: it has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    let began = fields.get(19).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    let zombie = fields.first().is_some_and(|it| matches!(*it, "Z" | "X"));
    // The two clocks differ by the time that the host was suspended: what began long before is not told apart.
    let second = 1_000_000_000;
    !zombie && began.saturating_mul(second / ticks) <= at.saturating_add(suspended()).saturating_add(second)
}

/// Nanoseconds that the host was suspended for.
fn suspended() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    (now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64).saturating_sub(super::monotonic())
}
