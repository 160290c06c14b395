//! Between the types of the boundary and those of the C ABI.

use crate::abi::{
    FREENA_DROP_BACKLOG, FREENA_DROP_CHECKSUM, FREENA_DROP_MALFORMED, FREENA_DROP_NO_PATH,
    FREENA_DROP_NO_SOCKET, FREENA_DROP_UNACCEPTABLE, FREENA_FAILURE_REFUSED, FREENA_FAILURE_RESET,
    FREENA_FAILURE_TIMED_OUT, FREENA_FAILURE_UNREACHABLE, FREENA_ICMP_HOST, FREENA_ICMP_NETWORK,
    FREENA_ICMP_PORT, FREENA_ICMP_PROHIBITED, FREENA_ICMP_PROTOCOL, FREENA_TAKEN, FreenaFlow, FreenaOptions,
    FreenaPath,
};
use freena_stack_api::stream::{Drop, Failure, Flow, IcmpError, Options, Path};
use freena_wire::{ipv4, ipv6};
use std::net::{IpAddr, Ipv6Addr};

pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(octets);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

impl From<&Flow> for FreenaFlow {
    fn from(flow: &Flow) -> Self {
        FreenaFlow {
            local: octets(flow.local),
            peer: octets(flow.peer),
            local_port: flow.local_port,
            peer_port: flow.peer_port,
        }
    }
}

/// `None` where the two addresses are not of one IP version.
pub(crate) fn flow(flow: &FreenaFlow) -> Option<Flow> {
    let (local, peer) = (address(flow.local), address(flow.peer));
    (local.is_ipv4() == peer.is_ipv4()).then_some(Flow {
        local,
        local_port: flow.local_port,
        peer,
        peer_port: flow.peer_port,
    })
}

/// Bytes behind the IP header.
pub(crate) fn room(path: &Path, ipv4: bool) -> u32 {
    let header = if ipv4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    path.mtu.min(65_535).saturating_sub(header as u32)
}

pub(crate) fn path(path: &Path, ipv4: bool) -> FreenaPath {
    FreenaPath { mtu: path.mtu, room: room(path, ipv4) }
}

impl From<&Options> for FreenaOptions {
    fn from(options: &Options) -> Self {
        let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        FreenaOptions {
            no_delay: options.no_delay.into(),
            cork: options.cork.into(),
            keep_alive: options.keep_alive.into(),
            ttl: options.ttl,
            tos: options.tos,
            pad: [0; 3],
            keep_idle: seconds(options.keep_idle),
            keep_interval: seconds(options.keep_interval),
            keep_count: options.keep_count,
            user_timeout: u32::try_from(options.user_timeout.as_millis()).unwrap_or(u32::MAX),
            max_segment: options.max_segment.into(),
            receive_buffer: options.window_clamp,
        }
    }
}

pub(crate) fn icmp(error: IcmpError) -> u32 {
    match error {
        IcmpError::Network => FREENA_ICMP_NETWORK,
        IcmpError::Host => FREENA_ICMP_HOST,
        IcmpError::Port => FREENA_ICMP_PORT,
        IcmpError::Protocol => FREENA_ICMP_PROTOCOL,
        IcmpError::Prohibited => FREENA_ICMP_PROHIBITED,
    }
}

/// `None`: no such failure.
pub(crate) fn failure(number: u32) -> Option<Failure> {
    Some(match number {
        FREENA_FAILURE_REFUSED => Failure::Refused,
        FREENA_FAILURE_RESET => Failure::Reset,
        FREENA_FAILURE_TIMED_OUT => Failure::TimedOut,
        FREENA_FAILURE_UNREACHABLE => Failure::Unreachable(IcmpError::Host),
        _ => return None,
    })
}

/// `None`: no such answer.
pub(crate) fn verdict(number: u32) -> Option<Result<(), Drop>> {
    Some(Err(match number {
        FREENA_TAKEN => return Some(Ok(())),
        FREENA_DROP_MALFORMED => Drop::Malformed,
        FREENA_DROP_CHECKSUM => Drop::Checksum,
        FREENA_DROP_NO_SOCKET => Drop::NoSocket,
        FREENA_DROP_UNACCEPTABLE => Drop::Unacceptable,
        FREENA_DROP_BACKLOG => Drop::Backlog,
        FREENA_DROP_NO_PATH => Drop::NoPath,
        _ => return None,
    }))
}
