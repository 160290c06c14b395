//! Who on this host is reached from ring to ring.

use freena_shm_abi::server::PortSet;
use freena_udp::{Binding, Flow, SocketKey, Table};
use std::collections::HashMap;

/// The sockets by what they hear, and their ports as all programs see them.
#[derive(Default)]
pub(super) struct Hearers {
    table: Table,
    /// Sockets on each port.
    counts: HashMap<u16, u32>,
}

impl Hearers {
    /// A socket that all workers know.
    pub(super) fn enter(&mut self, key: SocketKey, binding: Binding, ports: &PortSet) {
        self.table.insert(key, binding);
        *self.counts.entry(binding.port).or_insert(0) += 1;
        ports.insert(binding.port);
    }

    /// A socket goes, or stops hearing this.
    pub(super) fn leave(&mut self, key: SocketKey, binding: &Binding, ports: &PortSet) {
        self.table.remove(key, binding.port);
        if let Some(count) = self.counts.get_mut(&binding.port) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&binding.port);
                ports.remove(binding.port);
            }
        }
    }

    /// A socket hears something else at the same port.
    pub(super) fn rebind(&mut self, key: SocketKey, binding: Binding) {
        self.table.insert(key, binding);
    }

    /// Whether some socket hears a flow.
    pub(super) fn hears(&self, flow: &Flow) -> bool {
        self.table.lookup(flow).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_shown_while_somebody_hears_it() {
        let (mut hearers, ports) = (Hearers::default(), PortSet::new());
        let ip = |text: &str| text.parse().expect("an address");
        let binding =
            Binding { local: ip("127.0.0.1"), port: 7, peer: None, ifindex: 0, dual: false, share: true };
        let flow = Flow { src: ip("127.0.0.1"), src_port: 9, dst: ip("127.0.0.1"), dst_port: 7, ifindex: 1 };
        hearers.enter(1, binding, &ports);
        hearers.enter(2, Binding { peer: Some((ip("127.0.0.1"), 9)), ..binding }, &ports);
        assert!(ports.contains(7) && hearers.hears(&flow));
        assert!(!hearers.hears(&Flow { dst: ip("127.0.0.2"), ..flow }), "the port at another address");
        hearers.leave(1, &binding, &ports);
        assert!(ports.contains(7));
        assert!(!hearers.hears(&Flow { src_port: 8, ..flow }), "a connected socket hears its peer only");
        hearers.leave(2, &binding, &ports);
        assert!(!ports.contains(7) && !hearers.hears(&flow));
    }
}
