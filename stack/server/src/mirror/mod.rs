//! Links, addresses, routes and neighbours of this network namespace, mirrored from the kernel over rtnetlink (man 7
//! rtnetlink) and followed as they change.
//!
//! The kernel stays the authority. What the mirrored tables hold in full is answered from them; for the rest (policy
//! rules, several next hops, next-hop objects, encapsulation, VRFs, the choice among several source addresses) it is
//! asked. Either way the answer says for which destinations around it holds, and [`Mirror::epoch`] tells when it may have
//! become stale, so that callers look up once and keep the answer.

mod records;
mod route;
mod socket;
mod table;
#[cfg(test)]
mod tests;

pub use records::{Address, Link, Neighbour};
pub use route::{Hop, Route, RouteKind};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteType},
    rule::RuleMessage,
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use route::{Match, Placed, Tables};
use socket::{BUFFER, Requests};
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
};

/// Index of the loopback interface, in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Multicast groups that are followed (`enum rtnetlink_groups`): LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE,
/// IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

/// Wanted size of the event queue, in bytes. The kernel may give less; an overrun is noticed and repaired.
const EVENT_QUEUE: usize = 1 << 20;

/// What changed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// A link came, went, or changed its state, MTU or address.
    pub links: bool,
    /// An address came or went.
    pub addresses: bool,
    /// A route, a rule or a next hop came or went.
    pub routes: bool,
    /// A neighbour came, went, or changed its state or address.
    pub neighbours: bool,
}

/// The mirror. It is of the namespace in which it was opened.
pub struct Mirror {
    events: Socket,
    requests: Requests,
    buffer: Vec<u8>,
    links: HashMap<u32, Link>,
    addresses: Vec<Address>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    v4: Tables,
    v6: Tables,
    /// The rules are the ones that every namespace starts with.
    plain_rules: bool,
    epoch: u64,
}

/// What must be listed anew because events cannot tell.
#[derive(Default)]
struct Stale {
    everything: bool,
    routes: bool,
    rules: bool,
}

impl Mirror {
    /// Subscribes to changes, then reads everything. Needs no privilege.
    ///
    /// # Errors
    /// What opening, binding and using a netlink socket may give (man 7 netlink).
    pub fn open() -> io::Result<Mirror> {
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.bind_auto()?;
        events.set_non_blocking(true)?;
        // A smaller queue only makes an overrun likelier.
        let _ = events.set_rx_buf_sz(EVENT_QUEUE as i32);
        for group in GROUPS {
            events.add_membership(group)?;
        }
        let mut mirror = Mirror {
            events,
            requests: Requests::open()?,
            buffer: vec![0; BUFFER],
            links: HashMap::new(),
            addresses: Vec::new(),
            neighbours: HashMap::new(),
            v4: Tables::default(),
            v6: Tables::default(),
            plain_rules: false,
            epoch: 0,
        };
        mirror.list_everything()?;
        Ok(mirror)
    }

