//! Where datagrams to a destination go, as a worker remembers it.

use super::Port;
use crate::mirror::{Hop, Mirror, Route, RouteKind};
use freena_ip::{Identification, PathMtu};
use freena_wire::{Mac, protocol};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a path is believed: a neighbour in use must be confirmed now and then (RFC 4861 section 7.3.3).
const LIFETIME: Duration = Duration::from_secs(1);
/// How long a destination stays with the kernel before it is looked at again, should no notification come.
const RETRY: Duration = Duration::from_millis(20);
/// Bound of the memory for paths.
const CAPACITY: usize = 4096;

/// The most destinations whose path MTU is remembered, over all workers.
const PATH_MTUS: usize = 4096;

/// What all threads know of the network: the kernel's routes and neighbours, what routers said about paths, and which
/// identification values are used. Each is locked alone and shortly, and by a worker never for every datagram.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    mirror: Mutex<Mirror>,
    path_mtu: Mutex<PathMtu>,
    // One for all workers: two that count on their own would give one value to two datagrams of a flow, whose fragments
    // the receiver would then mix up (RFC 6864 section 4.3).
    ids: Mutex<Identification>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Shares a mirror.
    pub fn new(mirror: Mirror) -> Self {
        Network(Arc::new(Shared {
            mirror: Mutex::new(mirror),
            path_mtu: Mutex::new(PathMtu::new(PATH_MTUS)),
            ids: Mutex::new(Identification::new()),
        }))
    }

    /// Runs `look` on the mirror. Short: netlink at most.
    pub fn with<R>(&self, look: impl FnOnce(&mut Mirror) -> R) -> R {
        look(&mut lock(&self.0.mirror))
    }

    /// The MTU of the path to `dst`: that of its route, `route`, or less where a router said so.
    pub fn path_mtu(&self, now: Instant, dst: IpAddr, route: u32) -> u32 {
        lock(&self.0.path_mtu).get(now, dst).map_or(route, |known| known.min(route))
    }

    /// Runs `look` on what routers said about paths.
    pub fn with_path_mtus<R>(&self, look: impl FnOnce(&mut PathMtu) -> R) -> R {
        look(&mut lock(&self.0.path_mtu))
    }

    /// An identification value for a UDP datagram that is to be fragmented.
    pub(super) fn next_id(&self, src: IpAddr, dst: IpAddr) -> u32 {
        lock(&self.0.ids).next(src, dst, protocol::UDP, 1)
    }
}

/// Which way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path {
    /// By a link of this worker.
    Fast(Fast),
    /// By a link of this worker, once the address of the next hop is known. Datagrams go by the companion until then, and so
    /// make the kernel resolve the neighbour, queue what comes meanwhile, and report EHOSTUNREACH if nobody answers.
    Unresolved(Unresolved),
    /// To this host: ring to ring, if the receiver is carried too.
    Local(Here),
    /// By the companion.
    Kernel,
}

/// A way whose next hop has no address yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unresolved {
    /// All but the address of the next hop, which is zero.
    pub(super) fast: Fast,
    /// Its interface.
    ifindex: u32,
    /// The next hop.
    pub(super) next: IpAddr,
    /// Whether the kernel says that it does not answer.
    pub(super) failed: bool,
}

/// What is needed to build frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fast {
    /// Index of the link.
    pub(super) port: usize,
    /// Address of the interface.
    pub(super) src_mac: Mac,
    /// Address of the next hop.
    pub(super) dst_mac: Mac,
    /// Source address.
    pub(super) src: IpAddr,
    /// Largest IP packet, by what is known of the whole path.
    pub(super) mtu: u32,
    /// The most frames in a burst.
    pub(super) max_segments: u32,
    /// The most payload bytes in a burst.
    pub(super) max_burst: u32,
}

/// What a receiver on this host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Here {
    /// Source address.
    pub(super) src: IpAddr,
    /// Interface that the datagram seems to arrive on.
    pub(super) ifindex: u32,
}

/// What a path depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) dst: IpAddr,
    /// Source asked for or bound to.
    pub(super) src: Option<IpAddr>,
    /// Interface asked for or bound to, 0 for any.
    pub(super) ifindex: u32,
}

struct PortFacts {
    ifindex: u32,
    mac: Mac,
    max_segments: u32,
    max_burst: u32,
}

/// The paths in use.
pub(super) struct Paths {
    network: Network,
    ports: Vec<PortFacts>,
    known: HashMap<Key, (Path, Instant)>,
}

