//! Two ends of a flow whose messages go one way, and how fast they arrive. With `--service` the program calls the service's
//! library itself, as a program would that was written for it; without, it knows nothing of services.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use freena_perf::programs::report::{Arrival, Line};
use freena_perf::programs::{print_line, sys};
use freena_service_chain::{Arrived, Buffer, DatagramFlow, Flow, PlanService, Resolved, Role, StreamFlow};

/// Sends messages one way and tells how fast they arrive.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Which end.
    #[arg(value_enum)]
    end: End,
    /// Address of the receiver.
    address: IpAddr,
    /// Its port.
    port: u16,
    /// What carries the messages.
    #[arg(long, value_enum, default_value = "tcp")]
    transport: Transport,
    /// Bytes of a message: what one call sends.
    #[arg(long, default_value_t = 16_384)]
    size: usize,
    /// Send for so long.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Stay on this core.
    #[arg(long)]
    core: Option<usize>,
    /// Library of a service to call.
    #[arg(long)]
    service: Option<PathBuf>,
    /// The service's parameters, as NAME=VALUE.
    #[arg(long)]
    parameter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum End {
    /// Sends.
    Client,
    /// Receives.
    Server,
    /// Writes zeros to the standard output; the address does not matter.
    Zeros,
    /// Receives from the standard input; the address does not matter.
    Count,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

/// A receiver of datagrams that gets none for so long has got all.
const SILENCE: Duration = Duration::from_millis(300);
/// Most bytes that a receiver takes at a time.
const ROOM: usize = 128 * 1024;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freena-perf-services: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    options.core.map_or(Ok(()), stay_on)?;
    let service = options.service.as_deref().map(|path| resolve(path, &options.parameter)).transpose()?;
    let address = SocketAddr::new(options.address, options.port);
    match (options.end, options.transport) {
        (End::Client, Transport::Tcp) => send_stream(options, TcpStream::connect(address)?, service),
        (End::Client, Transport::Udp) => send_datagrams(options, address, service),
        (End::Server, Transport::Tcp) => receive_stream(address, service),
        (End::Server, Transport::Udp) => receive_datagrams(address, service),
        (End::Zeros, _) => {
            let (mut output, zeros) = (io::stdout().lock(), vec![0; options.size]);
            for_a_while(options.seconds, || output.write_all(&zeros)).or_else(gone)
        }
        (End::Count, _) => {
            print_line(&Line::Ready { port: options.port })?;
            count_stream(io::stdin().lock())
        }
    }
}

fn stay_on(core: usize) -> io::Result<()> {
    // SAFETY: plain data, valid when zero, and a pointer to it; CPU_SET keeps to its bounds.
    let set = unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of_val(&cores), &cores)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who read what was written has ended.
fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn resolve(path: &std::path::Path, parameters: &[String]) -> io::Result<Resolved> {
    let pairs = parameters.iter().filter_map(|it| it.split_once('='));
    let parameters = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let name = path.display().to_string();
    let service = PlanService { name, library: path.to_owned(), parameters, rules: Vec::new() };
    // SAFETY: who runs the program has named the library.
    unsafe { service.resolve() }.map_err(io::Error::other)
}

fn flow(transport: u8, role: Role, local: SocketAddr, peer: SocketAddr) -> Flow {
    Flow { transport, role, local, peer, allow_plain: false }
}

fn for_a_while(seconds: f64, mut send: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        // A look at the clock for each message would be a part of what is measured.
        for _ in 0..64 {
            send()?;
        }
    }
    Ok(())
}

/// What has arrived so far.
#[derive(Default)]
struct Tally {
    first: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
}

impl Tally {
    /// The first one tells when it began, and does not count.
    fn add(&mut self, bytes: usize) {
        if self.first.is_none() {
            self.first = Some(Instant::now());
        } else {
            self.bytes += bytes as u64;
        }
    }

    fn end(mut self) -> io::Result<()> {
        let last = self.last.take().unwrap_or_else(Instant::now);
        let nanoseconds = self.first.map_or(0, |first| (last - first).as_nanos() as u64);
        print_line(&Line::Arrived(Arrival { bytes: self.bytes, nanoseconds }))
    }
}

fn count_stream(mut from: impl Read) -> io::Result<()> {
    let (mut tally, mut room) = (Tally::default(), vec![0; ROOM]);
    loop {
        match from.read(&mut room)? {
            0 => break,
            got => tally.add(got),
        }
    }
    tally.end()
}

/// A stream with a service, as a program that calls the library has it.
struct Direct {
    flow: StreamFlow,
    out: Buffer,
    plain: Buffer,
    input: Vec<u8>,
    held: usize,
}

