//! Steering in the kernel: owned flows reach the raw link, and not the kernel's IP layer.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::{
    Ebpf,
    programs::{LinkOrder, SchedClassifier, SocketFilter, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use freena_ebpf_abi::{Counter, FlowKey, PROGRAM_FILTER, PROGRAM_TC};
use freena_ebpf_loader::{LoadError, Maps, program_error};
use socket2::Socket;

use crate::{Device, packet};

/// Why an interface cannot be steered. A raw link without steering may still be had.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// There is no such interface in this network namespace.
    #[error("interface {interface}: {source}")]
    Interface {
        /// The name that was given.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses to load a program.
    #[error(
        "the steering programs cannot be loaded (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed): {0}"
    )]
    Load(#[source] LoadError),
    /// The kernel has no TCX. The older way of attaching leaves the program behind when the process dies.
    #[error("interface {interface}: steering needs TCX (Linux 6.6 with CONFIG_NET_XGRESS)")]
    NoTcx {
        /// Name of the interface.
        interface: String,
    },
    /// The kernel refuses to attach the program. `ERANGE`: 64 programs are there already.
    #[error("interface {interface} takes no program at tc ingress: {source}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An interface where the frames of owned flows go to the raw link opened with it, and to nobody else in the kernel.
///
/// A packet socket has its copy of a frame before tc ingress runs. There a program drops the frame where its flow is
/// owned; the same decision, as the filter of the packet socket, lets in no other frames. Packet captures see all of
/// them. Frames that are on their way while a flow changes hands may be lost or be received by both.
///
/// Dropping it, or the death of the process, takes the program off the interface; the filter lives as long as the link.
/// Drop it before the link, or disown its flows: with no link open, frames of owned flows are lost.
pub struct SteeredInterface {
    device: Device,
    maps: Maps,
    filter: OwnedFd,
    _link: FdLink,
}

impl SteeredInterface {
    /// Puts the program on the interface `name` of the calling thread's network namespace, before those of others, which
    /// go on to see all frames that are not owned.
    ///
    /// # Errors
    /// Each variant of [`SteerError`].
    pub fn attach(name: &str) -> Result<SteeredInterface, SteerError> {
        let device = Device::open(name)
            .map_err(|source| SteerError::Interface { interface: name.to_owned(), source })?;
        // Fragments go to the kernel whatever the global says.
        let (mut ebpf, maps) = freena_ebpf_loader::load(name, false).map_err(SteerError::Load)?;
        let filter = load_filter(&mut ebpf).map_err(SteerError::Load)?;
        let link = attach(load_tc(&mut ebpf).map_err(SteerError::Load)?, &device)?;
        tracing::info!(interface = name, "tc program attached");
        Ok(SteeredInterface { device, maps, filter, _link: link })
    }

    /// The interface.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What steering does, in words.
    pub fn reason(&self) -> &'static str {
        "a program at tc ingress (TCX) keeps owned flows from the kernel's IP layer"
    }

    /// From now on frames of `flow` go to the link.
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

    /// How many frames went where and why, in the order of [`Counter::ALL`]. A super-packet is one frame.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn counters(&self) -> io::Result<[u64; Counter::ALL.len()]> {
        self.maps.counters()
    }

    /// Lets the frames of owned flows into the packet socket, and no others.
    pub(crate) fn filter(&self, socket: &Socket) -> io::Result<()> {
        packet::set_int(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, self.filter.as_raw_fd())
    }
}

impl fmt::Debug for SteeredInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteeredInterface").field("device", &self.device).finish_non_exhaustive()
    }
}

fn load_filter(ebpf: &mut Ebpf) -> Result<OwnedFd, LoadError> {
    let program = ebpf.program_mut(PROGRAM_FILTER).ok_or("the embedded object has no socket filter")?;
    let program: &mut SocketFilter = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn load_tc(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(PROGRAM_TC).ok_or("the embedded object has no tc program")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program)
}

/// First, so that the program sees each frame as the filter of the packet socket saw it.
fn attach(program: &mut SchedClassifier, device: &Device) -> Result<FdLink, SteerError> {
    let interface = || device.name.clone();
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&device.name, TcAttachType::Ingress, order).map_err(|error| {
        match program_error(error) {
            source if source.raw_os_error() == Some(libc::EINVAL) => {
                SteerError::NoTcx { interface: interface() }
            }
            source => SteerError::Refused { interface: interface(), source },
        }
    })?;
    let link = program.take_link(id).map_err(|error| SteerError::Load(error.into()))?;
    link.try_into().map_err(|_| SteerError::NoTcx { interface: interface() })
}