impl Paths {
    pub(super) fn new(network: Network, ports: &[Port]) -> Self {
        let facts = |port: &Port| {
            let info = port.link.info();
            PortFacts {
                ifindex: port.ifindex,
                mac: port.mac,
                max_segments: info.max_segments,
                max_burst: info.max_burst,
            }
        };
        Paths { network, ports: ports.iter().map(facts).collect(), known: HashMap::new() }
    }

    /// Routes or neighbours have changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// The first interface that this worker serves.
    pub(super) fn first_interface(&self) -> u32 {
        self.ports.first().map_or(0, |port| port.ifindex)
    }

    /// Has the kernel find out the address of a next hop. The outcome is told as a change of the network.
    pub(super) fn solicit(&self, hop: &Unresolved) {
        let _ = self.network.with(|mirror| mirror.solicit(hop.ifindex, hop.next));
    }

    pub(super) fn find(&mut self, key: Key, now: Instant) -> Path {
        if let Some((path, until)) = self.known.get(&key)
            && now < *until
        {
            return *path;
        }
        let mut path = self.network.with(|mirror| resolve(&self.ports, mirror, key));
        if let Path::Fast(fast) | Path::Unresolved(Unresolved { fast, .. }) = &mut path {
            fast.mtu = self.network.path_mtu(now, key.dst, fast.mtu);
        }
        let lifetime = if matches!(path, Path::Kernel) { RETRY } else { LIFETIME };
        if self.known.len() >= CAPACITY {
            self.known.clear();
        }
        self.known.insert(key, (path, now + lifetime));
        path
    }
}

fn resolve(ports: &[PortFacts], mirror: &mut Mirror, key: Key) -> Path {
    // A program may ask for any of the host's addresses. Others are a matter of privileges (`IP_TRANSPARENT`,
    // `IP_FREEBIND`), which the kernel judges when the companion sends.
    if key.src.is_some_and(|src| !mirror.is_local(src)) {
        return Path::Kernel;
    }
    let oif = (key.ifindex != 0).then_some(key.ifindex);
    let hop = match mirror.route(key.dst, key.src, oif) {
        Ok(Route { kind: RouteKind::Unicast(hop), .. }) => hop,
        Ok(Route { kind: RouteKind::Local(hop), .. }) => return local(mirror, key, hop),
        _ => return Path::Kernel,
    };
    if key.src.is_some_and(|src| src.is_loopback()) {
        // EINVAL from the kernel: a loopback address stays on its host.
        return Path::Kernel;
    }
    let Some(port) = ports.iter().position(|port| port.ifindex == hop.ifindex) else { return Path::Kernel };
    let Some(src) = key.src.or(hop.prefsrc) else { return Path::Kernel };
    let next = hop.gateway.unwrap_or(key.dst);
    let facts = &ports[port];
    let mut fast = Fast {
        port,
        src_mac: facts.mac,
        dst_mac: Mac([0; 6]),
        src,
        mtu: hop.mtu,
        max_segments: facts.max_segments.max(1),
        max_burst: facts.max_burst,
    };
    let neighbour = mirror.neighbour(hop.ifindex, next);
    let Some(mac) = neighbour.and_then(|neighbour| neighbour.usable()) else {
        let failed = neighbour.is_some_and(|neighbour| neighbour.is_failed());
        return Path::Unresolved(Unresolved { fast, ifindex: hop.ifindex, next, failed });
    };
    if neighbour.is_some_and(|neighbour| neighbour.is_stale()) {
        // In use: have the kernel confirm it, since it does not see the traffic itself.
        let _ = mirror.solicit(hop.ifindex, next);
    }
    fast.dst_mac = Mac(mac);
    Path::Fast(fast)
}

/// The path to an address of this host, as the kernel's loopback has it.
fn local(mirror: &Mirror, key: Key, hop: Hop) -> Path {
    let chosen = match key.dst {
        // `ip_route_output_key_hash_rcu` of Linux: what the local route prefers, else the destination itself.
        IpAddr::V4(_) => Some(hop.prefsrc.unwrap_or(key.dst)),
        // The destination itself (RFC 6724 section 5, rule 1). It is none of the addresses where it is an anycast one.
        IpAddr::V6(_) => {
            let is_own = mirror.addresses().iter().any(|own| own.address == key.dst);
            if is_own { Some(key.dst) } else { hop.prefsrc }
        }
    };
    let Some(src) = key.src.or(chosen).filter(|src| src.is_ipv4() == key.dst.is_ipv4()) else {
        return Path::Kernel;
    };
    // The interface that has the address, not the loopback: `inet_iif` and `ipv6_rcv` of Linux.
    Path::Local(Here { src, ifindex: hop.ifindex })
}
