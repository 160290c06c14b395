//! Sends or receives numbered UDP datagrams over AF_XDP with no stack above it: the limit that a stack is held against.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use freena_link_af_xdp::{AfXdpLink, FlowKey, Mode, Options as LinkOptions, Transmit, XdpInterface};
use freena_link_raw::{Device, GsoSender};
use freena_perf::programs::report::{Line, Sent, Stop};
use freena_perf::programs::stream::Stream;
use freena_perf::programs::{self, payload, sys};
use freena_stack_api::{Burst, Chunk, Gso, Link};
use freena_wire::{Mac, checksum, ethernet, ipv4, protocol, udp};

/// Sends or receives UDP datagrams over AF_XDP, with no stack.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Sends as fast as it can.
    Send(Send),
    /// Receives, checks and drops.
    Receive(Receive),
}

#[derive(Debug, Args)]
struct Common {
    /// Interface.
    #[arg(long)]
    iface: String,
    /// Source address.
    #[arg(long)]
    from: Ipv4Addr,
    /// Destination address.
    #[arg(long)]
    to: Ipv4Addr,
    /// Port at both ends.
    #[arg(long)]
    port: u16,
    /// Payload, in bytes.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(16..=1472))]
    size: u16,
    /// Where in the kernel the XDP program runs.
    #[arg(long, value_enum, default_value_t = XdpMode::Auto)]
    mode: XdpMode,
}

#[derive(Debug, Args)]
struct Send {
    #[command(flatten)]
    common: Common,
    /// Source Ethernet address.
    #[arg(long, value_parser = mac)]
    from_mac: Mac,
    /// Destination Ethernet address.
    #[arg(long, value_parser = mac)]
    to_mac: Mac,
    /// How to send.
    #[arg(long, value_enum, default_value_t = Way::AfXdp)]
    transmit: Way,
    /// Send so many datagrams and stop.
    #[arg(long, visible_alias = "burst", value_name = "DATAGRAMS")]
    count: Option<u64>,
    /// Send for so long (with --count: at the most). Default without --count: 1.
    #[arg(long)]
    seconds: Option<f64>,
    /// Open the link, then wait for a line on standard input before sending.
    #[arg(long)]
    hold: bool,
}

#[derive(Debug, Args)]
struct Receive {
    #[command(flatten)]
    common: Common,
    /// Stop after so long, whatever comes.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Print the rate so often, in milliseconds. Default: at the end only.
    #[arg(long, value_name = "MS")]
    interval: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum XdpMode {
    /// Native, or SKB where the driver refuses.
    Auto,
    /// In the driver.
    Native,
    /// In the generic hook.
    Skb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Frames through the AF_XDP ring.
    AfXdp,
    /// Rows of datagrams through a packet socket, which the kernel segments.
    Gso,
}

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
const L3: usize = ethernet::HEADER_LEN;
const L4: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Datagrams made before they are handed over.
const BATCH: usize = 64;
/// The receiver spins so many times before it sleeps.
const SPINS: u32 = 2_000;
/// How long it sleeps at most, and how long nothing may come after the first datagram.
const WAIT: Duration = Duration::from_millis(50);
const IDLE_NS: u64 = 1_000_000_000;
/// As `freena-perf-send` does.
const END_MARK_PAUSES_MS: [u64; 6] = [0, 5, 10, 20, 40, 80];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("{text:?}: expected an address such as 02:00:00:00:00:01");
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>();
    let bytes = bytes.map_err(|_| wrong())?;
    bytes.try_into().map(Mac).map_err(|_| wrong())
}

fn main() -> ExitCode {
    let outcome = match Options::parse().role {
        Role::Send(options) => send(&options),
        Role::Receive(options) => receive(&options),
    };
    programs::finish("freena-perf-xdp", outcome)
}

fn attach(common: &Common) -> Outcome<XdpInterface> {
    let mode = match common.mode {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Skb => Mode::Skb,
    };
    Ok(XdpInterface::attach(&common.iface, mode)?)
}

/// A link that sends through its AF_XDP ring.
struct Ring {
    link: AfXdpLink,
    /// Keeps the program on the interface.
    _interface: XdpInterface,
}

/// What bursts are handed to.
enum Sender {
    Ring(Box<Ring>),
    Gso(GsoSender),
}

impl Sender {
    fn open(options: &Send) -> Outcome<Self> {
        if options.transmit == Way::Gso {
            return Ok(Self::Gso(GsoSender::open(&Device::open(&options.common.iface)?)?));
        }
        let interface = attach(&options.common)?;
        let settings = LinkOptions { transmit: Transmit::AfXdp, ..LinkOptions::default() };
        let link = AfXdpLink::open(&interface, 0, settings)?;
        Ok(Self::Ring(Box::new(Ring { link, _interface: interface })))
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        match self {
            Self::Ring(ring) => ring.link.transmit(bursts),
            Self::Gso(sender) => sender.transmit(bursts),
        }
    }

    /// Datagrams of this size in one burst.
    fn row(&self, size: usize) -> usize {
        match self {
            Self::Ring(_) => 1,
            Self::Gso(_) => (payload::MAX_SIZE / size).clamp(1, BATCH),
        }
    }
}

