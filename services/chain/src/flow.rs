//! A flow as it is begun: who with, and which services.

use freena_service_host::abi::{
    FREENA_SERVICE_CLIENT, FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_SERVER, FREENA_SERVICE_STREAM,
    FreenaServiceFlow,
};
use freena_service_host::{Checked, Library};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The part of this end in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opened the flow.
    Client,
    /// It was reached by the flow.
    Server,
}

/// A flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// IP protocol number of its transport: 6 for TCP, 17 for UDP.
    pub transport: u8,
    /// The part of this end.
    pub role: Role,
    /// Own address and port; port 0 where it is not known.
    pub local: SocketAddr,
    /// Peer's address and port.
    pub peer: SocketAddr,
    /// Whether the rule that chose the services allows a peer without freena, to which nothing is encrypted.
    pub allow_plain: bool,
}

impl Flow {
    pub(crate) fn raw(&self, datagram: bool) -> FreenaServiceFlow {
        let bytes = |address: SocketAddr| match address.ip() {
            IpAddr::V4(it) => it.to_ipv6_mapped().octets(),
            IpAddr::V6(it) => it.octets(),
        };
        FreenaServiceFlow {
            kind: if datagram { FREENA_SERVICE_DATAGRAM } else { FREENA_SERVICE_STREAM },
            role: match self.role {
                Role::Client => FREENA_SERVICE_CLIENT,
                Role::Server => FREENA_SERVICE_SERVER,
            },
            transport: self.transport.into(),
            local_port: self.local.port(),
            peer_port: self.peer.port(),
            local: bytes(self.local),
            peer: bytes(self.peer),
        }
    }
}

/// A service that a flow is to have: its library, and parameters that keep to the library's table.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The library.
    pub library: Arc<Library>,
    /// The parameters.
    pub parameters: Checked,
}

/// What services wish for of the socket below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Differentiated services code point, 0 to 63: IP_TOS and IPV6_TCLASS, shifted left by 2.
    pub dscp: Option<u8>,
    /// SO_PRIORITY, 0 to 6.
    pub priority: Option<u8>,
    /// SO_MAX_PACING_RATE in bytes a second.
    pub pacing: Option<u32>,
}
