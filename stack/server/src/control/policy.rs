//! Which sockets the server carries, and which way datagrams go: each answer with its reason in words.

use super::Control;
use crate::mirror::{LOOPBACK_IFINDEX, Route, RouteKind};
use crate::sys;
use freena_shm_abi::control::verdict;
use freena_udp::{Binding, Flow};
use freena_wire::protocol;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// What is known of a companion.
pub(super) struct Facts {
    pub(super) binding: Binding,
    pub(super) ipv6: bool,
    pub(super) scope: u32,
    pub(super) peer_scope: u32,
}

/// Why a descriptor is not accepted as a companion: an errno and words.
pub(super) type Rejected = (i32, String);

/// Who carries datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A link of this server.
    Link,
    /// This server's workers, from ring to ring, where the receiver is carried too; else the kernel.
    Rings {
        /// Interface that the datagrams seem to arrive on.
        ifindex: u32,
    },
    /// The kernel.
    Kernel,
}

impl Carrier {
    /// As the answer to a program.
    pub(super) fn verdict(self) -> u16 {
        match self {
            Carrier::Link => verdict::FAST,
            Carrier::Rings { .. } => verdict::LOCAL,
            Carrier::Kernel => verdict::KERNEL,
        }
    }
}

/// Which way, and why.
pub(super) struct Way {
    pub(super) carrier: Carrier,
    pub(super) reason: String,
    pub(super) mtu: u32,
    /// Bits around the destination for which the answer holds, in its own IP version.
    pub(super) prefix_len: u8,
}

/// Descriptors that are kept for the control connections of further programs, for answers to them, and for new interfaces:
/// an eighth of all, and no more than this.
const RESERVED: u64 = 64;

/// Whether there are descriptors for one more socket. The kernel gives the lowest number that is free, so that the number of a
/// new one tells how many there are.
pub(super) fn judge_descriptors(new: &OwnedFd) -> Result<(), String> {
    let limit = sys::descriptor_limit();
    let reserved = RESERVED.min(limit / 8);
    if u64::from(new.as_raw_fd().unsigned_abs()) + reserved < limit {
        return Ok(());
    }
    Err(format!(
        "freena-stack has {limit} descriptors (RLIMIT_NOFILE), of which {reserved} are not for sockets"
    ))
}

