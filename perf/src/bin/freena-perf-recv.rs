//! Receives what `freena-perf-send` sends, checks it, and says how much came how fast at what cost.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use freena_perf::programs::payload::{self, Datagram};
use freena_perf::programs::report::{Line, Received, Stop, Usage, megabits, per_second};
use freena_perf::programs::tally::Tally;
use freena_perf::programs::{self, sys};

/// Receives numbered UDP datagrams.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Address to receive at.
    address: IpAddr,
    /// Port to receive at; 0 for any.
    port: u16,
    /// Payload that each datagram must have, in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// How to receive.
    #[arg(long, value_enum, default_value_t = Mode::Recvfrom)]
    mode: Mode,
    /// Stop after so many datagrams.
    #[arg(long, value_name = "DATAGRAMS")]
    count: Option<u64>,
    /// Stop after so long, whatever comes.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Stop when nothing came for so long after the first datagram, in milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    idle: u64,
    /// Print the rate so often, in milliseconds. Default: at the end only.
    #[arg(long, value_name = "MS")]
    interval: Option<u64>,
    /// Ask for a receive buffer (SO_RCVBUF) of so many bytes. Default: what the system gives.
    #[arg(long, value_name = "BYTES")]
    rcvbuf: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// One datagram a call.
    Recvfrom,
    /// Up to 64 datagrams a call.
    Recvmmsg,
    /// Rows of datagrams that the kernel joined (UDP_GRO), one row a call.
    Gro,
}

/// How long one call waits, so that the other conditions for stopping are looked at.
const WAIT: Duration = Duration::from_millis(50);
/// Calls between two readings of the clock where a call gives one datagram.
const CLOCK_EVERY: u64 = 16;

fn main() -> ExitCode {
    programs::finish("freena-perf-recv", run(&Options::parse()))
}

fn run(options: &Options) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(options.address, options.port))?;
    socket.set_read_timeout(Some(WAIT))?;
    if let Some(bytes) = options.rcvbuf {
        socket2::SockRef::from(&socket).set_recv_buffer_size(bytes)?;
    }
    if matches!(options.mode, Mode::Gro) {
        sys::set_joining(socket.as_fd())?;
    }
    programs::print_line(&Line::Ready { port: socket.local_addr()?.port() })?;
    let stream = Receiver::new(options).run(&socket)?;
    programs::print_line(&Line::Received(stream))
}

/// A reading of the clock, and how many datagrams had come by then.
#[derive(Debug, Clone, Copy, Default)]
struct Stamp {
    at_ns: u64,
    datagrams: u64,
}

struct Receiver<'a> {
    options: &'a Options,
    tally: Tally,
    corrupt: u64,
    sent: Option<u64>,
    first: Option<(Stamp, Usage)>,
    last: Stamp,
    /// Where the current interval began.
    interval: Stamp,
}

impl<'a> Receiver<'a> {
    fn new(options: &'a Options) -> Self {
        let (tally, last, interval) = <(Tally, Stamp, Stamp)>::default();
        Self { options, tally, corrupt: 0, sent: None, first: None, last, interval }
    }

    fn run(mut self, socket: &UdpSocket) -> io::Result<Received> {
        let (size, batched) = (self.options.size, !matches!(self.options.mode, Mode::Recvfrom));
        // One byte more than expected, so that a longer datagram shows.
        let stride = (size + 1).next_multiple_of(64);
        let mut buffer = match self.options.mode {
            Mode::Recvfrom => vec![0; stride],
            Mode::Recvmmsg => vec![0; stride * sys::BATCH],
            Mode::Gro => vec![0; 65_536],
        };
        let mut lengths = [0; sys::BATCH];
        let give_up_ns = sys::now_ns() + (self.options.seconds * 1e9) as u64;
        let mut calls = 0_u64;
        let stopped = loop {
            let outcome = match self.options.mode {
                Mode::Recvfrom => {
                    socket.recv_from(&mut buffer).map(|(length, _)| self.take(&buffer[..length]))
                }
                Mode::Recvmmsg => {
                    sys::receive_batch(socket.as_fd(), &mut buffer, stride, &mut lengths).map(|count| {
                        let parts = buffer.chunks_exact(stride).zip(&lengths[..count]);
                        parts.for_each(|(part, &length)| self.take(&part[..length]));
                    })
                }
                Mode::Gro => sys::receive_joined(socket.as_fd(), &mut buffer).map(|(length, segment)| {
                    buffer[..length].chunks(segment.max(1)).for_each(|datagram| self.take(datagram));
                }),
            };
            match outcome {
                Ok(()) => calls += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let now = sys::now_ns();
                    if now >= give_up_ns {
                        break Stop::Time;
                    }
                    let idle_ns = self.options.idle.saturating_mul(1_000_000);
                    if self.first.is_some() && now.saturating_sub(self.last.at_ns) >= idle_ns {
                        break Stop::Idle;
                    }
                    continue;
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("receiving: {error}"))),
            }
            // Not stamped: it may come long after the last datagram.
            if self.sent.is_some() {
                break Stop::EndMark;
            }
            let done = self.options.count.is_some_and(|count| self.tally.received() >= count);
            if batched || done || self.first.is_none() || calls.is_multiple_of(CLOCK_EVERY) {
                self.stamp()?;
                if self.last.at_ns >= give_up_ns {
                    break Stop::Time;
                }
            }
            if done {
                break Stop::Count;
            }
        };
        Ok(self.finish(stopped))
    }

    fn take(&mut self, datagram: &[u8]) {
        match payload::read(datagram, self.options.size) {
            Ok(Datagram::Data(number)) => self.tally.record(number),
            Ok(Datagram::End(total)) => self.sent = Some(total),
            Err(error) => {
                if self.corrupt == 0 {
                    eprintln!("freena-perf-recv: {error}");
                }
                self.corrupt += 1;
            }
        }
    }

    fn stamp(&mut self) -> io::Result<()> {
        self.last = Stamp { at_ns: sys::now_ns(), datagrams: self.tally.received() };
        if self.first.is_none() {
            self.first = Some((self.last, sys::usage()));
            self.interval = self.last;
        }
        let elapsed_ns = self.last.at_ns - self.interval.at_ns;
        if self.options.interval.is_some_and(|ms| elapsed_ns >= ms * 1_000_000) {
            let datagrams_per_second = per_second(self.last.datagrams - self.interval.datagrams, elapsed_ns);
            let megabits_per_second = megabits(datagrams_per_second, self.options.size);
            programs::print_line(&Line::Interval { datagrams_per_second, megabits_per_second })?;
            self.interval = self.last;
        }
        Ok(())
    }

    fn finish(self, stopped: Stop) -> Received {
        let (first, before) = self.first.unwrap_or_default();
        let usage = if self.first.is_some() { sys::usage() - before } else { Usage::default() };
        let (count, elapsed_ns) = (self.last.datagrams - first.datagrams, self.last.at_ns - first.at_ns);
        let datagrams_per_second = per_second(count, elapsed_ns);
        Received {
            datagrams: self.tally.received(),
            bytes: self.tally.received() * self.options.size as u64,
            sent: self.sent,
            lost: self.tally.lost(self.sent),
            duplicates: self.tally.duplicates(),
            reordered: self.tally.reordered(),
            corrupt: self.corrupt,
            first_ns: first.at_ns,
            last_ns: self.last.at_ns,
            datagrams_per_second,
            megabits_per_second: megabits(datagrams_per_second, self.options.size),
            stopped,
            usage,
        }
    }
}
