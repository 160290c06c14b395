//! Receives what `freena-perf-send` sends, checks it, and says how much came how fast at what cost.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use freena_perf::programs::report::{Line, Received, Stop};
use freena_perf::programs::stream::Stream;
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
    let received = receive(&socket, options)?;
    programs::print_line(&Line::Received(received))
}

fn receive(socket: &UdpSocket, options: &Options) -> io::Result<Received> {
    let mut stream = Stream::new("freena-perf-recv", options.size, options.interval);
    let batched = !matches!(options.mode, Mode::Recvfrom);
    // One byte more than expected, so that a longer datagram shows.
    let stride = (options.size + 1).next_multiple_of(64);
    let mut buffer = match options.mode {
        Mode::Recvfrom => vec![0; stride],
        Mode::Recvmmsg => vec![0; stride * sys::BATCH],
        Mode::Gro => vec![0; 65_536],
    };
    let mut lengths = [0; sys::BATCH];
    let give_up_ns = sys::now_ns() + (options.seconds * 1e9) as u64;
    let idle_ns = options.idle.saturating_mul(1_000_000);
    let mut calls = 0_u64;
    let stopped = loop {
        let outcome = match options.mode {
            Mode::Recvfrom => socket.recv_from(&mut buffer).map(|(length, _)| stream.take(&buffer[..length])),
            Mode::Recvmmsg => {
                sys::receive_batch(socket.as_fd(), &mut buffer, stride, &mut lengths).map(|count| {
                    let parts = buffer.chunks_exact(stride).zip(&lengths[..count]);
                    parts.for_each(|(part, &length)| stream.take(&part[..length]));
                })
            }
            Mode::Gro => sys::receive_joined(socket.as_fd(), &mut buffer).map(|(length, segment)| {
                buffer[..length].chunks(segment.max(1)).for_each(|datagram| stream.take(datagram));
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
                if stream.has_begun() && now.saturating_sub(stream.last_ns()) >= idle_ns {
                    break Stop::Idle;
                }
                continue;
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("receiving: {error}"))),
        }
        // Not stamped: it may come long after the last datagram.
        if stream.has_ended() {
            break Stop::EndMark;
        }
        let done = options.count.is_some_and(|count| stream.received() >= count);
        if batched || done || !stream.has_begun() || calls.is_multiple_of(CLOCK_EVERY) {
            stream.stamp()?;
            if stream.last_ns() >= give_up_ns {
                break Stop::Time;
            }
        }
        if done {
            break Stop::Count;
        }
    };
    Ok(stream.finish(stopped))
}
