//! From a configuration, or a protocol's name, to the settings that the preload library reads.
//!
//! XML is parsed here and by the server, never inside the program.

use freena_config::{Configuration, Library, ProtocolName, SocketType};
use std::path::Path;

/// Settings in the form of `FREENA_SETTINGS`: words of `key=value`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings(pub(crate) String);

/// Settings for `--protocol NAME`: sockets of the protocol's type use it, all others stay with the kernel.
///
/// # Errors
/// The protocol is not known, or not built yet.
pub(crate) fn for_protocol(name: &str) -> miette::Result<Settings> {
    match name.to_ascii_lowercase().as_str() {
        "udp" => Ok(Settings("v=1 datagram=udp".to_owned())),
        _ => Err(miette::miette!(
            "found protocol `{name}`, expected `udp`: freena-stack {} has no other",
            env!("CARGO_PKG_VERSION")
        )),
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
    let Some(datagram) = configuration.protocols_for(SocketType::Datagram).default else {
        return Ok(Settings("v=1 datagram=kernel".to_owned()));
    };
    let (name, library) = (datagram.name(), datagram.library());
    match (name, library) {
        (_, Library::Kernel) => Ok(Settings("v=1 datagram=kernel".to_owned())),
        (ProtocolName::Udp, Library::Framework) => Ok(Settings("v=1 datagram=udp".to_owned())),
        _ => Err(miette::miette!(
            "{}: datagram sockets are to use `{}`, which freena-stack {} does not have: it has UDP of its own (no `lib`) and the kernel's (`lib=\"kernel\"`)",
            path.display(),
            name.as_str(),
            env!("CARGO_PKG_VERSION"),
        )),
    }
}
