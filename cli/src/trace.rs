//! `freena trace`.

mod capture;
mod frames;
mod line;
mod reader;

use crate::{ControlArgs, control};
use capture::Capture;
use freena_link_middleware::filter::Filter;
use freena_shm_abi::control::{Request, op};
use freena_shm_ring::mapping::memfd;
use reader::{Link, Packet, Reader};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    control: ControlArgs,

    /// Write a pcapng file, `-` for the standard output, in place of a line for each packet
    #[arg(long, short = 'w', value_name = "FILE.pcapng")]
    write: Option<PathBuf>,

    /// Only this interface
    #[arg(long, short = 'i', value_name = "IF")]
    interface: Option<String>,

    /// End after so many packets
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,

    /// Keep at most so many bytes of each packet
    #[arg(long, short = 's', value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=65_600))]
    snap: Option<u32>,

    /// Show super-packets as the frames that a wire would carry, their checksums complete
    #[arg(long)]
    frames: bool,

    /// MiB that each polling thread of the server may be ahead of this program
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    buffer: u32,

    /// Which packets, such as `udp port 53 and not host 10.0.0.1`
    #[arg(trailing_var_arg = true, value_name = "FILTER")]
    filter: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("found `{text}`, expected a number of seconds such as 10 or 0.5");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Traces until something ends it: `--count`, `--seconds`, a signal, the reader of its output, or the server.
///
/// # Errors
/// The filter cannot be read, the server cannot be reached or refuses, or the output cannot be written.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let words = args.filter.join(" ");
    Filter::parse(&words).map_err(|error| miette::miette!("{error}\n{}", pointed(&words, error.column)))?;
    let links = links(&args.control.control)?;
    let ended = signals().map_err(|error| miette::miette!("signals: {error}"))?;
    let mut reader = begin(args, &words, links)?;
    let mut output = match &args.write {
        Some(path) => Output::File(Box::new(Capture::create(path, &reader.links)?)),
        None => Output::Lines,
    };
    announce(args, &reader.links);
    let mut shown = 0;
    let end = show(args, &mut reader, &mut output, &ended, &mut shown);
    let seen = reader.finish();
    // What had been published when the end was asked for.
    let rest = match &end {
        Ok(End::Signal | End::Time) => {
            reader.read().map_or(Ok(()), |packets| output.put_all(args, packets, &mut shown))
        }
        _ => Ok(()),
    };
    let links = &reader.links;
    let closed = match output {
        Output::File(capture) => capture.finish(&seen),
        Output::Lines => Ok(()),
    };
    summarise(links, &seen, shown);
    match end.map(drop).and(rest).and(closed) {
        // Whoever read the lines has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(miette::miette!("{error}")),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Why a trace ended well.
enum End {
    Signal,
    Time,
    Count,
}

enum Output {
    File(Box<Capture>),
    Lines,
}

impl Output {
    /// Puts out packets until there are as many as were asked for; then the answer is true.
    fn put(&mut self, args: &Args, packets: Vec<Packet>, shown: &mut u64) -> io::Result<bool> {
        let mut lines = String::new();
        let mut put = |packet: &Packet| -> io::Result<()> {
            match self {
                Output::File(capture) => capture.write(packet),
                Output::Lines => {
                    line::describe(packet, &mut lines);
                    Ok(())
                }
            }
        };
        let mut enough = false;
        for packet in &packets {
            let frames = args.frames.then(|| frames::cut(packet)).flatten();
            for packet in frames.as_deref().unwrap_or(std::slice::from_ref(packet)) {
                put(packet)?;
                *shown += 1;
                enough = args.count.is_some_and(|count| *shown >= count);
                if enough {
                    break;
                }
            }
            if enough {
                break;
            }
        }
        match self {
            Output::File(capture) => capture.flush()?,
            Output::Lines => {
                let mut output = io::stdout().lock();
                output.write_all(lines.as_bytes())?;
                output.flush()?;
            }
        }
        Ok(enough)
    }

    fn put_all(&mut self, args: &Args, packets: Vec<Packet>, shown: &mut u64) -> io::Result<()> {
        self.put(args, packets, shown).map(drop)
    }
}

fn show(
    args: &Args,
    reader: &mut Reader,
    output: &mut Output,
    ended: &AtomicBool,
    shown: &mut u64,
) -> io::Result<End> {
    let deadline = args.seconds.map(|seconds| Instant::now() + seconds);
    loop {
        if ended.load(Ordering::Relaxed) {
            return Ok(End::Signal);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(End::Time);
        }
        let packets = reader.wait(left)?;
        if output.put(args, packets, shown)? {
            return Ok(End::Count);
        }
    }
}

/// A flag that a signal sets.
fn signals() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second one ends the process whatever it waits for.
        signal_hook::flag::register_conditional_shutdown(signal, 1, ended.clone())?;
        signal_hook::flag::register(signal, ended.clone())?;
    }
    Ok(ended)
}

