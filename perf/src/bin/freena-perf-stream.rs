//! Measures a TCP connection between a client and a server: messages one way, or a ping-pong.
//!
//! A message is what one call sends. The receiver of a stream of messages takes what one call gives, up to 64 KiB, and its
//! bytes are checked and counted; a ping-pong receives messages of the size sent.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use freena_perf::programs::histogram::Histogram;
use freena_perf::programs::report::{Line, PingPong, Received, Sent, Stop, Usage, megabits, per_second};
use freena_perf::programs::waiting::{Mode, Waiting};
use freena_perf::programs::{self, sys};
use socket2::SockRef;

/// Measures messages over a TCP connection.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Connects, and sends: messages back to back, or requests, one at a time, whose answers are timed.
    Client {
        #[command(flatten)]
        common: Common,
        /// Send for so long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Leave the first exchanges out of the measurement.
        #[arg(long, default_value_t = 500, value_name = "EXCHANGES")]
        warm_up: u64,
        /// Congestion control of the connection, by its name in tcp(7) [default: the system's]
        #[arg(long, value_name = "NAME")]
        congestion: Option<String>,
        /// Connect, then wait for a line on standard input before sending.
        #[arg(long)]
        hold: bool,
    },
    /// Accepts one connection, and counts what comes or sends it back, until the client is done.
    Server {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Address to connect to (client) or listen at (server).
    address: IpAddr,
    /// Port to connect to (client) or listen at (server; 0 for any).
    port: u16,
    /// Messages back to back, or a ping-pong.
    #[arg(long, value_enum, default_value_t = Load::Messages)]
    load: Load,
    /// How to wait for bytes.
    #[arg(long, value_enum, default_value_t = Mode::Recv)]
    mode: Mode,
    /// Length of a message, in bytes.
    #[arg(long, default_value_t = 64)]
    size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Load {
    /// One way, as fast as it goes.
    Messages,
    /// A request, then its answer.
    PingPong,
}

/// A peer that is silent for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the receiver of messages asks for at a time.
const CHUNK: usize = 64 << 10;

fn main() -> ExitCode {
    programs::finish("freena-perf-stream", run(&Options::parse().role))
}

fn run(role: &Role) -> io::Result<()> {
    match role {
        Role::Client { common, seconds, warm_up, congestion, hold } => {
            let stream = TcpStream::connect(SocketAddr::new(common.address, common.port))?;
            if let Some(name) = congestion {
                SockRef::from(&stream).set_tcp_congestion(name.as_bytes())?;
            }
            programs::print_line(&Line::Ready { port: stream.local_addr()?.port() })?;
            if *hold {
                programs::wait_for_start()?;
            }
            match common.load {
                Load::Messages => send(stream, common.size, *seconds),
                Load::PingPong => ask(stream, common, *seconds, *warm_up),
            }
        }
        Role::Server { common } => {
            let listener = TcpListener::bind(SocketAddr::new(common.address, common.port))?;
            programs::print_line(&Line::Ready { port: listener.local_addr()?.port() })?;
            let (stream, _) = listener.accept()?;
            match common.load {
                Load::Messages => receive(stream, common),
                Load::PingPong => answer(stream, common),
            }
        }
    }
}

/// A connection together with a way of waiting for it.
struct Waiter {
    stream: TcpStream,
    waiting: Waiting,
}

impl Waiter {
    fn new(stream: TcpStream, mode: Mode) -> io::Result<Self> {
        match mode {
            Mode::Recv => stream.set_read_timeout(Some(PATIENCE))?,
            Mode::Poll | Mode::Epoll => stream.set_nonblocking(true)?,
        }
        let waiting = Waiting::new(stream.as_fd(), mode)?;
        Ok(Self { stream, waiting })
    }

    /// What comes next; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.waiting.is_ready(self.stream.as_fd(), PATIENCE)? {
                return Err(ErrorKind::TimedOut.into());
            }
            match self.stream.read(buffer) {
                Err(error) if self.waiting.mode() != Mode::Recv && error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// A whole message; false where the end comes instead.
    fn receive_message(&mut self, message: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < message.len() {
            match self.receive(&mut message[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                more => filled += more,
            }
        }
        Ok(true)
    }
}

/// What the byte at a position of the stream is.
fn byte_at(position: u64) -> u8 {
    (position % 251) as u8
}

/// Bytes of a stream from any position on: as many as may be asked for, and a period more.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64 + 251).map(byte_at).collect()
}

fn send(mut stream: TcpStream, size: usize, seconds: f64) -> io::Result<()> {
    let pattern = pattern(size);
    let (before, first_ns) = (sys::usage(), sys::now_ns());
    let end_ns = first_ns + (seconds * 1e9) as u64;
    let (mut messages, mut position) = (0u64, 0);
    // Reading the clock for each message would be a part of what is measured.
    while messages % 256 != 0 || sys::now_ns() < end_ns {
        stream.write_all(&pattern[position..position + size])?;
        position = (position + size) % 251;
        messages += 1;
    }
    let sent = Sent::until_now(messages, size, 0, first_ns, before);
    stream.shutdown(Shutdown::Write)?;
    programs::print_line(&Line::Sent(sent))
}

fn receive(stream: TcpStream, common: &Common) -> io::Result<()> {
    let mut waiter = Waiter::new(stream, common.mode)?;
    let mut buffer = vec![0; CHUNK];
    let pattern = pattern(CHUNK);
    let (mut bytes, mut corrupt) = (0u64, 0u64);
    let (mut first_ns, mut before) = (0, Usage::default());
    loop {
        let len = waiter.receive(&mut buffer)?;
        if len == 0 {
            break;
        }
        if bytes == 0 {
            (first_ns, before) = (sys::now_ns(), sys::usage());
        }
        let expected = (bytes % 251) as usize;
        corrupt += u64::from(buffer[..len] != pattern[expected..expected + len]);
        bytes += len as u64;
    }
    let (last_ns, usage) = (sys::now_ns(), sys::usage() - before);
    let datagrams = bytes / common.size as u64;
    let datagrams_per_second = per_second(datagrams, last_ns.saturating_sub(first_ns));
    programs::print_line(&Line::Received(Received {
        datagrams,
        bytes,
        sent: None,
        lost: 0,
        duplicates: 0,
        reordered: 0,
        corrupt,
        first_ns,
        last_ns,
        datagrams_per_second,
        megabits_per_second: megabits(datagrams_per_second, common.size),
        stopped: Stop::EndMark,
        usage,
    }))
}

fn ask(stream: TcpStream, common: &Common, seconds: f64, warm_up: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut waiter = Waiter::new(stream, common.mode)?;
    let (mut request, mut answer) = (vec![0; common.size], vec![0; common.size]);
    let (mut histogram, mut number) = (Histogram::default(), 0u64);
    let mut before = sys::usage();
    let mut end_ns = sys::now_ns() + (seconds * 1e9) as u64;
    loop {
        if number == warm_up {
            (before, end_ns) = (sys::usage(), sys::now_ns() + (seconds * 1e9) as u64);
        }
        request.fill(byte_at(number));
        let start_ns = sys::now_ns();
        if start_ns >= end_ns {
            break;
        }
        waiter.stream.write_all(&request)?;
        if !waiter.receive_message(&mut answer)? || answer != request {
            return Err(io::Error::new(ErrorKind::InvalidData, "the answer is not what was asked"));
        }
        if number >= warm_up {
            histogram.record((sys::now_ns() - start_ns) / 2);
        }
        number += 1;
    }
    let usage = sys::usage() - before;
    waiter.stream.shutdown(Shutdown::Write)?;
    programs::print_line(&Line::PingPong(PingPong::of(&histogram, histogram.count(), 0, usage)))
}

fn answer(stream: TcpStream, common: &Common) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut waiter = Waiter::new(stream, common.mode)?;
    let mut message = vec![0; common.size];
    let (mut answered, before) = (0, sys::usage());
    while waiter.receive_message(&mut message)? {
        waiter.stream.write_all(&message)?;
        answered += 1;
    }
    let usage = sys::usage() - before;
    programs::print_line(&Line::PingPong(PingPong::of(&Histogram::default(), answered, 0, usage)))
}
