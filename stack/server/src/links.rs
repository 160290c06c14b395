//! Opens the interfaces by the way that was asked for, or the best one that can be had.

use crate::args::{Args, LinkChoice, TransmitChoice};
use crate::steering::Steering;
use crate::worker::{Network, Port};
use freena_link_af_xdp::{AfXdpLink, Mode, Options, Transmit, XdpInterface};
use freena_link_middleware::{BadProbability, Directions, Impair, Impairments, Trace};
use freena_link_raw::{Device, RawLink, SteeredInterface};
use freena_stack_api::Link;
use freena_wire::Mac;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::Instant;

/// An interface that is served.
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// The program that steers its frames.
    pub steering: Steering,
    /// The largest MTU whose frames the link can receive.
    pub max_mtu: u32,
}

/// The larger of the two sizes that an AF_XDP frame may have.
const LARGE_FRAME: u32 = 4096;

/// The MTU up to which an AF_XDP frame of `size` bytes holds what arrives: 256 bytes of it are the kernel's head room, 14
/// the Ethernet header.
const fn max_mtu(size: u32) -> u32 {
    size - 256 - 14
}

/// The size that an AF_XDP frame needs for `mtu`.
const fn frame_size(mtu: u32) -> u32 {
    if mtu > max_mtu(2048) { LARGE_FRAME } else { 2048 }
}