    /// Descriptor that polls readable when [`Mirror::process`] has something to do.
    pub fn fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }

    /// Takes in what has changed. Never waits for a change. After an overrun of the event queue (`ENOBUFS`) everything
    /// is read again and reported as changed.
    ///
    /// # Errors
    /// What receiving from, or listing over, a netlink socket may give.
    pub fn process(&mut self) -> io::Result<Changes> {
        let (mut changes, mut stale) = (Changes::default(), Stale::default());
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let got = self.events.recv(&mut &mut buffer[..], 0);
            if let Ok(got) = got {
                socket::messages(&buffer[..got.min(BUFFER)], |decoded| match decoded {
                    Ok(message) => {
                        if let NetlinkPayload::InnerMessage(event) = message.payload {
                            self.take_in(event, message.header.flags, &mut changes, &mut stale);
                        }
                    }
                    // Next-hop objects and whatever else the decoder does not know.
                    Err(_) => stale.routes = true,
                });
            }
            self.buffer = buffer;
            match got {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => stale.everything = true,
                Err(error) => return Err(error),
            }
        }
        if stale.everything {
            self.list_everything()?;
            changes = Changes { links: true, addresses: true, routes: true, neighbours: true };
        } else {
            if stale.routes {
                self.list_routes()?;
                changes.routes = true;
            }
            if stale.rules {
                self.list_rules()?;
                changes.routes = true;
            }
        }
        if changes.links || changes.addresses || changes.routes {
            self.epoch += 1;
        }
        Ok(changes)
    }

    /// Counts up whenever an answer of [`Mirror::route`] may have become stale: on changes of links, addresses, routes
    /// and rules, not of neighbours.
    #[allow(dead_code, reason = "a view of the mirror that its tests use and the server may")]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where packets to `dst` go, from `src` and by the interface `oif` where these are given.
    ///
    /// # Errors
    /// What a netlink request may give where the kernel has to be asked. That it refuses the destination is an answer,
    /// not an error.
    pub fn route(&mut self, dst: IpAddr, src: Option<IpAddr>, oif: Option<u32>) -> io::Result<Route> {
        let limited_broadcast = matches!(dst, IpAddr::V4(dst) if dst.is_broadcast());
        if !self.plain_rules || oif.is_some() || dst.is_multicast() || limited_broadcast {
            return self.ask(dst, src, oif);
        }
        let (found, mut safe) = self.tables(dst).find(dst);
        let entry = match found {
            Match::Entry(entry) => entry.clone(),
            Match::None => return Ok(Route { kind: RouteKind::None, prefix_len_safe: safe }),
            Match::AskKernel => return self.ask(dst, src, None),
        };
        let ifindex = entry.ifindex.unwrap_or(0);
        let link_mtu = self.links.get(&ifindex).map_or(0, |link| link.mtu);
        let hop = Hop {
            ifindex,
            gateway: entry.gateway,
            prefsrc: entry.prefsrc.or(src),
            mtu: entry.mtu.unwrap_or(link_mtu),
        };
        let Some(mut kind) = route::kind_of(entry.kind, hop) else { return self.ask(dst, src, None) };
        if let RouteKind::Unicast(hop) | RouteKind::Broadcast(hop) = &mut kind
            && hop.prefsrc.is_none()
        {
            let asked = self.ask(dst, None, None)?;
            let (RouteKind::Unicast(known) | RouteKind::Broadcast(known)) = asked.kind else {
                return Ok(asked);
            };
            if known.ifindex != hop.ifindex || known.gateway != hop.gateway {
                return Ok(asked);
            }
            hop.prefsrc = known.prefsrc;
            // inet_select_addr() looks at the gateway, if there is one; RFC 6724 at the destination.
            if dst.is_ipv6() || hop.gateway.is_none() {
                safe = asked.prefix_len_safe;
            }
        }
        Ok(Route { kind, prefix_len_safe: safe })
    }

    /// What is known of a neighbour.
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<Neighbour> {
        self.neighbours.get(&(ifindex, address)).copied()
    }

    /// Has the kernel resolve a neighbour, or confirm one that is stale (`NTF_USE`, man 7 rtnetlink). The outcome arrives
    /// as a change. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// `EPERM` without the capability; `ENODEV` without the interface; `ENOBUFS` where the neighbour table is full.
    pub fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        self.requests.act(Message::NewNeighbour(message), NLM_F_CREATE)
    }

    /// The links, in no order.
    #[allow(dead_code, reason = "a view of the mirror that its tests use and the server may")]
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The link with this index.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// The addresses of this host, in the kernel's order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether packets to `address` are for this host, loopback prefixes included.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.tables(address).is_local(address) || self.addresses.iter().any(|own| own.address == address)
    }

    fn tables(&self, address: IpAddr) -> &Tables {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    /// Has the kernel look `dst` up (`RTM_GETROUTE`). The answer is for this destination only.
    fn ask(&mut self, dst: IpAddr, src: Option<IpAddr>, oif: Option<u32>) -> io::Result<Route> {
        let bits = if dst.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family(dst);
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(dst.into()));
        if let Some(src) = src {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(src.into()));
        }
        if let Some(oif) = oif {
            message.attributes.push(RouteAttribute::Oif(oif));
        }
        let kind = match self.requests.get(Message::GetRoute(message)) {
            Ok(Some(Message::NewRoute(mut answer))) => {
                answer.header.flags.remove(RouteFlags::Cloned);
                let entry = Placed::read(&answer).map(|placed| placed.entry);
                entry.and_then(|entry| {
                    // The answer for an own address names the loopback; its table names the interface that has the address.
                    let owner = self.addresses.iter().find(|own| own.address == dst).map(|own| own.ifindex);
                    let local = matches!(entry.kind, RouteType::Local);
                    let ifindex = owner.filter(|_| local).or(entry.ifindex).unwrap_or(0);
                    let link_mtu = self.links.get(&ifindex).map_or(0, |link| link.mtu);
                    let hop = Hop {
                        ifindex,
                        gateway: entry.gateway,
                        prefsrc: entry.prefsrc.or(src),
                        mtu: entry.mtu.unwrap_or(link_mtu),
                    };
                    route::kind_of(entry.kind, hop)
                })
            }
            Ok(_) => None,
            Err(error) => Some(match error.raw_os_error() {
                Some(libc::ENETUNREACH) => RouteKind::None,
                Some(libc::EHOSTUNREACH) => RouteKind::Unreachable,
                Some(libc::EACCES) => RouteKind::Prohibit,
                Some(libc::EINVAL) => RouteKind::Blackhole,
                _ => return Err(error),
            }),
        };
        Ok(Route { kind: kind.unwrap_or(RouteKind::None), prefix_len_safe: bits })
    }

    fn list_everything(&mut self) -> io::Result<()> {
        self.links.clear();
        self.addresses.clear();
        self.neighbours.clear();
        let (mut changes, mut stale) = (Changes::default(), Stale::default());
        for request in [
            Message::GetLink(LinkMessage::default()),
            Message::GetAddress(AddressMessage::default()),
            Message::GetNeighbour(NeighbourMessage::default()),
        ] {
            for listed in self.requests.dump(&request)? {
                self.take_in(listed, 0, &mut changes, &mut stale);
            }
        }
        self.list_routes()?;
        self.list_rules()
    }

    fn list_routes(&mut self) -> io::Result<()> {
        for (family, v6) in [(AddressFamily::Inet, false), (AddressFamily::Inet6, true)] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let mut tables = Tables::default();
            for listed in self.requests.dump(&Message::GetRoute(request))? {
                if let Message::NewRoute(route) = listed
                    && let Some(placed) = Placed::read(&route)
                {
                    tables.insert(placed);
                }
            }
            *if v6 { &mut self.v6 } else { &mut self.v4 } = tables;
        }
        Ok(())
    }

    fn list_rules(&mut self) -> io::Result<()> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            match self.requests.dump(&Message::GetRule(request)) {
                Ok(listed) => rules.extend(listed),
                // Without policy routing in the kernel there is nothing but the tables.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        self.plain_rules = rules.iter().all(|rule| match rule {
            Message::NewRule(rule) => records::is_plain_rule(rule),
            _ => true,
        }) && records::has_first_rules(&rules);
        Ok(())
    }

    /// Takes in one event or one line of a listing.
    fn take_in(&mut self, event: Message, flags: u16, changes: &mut Changes, stale: &mut Stale) {
        match event {
            Message::NewLink(message) => {
                if let Some(link) = Link::read(&message) {
                    let before = self.links.insert(link.ifindex, link.clone());
                    changes.links |= before.as_ref() != Some(&link);
                    // IPv4 routes go without a word when their link goes down (fib_sync_down_dev).
                    stale.routes |= before.is_some_and(|before| before.flags_differ(&link));
                }
            }
            Message::DelLink(message) if records::is_whole_link(&message) => {
                changes.links |= self.links.remove(&message.header.index).is_some();
                self.neighbours.retain(|(ifindex, _), _| *ifindex != message.header.index);
                self.addresses.retain(|address| address.ifindex != message.header.index);
                stale.routes = true;
            }
            Message::NewAddress(message) => {
                if let Some(address) = Address::read(&message) {
                    match self.addresses.iter_mut().find(|known| known.same(&address)) {
                        Some(known) if *known == address => {}
                        Some(known) => {
                            *known = address;
                            changes.addresses = true;
                        }
                        None => {
                            self.addresses.push(address);
                            changes.addresses = true;
                        }
                    }
                }
            }
            Message::DelAddress(message) => {
                if let Some(address) = Address::read(&message) {
                    self.addresses.retain(|known| !known.same(&address));
                    changes.addresses = true;
                    // Routes with this source go without a word (fib_sync_down_addr).
                    stale.routes = true;
                }
            }
            Message::NewNeighbour(message) => {
                if let Some((key, neighbour)) = Neighbour::read(&message) {
                    changes.neighbours |= self.neighbours.insert(key, neighbour) != Some(neighbour);
                }
            }
            Message::DelNeighbour(message) => {
                if let Some((key, _)) = Neighbour::read(&message) {
                    changes.neighbours |= self.neighbours.remove(&key).is_some();
                }
            }
            Message::NewRoute(message) => {
                if let Some(placed) = Placed::read(&message) {
                    changes.routes = true;
                    if flags & NLM_F_REPLACE != 0 {
                        // Which route it replaced is not said.
                        stale.routes = true;
                    } else {
                        // IPv6 announces a route again when one of its kind joins it.
                        let tables = if placed.destination.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
                        tables.remove(&placed);
                        tables.insert(placed);
                    }
                }
            }
            Message::DelRoute(message) => {
                if let Some(placed) = Placed::read(&message) {
                    changes.routes = true;
                    let tables = if placed.destination.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
                    stale.routes |= !tables.remove(&placed);
                }
            }
            Message::NewRule(_) | Message::DelRule(_) => stale.rules = true,
            _ => {}
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
