//! The XDP program on an interface, and its maps.

use std::{
    io,
    os::fd::RawFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp, XdpMode, links::FdLink},
    sys::SyscallError,
};
use freena_ebpf_abi::{
    Counter, FlowKey, GLOBAL_REDIRECT_FRAGMENTS, MAP_COUNTERS, MAP_FLOWS, MAP_XSKS, MAX_FLOWS, MAX_QUEUES,
    PROGRAM,
};
use freena_link_raw::Device;

use crate::Holder;

static OBJECT: &[u8] = include_bytes_aligned!("../../../../ebpf/freena-xdp.o");

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
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    maps: Mutex<Maps>,
    // Declared after the maps, so dropped after them: the order does not matter to the kernel.
    _link: FdLink,
    _program: Ebpf,
}

struct Maps {
    flows: HashMap<MapData, [u8; 20], u32>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
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
        let redirect_fragments = u8::from(options.redirect_fragments);
        let mut ebpf = EbpfLoader::new()
            // The program has no relocation against the kernel's types, whose parsing takes longer than all the rest.
            .btf(None)
            .override_global(GLOBAL_REDIRECT_FRAGMENTS, &redirect_fragments, true)
            .load(OBJECT)
            .map_err(|error| AttachError::Load(error.into()))?;
        let maps = Maps::take(&mut ebpf).map_err(AttachError::Load)?;
        let program = program(&mut ebpf).map_err(AttachError::Load)?;
        let (mode, reason, link) = attach(program, &device, options.mode)?;
        tracing::info!(interface = name, ?mode, reason, "XDP program attached");
        Ok(XdpInterface { device, mode, reason, maps: Mutex::new(maps), _link: link, _program: ebpf })
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
    /// `ENOSPC` where `MAX_FLOWS` flows are owned; what the kernel returns otherwise.
    pub fn own(&self, flow: FlowKey) -> io::Result<()> {
        self.maps().flows.insert(flow.to_bytes(), 0, 0).map_err(|error| match map_error(error) {
            error if error.raw_os_error() == Some(libc::E2BIG) => io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "{} owns {MAX_FLOWS} flows already, as many as the XDP program takes",
                    self.device.name
                ),
            ),
            error => error,
        })
    }

    /// From now on frames of `flow` go to the kernel. A flow that is not owned is none.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn disown(&self, flow: FlowKey) -> io::Result<()> {
        match self.maps().flows.remove(&flow.to_bytes()) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => match map_error(error) {
                error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// How many frames went where and why, in the order of [`Counter::ALL`], of all queues together.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn counters(&self) -> io::Result<[u64; Counter::ALL.len()]> {
        let maps = self.maps();
        let mut sums = [0; Counter::ALL.len()];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let values = maps.counters.get(&(counter as u32), 0).map_err(map_error)?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }

    /// Lets the program redirect to the AF_XDP socket. Closing the socket takes it out again.
    pub(crate) fn register(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        self.maps().sockets.set(queue, socket, 0).map_err(map_error)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        // Each use is one system call: a panic in between leaves nothing half done.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Maps, Box<dyn std::error::Error + Send + Sync>> {
        let mut take = |name: &str| -> Result<Map, String> {
            ebpf.take_map(name).ok_or_else(|| format!("the embedded object has no map {name}"))
        };
        Ok(Maps {
            flows: HashMap::try_from(take(MAP_FLOWS)?)?,
            sockets: XskMap::try_from(take(MAP_XSKS)?)?,
            counters: PerCpuArray::try_from(take(MAP_COUNTERS)?)?,
        })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Box<dyn std::error::Error + Send + Sync>> {
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
            Err(error) => attach_error(error),
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

fn attach_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}

fn map_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}