fn begin(args: &Args, words: &str, links: Vec<Link>) -> miette::Result<Reader> {
    let mut request = Request::new(op::TRACE);
    request.snap_len = if args.frames { 0 } else { args.snap.unwrap_or(0) };
    request.rx_size = args.buffer << 20;
    if let Some(name) = &args.interface {
        let served = links.iter().find(|link| link.interface == *name);
        request.ifindex = served.map(|link| link.ifindex).ok_or_else(|| {
            let served: Vec<&str> = links.iter().map(|link| link.interface.as_str()).collect();
            miette::miette!("found interface `{name}`, expected one that is served: {}", served.join(", "))
        })?;
    }
    let filter = written(words).map_err(|error| miette::miette!("a file in memory: {error}"))?;
    let fds = control::request(&args.control.control, &request, Some(filter.as_fd()))?;
    Reader::new(fds, links, if args.frames { args.snap.unwrap_or(0) as usize } else { 0 })
        .map_err(|error| miette::miette!("the memory of the trace: {error}"))
}

fn written(words: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd(c"freena-filter", 0)?);
    file.write_all(words.as_bytes())?;
    Ok(file.into())
}

/// The links of the server, as its status tells them.
fn links(path: &Path) -> miette::Result<Vec<Link>> {
    let status: Value = serde_json::from_str(&control::status(path)?)
        .map_err(|error| miette::miette!("the status document is no JSON: {error}"))?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let interfaces = list(&status["interfaces"]);
    let index = |name: &str| {
        let interface = interfaces.iter().find(|interface| interface["name"] == name)?;
        u32::try_from(interface["index"].as_u64()?).ok()
    };
    let links = list(&status["workers"]).into_iter().flat_map(|worker| list(&worker["links"]));
    Ok(links
        .filter_map(|link| {
            let interface = word(&link["interface"]);
            Some(Link {
                ifindex: index(&interface)?,
                queue: u32::try_from(link["queue"].as_u64()?).ok()?,
                description: format!(
                    "queue {}, receive: {}, send: {}",
                    link["queue"],
                    word(&link["receive"]),
                    word(&link["send"])
                ),
                interface,
            })
        })
        .collect())
}

/// The filter with a mark under a column of it.
fn pointed(words: &str, column: usize) -> String {
    format!("  {words}\n  {:>column$}", "^")
}

/// Says, on the standard error, that packets are seen from now on.
fn announce(args: &Args, links: &[Link]) {
    let wanted = |link: &&Link| args.interface.as_ref().is_none_or(|name| *name == link.interface);
    let links = links.iter().filter(wanted).map(|link| format!("{} ({})", link.interface, link.description));
    eprintln!("tracing {}", links.collect::<Vec<_>>().join("; "));
}

fn summarise(links: &[Link], seen: &[freena_shm_abi::trace::Seen], shown: u64) {
    let matched: u64 = seen.iter().map(|seen| seen.matched).sum();
    let lost: u64 = seen.iter().map(|seen| seen.lost).sum();
    let many = if shown == 1 { "packet" } else { "packets" };
    eprintln!(
        "{shown} {many} shown, {matched} matched the filter, {lost} lost because this program was too slow"
    );
    for seen in seen.iter().filter(|seen| seen.lost > 0) {
        let name = links.iter().find(|link| (link.ifindex, link.queue) == (seen.ifindex, seen.queue));
        let name = name.map_or("-", |link| &link.interface);
        eprintln!("  {name} queue {}: {} of {} lost", seen.queue, seen.lost, seen.matched);
    }
}
