//! From a configuration, or protocols' names, to the settings that the preload library reads.
//!
//! XML is parsed here and by the server, never inside the program.

use crate::protocols::{Kernels, Libraries};
use freena_config::{Configuration, Connecting, Library, Protocol, ProtocolName, SocketType};
use freena_shm_abi::control::MAX_PROTOCOLS;
use std::fmt::Write;
use std::path::Path;

/// Settings in the form of `FREENA_SETTINGS`: words of `key=value`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings(pub(crate) String);

/// One protocol, ready to be named in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    /// Of the server: its IP protocol number.
    Server(u8),
    /// What the kernel gives who asks for none.
    Kernel,
    /// Another one of the kernel's: what socket(2) takes.
    Other(i32),
}

const TCP: Chosen = Chosen::Server(libc::IPPROTO_TCP as u8);
const SCTP: Chosen = Chosen::Server(libc::IPPROTO_SCTP as u8);
const UDP: Chosen = Chosen::Server(libc::IPPROTO_UDP as u8);

/// Settings for `--protocol NAMES`: sockets of each protocol's type use it, all others stay with the kernel. `server` is
/// asked for the names that are not known here.
///
/// # Errors
/// A protocol is not known, cannot be used, or not together with the others.
pub(crate) fn for_protocols<'n>(
    names: impl IntoIterator<Item = &'n str>,
    server: &Path,
) -> miette::Result<Settings> {
    let (mut datagram, mut stream) = (Vec::new(), Vec::new());
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "udp" => datagram.push(UDP),
            "tcp" => stream.push(TCP),
            "udp-lite" => datagram.push(Chosen::Other(Kernels::UDP_LITE.check()?.number)),
            "mptcp" => stream.push(Chosen::Other(Kernels::MPTCP.check()?.number)),
            "sctp" => stream.push(SCTP),
            _ => stream.push(Chosen::Server(Libraries::of(server)?.number(name, None)?)),
        }
    }
    settings(&datagram, &stream, Connecting::default())
        .map_err(|words| miette::miette!("--protocol: {words}"))
}

/// Settings for `--config FILE`; `server` is asked for the protocols of libraries.
///
/// # Errors
/// The file cannot be read or is not valid, or asks for what there is not.
pub(crate) fn for_file(path: &Path, server: &Path) -> miette::Result<Settings> {
    let configuration = Configuration::from_file(path)?;
    let datagram = of_type(&configuration, SocketType::Datagram, path, server)?;
    let stream = of_type(&configuration, SocketType::Stream, path, server)?;
    settings(&datagram, &stream, configuration.connecting())
        .map_err(|words| miette::miette!("{}: {words}", path.display()))
}

/// The protocols for sockets of a type: the default, then the options.
fn of_type(
    configuration: &Configuration,
    kind: SocketType,
    path: &Path,
    server: &Path,
) -> miette::Result<Vec<Chosen>> {
    let choice = configuration.protocols_for(kind);
    let default = choice.default.map_or(Ok(Chosen::Kernel), |protocol| choose(protocol, path, server));
    let options = choice.options.into_iter().map(|protocol| choose(protocol, path, server));
    std::iter::once(default).chain(options).collect()
}