impl Control {
    /// Reads everything from the kernel: what a program says about its socket is not asked.
    pub(super) fn examine(&self, companion: &OwnedFd, wanted: u8) -> Result<Facts, Rejected> {
        let invalid = |what: &str| (libc::EINVAL, what.to_owned());
        let socket = socket2::SockRef::from(companion);
        let not_a_socket = |_| (libc::ENOTSOCK, "the descriptor is no socket".to_owned());
        let domain = socket.domain().map_err(not_a_socket)?;
        let ipv6 = match domain {
            socket2::Domain::IPV4 => false,
            socket2::Domain::IPV6 => true,
            _ => return Err(invalid("the socket is neither IPv4 nor IPv6")),
        };
        let (kind, number, name) = match wanted {
            protocol::TCP => (socket2::Type::STREAM, socket2::Protocol::TCP, "TCP"),
            _ => (socket2::Type::DGRAM, socket2::Protocol::UDP, "UDP"),
        };
        let is_right = socket.r#type().is_ok_and(|found| found == kind)
            && socket.protocol().is_ok_and(|found| found == Some(number));
        if !is_right {
            return Err((libc::EPROTONOSUPPORT, format!("the socket is not a {name} socket")));
        }
        if sys::netns_cookie(companion).ok() != Some(self.netns) {
            return Err((
                libc::EXDEV,
                "the socket belongs to another network namespace than freena-stack".to_owned(),
            ));
        }
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        // A stream socket need not be bound before it connects.
        let bound = |address: &std::net::SocketAddr| address.port() != 0 || wanted == protocol::TCP;
        let Some(local) = local.filter(bound) else {
            return Err(invalid("the socket is not bound to a port"));
        };
        let peer = socket.peer_addr().ok().and_then(|address| address.as_socket());
        let ifindex = self.bound_interface(companion);
        let v6only =
            ipv6 && sys::get_option(companion, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap_or(0) != 0;
        let scope = |address: &std::net::SocketAddr| match address {
            std::net::SocketAddr::V6(v6) => v6.scope_id(),
            std::net::SocketAddr::V4(_) => 0,
        };
        Ok(Facts {
            binding: Binding {
                local: plain(local.ip()),
                port: local.port(),
                peer: peer.map(|peer| (plain(peer.ip()), peer.port())),
                ifindex,
                dual: ipv6 && !v6only,
                share: socket.reuse_port().unwrap_or(false),
            },
            ipv6,
            scope: scope(&local),
            peer_scope: peer.as_ref().map_or(0, scope),
        })
    }

    /// `SO_BINDTOIFINDEX` (Linux 5.1), 0 for none.
    fn bound_interface(&self, companion: &OwnedFd) -> u32 {
        const SO_BINDTOIFINDEX: i32 = 62;
        sys::get_option(companion, libc::SOL_SOCKET, SO_BINDTOIFINDEX).unwrap_or(0) as u32
    }

    /// Whether the fast path is of use to a socket.
    pub(super) fn judge(&self, facts: &Facts) -> Result<String, String> {
        let binding = &facts.binding;
        if !matches!(binding.ifindex, 0 | LOOPBACK_IFINDEX) && !self.is_served(binding.ifindex) {
            let name = self.interface_name(binding.ifindex);
            return Err(format!("bound to interface {name}, which freena-stack does not serve"));
        }
        let local = binding.local;
        if local.is_multicast() {
            return Err(format!("bound to the multicast address {local}: multicast goes through the kernel"));
        }
        if !local.is_unspecified() && !self.network.with(|mirror| mirror.is_local(local)) {
            return Err(format!("bound to {local}, which is no address of this host"));
        }
        if let Some((peer, port)) = binding.peer {
            let oif = [binding.ifindex, facts.peer_scope].into_iter().find(|i| *i != 0);
            let source = (!local.is_unspecified()).then_some(local);
            let way = self.way(peer, source, oif);
            return match way.carrier {
                Carrier::Link => Ok(way.reason),
                Carrier::Rings { ifindex } => {
                    let flow =
                        Flow { src: local, src_port: binding.port, dst: peer, dst_port: port, ifindex };
                    let peer = SocketAddr::new(peer, port);
                    if self.hearers.hears(&flow) {
                        Ok(format!("connected to {peer}, a program under freena on this host"))
                    } else {
                        Err(format!("connected to {peer}: the peer is not a program under freena"))
                    }
                }
                Carrier::Kernel => Err(format!("connected to {peer}: {}", way.reason)),
            };
        }
        Ok(if local.is_loopback() {
            "bound where programs on this host can reach it".to_owned()
        } else {
            "bound where served interfaces and programs on this host can reach it".to_owned()
        })
    }

    /// Which way datagrams to `dst` go.
    pub(super) fn way(&self, dst: IpAddr, src: Option<IpAddr>, oif: Option<u32>) -> Way {
        let dst = plain(dst);
        let route = self.network.with(|mirror| mirror.route(dst, src, oif));
        let kernel =
            |reason: String, prefix_len| Way { carrier: Carrier::Kernel, reason, mtu: 65_535, prefix_len };
        let exact = if dst.is_ipv4() { 32 } else { 128 };
        if dst.is_unspecified() {
            return kernel("the kernel knows what no address means".to_owned(), exact);
        }
        let Route { kind, prefix_len_safe } = match route {
            Ok(route) => route,
            Err(error) => return kernel(format!("the kernel did not tell its route: {error}"), exact),
        };
        match kind {
            RouteKind::Unicast(_) if src.is_some_and(|src| src.is_loopback()) => kernel(
                "a loopback address stays on its host: the kernel gives the error".to_owned(),
                prefix_len_safe,
            ),
            RouteKind::Unicast(hop) if self.is_served(hop.ifindex) => Way {
                carrier: Carrier::Link,
                reason: format!("the route leaves by {}", self.interface_name(hop.ifindex)),
                mtu: self.network.path_mtu(Instant::now(), dst, hop.mtu),
                // What routers said holds for single hosts, of which there may be some under the prefix.
                prefix_len: if self.network.with_path_mtus(|known| known.is_empty()) {
                    prefix_len_safe
                } else {
                    exact
                },
            },
            RouteKind::Unicast(hop) => kernel(
                format!(
                    "the route leaves by {}, which freena-stack does not serve",
                    self.interface_name(hop.ifindex)
                ),
                prefix_len_safe,
            ),
            RouteKind::Local(hop) => Way {
                carrier: Carrier::Rings { ifindex: hop.ifindex },
                reason: "the destination is this host".to_owned(),
                mtu: self.network.with(|mirror| mirror.link(LOOPBACK_IFINDEX).map_or(65_536, |lo| lo.mtu)),
                prefix_len: prefix_len_safe,
            },
            RouteKind::Broadcast(_) => kernel("broadcast goes through the kernel".to_owned(), exact),
            RouteKind::Multicast(_) => kernel("multicast goes through the kernel".to_owned(), exact),
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::None => {
                kernel("there is no route: the kernel gives the error".to_owned(), prefix_len_safe)
            }
        }
    }

    pub(super) fn interface_name(&self, ifindex: u32) -> String {
        self.network
            .with(|mirror| mirror.link(ifindex).map(|link| link.name.clone()))
            .unwrap_or_else(|| format!("interface {ifindex}"))
    }
}

/// IPv4-mapped addresses as IPv4: that is what is on the wire.
pub(super) fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}
