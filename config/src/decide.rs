//! What a configuration means for one flow or one socket.

use std::net::{IpAddr, SocketAddr};

use crate::condition::{AddressPrefix, Role};
use crate::model::{Configuration, Rule, Service};
use crate::protocol::{Protocol, ProtocolName, SocketType};
use crate::selection::Selection;

/// A flow as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its transport protocol.
    pub transport: ProtocolName,
    /// The part that the application's socket plays.
    pub role: Role,
    /// The address and port of the application's socket. Port 0, not yet bound, is no rule's port.
    pub local: SocketAddr,
    /// The other end; `None` while it is not known, which is then no rule's address or port.
    pub peer: Option<SocketAddr>,
}

/// Whether a flow uses a service, and which rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The service.
    pub service: &'a Service,
    /// Whether the flow uses it.
    pub used: bool,
    /// The rule that decided; `None` when none matched, which means not used.
    pub rule: Option<&'a Rule>,
}

impl Decision<'_> {
    /// The line of the rule that decided; `None` when no rule did, or it does not come from a file.
    pub fn rule_line(&self) -> Option<u32> {
        Some(self.rule?.origin.position()?.line)
    }
}

/// The protocols for the sockets of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolChoice<'a> {
    /// The protocol for flows that the application opens; also accepted from peers. `None` means the kernel's own,
    /// [`SocketType::kernel_default`], as without freena.
    pub default: Option<&'a Protocol>,
    /// Further protocols accepted from peers.
    pub options: Vec<&'a Protocol>,
}

impl Configuration {
    /// Decides for each service whether `flow` uses it, in the order of the services.
    ///
    /// The first matching rule of the service itself decides; failing that, the first matching global rule about the
    /// service; failing that, the service is not used.
    pub fn services_for<'a>(&'a self, flow: &Flow) -> Vec<Decision<'a>> {
        let is_service = |name: &str| self.services().iter().any(|service| service.name.as_str() == name);
        // Which global rules match does not depend on the service; which of them are about it does.
        let global: Vec<_> = self
            .rules()
            .iter()
            .filter(|rule| rule.matches(flow))
            .map(|rule| {
                let names = rule.services.items().unwrap_or_default();
                (rule, names.iter().any(|name| is_service(name.as_str())))
            })
            .collect();
        let decide = |service: &'a Service| {
            let about = |(rule, names_services): &&(&Rule, bool)| {
                !names_services || rule.services.selects(|name| *name == service.name)
            };
            let local = service.rules.iter().find(|rule| rule.matches(flow));
            let rule = local.or_else(|| global.iter().find(about).map(|(rule, _)| *rule));
            Decision { service, used: rule.is_some_and(|rule| rule.used), rule }
        };
        self.services().iter().map(decide).collect()
    }

    /// The protocols for sockets of type `socket_type`.
    pub fn protocols_for(&self, socket_type: SocketType) -> ProtocolChoice<'_> {
        let serves = |protocol: &&Protocol| protocol.socket_type() == socket_type;
        ProtocolChoice {
            default: self.defaults().iter().find(serves),
            options: self.options().iter().filter(serves).collect(),
        }
    }
}

impl Rule {
    /// Whether `flow` meets all conditions of this rule.
    pub fn matches(&self, flow: &Flow) -> bool {
        let peer = flow.peer;
        self.transports.selects(|transport| *transport == flow.transport)
            && self.roles.selects(|role| *role == flow.role)
            && self.ports.selects(|range| {
                range.contains(flow.local.port()) || peer.is_some_and(|peer| range.contains(peer.port()))
            })
            && selects_address(&self.local, Some(flow.local.ip()))
            && selects_address(&self.peer, peer.map(|peer| peer.ip()))
    }
}

fn selects_address(selection: &Selection<AddressPrefix>, address: Option<IpAddr>) -> bool {
    selection.selects(|prefix| address.is_some_and(|address| prefix.contains(address)))
}
