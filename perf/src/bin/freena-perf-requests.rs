//! Requests and answers over many TCP connections at once, of one client and one server with a thread each: over kept
//! connections, or over a new one for each request.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use freena_perf::programs::histogram::Histogram;
use freena_perf::programs::ready::Ready;
use freena_perf::programs::report::{Line, PingPong};
use freena_perf::programs::{self, sys};

/// Measures requests over TCP connections.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Keeps one request on its way on each connection, once a line has come on standard input.
    Client {
        #[command(flatten)]
        common: Common,
        /// Ask for so long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Connections at a time.
        #[arg(long, default_value_t = 50)]
        connections: usize,
    },
    /// Answers until a line comes on standard input.
    Server {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Address to connect to (client) or listen at (server).
    address: IpAddr,
    /// Port to connect to (client) or listen at (server).
    port: u16,
    /// Length of a request and of its answer, in bytes.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// One request for each connection: the server closes it after the answer, and the client opens another. So it is the
    /// server, as with HTTP, whose ports wait in TIME_WAIT, and the client's last.
    #[arg(long)]
    reopen: bool,
}

/// Numbers that are no connection's.
const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;
/// A peer that is silent for so long is given up, in milliseconds.
const PATIENCE: i32 = 10_000;

fn main() -> ExitCode {
    programs::finish("freena-perf-requests", run(&Options::parse().role))
}

fn run(role: &Role) -> io::Result<()> {
    match role {
        Role::Client { common, seconds, connections } => ask(common, *seconds, *connections),
        Role::Server { common } => answer(common),
    }
}

/// A connection, and how much of the request or answer has come.
struct Peer {
    stream: TcpStream,
    filled: usize,
    began_ns: u64,
}

enum Got {
    Part,
    Whole,
    End,
}

impl Peer {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, filled: 0, began_ns: 0 })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        loop {
            match self.stream.read(&mut buffer[self.filled..]) {
                Ok(0) if self.filled == 0 => return Ok(Got::End),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(more) if self.filled + more == buffer.len() => {
                    self.filled = 0;
                    return Ok(Got::Whole);
                }
                Ok(more) => self.filled += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Got::Part),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn answer(common: &Common) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::new(common.address, common.port))?;
    listener.set_nonblocking(true)?;
    let ready = Ready::new()?;
    ready.add(&listener, LISTENER)?;
    ready.add(&io::stdin(), INPUT)?;
    programs::print_line(&Line::Ready { port: listener.local_addr()?.port() })?;
    let (mut peers, mut free): (Vec<Option<Peer>>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut numbers, mut buffer) = (Vec::new(), vec![0; common.size]);
    let (mut answered, before) = (0, sys::usage());
    loop {
        ready.wait(-1, &mut numbers)?;
        for &number in &numbers {
            match number {
                INPUT => {
                    let usage = sys::usage() - before;
                    let told = PingPong::of(&Histogram::default(), answered, 0, usage);
                    return programs::print_line(&Line::PingPong(told));
                }
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        let place = free.pop().unwrap_or_else(|| {
                            peers.push(None);
                            peers.len() - 1
                        });
                        ready.add(&stream, place as u64)?;
                        peers[place] = Some(Peer::new(stream)?);
                    }
                }
                place => {
                    let place = place as usize;
                    let Some(peer) = &mut peers[place] else { continue };
                    match peer.receive(&mut buffer) {
                        Ok(Got::Whole) => {
                            peer.stream.write_all(&buffer)?;
                            answered += 1;
                            if !common.reopen {
                                continue;
                            }
                        }
                        Ok(Got::Part) => continue,
                        Ok(Got::End) | Err(_) => {}
                    }
                    peers[place] = None;
                    free.push(place);
                }
            }
        }
    }
}

fn ask(common: &Common, seconds: f64, connections: usize) -> io::Result<()> {
    let peer = SocketAddr::new(common.address, common.port);
    let request = vec![b'?'; common.size];
    let ready = Ready::new()?;
    let open = |number: usize, began_ns: u64| -> io::Result<Peer> {
        let stream = TcpStream::connect(peer)?;
        ready.add(&stream, number as u64)?;
        Ok(Peer { began_ns, ..Peer::new(stream)? })
    };
    let mut peers = Vec::new();
    for number in 0..connections {
        peers.push(open(number, 0)?);
    }
    programs::print_line(&Line::Ready { port: 0 })?;
    programs::wait_for_start()?;
    let before = sys::usage();
    let end_ns = sys::now_ns() + (seconds * 1e9) as u64;
    let (mut histogram, mut numbers, mut buffer) = (Histogram::default(), Vec::new(), vec![0; common.size]);
    for it in &mut peers {
        it.began_ns = sys::now_ns();
        it.stream.write_all(&request)?;
    }
    while sys::now_ns() < end_ns {
        ready.wait(PATIENCE, &mut numbers)?;
        if numbers.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        for &number in &numbers {
            let number = number as usize;
            let got = peers[number].receive(&mut buffer)?;
            let now_ns = sys::now_ns();
            if matches!(got, Got::Whole) {
                histogram.record((now_ns - peers[number].began_ns) / 2);
            }
            match got {
                Got::Whole if !common.reopen => peers[number].began_ns = now_ns,
                Got::End if common.reopen => peers[number] = open(number, now_ns)?,
                Got::End => return Err(ErrorKind::UnexpectedEof.into()),
                // With `reopen` the end follows the answer.
                Got::Whole | Got::Part => continue,
            }
            peers[number].stream.write_all(&request)?;
        }
    }
    let usage = sys::usage() - before;
    programs::print_line(&Line::PingPong(PingPong::of(&histogram, histogram.count(), 0, usage)))
}
