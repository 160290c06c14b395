//! The link over AF_XDP.
//!
//! [`XdpInterface`] loads the XDP program onto an interface and tells it which flows are owned; [`AfXdpLink`] is one
//! queue of it. Capabilities: NET_ADMIN, BPF, NET_RAW, PERFMON; without IPC_LOCK the UMEM counts against
//! RLIMIT_MEMLOCK. Linux 5.9 (a `bpf_link` for XDP, which dies with the process).
#![cfg(target_os = "linux")]

mod holder;
mod interface;
mod link;
mod send;
mod umem;

pub use freena_ebpf_abi::{Counter, FlowKey};
pub use holder::Holder;
pub use interface::{AttachError, AttachOptions, Mode, XdpInterface};
pub use link::{AfXdpLink, OpenError, Options, Transmit, ZeroCopy};
