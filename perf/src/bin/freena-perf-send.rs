//! Sends numbered UDP datagrams as fast as it can, or at a given rate, and says what that took.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use freena_perf::programs::report::{Line, Sent};
use freena_perf::programs::{self, payload, sys};

/// Sends numbered UDP datagrams.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Address to send to.
    address: IpAddr,
    /// Port to send to.
    port: u16,
    /// Payload of each datagram, in bytes (16 to 65507).
    #[arg(long, default_value_t = 1024, value_parser = size)]
    size: usize,
    /// How to send.
    #[arg(long, value_enum, default_value_t = Mode::Sendto)]
    mode: Mode,
    /// Send so many datagrams, back to back, and stop.
    #[arg(long, visible_alias = "burst", value_name = "DATAGRAMS")]
    count: Option<u64>,
    /// Send for so long. With --count: for so long at the most. Default without --count: 1.
    #[arg(long)]
    seconds: Option<f64>,
    /// Send at most so many datagrams a second. Default: no limit.
    #[arg(long, value_name = "DATAGRAMS")]
    rate: Option<u64>,
    /// Open the socket, then wait for a line on standard input before sending.
    #[arg(long)]
    hold: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// One datagram a call.
    Sendto,
    /// Up to 64 datagrams a call.
    Sendmmsg,
    /// Rows of up to 64 datagrams (UDP_SEGMENT), several rows a call.
    Gso,
}

/// Time between two tries at telling the receiver that the stream ends: its buffer may still be full at the first.
const END_MARK_PAUSES_MS: [u64; 6] = [0, 5, 10, 20, 40, 80];
/// Calls between two readings of the clock.
const CLOCK_EVERY: u64 = 32;
/// A kernel's row holds at most 64 datagrams (`UDP_MAX_SEGMENTS`, 128 from Linux 6.9 on).
const ROW_DATAGRAMS: usize = 64;
/// Rows in one call.
const ROWS: usize = 4;

fn size(text: &str) -> Result<usize, String> {
    let (min, max) = (payload::MIN_SIZE, payload::MAX_SIZE);
    let size = text.parse().map_err(|_| format!("expected a number of bytes from {min} to {max}"))?;
    if (min..=max).contains(&size) { Ok(size) } else { Err(format!("expected {min} to {max} bytes")) }
}

fn main() -> ExitCode {
    programs::finish("freena-perf-send", run(&Options::parse()))
}

fn run(options: &Options) -> io::Result<()> {
    let to = SocketAddr::new(options.address, options.port);
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    let mut sender = Sender::new(&socket, to, options)?;
    programs::print_line(&Line::Ready { port: socket.local_addr()?.port() })?;
    if options.hold {
        programs::wait_for_start()?;
    }
    let sent = steady(&mut sender, options)?;
    let total = sent.datagrams;
    programs::print_line(&Line::Sent(sent))?;

    let mut mark = vec![0; options.size];
    payload::write_end(&mut mark, total);
    for pause in END_MARK_PAUSES_MS {
        thread::sleep(Duration::from_millis(pause));
        // Lost or refused, another follows; the receiver ends without one too.
        let _ = socket.send_to(&mark, to);
    }
    Ok(())
}

/// Sends until the count or the time is reached.
fn steady(sender: &mut Sender<'_>, options: &Options) -> io::Result<Sent> {
    let count = options.count.unwrap_or(u64::MAX);
    let seconds = options.seconds.unwrap_or(if options.count.is_some() { 60.0 } else { 1.0 });
    let (before, first_ns) = (sys::usage(), sys::now_ns());
    let end_ns = first_ns.saturating_add((seconds * 1e9) as u64);
    let (mut calls, mut retries) = (0_u64, 0_u64);
    while sender.sent < count {
        if (calls + retries).is_multiple_of(CLOCK_EVERY) && sys::now_ns() >= end_ns {
            break;
        }
        let mut room = count - sender.sent;
        if let Some(rate) = options.rate {
            room = room.min(wait_for_due(first_ns, end_ns, rate, sender.sent));
        }
        match sender.send(room) {
            Ok(()) => calls += 1,
            Err(error) if is_full(&error) => {
                retries += 1;
                thread::yield_now();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let number = sender.sent;
                return Err(io::Error::new(error.kind(), format!("sending datagram {number}: {error}")));
            }
        }
    }
    Ok(Sent::until_now(sender.sent, options.size, retries, first_ns, before))
}

/// Sleeps until the next datagram is due at this rate, and says how many are.
fn wait_for_due(first_ns: u64, end_ns: u64, rate: u64, sent: u64) -> u64 {
    let at = |number: u64| first_ns + (number as f64 * 1e9 / rate.max(1) as f64) as u64;
    let now = sys::now_ns();
    let next = at(sent).min(end_ns);
    if next > now {
        thread::sleep(Duration::from_nanos(next - now));
    }
    let due = (sys::now_ns() - first_ns) as f64 * rate as f64 / 1e9;
    (due as u64 + 1).saturating_sub(sent).max(1)
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

struct Sender<'a> {
    socket: &'a UdpSocket,
    to: SocketAddr,
    mode: Mode,
    size: usize,
    /// Room for every datagram of one call.
    buffer: Vec<u8>,
    sent: u64,
}

impl<'a> Sender<'a> {
    fn new(socket: &'a UdpSocket, to: SocketAddr, options: &Options) -> io::Result<Self> {
        let datagrams = match options.mode {
            Mode::Sendto => 1,
            Mode::Sendmmsg => sys::BATCH,
            Mode::Gso => {
                sys::set_segment(socket.as_fd(), options.size)?;
                row(options.size) * ROWS
            }
        };
        let buffer = vec![0; datagrams * options.size];
        Ok(Self { socket, to, mode: options.mode, size: options.size, buffer, sent: 0 })
    }

    /// Makes one call that sends at most `room` datagrams.
    fn send(&mut self, room: u64) -> io::Result<()> {
        let held = self.buffer.len() / self.size;
        let length = held.min(usize::try_from(room).unwrap_or(held)) * self.size;
        let buffer = &mut self.buffer[..length];
        for (datagram, number) in buffer.chunks_exact_mut(self.size).zip(self.sent..) {
            payload::write(datagram, number);
        }
        let part = match self.mode {
            Mode::Sendto => {
                self.socket.send_to(buffer, self.to)?;
                self.sent += 1;
                return Ok(());
            }
            Mode::Sendmmsg => self.size,
            Mode::Gso => row(self.size) * self.size,
        };
        let taken = sys::send_batch(self.socket.as_fd(), &sys::address(self.to), buffer.chunks(part))?;
        self.sent += ((taken * part).min(length) / self.size) as u64;
        Ok(())
    }
}

/// Datagrams of this size in one row.
fn row(size: usize) -> usize {
    (payload::MAX_SIZE / size).clamp(1, ROW_DATAGRAMS)
}
