//! From a configuration, or a protocol's name, to the settings that the preload library reads.
//!
//! XML is parsed here and by the server, never inside the program.

use freena_config::{Configuration, Library, ProtocolName, SocketType};
use std::path::Path;

/// Settings in the form of `FREENA_SETTINGS`: words of `key=value`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings(pub(crate) String);

/// Settings for `--protocol NAMES`: sockets of each protocol's type use it, all others stay with the kernel.
///
/// # Errors
/// A protocol is not known, or not built yet.
pub(crate) fn for_protocols<'n>(names: impl IntoIterator<Item = &'n str>) -> miette::Result<Settings> {
    let mut carried = Carried::default();
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "udp" => carried.datagram = true,
            "tcp" => carried.stream = true,
            _ => {
                return Err(miette::miette!(
                    "found protocol `{name}`, expected `tcp` or `udp`: freena-stack {} has no other",
                    env!("CARGO_PKG_VERSION")
                ));
            }
        }
    }
    Ok(carried.settings())
}

/// Which kinds of socket the framework carries.
#[derive(Clone, Copy, Default)]
struct Carried {
    datagram: bool,
    stream: bool,
}

impl Carried {
    fn settings(self) -> Settings {
        let datagram = if self.datagram { "udp" } else { "kernel" };
        let stream = if self.stream { "tcp" } else { "kernel" };
        Settings(format!("v=1 datagram={datagram} stream={stream}"))
    }
}

/// Settings for `--config FILE`.
///
/// # Errors
/// The file cannot be read or is not valid, or asks for what this version does not have.
pub(crate) fn for_file(path: &Path) -> miette::Result<Settings> {
    let configuration = Configuration::from_file(path)?;
    if let Some(service) = configuration.services().first() {
        // Starting the program anyway would send in the clear what the file asks to have encrypted.
        return Err(miette::miette!(
            "{}: asks for the service `{}`, but freena {} has no services yet; the program is not started",
            path.display(),
            service.name.as_str(),
            env!("CARGO_PKG_VERSION"),
        ));
    }
    Ok(Carried {
        datagram: is_carried(&configuration, SocketType::Datagram, &ProtocolName::Udp, path)?,
        stream: is_carried(&configuration, SocketType::Stream, &ProtocolName::Tcp, path)?,
    }
    .settings())
}

/// Whether sockets of a type are to use the framework's `own` protocol; the kernel's where nothing is said.
fn is_carried(
    configuration: &Configuration,
    kind: SocketType,
    own: &ProtocolName,
    path: &Path,
) -> miette::Result<bool> {
    let Some(protocol) = configuration.protocols_for(kind).default else { return Ok(false) };
    match protocol.library() {
        Library::Kernel => Ok(false),
        Library::Framework if protocol.name() == own => Ok(true),
        _ => Err(miette::miette!(
            "{}: {kind} sockets are to use `{}`, which freena-stack {} does not have: it has {own} of its own (no `lib`) and the kernel's (`lib=\"kernel\"`)",
            path.display(),
            protocol.name(),
            env!("CARGO_PKG_VERSION"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_text(name: &str, protocols: &str) -> miette::Result<Settings> {
        let path = std::env::temp_dir().join(format!("freena-settings-{}-{name}.xml", std::process::id()));
        let text =
            format!("<configuration application=\"test\"><protocols>{protocols}</protocols></configuration>");
        std::fs::write(&path, text).unwrap();
        let settings = for_file(&path);
        std::fs::remove_file(&path).unwrap();
        settings
    }

    #[test]
    fn each_protocol_is_for_the_sockets_of_its_type() {
        let words = |names: &[&str]| for_protocols(names.iter().copied()).unwrap().0;
        assert_eq!(words(&["udp"]), "v=1 datagram=udp stream=kernel");
        assert_eq!(words(&["TCP"]), "v=1 datagram=kernel stream=tcp");
        assert_eq!(words(&["udp", "tcp"]), "v=1 datagram=udp stream=tcp");
        let error = for_protocols(["udp", "sctp"]).unwrap_err().to_string();
        assert!(error.contains("found protocol `sctp`, expected `tcp` or `udp`"), "{error}");
    }

    #[test]
    fn a_file_says_it_for_each_type() {
        let words = |name, text| for_text(name, text).unwrap().0;
        assert_eq!(
            words("both", r#"<default name="UDP"/><default name="TCP"/>"#),
            "v=1 datagram=udp stream=tcp"
        );
        assert_eq!(words("one", r#"<default name="TCP"/>"#), "v=1 datagram=kernel stream=tcp");
        assert_eq!(
            words("kernel", r#"<default name="TCP" lib="kernel"/>"#),
            "v=1 datagram=kernel stream=kernel"
        );
        let error = for_text("other", r#"<default name="QUIC"/>"#).unwrap_err().to_string();
        assert!(error.contains("stream sockets are to use `QUIC`"), "{error}");
    }
}
