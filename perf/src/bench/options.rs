//! What to measure.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::programs::payload;

/// One line of the plot: who carries the datagrams, and by which calls the programs hand them over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Series {
    /// Kernel UDP, one datagram a call: what an ordinary program does.
    KernelSendto,
    /// Kernel UDP, up to 64 datagrams a call.
    KernelSendmmsg,
    /// Kernel UDP, handed over in rows that the kernel segments (`UDP_SEGMENT`), received up to 64 datagrams a call.
    KernelSegment,
    /// As above, received in rows as well (`UDP_GRO`): the best that the kernel has for programs written for it. A veth
    /// pair passes a row on whole, so that between the two programs there are no datagrams to carry, as there would be on
    /// a wire.
    KernelSegmentGro,
    /// The programs of [`Series::KernelSendto`] under `freena run`.
    Framework,
    /// As above, with the servers told to receive through AF_XDP in native mode (`--link xdp-native`), which makes each
    /// datagram a frame of its own, as on a wire.
    FrameworkXdp,
    /// AF_XDP with no stack above it, frames sent through its ring: the limit of AF_XDP on both sides.
    RawAfXdp,
    /// AF_XDP with no stack above it, fed by rows that the kernel segments: the limit of how the framework sends
    /// where a driver has no zero-copy.
    RawGso,
    /// A connection over kernel TCP: a message is what one call sends, and the receiver takes what a call gives.
    KernelStream,
    /// The same programs under `freena run`.
    FrameworkStream,
}

impl Series {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::KernelSendto,
        Self::KernelSendmmsg,
        Self::KernelSegment,
        Self::KernelSegmentGro,
        Self::Framework,
        Self::FrameworkXdp,
        Self::RawAfXdp,
        Self::RawGso,
        Self::KernelStream,
        Self::FrameworkStream,
    ];
    /// Those that a comparison is made of where nothing else is asked for.
    pub const DEFAULT: [Self; 8] = [
        Self::KernelSendto,
        Self::KernelSendmmsg,
        Self::KernelSegment,
        Self::KernelSegmentGro,
        Self::Framework,
        Self::FrameworkXdp,
        Self::RawAfXdp,
        Self::RawGso,
    ];
    /// What `freena-stack` is told besides the options, `None` where it has no part in the series.
    pub(super) fn server_arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Framework | Self::FrameworkStream => Some(&[]),
            Self::FrameworkXdp => Some(&["--link", "xdp-native"]),
            _ => None,
        }
    }

    /// Whether it is a connection, not datagrams.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::KernelStream | Self::FrameworkStream)
    }

    /// What the kernel is compared by with this one.
    pub(super) fn kernel(self) -> Self {
        if self.is_stream() { Self::KernelStream } else { Self::KernelSendto }
    }

    /// Whether it can be measured without an interface between the programs.
    fn works_on_one_host(self) -> bool {
        !matches!(self, Self::FrameworkXdp | Self::RawAfXdp | Self::RawGso)
    }

    /// Those that the framework is compared with.
    pub(super) const KERNEL: [Self; 4] =
        [Self::KernelSendto, Self::KernelSendmmsg, Self::KernelSegment, Self::KernelSegmentGro];

    /// The calls, as short as a table's column wants it.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::KernelSendto => "sendto",
            Self::KernelSendmmsg => "sendmmsg",
            Self::KernelSegment => "UDP_SEGMENT",
            Self::KernelSegmentGro => "+UDP_GRO",
            Self::Framework => "framework",
            Self::FrameworkXdp => "fw AF_XDP",
            Self::RawAfXdp => "raw AF_XDP",
            Self::RawGso => "raw GSO",
            Self::KernelStream => "TCP",
            Self::FrameworkStream => "fw TCP",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelSendto => "UDP (kernel, sendto)",
            Self::KernelSendmmsg => "UDP (kernel, sendmmsg)",
            Self::KernelSegment => "UDP (kernel, UDP_SEGMENT)",
            Self::KernelSegmentGro => "UDP (kernel, UDP_SEGMENT and UDP_GRO)",
            Self::Framework => "UDP (framework)",
            Self::FrameworkXdp => "UDP (framework, AF_XDP)",
            Self::RawAfXdp => "raw AF_XDP",
            Self::RawGso => "raw AF_XDP, sent by UDP GSO",
            Self::KernelStream => "TCP (kernel)",
            Self::FrameworkStream => "TCP (framework)",
        })
    }
}

/// How datagrams are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// A number of datagrams back to back ([`Options::burst`]), then nothing: the paper's figure 5.
    Burst,
    /// Back to back for a time ([`Options::seconds`]).
    Steady,
}

/// Where the two programs of a run are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hosts {
    /// On one each, joined by a veth pair.
    #[default]
    Two,
    /// Both on one, at 127.0.0.1: kernel loopback against rings of one server. A run of the framework counts only if its
    /// server says that every datagram went from ring to ring.
    One,
}

/// How a ping-pong program waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// In the receiving call.
    Recv,
    /// In `poll`.
    Poll,
    /// In `epoll_wait`.
    Epoll,
}

impl Wait {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Recv, Self::Poll, Self::Epoll];
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recv => "recv",
            Self::Poll => "poll",
            Self::Epoll => "epoll",
        })
    }
}

