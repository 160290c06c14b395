//! In the driver or the generic hook: owned flows go to the AF_XDP socket of their queue.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{LruHashMap, XskMap},
    programs::XdpContext,
};
use freena_ebpf_abi::{Bytes, Counter, FragmentKey, MAX_FRAGMENTS, MAX_QUEUES, Verdict, classify};

use crate::{count, owned};

#[map]
static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// Set by the loader; see `GLOBAL_REDIRECT_FRAGMENTS`.
#[unsafe(no_mangle)]
static REDIRECT_FRAGMENTS: u8 = 0;

/// No packet that reaches the program is longer; the verifier needs the bound to accept a computed offset.
const MAX_OFFSET: usize = 0x7fff;

struct Packet {
    start: usize,
    end: usize,
}

impl Bytes for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: `start..end` is the packet (`data` and `data_end` of the context) and holds `N` bytes at `at`; the
        // verifier proves the same of the compiled program. An array of bytes has no alignment and no invalid value.
        Some(unsafe { *(at as *const [u8; N]) })
    }
}

#[xdp]
pub fn freena_xdp(context: XdpContext) -> u32 {
    let packet = Packet { start: context.data(), end: context.data_end() };
    let mut reason = decide(&packet);
    let mut action = xdp_action::XDP_PASS;
    if matches!(reason, Counter::Redirected | Counter::RedirectedFragment) {
        match redirect(&context) {
            xdp_action::XDP_REDIRECT => action = xdp_action::XDP_REDIRECT,
            _ => reason = Counter::NoSocket,
        }
    }
    count(reason);
    action
}

#[inline(always)]
fn decide(packet: &Packet) -> Counter {
    match classify(packet) {
        Verdict::Flow(flow) if owned(&flow) => Counter::Redirected,
        Verdict::Flow(_) => Counter::PassNotOwned,
        Verdict::First(..) | Verdict::Later(..) if !redirects_fragments() => Counter::PassFragment,
        // Where the entry cannot be made the kernel gets every fragment, the first included.
        Verdict::First(flow, fragment) if owned(&flow) && FRAGMENTS.insert(&fragment, &0, 0).is_ok() => {
            Counter::RedirectedFragment
        }
        Verdict::Later(fragment) if FRAGMENTS.get_ptr(&fragment).is_some() => Counter::RedirectedFragment,
        Verdict::First(..) | Verdict::Later(_) => Counter::PassFragment,
        Verdict::Pass(reason) => reason,
    }
}

#[inline(always)]
fn redirects_fragments() -> bool {
    // SAFETY: the static is initialised and never written while the program runs. Volatile, since the loader changes
    // the value in the object that the compiler believes to be constant.
    unsafe { core::ptr::read_volatile(&raw const REDIRECT_FRAGMENTS) != 0 }
}

/// To the socket of the queue. Where there is none the helper returns the action in its flags (Linux 5.3).
#[inline(always)]
fn redirect(context: &XdpContext) -> u32 {
    // SAFETY: the context is the one the kernel called the program with, valid for as long as it runs.
    let queue = unsafe { (*context.ctx).rx_queue_index };
    XSKS.redirect(queue, u64::from(xdp_action::XDP_PASS)).unwrap_or(xdp_action::XDP_PASS)
}
