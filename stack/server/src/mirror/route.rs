//! The kernel's routes, and the answer to where a packet goes.

use super::table::Prefixes;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia},
};
use std::net::IpAddr;

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What happens to them.
    pub kind: RouteKind,
    /// Every destination that has this many leading bits in common has the same answer, as long as the epoch is the same.
    pub prefix_len_safe: u8,
}

/// What happens to packets to a destination. Kinds as in man 8 ip-route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// They leave by an interface, for one host.
    Unicast(Hop),
    /// They are for this host, or for an anycast address of it; the interface is the one that has the address.
    Local(Hop),
    /// They leave for every host of a link.
    Broadcast(Hop),
    /// They leave for a group.
    Multicast(Hop),
    /// They are dropped silently.
    Blackhole,
    /// They are refused: `EHOSTUNREACH`.
    Unreachable,
    /// They are refused: `EACCES`.
    Prohibit,
    /// No route: `ENETUNREACH`.
    None,
}

/// The way by which packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Router to hand them to; `None` where the destination is on the link. May be IPv6 for an IPv4 destination
    /// (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Source address for who has not bound one.
    pub prefsrc: Option<IpAddr>,
    /// Most bytes in a packet, from the IP header on: the route's own where it has one, else the interface's.
    pub mtu: u32,
}

/// The tables of an untouched rule list, in the order in which they are asked (man 8 ip-rule).
pub(super) const TABLES: [u32; 3] = [255, 254, 253];

/// A route as the kernel stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: RouteType,
    pub(super) metric: u32,
    pub(super) ifindex: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) prefsrc: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    /// It is not used at present: its interface is down.
    pub(super) dead: bool,
    /// It has something that is not mirrored, so that the kernel must be asked.
    pub(super) foreign: bool,
}

/// A route with its place.
pub(super) struct Placed {
    pub(super) table: u32,
    pub(super) destination: IpAddr,
    pub(super) len: u8,
    pub(super) entry: Entry,
}

impl Placed {
    /// Reads a message; `None` where it is no route of ours to store: another family, or a clone of one for a host.
    pub(super) fn read(message: &RouteMessage) -> Option<Placed> {
        const RTA_NH_ID: u16 = 30;
        let header = &message.header;
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        if header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut placed = Placed {
            table: u32::from(header.table),
            destination: unspecified,
            len: header.destination_prefix_length,
            entry: Entry {
                kind: header.kind,
                metric: 0,
                ifindex: None,
                gateway: None,
                prefsrc: None,
                mtu: None,
                dead: header.flags.contains(RouteFlags::Dead),
                foreign: header.tos != 0 || header.source_prefix_length != 0,
            },
        };
        let entry = &mut placed.entry;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => placed.table = *table,
                RouteAttribute::Destination(address) => placed.destination = ip(address)?,
                RouteAttribute::Priority(metric) => entry.metric = *metric,
                RouteAttribute::Oif(index) => entry.ifindex = Some(*index),
                RouteAttribute::Gateway(address) => entry.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => entry.gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => entry.gateway = Some((*address).into()),
                RouteAttribute::PrefSource(address) => entry.prefsrc = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    entry.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::MultiPath(_)
                | RouteAttribute::Encap(_)
                | RouteAttribute::EncapType(_)
                | RouteAttribute::Via(_) => entry.foreign = true,
                RouteAttribute::Other(other) => {
                    entry.foreign |= netlink_packet_core::Nla::kind(other) == RTA_NH_ID;
                }
                _ => {}
            }
        }
        Some(placed)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// What the mirrored tables answer.
pub(super) enum Match<'a> {
    /// This route.
    Entry(&'a Entry),
    /// None.
    None,
    /// They cannot tell.
    AskKernel,
}

/// The three tables of one address family.
#[derive(Debug, Default)]
pub(super) struct Tables([Prefixes<Entry>; 3]);

impl Tables {
    pub(super) fn insert(&mut self, placed: Placed) {
        if let Some(at) = TABLES.iter().position(|table| *table == placed.table) {
            self.0[at].insert(placed.destination, placed.len, placed.entry);
        }
    }

    /// Removes a route and says whether it was there, or is of a table that is not mirrored.
    pub(super) fn remove(&mut self, placed: &Placed) -> bool {
        let Some(at) = TABLES.iter().position(|table| *table == placed.table) else { return true };
        let gone = &placed.entry;
        self.0[at].remove(placed.destination, placed.len, |entry| {
            (entry.kind, entry.metric, entry.ifindex, entry.gateway)
                == (gone.kind, gone.metric, gone.ifindex, gone.gateway)
        })
    }

    /// Whether the local table says that `address` is this host's.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.0[0]
            .containing(address)
            .next()
            .is_some_and(|(_, entries)| entries.iter().any(|entry| entry.kind == RouteType::Local))
    }

    /// The longest prefix in the first table that has one, the lowest metric in it, and how far that holds.
    pub(super) fn find(&self, destination: IpAddr) -> (Match<'_>, u8) {
        let mut safe = self.0.iter().map(|table| table.clear_of_others(destination)).max().unwrap_or(0);
        for table in &self.0 {
            for (len, entries) in table.containing(destination) {
                safe = safe.max(len);
                let usable = || entries.iter().filter(|entry| !entry.dead);
                let Some(best) = usable().min_by_key(|entry| entry.metric) else { continue };
                // Equal routes are told apart by what only the kernel knows: their order, or which router is reachable.
                let tied = usable().filter(|entry| entry.metric == best.metric).count() > 1;
                if usable().any(|entry| entry.foreign) || tied {
                    return (Match::AskKernel, safe);
                }
                if best.kind == RouteType::Throw {
                    // Nothing shorter in this table counts: on to the next (man 8 ip-route).
                    break;
                }
                return (Match::Entry(best), safe);
            }
        }
        (Match::None, safe)
    }
}

/// The kind of a route with its hop; `None` for kinds that end no look-up.
pub(super) fn kind_of(kind: RouteType, hop: Hop) -> Option<RouteKind> {
    Some(match kind {
        RouteType::Unicast => RouteKind::Unicast(hop),
        RouteType::Local | RouteType::Anycast => RouteKind::Local(hop),
        RouteType::Broadcast => RouteKind::Broadcast(hop),
        RouteType::Multicast => RouteKind::Multicast(hop),
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => return None,
    })
}
