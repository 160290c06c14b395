//! Links over packet sockets (man 7 packet).
//!
//! [`RawLink`] receives and sends where AF_XDP cannot be had: packet sockets need CAP_NET_RAW in the user namespace that
//! owns the network namespace, and nothing else. [`SteeredInterface`] keeps what the link receives from the kernel, where
//! eBPF can be had. [`GsoSender`] is its sending half, which the AF_XDP link uses too.
#![cfg(target_os = "linux")]

mod device;
mod filter;
mod frames;
mod gso;
mod link;
mod packet;
mod steer;
mod vnet;

pub use device::Device;
pub use frames::Frames;
pub use freena_ebpf_abi::{Counter, FlowKey};
pub use gso::{GsoSender, SendStats};
pub use link::{Options, RawLink};
pub use steer::{SteerError, SteeredInterface};