/// What to measure, and how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where the programs are. Default: on two hosts.
    pub hosts: Hosts,
    /// Payloads, in bytes, 16 to 1472 (one Ethernet frame each). Default for throughput: 64, 128, 256, 512, 1024, 1280,
    /// 1472.
    pub sizes: Vec<usize>,
    /// Series, each at most once. Default: [`Series::DEFAULT`]. Latency takes [`Series::KernelSendto`] and [`Series::Framework`].
    pub series: Vec<Series>,
    /// Loads, for throughput. Default: both.
    pub loads: Vec<Load>,
    /// Ways of waiting, for latency. Default: all.
    pub waits: Vec<Wait>,
    /// Length of one steady stream or ping-pong, in seconds, above 0 and at most 600. Default 2. A benchmark takes about
    /// this times sizes, series and rounds.
    pub seconds: f64,
    /// Datagrams in one burst, 2 to 10,000,000. Default 10,000.
    pub burst: u64,
    /// Runs of each series at each size, 1 to 99; the median stands for them. Default 3.
    pub rounds: u32,
    /// Receive buffer that the receiving programs ask for, in bytes. Default: none asked for.
    pub receive_buffer: Option<usize>,
    /// Passed on to `freena-stack`, after `--iface` and `--control`. Default: nothing.
    pub server_arguments: Vec<String>,
    /// Where the programs are.
    pub binaries: Binaries,
    /// Show on standard error how far it is. Default: yes.
    pub progress: bool,
}

impl Options {
    /// The defaults, with the programs that stand beside this one.
    ///
    /// # Errors
    /// [`Error::CurrentExe`].
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            hosts: Hosts::Two,
            sizes: vec![64, 128, 256, 512, 1024, 1280, 1472],
            series: Series::DEFAULT.to_vec(),
            loads: vec![Load::Burst, Load::Steady],
            waits: Wait::ALL.to_vec(),
            seconds: 2.0,
            burst: 10_000,
            rounds: 3,
            receive_buffer: None,
            server_arguments: Vec::new(),
            binaries: Binaries::beside_this_program()?,
            progress: true,
        })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let in_bounds = |option, got: String, holds, expected| match holds {
            true => Ok(()),
            false => Err(Error::Option { option, got, expected }),
        };
        for &size in &self.sizes {
            let holds = (payload::MIN_SIZE..=1472).contains(&size);
            in_bounds("size", size.to_string(), holds, "16 to 1472 bytes")?;
        }
        in_bounds("sizes", "none".into(), !self.sizes.is_empty(), "at least one")?;
        in_bounds("series", "none".into(), !self.series.is_empty(), "at least one")?;
        if self.hosts == Hosts::One {
            let foreign = self.series.iter().find(|series| !series.works_on_one_host());
            let got = foreign.map_or_else(String::new, Series::to_string);
            in_bounds("series", got, foreign.is_none(), "one that needs no interface, on one host")?;
        }
        let seconds = self.seconds;
        in_bounds("seconds", seconds.to_string(), seconds > 0.0 && seconds <= 600.0, "above 0, at most 600")?;
        let burst = (2..=10_000_000).contains(&self.burst);
        in_bounds("burst", self.burst.to_string(), burst, "2 to 10000000 datagrams")?;
        in_bounds("rounds", self.rounds.to_string(), (1..=99).contains(&self.rounds), "1 to 99")
    }
}

/// Finds the programs that a benchmark starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Looked through in this order.
    folders: Vec<PathBuf>,
}

impl Binaries {
    /// Those in the folder of the running program; for a test, which cargo puts one deeper, in the folder above.
    ///
    /// # Errors
    /// [`Error::CurrentExe`].
    pub fn beside_this_program() -> Result<Self, Error> {
        let own = std::env::current_exe().map_err(Error::CurrentExe)?;
        let folders = own.ancestors().skip(1).take(1).chain(
            own.ancestors().skip(2).take(1).filter(|_| own.parent().is_some_and(|own| own.ends_with("deps"))),
        );
        Ok(Self { folders: folders.map(PathBuf::from).collect() })
    }

    /// Those in this folder.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folders: vec![folder.into()] }
    }

    /// The path of a program; or, in words, that it is not there.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf, String> {
        let mut candidates = self.folders.iter().map(|folder| folder.join(name));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            let beside = self.folders.first().map_or_else(String::new, |folder| folder.display().to_string());
            format!("{name} not found in {beside}, beside this program")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_bounds_are_named() {
        let good = Options::new().unwrap();
        good.check().unwrap();
        let said = |options: Options| options.check().unwrap_err().to_string();
        assert_eq!(
            said(Options { sizes: vec![64, 1473], ..good.clone() }),
            "size 1473: expected 16 to 1472 bytes"
        );
        assert_eq!(said(Options { sizes: vec![], ..good.clone() }), "sizes none: expected at least one");
        let endless = Options { seconds: f64::NAN, ..good.clone() };
        assert_eq!(said(endless), "seconds NaN: expected above 0, at most 600");
        assert_eq!(said(Options { rounds: 0, ..good.clone() }), "rounds 0: expected 1 to 99");
        let local = Options { hosts: Hosts::One, series: vec![Series::Framework, Series::RawGso], ..good };
        let expected =
            "series raw AF_XDP, sent by UDP GSO: expected one that needs no interface, on one host";
        assert_eq!(said(local), expected);
    }

    #[test]
    fn a_missing_program_is_named_with_its_folder() {
        let binaries = Binaries::in_folder("/nonexistent");
        let said = binaries.find("freena-stack").unwrap_err();
        assert_eq!(said, "freena-stack not found in /nonexistent, beside this program");
    }
}
