//! The configuration of one application: which services are inserted into which of its flows, and which transport
//! protocols carry its sockets.
//!
//! The format is the one of figure 2 of the FreeNA paper; `docs/configuration.md` describes every element. Reading
//! goes in four steps, each a module that knows nothing of the next:
//!
//! 1. `encoding`: bytes to text (UTF-8, Shift_JIS, EUC-JP);
//! 2. `tree`: text to elements and attributes that the tables in `schema` allow;
//! 3. `build`: elements to typed values that cannot be invalid;
//! 4. [`Configuration::new`]: what only holds between elements, such as unique names.
//!
//! ```
//! use freena_config::{Configuration, SocketType};
//!
//! let xml = br#"<configuration application="dig">
//!   <protocols><default name="UDP"/></protocols>
//! </configuration>"#;
//! let configuration = Configuration::from_bytes(xml, "dig.xml")?;
//! let datagram = configuration.protocols_for(SocketType::Datagram);
//! assert_eq!(datagram.default.unwrap().name().to_string(), "UDP");
//! # Ok::<(), freena_config::ConfigError>(())
//! ```
#![forbid(unsafe_code)]

mod build;
mod condition;
mod connecting;
mod decide;
mod encoding;
mod error;
mod model;
mod origin;
mod protocol;
mod schema;
mod selection;
mod tree;
mod value;
mod write;
mod xsd;

pub use condition::{AddressPrefix, PortRange, Role};
pub use connecting::Connecting;
pub use decide::{Decision, Flow, ProtocolChoice};
pub use error::{ConfigError, Problem, Report};
pub use model::{Configuration, Parameter, Parts, Rule, Service, Violation};
pub use origin::{Origin, Position};
pub use protocol::{Library, Protocol, ProtocolName, SocketType};
pub use selection::Selection;
pub use value::{ApplicationName, InvalidValue, LibraryFile, Name, ParameterValue};
pub use xsd::xsd;

/// Largest configuration file in bytes, as read and as [`Configuration::to_xml`] would write it.
pub const MAX_FILE_SIZE: usize = 1024 * 1024;
/// Deepest nesting of elements that is followed; the format itself needs four levels.
pub const MAX_DEPTH: usize = 16;
/// Number of problems after which reading a file is given up.
pub const MAX_PROBLEMS: usize = 20;
/// Most services of one configuration: each is a stage that the data of a flow passes.
pub const MAX_SERVICES: usize = 64;
/// Most rules of one configuration, local and global together.
pub const MAX_RULES: usize = 1024;
/// Most `<default>` and `<option>` elements of one configuration.
pub const MAX_PROTOCOLS: usize = 64;
/// Most parameters of one service or protocol.
pub const MAX_PARAMETERS: usize = 256;
/// Most items of one list, such as the ports of a rule.
pub const MAX_LIST: usize = 64;