/// Headers for one burst with so much payload. One frame goes without a UDP checksum (RFC 768 allows that over IPv4), so
/// that the limit is not that of summing; a row has the sum that segmentation starts from.
fn headers(options: &Send, payload_len: usize, is_row: bool) -> [u8; HEADERS] {
    let (src, dst, port) = (options.common.from, options.common.to, options.common.port);
    let mut out = [0; HEADERS];
    let frame = ethernet::Repr { dst: options.to_mac, src: options.from_mac, ethertype: ethernet::IPV4 };
    frame.emit(&mut out);
    let transport_len = (udp::HEADER_LEN + payload_len) as u16;
    let packet = ipv4::Repr {
        src,
        dst,
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: transport_len,
    };
    packet.emit(&mut out[L3..]);
    let sum = if is_row { checksum::pseudo_v4(src, dst, protocol::UDP, transport_len).partial() } else { 0 };
    udp::Repr { src_port: port, dst_port: port, payload_len: payload_len as u16 }.emit(sum, &mut out[L4..]);
    out
}

fn send(options: &Send) -> Outcome<()> {
    let size = usize::from(options.common.size);
    let mut sender = Sender::open(options)?;
    programs::print_line(&Line::Ready { port: options.common.port })?;
    if options.hold {
        programs::wait_for_start()?;
    }
    let count = options.count.unwrap_or(u64::MAX);
    let seconds = options.seconds.unwrap_or(if options.count.is_some() { 60.0 } else { 1.0 });
    let (before, first_ns) = (sys::usage(), sys::now_ns());
    let end_ns = first_ns.saturating_add((seconds * 1e9) as u64);
    let mut buffer = vec![0; BATCH * size];
    let (mut sent, mut retries) = (0, 0);
    while sent < count && sys::now_ns() < end_ns {
        let datagrams = (BATCH as u64).min(count - sent) as usize;
        let filled = &mut buffer[..datagrams * size];
        filled
            .chunks_exact_mut(size)
            .zip(sent..)
            .for_each(|(datagram, number)| payload::write(datagram, number));
        let taken = hand_over(&mut sender, options, filled)?;
        // What was not taken is made again, with the same numbers.
        sent += taken as u64;
        if taken < datagrams {
            retries += 1;
            thread::yield_now();
        }
    }
    programs::print_line(&Line::Sent(Sent::until_now(sent, size, retries, first_ns, before)))?;
    let mut mark = vec![0; size];
    payload::write_end(&mut mark, sent);
    for pause in END_MARK_PAUSES_MS {
        thread::sleep(Duration::from_millis(pause));
        hand_over(&mut sender, options, &mark)?;
    }
    Ok(())
}

/// Hands over datagrams that lie one after the other, and returns how many were taken.
fn hand_over(sender: &mut Sender, options: &Send, datagrams: &[u8]) -> io::Result<usize> {
    let size = usize::from(options.common.size);
    let row = sender.row(size);
    let is_row = matches!(sender, Sender::Gso(_));
    let (whole, rest) = (row * size, datagrams.len() % (row * size));
    let headers = [headers(options, whole, is_row), headers(options, rest, is_row)];
    let chunks: Vec<[Chunk<'_>; 1]> = datagrams.chunks(whole).map(|row| [Chunk::new(row)]).collect();
    let bursts: Vec<Burst<'_>> = chunks
        .iter()
        .map(|payload| {
            let len = payload[0].len();
            Burst {
                header: &headers[usize::from(len != whole)],
                l3: L3 as u16,
                l4: if is_row { L4 as u16 } else { 0 },
                checksum: udp::CHECKSUM_OFFSET as u16,
                payload,
                payload_len: len as u32,
                segment: if is_row { options.common.size } else { 0 },
                gso: if is_row { Gso::Udp } else { Gso::None },
            }
        })
        .collect();
    let taken = sender.transmit(&bursts)?;
    Ok(bursts[..taken].iter().map(|burst| burst.payload_len as usize / size).sum())
}

fn receive(options: &Receive) -> Outcome<()> {
    let common = &options.common;
    let size = usize::from(common.size);
    let interface = attach(common)?;
    let mut link = AfXdpLink::open(&interface, 0, LinkOptions::default())?;
    interface.own(FlowKey::new(common.to.into(), common.port, protocol::UDP))?;
    programs::print_line(&Line::Ready { port: common.port })?;

    let mut stream = Stream::new("freena-perf-xdp", size, options.interval);
    let give_up_ns = sys::now_ns() + (options.seconds * 1e9) as u64;
    let mut empty = 0;
    let stopped = loop {
        let count = link.receive(BATCH, &mut |frame| {
            stream.take(frame.data.get(HEADERS..).unwrap_or_default());
        })?;
        if count == 0 {
            empty += 1;
            if empty < SPINS {
                std::hint::spin_loop();
                continue;
            }
            sys::poll_readable(link.wait_fd(), WAIT)?;
            let now = sys::now_ns();
            if now >= give_up_ns {
                break Stop::Time;
            }
            if stream.has_begun() && now.saturating_sub(stream.last_ns()) >= IDLE_NS {
                break Stop::Idle;
            }
            continue;
        }
        empty = 0;
        if stream.has_ended() {
            break Stop::EndMark;
        }
        stream.stamp()?;
        if stream.last_ns() >= give_up_ns {
            break Stop::Time;
        }
    };
    programs::print_line(&Line::Received(stream.finish(stopped)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_read() {
        assert_eq!(mac("02:f0:ee:aa:00:01"), Ok(Mac([2, 0xF0, 0xEE, 0xAA, 0, 1])));
        for wrong in ["", "02:f0:ee:aa:00", "02:f0:ee:aa:00:01:02", "02:f0:ee:aa:00:100", "zz:f0:ee:aa:00:01"]
        {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
