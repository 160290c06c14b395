//! Where a benchmark ran: figures mean little without it.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine and the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, as the kernel tells it.
    pub processor: String,
    /// Processors that a program may use.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The architecture.
    pub architecture: String,
    /// When, in seconds since 1970-01-01 00:00 UTC.
    pub unix_time: u64,
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let name = processor(&read("/proc/cpuinfo")).unwrap_or("unknown processor").to_owned();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            processor: name,
            processors: thread::available_parallelism().map_or(1, usize::from),
            kernel,
            architecture: std::env::consts::ARCH.to_owned(),
            unix_time,
        }
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            processor: "Example <4000>".to_owned(),
            processors: 2,
            kernel: "6.18.0".to_owned(),
            architecture: "x86_64".to_owned(),
            unix_time: 1_700_000_000,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, kernel, architecture, .. } = self;
        write!(f, "{processors} x {processor}, Linux {kernel} {architecture}")
    }
}

/// x86 calls it "model name"; others differ, or tell only numbers.
fn processor(cpuinfo: &str) -> Option<&str> {
    let field = |line: &'static str| {
        let (_, value) = cpuinfo.lines().find(|found| found.starts_with(line))?.split_once(':')?;
        Some(value.trim()).filter(|value| !value.is_empty())
    };
    field("model name").or_else(|| field("cpu model")).or_else(|| field("uarch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_where_it_is_told() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: Some CPU \nflags\t: x\n"), Some("Some CPU"));
        assert_eq!(processor("processor\t: 0\nBogoMIPS\t: 1\n"), None);
    }
}
