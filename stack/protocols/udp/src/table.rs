//! The demultiplexing table: from the addresses of a datagram to its socket.

use std::net::IpAddr;

/// The driver's name for a socket.
pub type SocketKey = u32;

/// What a socket is bound and connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Local address; unspecified for any.
    pub local: IpAddr,
    /// Local port, never 0.
    pub port: u16,
    /// The only peer to hear, for a connected socket.
    pub peer: Option<(IpAddr, u16)>,
    /// The only interface to hear (`SO_BINDTODEVICE`), or 0.
    pub ifindex: u32,
    /// Whether an IPv6 wildcard socket hears IPv4 too (`IPV6_V6ONLY` off, RFC 3493 section 5.3).
    pub dual: bool,
    /// Whether it shares its port with others by flow hash (`SO_REUSEPORT`).
    pub share: bool,
}

/// The addresses of a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: u16,
    /// Interface it arrived on.
    pub ifindex: u32,
}

impl Binding {
    /// How well the socket fits, `None` if not at all. The more is fixed, the better the fit, as in the kernel's
    /// `compute_score` (net/ipv4/udp.c, Linux 6.12).
    fn score(&self, flow: &Flow) -> Option<u32> {
        let mut score = 0;
        if self.local.is_unspecified() {
            match (self.local, flow.dst) {
                (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {}
                (IpAddr::V6(_), IpAddr::V4(_)) if self.dual => {}
                _ => return None,
            }
        } else if self.local == flow.dst {
            score += 4;
        } else {
            return None;
        }
        // IPv4 sockets are preferred over dual-stack ones, as in the kernel.
        if self.local.is_ipv4() {
            score += 1;
        }
        if let Some(peer) = self.peer {
            if peer != (flow.src, flow.src_port) {
                return None;
            }
            score += 8;
        }
        if self.ifindex != 0 {
            if self.ifindex != flow.ifindex {
                return None;
            }
            score += 4;
        }
        Some(score)
    }
}

/// All sockets, by local port.
#[derive(Debug)]
pub struct Table {
    // Index into `lists` plus one, 0 for none: one load for a port that nobody has.
    ports: Box<[u32]>,
    lists: Vec<Vec<(SocketKey, Binding)>>,
    free: Vec<u32>,
}

impl Default for Table {
    fn default() -> Self {
        Table { ports: vec![0; 1 << 16].into_boxed_slice(), lists: Vec::new(), free: Vec::new() }
    }
}

impl Table {
    /// Enters a socket, or changes what it is bound to.
    pub fn insert(&mut self, key: SocketKey, binding: Binding) {
        self.remove(key, binding.port);
        let slot = &mut self.ports[usize::from(binding.port)];
        if *slot == 0 {
            let index = self.free.pop().unwrap_or_else(|| {
                self.lists.push(Vec::new());
                self.lists.len() as u32 - 1
            });
            *slot = index + 1;
        }
        self.lists[*slot as usize - 1].push((key, binding));
    }

    /// Removes a socket from `port`.
    pub fn remove(&mut self, key: SocketKey, port: u16) {
        let slot = &mut self.ports[usize::from(port)];
        if *slot == 0 {
            return;
        }
        let list = &mut self.lists[*slot as usize - 1];
        list.retain(|(k, _)| *k != key);
        if list.is_empty() {
            self.free.push(*slot - 1);
            *slot = 0;
        }
    }