/// Why an interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It does not exist, or has no Ethernet address.
    #[error("interface {0}: {1}")]
    Interface(String, io::Error),
    /// The XDP program cannot be attached.
    #[error(transparent)]
    Attach(#[from] freena_link_af_xdp::AttachError),
    /// The AF_XDP socket cannot be opened.
    #[error(transparent)]
    Open(#[from] freena_link_af_xdp::OpenError),
    /// Its frames are too large for AF_XDP; they would be lost, and only they.
    #[error("interface {0}: AF_XDP holds frames up to an MTU of {max}, its MTU is {1}", max = max_mtu(LARGE_FRAME))]
    Mtu(String, u32),
    /// The packet socket cannot be opened.
    #[error("packet socket on interface {0}: {1} (CAP_NET_RAW is needed)")]
    Raw(String, io::Error),
    /// The impairments make no sense.
    #[error("--impair: {0}")]
    Impair(String),
    /// The trace file cannot be written.
    #[error("trace file {0}: {1}")]
    Trace(String, io::Error),
}

/// Opens one interface: the interface, and a port for each of its queues.
///
/// # Errors
/// Each variant of [`LinkError`].
pub fn open(name: &str, args: &Args, network: &Network) -> Result<(Interface, Vec<Port>), LinkError> {
    let fail = |error| LinkError::Interface(name.to_owned(), error);
    let device = Device::open(name).map_err(fail)?;
    let link = network.with(|mirror| mirror.link(device.index).cloned());
    let link = link.ok_or_else(|| fail(io::Error::from_raw_os_error(libc::ENODEV)))?;
    let mac = link.mac.map(Mac).ok_or_else(|| fail(io::Error::other("it has no Ethernet address")))?;
    let mtu = link.mtu;
    let (steering, links) = match args.link {
        LinkChoice::XdpNative => xdp_links(name, Mode::Native, mtu, args)?,
        LinkChoice::XdpSkb => xdp_links(name, Mode::Skb, mtu, args)?,
        LinkChoice::Raw => raw_links(name, "asked for")?,
        // Without a wire, frames cross as super-packets as long as no XDP program makes the sender cut them first, and
        // AF_XDP has nothing to gain but copies: there the packet socket carries several times as much.
        LinkChoice::Auto if device.is_software() => raw_links(
            name,
            "a device without a wire, which super-packets cross whole when no XDP program is on it",
        )?,
        LinkChoice::Auto => match xdp_links(name, Mode::Auto, mtu, args) {
            Ok(links) => links,
            Err(error) => {
                let error = brief(&error);
                tracing::warn!(interface = name, error, "no AF_XDP: falling back to a packet socket");
                raw_links(name, &format!("no AF_XDP: {error}"))?
            }
        },
    };
    // A raw link hands over super-packets whole.
    let budget = if matches!(steering, Steering::Xdp(_)) { 128 } else { 4 };
    let sees_all = steering.is_none();
    let mut ports = Vec::new();
    for link in links {
        let link = match &args.trace {
            Some(path) => traced(link, path)?,
            None => link,
        };
        let link = match &args.impair {
            Some(impairments) => impaired(link, *impairments)?,
            None => link,
        };
        ports.push(Port { link, ifindex: device.index, mac, budget, sees_all });
    }
    let max_mtu = if matches!(steering, Steering::Xdp(_)) { max_mtu(frame_size(mtu)) } else { u32::MAX };
    Ok((Interface { name: name.to_owned(), ifindex: device.index, steering, max_mtu }, ports))
}

type Links = (Steering, Vec<Box<dyn Link>>);

fn xdp_links(name: &str, mode: Mode, mtu: u32, args: &Args) -> Result<Links, LinkError> {
    if mtu > max_mtu(LARGE_FRAME) {
        return Err(LinkError::Mtu(name.to_owned(), mtu));
    }
    let interface = XdpInterface::attach(name, mode)?;
    let transmit = match args.transmit {
        TransmitChoice::Auto => Transmit::Auto,
        TransmitChoice::Gso => Transmit::Gso,
        TransmitChoice::AfXdp => Transmit::AfXdp,
    };
    let frame_size = frame_size(mtu);
    let mut links: Vec<Box<dyn Link>> = Vec::new();
    for queue in 0..interface.queues() {
        let options = Options { transmit, frame_size, ..Options::default() };
        links.push(Box::new(AfXdpLink::open(&interface, queue, options)?));
    }
    Ok((Steering::Xdp(interface), links))
}

fn raw_links(name: &str, reason: &str) -> Result<Links, LinkError> {
    let (steering, reason) = match SteeredInterface::attach(name) {
        Ok(interface) => (Steering::Tc(interface), reason.to_owned()),
        Err(error) => {
            let error = brief(&error);
            tracing::warn!(interface = name, error, "no steering: the kernel handles each frame as well");
            (Steering::None, format!("{reason}; not steered: {error}"))
        }
    };
    let interface = match &steering {
        Steering::Tc(interface) => Some(interface),
        _ => None,
    };
    let options = freena_link_raw::Options { reason, steering: interface, ..Default::default() };
    let link = RawLink::open(name, options).map_err(|error| LinkError::Raw(name.to_owned(), error))?;
    Ok((steering, vec![Box::new(link)]))
}

/// The first line of an error: behind it may come the verifier's log.
fn brief(error: &dyn std::error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Wraps a link so that it is a bad one. The same frames have the same fate in each run.
fn impaired(link: Box<dyn Link>, impairments: Impairments) -> Result<Box<dyn Link>, LinkError> {
    let seed = u64::from(link.info().queue) + 1;
    let bad = |error: BadProbability| LinkError::Impair(error.to_string());
    Ok(Box::new(Impair::new(link, impairments, Directions::Both, seed, Instant::now).map_err(bad)?))
}

/// Wraps a link so that it writes what it carries. Each queue has a file of its own.
fn traced(link: Box<dyn Link>, path: &Path) -> Result<Box<dyn Link>, LinkError> {
    let info = link.info();
    let mut file_name = path.as_os_str().to_owned();
    file_name.push(format!(".{}-{}.pcapng", info.interface, info.queue));
    let fail = |error| LinkError::Trace(file_name.to_string_lossy().into_owned(), error);
    let file = BufWriter::new(File::create(&file_name).map_err(fail)?);
    Ok(Box::new(Trace::new(link, file).map_err(|error| fail(io::Error::other(error.to_string())))?))
}
