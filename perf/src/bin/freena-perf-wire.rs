//! Stands between two hosts and passes frames on, from the first to the second as over a path with a delay, a rate and
//! losses, and back as they come. What tc-netem(8) does where the kernel has it, for whoever sends.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use freena_perf::programs;
use freena_perf::programs::packet::{self, HEADER, Packets};
use freena_perf::programs::path::{Path, Quality};
use freena_perf::programs::report::Line;

/// Passes frames on between two interfaces, badly.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Interface of the first host.
    from: String,
    /// Interface of the second host.
    to: String,
    /// Delay from the first to the second host, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Part of the frames from the first to the second host that is lost, in percent.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Rate from the first to the second host, in Mb/s [default: no limit].
    #[arg(long)]
    rate_mbit: Option<u64>,
    /// Bytes that may wait where there is a rate.
    #[arg(long, default_value_t = 500_000)]
    queue: u64,
}

/// The longest frame: larger ones are super-packets, whose segments would share one fate.
const LONGEST: usize = 1514;
/// Frames that are passed on before the other direction is looked at.
const BATCH: usize = 64;

fn main() -> ExitCode {
    programs::finish("freena-perf-wire", run(&Options::parse()))
}

fn run(options: &Options) -> io::Result<()> {
    let (a, b) = (Packets::open(&options.from)?, Packets::open(&options.to)?);
    let there = Quality {
        delay: Duration::from_millis(options.delay_ms),
        loss: options.loss / 100.0,
        rate: options.rate_mbit.map(|rate| rate * 1_000_000),
        queue: options.queue,
    };
    let mut path = Path::new(there, 1);
    programs::print_line(&Line::Ready { port: 0 })?;
    let mut buffer = vec![0; 70_000];
    loop {
        let longest = path.next().map(|due| due.saturating_duration_since(Instant::now()));
        packet::wait([&a, &b], longest)?;
        for _ in 0..BATCH {
            let Some(len) = a.receive(&mut buffer)? else { break };
            if len > LONGEST + HEADER {
                let said = format!("a frame of {len} bytes: the first host's interface does not segment");
                return Err(io::Error::new(io::ErrorKind::InvalidData, said));
            }
            path.enter(Instant::now(), &buffer[..len], HEADER);
        }
        for _ in 0..BATCH {
            let Some(len) = b.receive(&mut buffer)? else { break };
            a.send(&buffer[..len]);
        }
        let now = Instant::now();
        while let Some(frame) = path.leave(now) {
            b.send(&frame);
        }
    }
}
