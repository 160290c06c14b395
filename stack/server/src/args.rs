//! The command line.

use crate::metrics::Address;
use crate::worker::PollMode;
use clap::{Parser, ValueEnum};
use freena_link_middleware::Impairments;
use freena_shm_abi::control::{DEFAULT_PATH, ENV_CONTROL};
use std::path::PathBuf;
use std::time::Duration;

/// The protocol server: carries the sockets of programs started by `freena run` over the named interfaces.
#[derive(Debug, Parser)]
#[command(name = "freena-stack", version, about)]
pub struct Args {
    /// Interface to serve; may be given several times
    #[arg(long = "iface", value_name = "IF", required = true)]
    pub interfaces: Vec<String>,

    /// Control socket to listen on
    #[arg(long, value_name = "PATH", env = ENV_CONTROL, default_value = DEFAULT_PATH)]
    pub control: PathBuf,

    /// How to reach the interfaces
    #[arg(long, value_enum, default_value_t = LinkChoice::Auto, overrides_with = "link")]
    pub link: LinkChoice,

    /// How to send: by GSO through a packet socket, or through the AF_XDP ring
    #[arg(long, value_enum, default_value_t = TransmitChoice::Auto)]
    pub transmit: TransmitChoice,

    /// When a polling thread sleeps
    #[arg(long, value_enum, default_value_t = PollMode::Adaptive)]
    pub poll: PollMode,

    /// Microseconds that the adaptive mode spins after the last work before it sleeps
    #[arg(long, value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub spin_us: u32,

    /// Cores for the polling threads, such as 0,2-3 [default: the cores that the fewest other servers use]
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    pub cores: Option<Cores>,

    /// Users besides root and the server's own who may use it: `all`, or user ids separated by commas
    #[arg(long, value_name = "UIDS", default_value = "all", value_parser = parse_users)]
    pub allow: Users,

    /// The most sockets in all
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_sockets: u32,

    /// Folder with protocol libraries; may be given several times [default: /usr/lib/freena/protocols, and the folder
    /// protocols beside this program]
    #[arg(long, value_name = "DIR")]
    pub plugins: Vec<PathBuf>,

    /// Carry streams by QUIC too, with the keys in this folder, which are made where there are none
    #[arg(long, value_name = "DIR")]
    pub quic: Option<PathBuf>,

    /// For tests: make the network a bad one in both directions, by loss=1%,duplicate=1%,reorder=1%,corrupt=1%,
    /// delay=20ms,jitter=5ms, or some of these
    #[arg(long, value_name = "LIST", value_parser = parse_impairments)]
    pub impair: Option<Impairments>,

    /// Write what the links carry to a pcapng file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Serve metrics for Prometheus by HTTP: a port of the loopback, an address and port, or a Unix socket
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH")]
    pub metrics: Option<Address>,

    /// Form of the log, which FREENA_STACK_LOG selects, on the standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Args {
    /// Where protocol libraries are looked for.
    pub fn plugin_folders(&self) -> Vec<PathBuf> {
        if !self.plugins.is_empty() {
            return self.plugins.clone();
        }
        let own = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("protocols")));
        std::iter::once(freena_plugin::DEFAULT_FOLDER.into()).chain(own).collect()
    }
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object in each line
    Json,
}

/// `--link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkChoice {
    /// AF_XDP, native before SKB, on devices with a wire; a packet socket on those without (veth, bridges, tun), and
    /// where AF_XDP cannot be had
    Auto,
    /// AF_XDP with the program in the driver
    XdpNative,
    /// AF_XDP with the program in the generic hook
    XdpSkb,
    /// A packet socket, steered at tc ingress where the kernel and the privileges allow it
    Raw,
}

/// `--transmit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransmitChoice {
    /// Through the AF_XDP ring with zero-copy, else by GSO
    Auto,
    /// By GSO through a packet socket
    Gso,
    /// Through the AF_XDP ring
    AfXdp,
}

/// A list of cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// Everybody who can reach the socket in the file system.
    All,
    /// These, root, and the server's own user.
    Only(Vec<u32>),
}

fn parse_cores(text: &str) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |word: &str| {
            word.trim().parse::<usize>().map_err(|_| {
                format!("found `{word}`, expected a core number, a range such as 0-3, or several separated by commas")
            })
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 4095 {
            return Err(format!("`{part}` is no range of cores"));
        }
        cores.extend(first..=last);
    }
    Ok(Cores(cores))
}

fn parse_users(text: &str) -> Result<Users, String> {
    if text == "all" {
        return Ok(Users::All);
    }
    let ids = text.split(',').map(|word| {
        word.trim()
            .parse()
            .map_err(|_| format!("found `{word}`, expected `all` or user ids separated by commas"))
    });
    Ok(Users::Only(ids.collect::<Result<_, _>>()?))
}

fn parse_impairments(text: &str) -> Result<Impairments, String> {
    let mut impairments = Impairments::default();
    for part in text.split(',') {
        let (name, value) =
            part.split_once('=').ok_or_else(|| format!("found `{part}`, expected NAME=VALUE"))?;
        let share = || {
            let number = value.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
            number
                .map(|percent| percent / 100.0)
                .ok_or_else(|| format!("found `{value}`, expected a percentage"))
        };
        let time = || {
            let number = value.strip_suffix("ms").and_then(|number| number.parse().ok());
            number.map(Duration::from_millis).ok_or_else(|| format!("found `{value}`, expected milliseconds"))
        };
        match name {
            "loss" => impairments.loss = share()?,
            "duplicate" => impairments.duplicate = share()?,
            "reorder" => impairments.reorder = share()?,
            "corrupt" => impairments.corrupt = share()?,
            "delay" => impairments.delay = time()?,
            "jitter" => impairments.jitter = time()?,
            _ => {
                return Err(format!(
                    "found `{name}`, expected loss, duplicate, reorder, corrupt, delay or jitter"
                ));
            }
        }
    }
    Ok(impairments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_numbers_and_ranges() {
        assert_eq!(parse_cores("0,2-4"), Ok(Cores(vec![0, 2, 3, 4])));
        assert!(parse_cores("a").unwrap_err().contains("found `a`"));
        assert!(parse_cores("3-1").unwrap_err().contains("no range"));
        assert!(parse_cores("").is_err());
    }

    #[test]
    fn impairments_are_shares_and_times() {
        let parsed = parse_impairments("loss=1.5%,delay=20ms").expect("both are known");
        assert_eq!((parsed.loss, parsed.delay), (0.015, Duration::from_millis(20)));
        for wrong in ["loss=1", "delay=20", "heat=1%", "loss"] {
            assert!(parse_impairments(wrong).unwrap_err().contains("expected"), "{wrong}");
        }
    }

    #[test]
    fn users_are_all_or_ids() {
        assert_eq!(parse_users("all"), Ok(Users::All));
        assert_eq!(parse_users("0,1000"), Ok(Users::Only(vec![0, 1000])));
        assert!(parse_users("root").is_err());
    }
}
