//! Which flow a frame belongs to. The eBPF programs run this code, and so do the tests and the fuzzer.

use crate::{Counter, FlowKey, FragmentKey, mapped};

/// Bounded reads from a frame.
///
/// The verifier follows one bounds check per read, so headers are read as whole arrays and never byte by byte.
pub trait Bytes {
    /// The `N` bytes at `offset`, or `None` where the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

/// What the headers of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel's, for this reason.
    Pass(Counter),
    /// A whole packet of this flow.
    Flow(FlowKey),
    /// The first fragment of a packet of this flow.
    First(FlowKey, FragmentKey),
    /// A later fragment.
    Later(FragmentKey),
}

const ETHERNET: usize = 14;
const IPV6_HEADER: usize = 40;
/// IPv6 extension headers followed. RFC 8504 section 5.3 lets a host limit them, and suggests 8.
const MAX_EXTENSIONS: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads the headers of an Ethernet frame.
///
/// Only what decides about the flow is checked: a flow's own stack verifies the rest, checksums included.
#[inline(always)]
pub fn classify<B: Bytes + ?Sized>(frame: &B) -> Verdict {
    let Some(ethernet) = frame.read::<ETHERNET>(0) else { return Verdict::Pass(Counter::PassMalformed) };
    let group = ethernet[0] & 1 != 0;
    match [ethernet[12], ethernet[13]] {
        [0x08, 0x00] | [0x86, 0xdd] if group => Verdict::Pass(Counter::PassNotOwned),
        [0x08, 0x00] => ipv4(frame),
        [0x86, 0xdd] => ipv6(frame),
        _ => Verdict::Pass(Counter::PassNotIp),
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B) -> Verdict {
    let Some(ip) = frame.read::<20>(ETHERNET) else { return Verdict::Pass(Counter::PassMalformed) };
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] >> 4 != 4 || header < 20 || total < header {
        return Verdict::Pass(Counter::PassMalformed);
    }
    let protocol = ip[9];
    let destination = mapped([ip[16], ip[17], ip[18], ip[19]]);
    let flags = u16::from_be_bytes([ip[6], ip[7]]);
    let (more, offset) = (flags & 0x2000 != 0, flags & 0x1fff);
    let fragment = FragmentKey {
        source: mapped([ip[12], ip[13], ip[14], ip[15]]),
        destination,
        id: [ip[4], ip[5], 0, 0],
        protocol,
        pad: [0; 3],
    };
    if offset != 0 {
        return Verdict::Later(fragment);
    }
    match flow(frame, destination, protocol, ETHERNET + header, ETHERNET + total) {
        Ok(key) if more => Verdict::First(key, fragment),
        Ok(key) => Verdict::Flow(key),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B) -> Verdict {
    let Some(ip) = frame.read::<IPV6_HEADER>(ETHERNET) else { return Verdict::Pass(Counter::PassMalformed) };
    if ip[0] >> 4 != 6 {
        return Verdict::Pass(Counter::PassMalformed);
    }
    let mut next = ip[6];
    let end = ETHERNET + IPV6_HEADER + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let source = address(&ip, 8);
    let destination = address(&ip, 24);
    // An IPv4-mapped address must not appear on the wire (RFC 4291 section 2.5.5.2), and would be taken for IPv4's key.
    if destination[..10] == [0; 10] && destination[10..12] == [0xff; 2] {
        return Verdict::Pass(Counter::PassNotOwned);
    }
    let mut offset = ETHERNET + IPV6_HEADER;
    let mut first: Option<FragmentKey> = None;
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            return match (flow(frame, destination, next, offset, end), first) {
                (Ok(key), Some(fragment)) => Verdict::First(key, fragment),
                (Ok(key), None) => Verdict::Flow(key),
                (Err(reason), _) => Verdict::Pass(reason),
            };
        }
        let Some(extension) = frame.read::<8>(offset) else { return Verdict::Pass(Counter::PassMalformed) };
        let length = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if next == ROUTING && extension[3] != 0 {
            // Segments left: this host is not the destination yet.
            return Verdict::Pass(Counter::PassNotOwned);
        }
        if next == FRAGMENT {
            let field = u16::from_be_bytes([extension[2], extension[3]]);
            let id = [extension[4], extension[5], extension[6], extension[7]];
            let key = FragmentKey { source, destination, id, protocol: FRAGMENT, pad: [0; 3] };
            if field & 0xfff8 != 0 {
                return Verdict::Later(key);
            }
            // Neither offset nor more: an atomic fragment is a whole packet (RFC 6946).
            if field & 1 != 0 {
                first = Some(key);
            }
        }
        next = extension[0];
        offset += length;
    }
    Verdict::Pass(Counter::PassTooManyHeaders)
}

#[inline(always)]
fn address(ip: &[u8; IPV6_HEADER], at: usize) -> [u8; 16] {
    let mut address = [0; 16];
    let mut i = 0;
    while i < 16 {
        address[i] = ip[at + i];
        i += 1;
    }
    address
}

/// The key of the transport header at `offset` of a packet that ends at `end`.
#[inline(always)]
fn flow<B: Bytes + ?Sized>(
    frame: &B,
    addr: [u8; 16],
    protocol: u8,
    offset: usize,
    end: usize,
) -> Result<FlowKey, Counter> {
    let port = if matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE) {
        // All of them begin with the source and the destination port.
        match frame.read::<4>(offset) {
            Some(ports) if offset + 4 <= end => [ports[2], ports[3]],
            _ => return Err(Counter::PassMalformed),
        }
    } else {
        [0; 2]
    };
    Ok(FlowKey { addr, port, protocol, pad: 0 })
}

#[cfg(test)]
mod tests;
