//! How the kernel is told which flows are ours: by the XDP program or by the one at tc ingress.

use freena_ebpf_abi::{Counter, FlowKey};
use freena_link_af_xdp::XdpInterface;
use freena_link_raw::SteeredInterface;
use std::io;

/// The program on an interface.
#[allow(clippy::large_enum_variant, reason = "one for each interface, never moved after start")]
pub enum Steering {
    /// XDP: owned frames go to the AF_XDP sockets.
    Xdp(XdpInterface),
    /// tc ingress: owned frames end there, after the packet socket has had its copy.
    Tc(SteeredInterface),
    /// None (no privilege, or an old kernel): the packet socket sees everything, and so does the kernel.
    None,
}

impl Steering {
    /// Steers a flow to us from now on.
    ///
    /// # Errors
    /// The map is full (`E2BIG`), or the kernel is out of memory.
    pub fn own(&self, key: FlowKey) -> io::Result<()> {
        match self {
            Steering::Xdp(interface) => interface.own(key),
            Steering::Tc(interface) => interface.own(key),
            Steering::None => Ok(()),
        }
    }

    /// Leaves a flow to the kernel from now on.
    ///
    /// # Errors
    /// As for [`Steering::own`].
    pub fn disown(&self, key: FlowKey) -> io::Result<()> {
        match self {
            Steering::Xdp(interface) => interface.disown(key),
            Steering::Tc(interface) => interface.disown(key),
            Steering::None => Ok(()),
        }
    }

    /// What the program counted, by [`Counter`].
    pub fn counters(&self) -> Option<[u64; Counter::ALL.len()]> {
        match self {
            Steering::Xdp(interface) => interface.counters().ok(),
            Steering::Tc(interface) => interface.counters().ok(),
            Steering::None => None,
        }
    }

    /// Which program, in a word or two.
    pub fn describe(&self) -> String {
        match self {
            Steering::Xdp(interface) => format!("xdp {:?}", interface.mode()).to_lowercase(),
            Steering::Tc(_) => "tc ingress".to_owned(),
            Steering::None => "none".to_owned(),
        }
    }

    /// Why this one.
    pub fn reason(&self) -> &str {
        match self {
            Steering::Xdp(interface) => interface.reason(),
            Steering::Tc(interface) => interface.reason(),
            Steering::None => {
                "the kernel sees every frame too; a filter keeps what is ours out of the companion sockets"
            }
        }
    }

    /// Whether frames of owned flows go into the kernel's IP layer as well.
    pub fn is_none(&self) -> bool {
        matches!(self, Steering::None)
    }
}
