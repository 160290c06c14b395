//! What other processes, and the machine, have cost: read from /proc.

use std::fs;
use std::ops::{Add, Sub};
use std::path::Path;

use crate::programs::report::Usage;

/// Clock ticks each second in /proc (`USER_HZ`): 100 on every architecture that Linux exports it for today.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// CPU time and process switches, of some processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) cpu_ns: u64,
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
}

impl Taken {
    /// What all threads of this process, as far as they still run, have taken so far. Zero for a process that is gone.
    pub(super) fn by_process(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.map(|thread| Self::by_thread(&thread.path())).fold(Self::default(), Self::add)
    }

    fn by_thread(thread: &Path) -> Self {
        let read = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let (schedstat, status) = (read("schedstat"), read("status"));
        // sched-stats.rst: time spent on the CPU (in nanoseconds) comes first. Finer than the ticks in `stat`.
        let cpu_ns = schedstat.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0);
        let field = |name| field(&status, name);
        Self {
            cpu_ns,
            voluntary: field("voluntary_ctxt_switches:"),
            involuntary: field("nonvoluntary_ctxt_switches:"),
        }
    }
}

impl From<Usage> for Taken {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_ns: usage.user_ns + usage.system_ns,
            voluntary: usage.voluntary_switches,
            involuntary: usage.involuntary_switches,
        }
    }
}

impl Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
        }
    }
}

impl Sub for Taken {
    type Output = Self;

    /// Never below zero: a thread that ended takes what it had out of the sum.
    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }
}

/// Time that all CPUs together were busy since boot, interrupts included, in nanoseconds, to 10 ms.
pub(super) fn machine_busy_ns() -> u64 {
    busy(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq; steal is another machine's.
fn busy(stat: &str) -> u64 {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|&index| ticks.get(index)).sum::<u64>() * TICK_NS
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_told_apart() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 7);
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), 3);
        assert_eq!(field(status, "absent:"), 0);
    }

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        assert_eq!(busy("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 9 9 9\n"), 31 * TICK_NS);
        assert_eq!(busy(""), 0);
    }

    #[test]
    fn this_process_has_cost_something() {
        let spent = Taken::by_process(std::process::id());
        assert!(spent.cpu_ns > 0, "{spent:?}");
        assert_eq!(Taken::by_process(u32::MAX), Taken::default());
    }
}
