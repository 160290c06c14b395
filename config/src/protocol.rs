//! Transport protocols: their names, what kinds of socket they serve, and whose implementation is used.

use std::fmt;
use std::str::FromStr;

use crate::model::Parameter;
use crate::origin::Origin;
use crate::value::{InvalidValue, LibraryFile, Name, one_of};

/// The kind of socket an application asks for in socket(2), which a protocol then serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// `SOCK_STREAM`: a byte stream over a connection.
    Stream,
    /// `SOCK_DGRAM`: datagrams, with no connection needed.
    Datagram,
    /// `SOCK_SEQPACKET`: messages over a connection.
    SeqPacket,
}

impl SocketType {
    /// All socket types.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Datagram, Self::SeqPacket];

    /// The value of the attribute `type`: `stream`, `datagram` or `seqpacket`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Datagram => "datagram",
            Self::SeqPacket => "seqpacket",
        }
    }

    /// The protocol that the kernel takes for this socket type when `protocol` is 0 (TCP, UDP, and for
    /// `SOCK_SEQPACKET` on IP the only one there is, SCTP): the one in use where no default is configured.
    pub fn kernel_default(self) -> ProtocolName {
        match self {
            Self::Stream => ProtocolName::Tcp,
            Self::Datagram => ProtocolName::Udp,
            Self::SeqPacket => ProtocolName::Sctp,
        }
    }
}

impl FromStr for SocketType {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        let names = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == value)
            .ok_or_else(|| InvalidValue::new(value, one_of(names)).suggest(value, names))
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a transport protocol. Upper and lower case do not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProtocolName {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
    /// RFC 9000.
    Quic,
    /// RFC 8684.
    Mptcp,
    /// RFC 3828.
    UdpLite,
    /// A protocol that a plug-in brings.
    PlugIn(PlugInName),
}

/// The name of a protocol that freena does not know itself: a [`Name`] in upper case, distinct from the known ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlugInName(Name);

impl PlugInName {
    /// The name in upper case.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The protocols known by name, with the socket types each serves. The first type is the one that `type` defaults to.
const KNOWN: [(ProtocolName, &str, &[SocketType]); 6] = [
    (ProtocolName::Tcp, "TCP", &[SocketType::Stream]),
    (ProtocolName::Udp, "UDP", &[SocketType::Datagram]),
    // One-to-one style first: it is what an unmodified TCP application expects (RFC 6458, section 2).
    (ProtocolName::Sctp, "SCTP", &[SocketType::Stream, SocketType::SeqPacket]),
    (ProtocolName::Quic, "QUIC", &[SocketType::Stream]),
    (ProtocolName::Mptcp, "MPTCP", &[SocketType::Stream]),
    (ProtocolName::UdpLite, "UDP-Lite", &[SocketType::Datagram]),
];

impl ProtocolName {
    /// The names of the protocols that freena knows itself.
    pub fn known() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(_, name, _)| *name)
    }

    /// The socket types that a known protocol serves, the usual one first; `None` for a plug-in's.
    pub fn socket_types(&self) -> Option<&'static [SocketType]> {
        KNOWN.iter().find(|(known, _, _)| known == self).map(|(_, _, types)| *types)
    }

    /// The name as it is usually written: `TCP`, `UDP-Lite`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Quic => "QUIC",
            Self::Mptcp => "MPTCP",
            Self::UdpLite => "UDP-Lite",
            Self::PlugIn(name) => name.as_str(),
        }
    }
}

impl FromStr for ProtocolName {
    type Err = InvalidValue;

    /// Takes any [`Name`]: whether a plug-in has that name is for [`Protocol::new`] and the plug-in loader to say.
    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        if let Some((known, _, _)) = KNOWN.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(value)) {
            return Ok(known.clone());
        }
        // Only ASCII letters change, so the length stays within the bound of `Name`.
        let name = value.to_ascii_uppercase().parse().map_err(|_| {
            InvalidValue::new(value, format!("{} or the name of a plug-in's protocol", one_of(Self::known())))
        })?;
        Ok(Self::PlugIn(PlugInName(name)))
    }
}

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose implementation of a protocol is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Library {
    /// freena's own: the attribute `lib` is absent.
    #[default]
    Framework,
    /// The kernel's: `lib="kernel"`.
    Kernel,
    /// A plug-in's, by file name.
    File(LibraryFile),
}

impl Library {
    /// The value of the attribute `lib`; `None` when it is absent.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Framework => None,
            Self::Kernel => Some("kernel"),
            Self::File(file) => Some(file.as_str()),
        }
    }
}

impl FromStr for Library {
    type Err = InvalidValue;

    /// Reads `kernel` or a file name. There is no text for [`Library::Framework`].
    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        if value == "kernel" {
            return Ok(Self::Kernel);
        }
        value.parse().map(Self::File).map_err(|error: InvalidValue| {
            InvalidValue {
                expected: "\"kernel\" or the file name of a plug-in without a folder, such as \"libudp.so\""
                    .into(),
                ..error
            }
            .suggest(value, ["kernel"])
        })
    }
}

/// A protocol that an application's sockets may use: one `<default>` or `<option>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    name: ProtocolName,
    library: Library,
    socket_type: SocketType,
    /// Settings for the implementation, in the order of the file; at most [`crate::MAX_PARAMETERS`] with distinct names.
    pub parameters: Vec<Parameter>,
    /// The start tag.
    pub origin: Origin,
}

impl Protocol {
    /// `library`'s implementation of protocol `name` for sockets of type `socket_type`, or of the usual type of that
    /// protocol when `None`, without parameters.
    ///
    /// # Errors
    ///
    /// When a known protocol does not serve `socket_type`; when an unknown one is not a plug-in's or has no socket type.
    pub fn new(
        name: ProtocolName,
        library: Library,
        socket_type: Option<SocketType>,
    ) -> Result<Self, InvalidValue> {
        let socket_type = match (name.socket_types(), socket_type) {
            (Some(served), None) => served[0],
            (Some(served), Some(asked)) if served.contains(&asked) => asked,
            (Some(served), Some(asked)) => {
                let expected = one_of(served.iter().map(|kind| kind.as_str()));
                return Err(InvalidValue::new(asked.as_str(), format!("type=\"{expected}\" for {name}")));
            }
            (None, _) if !matches!(library, Library::File(_)) => {
                let expected = format!("{}, or a lib that brings it", one_of(ProtocolName::known()));
                let found = format!("the unknown protocol {name}");
                return Err(
                    InvalidValue::described(found, expected).suggest(name.as_str(), ProtocolName::known())
                );
            }
            (None, None) => {
                let expected = format!("type=\"{}\"", SocketType::ALL.map(SocketType::as_str).join("|"));
                return Err(InvalidValue::described(
                    format!("the plug-in protocol {name} without type"),
                    expected,
                ));
            }
            (None, Some(asked)) => asked,
        };
        Ok(Self { name, library, socket_type, parameters: Vec::new(), origin: Origin::default() })
    }

    /// The protocol's name.
    pub fn name(&self) -> &ProtocolName {
        &self.name
    }

    /// Whose implementation is used.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// The socket type that is served.
    pub fn socket_type(&self) -> SocketType {
        self.socket_type
    }

    /// The parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name.as_str() == name)
    }

    /// Whether the attribute `type` may be left out when this is written.
    pub(crate) fn has_usual_type(&self) -> bool {
        self.name.socket_types().is_some_and(|served| served[0] == self.socket_type)
    }
}
