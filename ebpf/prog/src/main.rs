//! The programs that steer: a frame of a flow that freena owns goes to its socket, all else to the kernel.
//!
//! ARP, neighbour discovery, VLAN-tagged, broadcast and multicast frames are always the kernel's.
#![no_std]
#![no_main]

mod skb;
mod xdp;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use freena_ebpf_abi::{Counter, FlowKey, MAX_FLOWS};

/// Not preallocated: only user space inserts, and most hosts own few flows.
#[map]
static FLOWS: HashMap<FlowKey, u32> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

#[inline(always)]
fn owned(flow: &FlowKey) -> bool {
    FLOWS.get_ptr(flow).is_some()
}

#[inline(always)]
fn count(reason: Counter) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the map lends this CPU's own value, and a program is not preempted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}

/// Never reached: an object with a panic path is refused when it is built, and by the verifier.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence as the kernel wants it named.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
