//! Measures half the round trip between a client and a server that answers each datagram with itself.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use freena_perf::programs::histogram::Histogram;
use freena_perf::programs::payload::{self, Datagram};
use freena_perf::programs::report::{Line, PingPong, Usage};
use freena_perf::programs::waiting::{Mode, Waiting};
use freena_perf::programs::{self, sys};

/// Measures the latency of UDP by ping-pong.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Sends requests, one at a time, and times the answers.
    Client {
        #[command(flatten)]
        common: Common,
        /// Measure for so long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Leave the first exchanges out of the measurement.
        #[arg(long, default_value_t = 500, value_name = "EXCHANGES")]
        warm_up: u64,
        /// Open the socket, then wait for a line on standard input before sending.
        #[arg(long)]
        hold: bool,
    },
    /// Sends each datagram back, until a client says that it is done.
    Server {
        #[command(flatten)]
        common: Common,
        /// Stop after so long, whatever comes.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Address to send to (client) or receive at (server).
    address: IpAddr,
    /// Port to send to (client) or receive at (server; 0 for any).
    port: u16,
    /// How to wait for a datagram.
    #[arg(long, value_enum, default_value_t = Mode::Recv)]
    mode: Mode,
    /// Payload, in bytes.
    #[arg(long, default_value_t = 64)]
    size: usize,
}

/// After so long without an answer a request counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    programs::finish("freena-perf-pingpong", run(&Options::parse().role))
}

fn run(role: &Role) -> io::Result<()> {
    match role {
        Role::Client { common, seconds, warm_up, hold } => client(common, *seconds, *warm_up, *hold),
        Role::Server { common, seconds } => server(common, *seconds),
    }
}

/// A socket together with a way of waiting for it.
struct Waiter {
    socket: UdpSocket,
    waiting: Waiting,
}

impl Waiter {
    fn new(socket: UdpSocket, mode: Mode) -> io::Result<Self> {
        match mode {
            Mode::Recv => socket.set_read_timeout(Some(ANSWER_WITHIN))?,
            Mode::Poll | Mode::Epoll => socket.set_nonblocking(true)?,
        }
        let waiting = Waiting::new(socket.as_fd(), mode)?;
        Ok(Self { socket, waiting })
    }

    /// The next datagram and where it came from; `None` when none comes within [`ANSWER_WITHIN`].
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        if !self.waiting.is_ready(self.socket.as_fd(), ANSWER_WITHIN)? {
            return Ok(None);
        }
        match self.socket.recv_from(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn check_size(size: usize) -> io::Result<()> {
    let (min, max) = (payload::MIN_SIZE, payload::MAX_SIZE);
    if (min..=max).contains(&size) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, format!("--size {size}: expected {min} to {max} bytes")))
}

fn client(common: &Common, seconds: f64, warm_up: u64, hold: bool) -> io::Result<()> {
    check_size(common.size)?;
    let to = SocketAddr::new(common.address, common.port);
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let waiter = Waiter::new(socket, common.mode)?;
    programs::print_line(&Line::Ready { port: waiter.socket.local_addr()?.port() })?;
    if hold {
        programs::wait_for_start()?;
    }
    let (mut request, mut answer) = (vec![0; common.size], vec![0; common.size + 1]);
    let (mut histogram, mut lost, mut number) = (Histogram::default(), 0, 0);
    let mut before = sys::usage();
    let mut end_ns = sys::now_ns() + (seconds * 1e9) as u64;
    loop {
        if number == warm_up {
            (before, end_ns) = (sys::usage(), sys::now_ns() + (seconds * 1e9) as u64);
        }
        payload::write(&mut request, number);
        let start_ns = sys::now_ns();
        if start_ns >= end_ns {
            break;
        }
        waiter.socket.send(&request)?;
        let answered = await_answer(&waiter, &mut answer, common.size, number)?;
        if number >= warm_up {
            match answered {
                true => histogram.record((sys::now_ns() - start_ns) / 2),
                false => lost += 1,
            }
        }
        number += 1;
    }
    let usage = sys::usage() - before;
    payload::write_end(&mut request, number);
    waiter.socket.send(&request)?;
    programs::print_line(&Line::PingPong(PingPong::of(&histogram, histogram.count(), lost, usage)))
}

/// Waits for the answer to request `number`; false when it does not come in time. Late answers to earlier requests are
/// passed over.
fn await_answer(waiter: &Waiter, buffer: &mut [u8], size: usize, number: u64) -> io::Result<bool> {
    loop {
        let Some((length, _)) = waiter.receive(buffer)? else { return Ok(false) };
        match payload::read(&buffer[..length], size) {
            Ok(Datagram::Data(answered)) if answered == number => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
    }
}

fn server(common: &Common, seconds: f64) -> io::Result<()> {
    check_size(common.size)?;
    let socket = UdpSocket::bind(SocketAddr::new(common.address, common.port))?;
    let waiter = Waiter::new(socket, common.mode)?;
    programs::print_line(&Line::Ready { port: waiter.socket.local_addr()?.port() })?;
    let give_up_ns = sys::now_ns() + (seconds * 1e9) as u64;
    let mut buffer = vec![0; common.size + 1];
    let (mut answered, mut before) = (0, None);
    loop {
        let Some((length, from)) = waiter.receive(&mut buffer)? else {
            if sys::now_ns() >= give_up_ns {
                break;
            }
            continue;
        };
        before.get_or_insert_with(sys::usage);
        match payload::read(&buffer[..length], common.size) {
            Ok(Datagram::End(_)) => break,
            Ok(Datagram::Data(_)) => {
                waiter.socket.send_to(&buffer[..length], from)?;
                answered += 1;
            }
            Err(error) => eprintln!("freena-perf-pingpong: {error}"),
        }
    }
    let usage = before.map_or(Usage::default(), |before| sys::usage() - before);
    programs::print_line(&Line::PingPong(PingPong::of(&Histogram::default(), answered, 0, usage)))
}
