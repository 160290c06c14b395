//! On an skb: owned flows go to a packet socket and to nobody else.
//!
//! Packet sockets get their copy of a frame before tc ingress runs. So one program there drops the frames of owned
//! flows, and another, the filter of the packet socket, lets no other frames in. Both decide alike, by the same function
//! from the same skb; a super-packet (GSO, GRO) is one frame to both.

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    macros::{classifier, socket_filter},
    programs::{SkBuffContext, TcContext, sk_buff::SkBuff},
};
use freena_ebpf_abi::{Bytes, Counter, Verdict, classify};

use crate::{count, owned};

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` where there is no TCX: the next program decides, at last the kernel.
const NEXT: i32 = -1;
/// The `pkt_type` of a frame to the interface's own address (linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// What a socket filter returns for a frame of any length, and for none.
const WHOLE: i64 = u32::MAX as i64;
const NOTHING: i64 = 0;

/// Read through a helper, since most of a super-packet lies outside the linear part of its skb.
struct Frame<'a>(&'a SkBuff);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }
}

#[classifier]
pub fn freena_tc(context: TcContext) -> i32 {
    let reason = decide(&context.skb);
    count(reason);
    if reason == Counter::Redirected { TC_ACT_SHOT } else { NEXT }
}

#[socket_filter]
pub fn freena_filter(context: SkBuffContext) -> i64 {
    if decide(&context.skb) == Counter::Redirected { WHOLE } else { NOTHING }
}

/// Fragments are always the kernel's, which reassembles the datagram for the companion socket.
#[inline(always)]
fn decide(skb: &SkBuff) -> Counter {
    // SAFETY: the context is the one the kernel called the program with, valid for as long as it runs.
    let (kind, tagged) = unsafe { ((*skb.skb).pkt_type, (*skb.skb).vlan_present) };
    // The kernel has taken the tag out of the frame, which looks like an untagged one.
    if tagged != 0 {
        return Counter::PassNotIp;
    }
    match classify(&Frame(skb)) {
        Verdict::Flow(flow) if kind == PACKET_HOST && owned(&flow) => Counter::Redirected,
        Verdict::Flow(_) => Counter::PassNotOwned,
        Verdict::First(..) | Verdict::Later(_) => Counter::PassFragment,
        Verdict::Pass(reason) => reason,
    }
}