impl Direct {
    /// Begins it, and waits until both ends agree.
    fn begin(socket: &mut TcpStream, role: Role, service: Resolved) -> io::Result<Self> {
        let flow = flow(6, role, socket.local_addr()?, socket.peer_addr()?);
        let flow = StreamFlow::new(&[service], flow, sys::now_ns()).map_err(io::Error::other)?;
        let (out, plain) = (Buffer::new(), Buffer::new());
        let mut it = Self { flow, out, plain, input: vec![0; ROOM], held: 0 };
        loop {
            it.flow.transmit(sys::now_ns(), &mut it.out);
            it.flush(socket)?;
            if it.flow.can_seal() && it.flow.state() == freena_service_chain::State::Open {
                return Ok(it);
            }
            it.receive(socket)?;
        }
    }

    fn flush(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        socket.write_all(self.out.as_slice())?;
        self.out.clear();
        Ok(())
    }

    fn send(&mut self, socket: &mut TcpStream, message: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < message.len() {
            let rest = [IoSlice::new(&message[done..])];
            let sealed = self.flow.seal(sys::now_ns(), &rest, &mut self.out);
            done += sealed.map_err(io::Error::other)?.consumed;
            self.flush(socket)?;
        }
        Ok(())
    }

    /// Receives what there is; whether there may be more. What the program sends is in `plain`.
    fn receive(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        let got = socket.read(&mut self.input[self.held..])?;
        self.held += got;
        let mut taken = 0;
        loop {
            let rest = &self.input[taken..self.held];
            let opened = self.flow.open(sys::now_ns(), rest, &mut self.plain, ROOM);
            let opened = opened.map_err(io::Error::other)?;
            taken += opened.consumed;
            if opened.consumed == 0 {
                break;
            }
        }
        self.input.copy_within(taken..self.held, 0);
        self.held -= taken;
        Ok(got > 0)
    }
}

fn send_stream(options: &Options, mut socket: TcpStream, service: Option<Resolved>) -> io::Result<()> {
    let message = vec![b'm'; options.size];
    match service {
        None => for_a_while(options.seconds, || socket.write_all(&message))?,
        Some(service) => {
            let mut direct = Direct::begin(&mut socket, Role::Client, service)?;
            for_a_while(options.seconds, || direct.send(&mut socket, &message))?;
            direct.flow.end(sys::now_ns(), &mut direct.out).map_err(io::Error::other)?;
            direct.flush(&mut socket)?;
        }
    }
    socket.shutdown(std::net::Shutdown::Write)
}

fn receive_stream(address: SocketAddr, service: Option<Resolved>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    print_line(&Line::Ready { port: address.port() })?;
    let (mut socket, _) = listener.accept()?;
    let Some(service) = service else { return count_stream(socket) };
    let mut direct = Direct::begin(&mut socket, Role::Server, service)?;
    let mut tally = Tally::default();
    loop {
        if !direct.plain.is_empty() {
            tally.add(direct.plain.len());
            direct.plain.clear();
        }
        if !direct.receive(&mut socket)? {
            break;
        }
    }
    tally.end()
}

fn send_datagrams(options: &Options, address: SocketAddr, service: Option<Resolved>) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(address), 0))?;
    socket.connect(address)?;
    let message = vec![b'm'; options.size];
    let Some(service) = service else {
        return for_a_while(options.seconds, || socket.send(&message).map(drop));
    };
    let flow = flow(17, Role::Client, socket.local_addr()?, address);
    let mut flow = DatagramFlow::new(&[service], flow, sys::now_ns()).map_err(io::Error::other)?;
    let mut out = Buffer::new();
    for_a_while(options.seconds, || {
        out.clear();
        flow.seal(sys::now_ns(), &message, &mut out).map_err(io::Error::other)?;
        socket.send(out.as_slice()).map(drop)
    })
}

fn receive_datagrams(address: SocketAddr, service: Option<Resolved>) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    print_line(&Line::Ready { port: address.port() })?;
    let (mut tally, mut room) = (Tally::default(), vec![0; 1 << 16]);
    let (mut direct, mut plain) = (None, Buffer::new());
    loop {
        let (got, from) = match socket.recv_from(&mut room) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => break,
            got => got?,
        };
        let length = match &service {
            None => got,
            Some(service) => {
                let now = sys::now_ns();
                if direct.is_none() {
                    let flow = flow(17, Role::Server, address, from);
                    let begun = DatagramFlow::new(std::slice::from_ref(service), flow, now);
                    direct = Some(begun.map_err(io::Error::other)?);
                }
                let Some(flow) = &mut direct else { continue };
                plain.clear();
                match flow.open(now, &room[..got], &mut plain).map_err(io::Error::other)? {
                    Arrived::Message(length) => length,
                    Arrived::Nothing | Arrived::Plain => continue,
                }
            }
        };
        if tally.first.is_none() {
            socket.set_read_timeout(Some(SILENCE))?;
        }
        tally.add(length);
        tally.last = Some(Instant::now());
    }
    tally.end()
}

fn unspecified(address: SocketAddr) -> IpAddr {
    if address.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) }
}
