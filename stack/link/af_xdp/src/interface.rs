//! The XDP program on an interface, and its maps.

use std::{
    io,
    os::fd::RawFd,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{MapData, XskMap},
    programs::{Xdp, XdpMode, links::FdLink},
};
use freena_ebpf_abi::{Counter, FlowKey, MAP_XSKS, MAX_QUEUES, PROGRAM};
use freena_ebpf_loader::{LoadError, Maps, map_error, program_error};
use freena_link_raw::Device;

use crate::Holder;

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native, or SKB where the driver refuses.
    #[default]
    Auto,
    /// In the driver, before an skb is made.
    Native,
    /// In the generic hook, on any interface. On veth a peer's super-packets do not fit a UMEM frame and are lost:
    /// use it where the peer sends single frames only.
    Skb,
}

/// Settings of the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    /// Where it runs. Default [`Mode::Auto`].
    pub mode: Mode,
    /// Redirect the fragments of owned flows too. Default false: the kernel reassembles them for the companion socket.
    pub redirect_fragments: bool,
}

/// Why the program could not be put on an interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such interface in this network namespace.
    #[error("interface {interface}: {source}")]
    Interface {
        /// The name that was given.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another program is on it already.
    #[error("interface {interface} is taken by {}", .holder.as_ref().map_or_else(|| "another XDP program".to_owned(), Holder::to_string))]
    Held {
        /// Name of the interface.
        interface: String,
        /// Who holds it; `None` where the kernel does not tell.
        holder: Option<Holder>,
    },
    /// The kernel refuses to load the program.
    #[error("the XDP program cannot be loaded (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed): {0}")]
    Load(#[source] LoadError),
    /// The driver and the generic hook refuse it.
    #[error("interface {interface} takes no XDP program: {why}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// What the kernel said to each mode that was tried.
        why: String,
    },
    /// The kernel has no `bpf_link` for XDP, so that the program would outlive the process.
    #[error("interface {interface}: XDP needs a bpf_link that dies with the process (Linux 5.9)")]
    NoLink {
        /// Name of the interface.
        interface: String,
    },
}

/// An interface with the program on it. Dropping it, or the death of the process, takes the program off.
pub struct XdpInterface {
    device: Device,
    mode: Mode,
    reason: String,
    maps: Maps,
    sockets: Mutex<XskMap<MapData>>,
    // Declared after the maps, so dropped after them: the order does not matter to the kernel.
    _link: FdLink,
    _program: Ebpf,
}

impl XdpInterface {
    /// Puts the program on the interface `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// Each variant of [`AttachError`].
    pub fn attach(name: &str, mode: Mode) -> Result<XdpInterface, AttachError> {
        Self::attach_with(name, AttachOptions { mode, ..AttachOptions::default() })
    }

    /// As [`XdpInterface::attach`], with every setting.
    ///
    /// # Errors
    /// Each variant of [`AttachError`].
    pub fn attach_with(name: &str, options: AttachOptions) -> Result<XdpInterface, AttachError> {
        let device = Device::open(name)
            .map_err(|source| AttachError::Interface { interface: name.to_owned(), source })?;
        let (mut ebpf, maps) =
            freena_ebpf_loader::load(name, options.redirect_fragments).map_err(AttachError::Load)?;
        let sockets = sockets(&mut ebpf).map_err(AttachError::Load)?;
        let program = program(&mut ebpf).map_err(AttachError::Load)?;
        let (mode, reason, link) = attach(program, &device, options.mode)?;
        tracing::info!(interface = name, ?mode, reason, "XDP program attached");
        Ok(XdpInterface { device, mode, reason, maps, sockets, _link: link, _program: ebpf })
    }

    /// The interface.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where the program runs: [`Mode::Native`] or [`Mode::Skb`].
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why there, in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Number of receive queues, each of which needs a link of its own; at most [`MAX_QUEUES`] can have one.
    pub fn queues(&self) -> u32 {
        self.device.queues.min(MAX_QUEUES)
    }

    /// From now on frames of `flow` go to the link of the queue they arrive on.
    ///
    /// # Errors
    /// As [`Maps::own`].
    pub fn own(&self, flow: FlowKey) -> io::Result<()> {
        self.maps.own(flow)
    }

    /// From now on frames of `flow` go to the kernel. A flow that is not owned is none.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn disown(&self, flow: FlowKey) -> io::Result<()> {
        self.maps.disown(flow)
    }

    /// How many frames went where and why, in the order of [`Counter::ALL`], of all queues together.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn counters(&self) -> io::Result<[u64; Counter::ALL.len()]> {
        self.maps.counters()
    }

    /// Lets the program redirect to the AF_XDP socket. Closing the socket takes it out again.
    pub(crate) fn register(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        // One system call: a panic in between leaves nothing half done.
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.set(queue, socket, 0).map_err(map_error)
    }
}

fn sockets(ebpf: &mut Ebpf) -> Result<Mutex<XskMap<MapData>>, LoadError> {
    Ok(Mutex::new(XskMap::try_from(freena_ebpf_loader::take(ebpf, MAP_XSKS)?)?))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    let program = ebpf.program_mut(PROGRAM).ok_or("the embedded object has no XDP program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    Ok(program)
}

/// Attaches in the modes that `wanted` allows, the faster first; says which it was and why.
fn attach(program: &mut Xdp, device: &Device, wanted: Mode) -> Result<(Mode, String, FdLink), AttachError> {
    let modes: &[Mode] = match wanted {
        Mode::Auto => &[Mode::Native, Mode::Skb],
        Mode::Native => &[Mode::Native],
        Mode::Skb => &[Mode::Skb],
    };
    let mut refusals: Vec<String> = Vec::new();
    for &mode in modes {
        let flags = if mode == Mode::Native { XdpMode::Driver } else { XdpMode::Skb };
        let error = match program.attach_to_if_index(device.index, flags) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|error| AttachError::Load(error.into()))?;
                // Before Linux 5.9 aya attaches over netlink, which nothing takes off when the process dies.
                let link: FdLink =
                    link.try_into().map_err(|_| AttachError::NoLink { interface: device.name.clone() })?;
                let reason = match (wanted, refusals.first()) {
                    (Mode::Auto, None) => "the driver takes XDP".to_owned(),
                    (Mode::Auto, Some(refusal)) => refusal.clone(),
                    _ => "asked for".to_owned(),
                };
                return Ok((mode, reason, link));
            }
            Err(error) => program_error(error),
        };
        if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) {
            let holder = Holder::of(device.index);
            return Err(AttachError::Held { interface: device.name.clone(), holder });
        }
        let name = if mode == Mode::Native { "native" } else { "SKB" };
        refusals.push(format!("{name} mode refused by driver '{}': {error}{}", device.driver, hint(&error)));
    }
    Err(AttachError::Refused { interface: device.name.clone(), why: refusals.join("; ") })
}

/// What an error of attaching means, where its text misleads.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => " (it has no XDP)",
        Some(libc::ERANGE) => " (the MTU of the interface or of its peer is too large for one page)",
        Some(libc::ENOSPC) => " (fewer receive queues than the peer has transmit queues)",
        Some(libc::EPERM) => " (CAP_NET_ADMIN and CAP_BPF are needed)",
        _ => "",
    }
}
