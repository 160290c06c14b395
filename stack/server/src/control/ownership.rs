//! Which (protocol, address, port) are ours, told to the programs that steer.

use crate::links::Interface;
use freena_ebpf_abi::FlowKey;
use freena_shm_abi::endpoint::octets_of;
use freena_udp::Binding;
use freena_wire::protocol as ip;
use std::collections::HashMap;
use std::net::IpAddr;

/// Counts the sockets behind each key: sharers of a port have the same.
#[derive(Default)]
pub(super) struct Ownership {
    counts: HashMap<FlowKey, u32>,
}

impl Ownership {
    /// Owns `key` for one more socket.
    pub(super) fn take(&mut self, key: FlowKey, interfaces: &[Interface]) {
        let count = self.counts.entry(key).or_insert(0);
        *count += 1;
        if *count == 1 {
            for interface in interfaces {
                if let Err(error) = interface.steering.own(key) {
                    // The companion still gets the traffic: slower, not lost.
                    tracing::warn!(?key, %error, "cannot steer a flow to the fast path");
                }
            }
        }
    }

    /// Whether some socket owns `key`.
    pub(super) fn owns(&self, key: &FlowKey) -> bool {
        self.counts.contains_key(key)
    }

    /// Gives `key` back for one socket.
    pub(super) fn give(&mut self, key: FlowKey, interfaces: &[Interface]) {
        let Some(count) = self.counts.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
            for interface in interfaces {
                let _ = interface.steering.disown(key);
            }
        }
    }
}

/// The keys of a socket: one for each protocol and local address that it hears.
pub(super) fn keys(binding: &Binding, addresses: &[IpAddr], protocols: &[u8]) -> Vec<FlowKey> {
    protocols.iter().flat_map(|protocol| keys_of(binding, addresses, *protocol)).collect()
}

fn keys_of(binding: &Binding, addresses: &[IpAddr], protocol: u8) -> Vec<FlowKey> {
    let key = |addr: &IpAddr| FlowKey {
        addr: octets_of(*addr),
        // A protocol whose ports the programs in the kernel cannot find is owned as a whole.
        port: if matches!(protocol, ip::TCP | ip::UDP | ip::SCTP) { binding.port } else { 0 }.to_be_bytes(),
        protocol,
        pad: 0,
    };
    if binding.local.is_loopback() {
        // No wire carries it.
        return Vec::new();
    }
    if !binding.local.is_unspecified() {
        return vec![key(&binding.local)];
    }
    let heard = |addr: &&IpAddr| match (binding.local, addr) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
        (IpAddr::V6(_), IpAddr::V4(_)) => binding.dual,
        _ => false,
    };
    addresses.iter().filter(heard).map(key).collect()
}
