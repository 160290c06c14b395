//! What is mirrored of links, addresses, neighbours and rules.

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use std::net::{IpAddr, Ipv4Addr};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index; unique in the namespace for as long as the interface exists.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; `None` for links without one.
    pub mac: Option<[u8; 6]>,
    /// Most bytes in a packet, from the IP header on.
    pub mtu: u32,
    /// It is administratively up (`IFF_UP`).
    pub up: bool,
    /// It is up and has a carrier (`IFF_RUNNING`, RFC 2863 operational state).
    pub running: bool,
    /// It is a loopback interface.
    pub loopback: bool,
}

impl Link {
    pub(super) fn read(message: &LinkMessage) -> Option<Link> {
        if !is_whole_link(message) {
            return None;
        }
        let flags = message.header.flags;
        let mut link = Link {
            ifindex: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether something changed on which routes depend without being announced.
    pub(super) fn flags_differ(&self, other: &Link) -> bool {
        (self.up, self.running) != (other.up, other.running)
    }
}

/// Whether a message is about an interface, and not about its part in a bridge, which has another family.
pub(super) fn is_whole_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface that has it.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub prefix_len: u8,
    /// Broadcast address of that prefix.
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4: there is a primary one in the same prefix. IPv6: it is temporary (RFC 8981).
    pub secondary: bool,
    /// Not usable yet, or never: duplicate address detection (RFC 4862) is under way or failed.
    pub tentative: bool,
}

impl Address {
    pub(super) fn read(message: &AddressMessage) -> Option<Address> {
        let (mut peer, mut local, mut broadcast) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(address) => peer = Some(*address),
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Broadcast(address) => broadcast = Some(*address),
                _ => {}
            }
        }
        let flags = message.header.flags;
        Some(Address {
            ifindex: message.header.index,
            // With a point-to-point peer, IFA_ADDRESS is the peer's (man 7 rtnetlink).
            address: local.or(peer)?,
            prefix_len: message.header.prefix_len,
            broadcast,
            secondary: flags.contains(AddressHeaderFlags::Secondary),
            tentative: flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed),
        })
    }

    pub(super) fn same(&self, other: &Address) -> bool {
        (self.ifindex, self.address, self.prefix_len) == (other.ifindex, other.address, other.prefix_len)
    }
}

/// What the kernel knows of a host on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address; `None` while it is not known.
    pub mac: Option<[u8; 6]>,
    /// State (RFC 4861 section 7.3.2, also used for ARP).
    pub state: NeighbourState,
}

impl Neighbour {
    /// Whether it has to be confirmed because it is in use.
    pub fn is_stale(&self) -> bool {
        self.state == NeighbourState::Stale
    }

    /// Whether it was asked for and did not answer.
    pub fn is_failed(&self) -> bool {
        self.state == NeighbourState::Failed
    }

    /// The address to send to, if there is one that may be used. A stale one may; to have it confirmed, see
    /// [`solicit`](super::Mirror::solicit).
    pub fn usable(&self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            _ => None,
        }
    }

    pub(super) fn read(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
        if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return None;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::from(*ip))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::from(*ip))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        Some(((message.header.ifindex, address?), Neighbour { mac, state: message.header.state }))
    }
}

/// The rules that every namespace starts with (man 8 ip-rule): family, priority, table.
const FIRST_RULES: [(AddressFamily, u32, u32); 5] = [
    (AddressFamily::Inet, 0, 255),
    (AddressFamily::Inet, 32_766, 254),
    (AddressFamily::Inet, 32_767, 253),
    (AddressFamily::Inet6, 0, 255),
    (AddressFamily::Inet6, 32_766, 254),
];

/// Whether a rule sends everything to a table, as those that every namespace starts with do.
pub(super) fn is_plain_rule(rule: &RuleMessage) -> bool {
    let header = &rule.header;
    header.action == RuleAction::ToTable
        && (header.dst_len, header.src_len, header.tos) == (0, 0, 0)
        && (header.flags - RuleFlags::Permanent).is_empty()
        && FIRST_RULES.contains(&place(rule))
        && rule.attributes.iter().all(|attribute| match attribute {
            RuleAttribute::Table(_) | RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => true,
            RuleAttribute::SuppressPrefixLen(len) => *len == u32::MAX,
            _ => false,
        })
}

/// Whether none of the first rules was taken away. Without any there is no policy routing.
pub(super) fn has_first_rules(rules: &[RouteNetlinkMessage]) -> bool {
    let places = rules.iter().filter_map(|rule| match rule {
        RouteNetlinkMessage::NewRule(rule) => Some(place(rule)),
        _ => None,
    });
    let places: Vec<_> = places.collect();
    [AddressFamily::Inet, AddressFamily::Inet6].into_iter().all(|family| {
        let mut first = FIRST_RULES.iter().filter(|rule| rule.0 == family);
        !places.iter().any(|place| place.0 == family) || first.all(|rule| places.contains(rule))
    })
}

fn place(rule: &RuleMessage) -> (AddressFamily, u32, u32) {
    let (mut priority, mut table) = (0, u32::from(rule.header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    (rule.header.family, priority, table)
}
