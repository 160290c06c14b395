//! Which addresses are this host's, as a worker remembers it.

use super::Network;
use std::collections::HashMap;
use std::net::IpAddr;

/// Bound of the memory, in addresses.
const CAPACITY: usize = 1024;

/// Tells the packets for this host from those that it forwards. A raw link shows both; the XDP program picks out the
/// former itself.
pub(super) struct Locals {
    network: Network,
    known: HashMap<IpAddr, bool>,
}

impl Locals {
    pub(super) fn new(network: Network) -> Self {
        Locals { network, known: HashMap::new() }
    }

    /// Addresses or routes have changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Whether packets to `address` are for this host.
    pub(super) fn contains(&mut self, address: IpAddr) -> bool {
        if let Some(local) = self.known.get(&address) {
            return *local;
        }
        let local = self.network.with(|mirror| mirror.is_local(address));
        if self.known.len() >= CAPACITY {
            self.known.clear();
        }
        self.known.insert(address, local);
        local
    }
}