fn choose(protocol: &Protocol, path: &Path, server: &Path) -> miette::Result<Chosen> {
    let kind = protocol.socket_type();
    match (protocol.library(), protocol.name(), kind) {
        (Library::Framework, ProtocolName::Tcp, SocketType::Stream) => Ok(TCP),
        (Library::Framework, ProtocolName::Sctp, SocketType::Stream) => Ok(SCTP),
        (Library::Framework, ProtocolName::Udp, SocketType::Datagram) => Ok(UDP),
        (Library::Framework, ProtocolName::Quic, SocketType::Stream) => Libraries::of(server)?
            .number("quic", None)
            .map(Chosen::Server)
            .map_err(|error| miette::miette!("{}: {error}", path.display())),
        (Library::Framework, name, _) => Err(miette::miette!(
            "{}: {kind} sockets are to use `{name}`, which freena-stack {} does not have: it has TCP, SCTP and UDP of its own (no `lib`), those of libraries, and the kernel's (`lib=\"kernel\"`)",
            path.display(),
            env!("CARGO_PKG_VERSION"),
        )),
        (Library::Kernel, ProtocolName::Mptcp, _) => Ok(Chosen::Other(Kernels::MPTCP.check()?.number)),
        (Library::Kernel, ProtocolName::UdpLite, _) => Ok(Chosen::Other(Kernels::UDP_LITE.check()?.number)),
        (Library::Kernel, ProtocolName::Sctp, SocketType::Stream) => {
            Ok(Chosen::Other(Kernels::SCTP.check()?.number))
        }
        (Library::Kernel, ProtocolName::Quic, _) => {
            Err(miette::miette!("{}: the kernel has no QUIC", path.display()))
        }
        // What socket(2) gives anyway.
        (Library::Kernel, ..) => Ok(Chosen::Kernel),
        (Library::File(file), name, SocketType::Stream) => Libraries::of(server)?
            .number(name.as_str(), Some(file.as_str()))
            .map(Chosen::Server)
            .map_err(|error| miette::miette!("{}: {error}", path.display())),
        (Library::File(file), name, _) => Err(miette::miette!(
            "{}: {kind} sockets are to use `{name}` of {file}, but libraries carry stream sockets only",
            path.display(),
            file = file.as_str(),
        )),
    }
}

/// Names what was chosen for each type, the default first; nothing chosen means the kernel's.
///
/// # Errors
/// What cannot be together.
fn settings(datagram: &[Chosen], stream: &[Chosen], connecting: Connecting) -> Result<Settings, String> {
    let mut words = format!("v=1 datagram={} stream={}", list(datagram)?, list(stream)?);
    match (stream, connecting) {
        ([], _) | ([_], _) => {}
        ([first @ (Chosen::Kernel | Chosen::Server(_)), ..], Connecting::Default)
        | ([first @ Chosen::Kernel, ..], _) => {
            let _ = write!(words, " connect={}", list(&[*first])?);
        }
        (_, Connecting::Options { stagger }) => {
            if stream.contains(&Chosen::Kernel) {
                // The kernel's TCP, spoken by the server: where a peer is reached is decided by what it answers.
                let spoken: Vec<Chosen> =
                    stream.iter().map(|one| if *one == Chosen::Kernel { TCP } else { *one }).collect();
                let _ = write!(words, " connect={}", list(&spoken)?);
            }
            if stagger != Connecting::USUAL {
                let _ = write!(words, " stagger_ms={stagger}");
            }
        }
        // Refused above: it is one of several.
        ([Chosen::Other(_), ..], Connecting::Default) => {}
    }
    Ok(Settings(words))
}

/// The protocols of the server, or what the kernel is to give. The kernel's TCP beside others needs no word: a listener
/// always takes its peers too.
fn list(chosen: &[Chosen]) -> Result<String, String> {
    let mut numbers: Vec<String> = Vec::new();
    for one in chosen {
        match one {
            Chosen::Other(number) if chosen.len() == 1 => return Ok(format!("kernel:{number}")),
            Chosen::Other(number) => {
                return Err(format!(
                    "protocol {number} of the kernel cannot be one of several: it has to be alone for its type of socket"
                ));
            }
            Chosen::Server(number) if numbers.contains(&number.to_string()) => {
                return Err(format!("protocol {number} is named twice"));
            }
            Chosen::Server(number) => numbers.push(number.to_string()),
            Chosen::Kernel => {}
        }
    }
    match numbers.len() {
        0 => Ok("kernel".to_owned()),
        1..=MAX_PROTOCOLS => Ok(numbers.join(",")),
        many => Err(format!("{many} protocols for one type of socket, expected at most {MAX_PROTOCOLS}")),
    }
}

#[cfg(test)]
mod tests;