    /// The socket for a datagram: the best fit; among equals that share the port, chosen by flow hash, so that a flow
    /// stays with its socket; among others the one that was bound last.
    pub fn lookup(&self, flow: &Flow) -> Option<SocketKey> {
        let slot = self.ports[usize::from(flow.dst_port)];
        if slot == 0 {
            return None;
        }
        let list = &self.lists[slot as usize - 1];
        if let [(key, binding)] = list.as_slice() {
            return binding.score(flow).map(|_| *key);
        }
        let best = list.iter().filter_map(|(_, b)| b.score(flow)).max()?;
        let equals = || list.iter().filter(|(_, b)| b.score(flow) == Some(best));
        let sharing = equals().filter(|(_, b)| b.share).count();
        if sharing > 1 {
            let pick = flow_hash(flow) as usize % sharing;
            return equals().filter(|(_, b)| b.share).nth(pick).map(|(key, _)| *key);
        }
        equals().next_back().map(|(key, _)| *key)
    }
}

/// A hash of the addresses and ports (FNV-1a, then a finishing mix so that neighbouring ports spread).
fn flow_hash(flow: &Flow) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for ip in [flow.src, flow.dst] {
        match ip {
            IpAddr::V4(v4) => feed(&v4.octets()),
            IpAddr::V6(v6) => feed(&v6.octets()),
        }
    }
    feed(&flow.src_port.to_be_bytes());
    feed(&flow.dst_port.to_be_bytes());
    hash ^= hash >> 32;
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn any(port: u16) -> Binding {
        Binding { local: ip("0.0.0.0"), port, peer: None, ifindex: 0, dual: false, share: false }
    }

    fn flow(port: u16) -> Flow {
        Flow { src: ip("10.0.0.9"), src_port: 1000, dst: ip("10.0.0.1"), dst_port: port, ifindex: 3 }
    }

    #[test]
    fn nobody_listens() {
        let mut table = Table::default();
        assert_eq!(table.lookup(&flow(7)), None);
        table.insert(1, any(7));
        table.remove(1, 7);
        assert_eq!(table.lookup(&flow(7)), None);
    }

    #[test]
    fn the_more_specific_socket_wins() {
        let mut table = Table::default();
        table.insert(1, any(7));
        assert_eq!(table.lookup(&flow(7)), Some(1));
        table.insert(2, Binding { local: ip("10.0.0.1"), ..any(7) });
        assert_eq!(table.lookup(&flow(7)), Some(2));
        table.insert(3, Binding { local: ip("10.0.0.1"), peer: Some((ip("10.0.0.9"), 1000)), ..any(7) });
        assert_eq!(table.lookup(&flow(7)), Some(3));
        table.insert(3, Binding { local: ip("10.0.0.1"), peer: Some((ip("10.0.0.9"), 1001)), ..any(7) });
        assert_eq!(table.lookup(&flow(7)), Some(2), "a connected socket hears its peer only");
        table.remove(2, 7);
        assert_eq!(table.lookup(&flow(7)), Some(1));
    }

    #[test]
    fn a_bound_interface_is_the_only_one_heard() {
        let mut table = Table::default();
        table.insert(1, Binding { ifindex: 4, ..any(7) });
        assert_eq!(table.lookup(&flow(7)), None);
        assert_eq!(table.lookup(&Flow { ifindex: 4, ..flow(7) }), Some(1));
    }

    #[test]
    fn dual_stack_hears_ipv4_only_when_allowed() {
        let mut table = Table::default();
        table.insert(1, Binding { local: ip("::"), dual: false, ..any(7) });
        assert_eq!(table.lookup(&flow(7)), None);
        table.insert(1, Binding { local: ip("::"), dual: true, ..any(7) });
        assert_eq!(table.lookup(&flow(7)), Some(1));
        table.insert(2, any(7));
        assert_eq!(table.lookup(&flow(7)), Some(2), "the IPv4 socket is preferred");
    }

    #[test]
    fn sharers_split_flows_and_keep_each_flow() {
        let mut table = Table::default();
        for key in 0..4 {
            table.insert(key, Binding { share: true, ..any(7) });
        }
        let mut hits = [0; 4];
        for src_port in 0..4000 {
            let flow = Flow { src_port, ..flow(7) };
            let key = table.lookup(&flow).unwrap();
            assert_eq!(table.lookup(&flow), Some(key));
            hits[key as usize] += 1;
        }
        assert!(hits.iter().all(|n| (800..1200).contains(n)), "{hits:?}");
    }

    #[test]
    fn lists_are_reused() {
        let mut table = Table::default();
        for round in 0..1000 {
            let port = 1 + round as u16;
            table.insert(round, any(port));
            table.remove(round, port);
        }
        assert_eq!(table.lists.len(), 1);
    }
}
