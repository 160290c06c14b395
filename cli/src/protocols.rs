//! Which protocols there are to choose from: those of the running `freena-stack`, and those of the kernel.

use crate::control;
use serde::Deserialize;
use std::fmt::Write;
use std::io;
use std::path::Path;

/// Of the server: what `freena status --json` lists.
#[derive(Debug, Deserialize)]
struct Document {
    protocols: Vec<Loaded>,
}

/// A protocol library that the server has found.
#[derive(Debug, Deserialize)]
struct Loaded {
    name: Option<String>,
    library: String,
    ip_protocol: Option<u8>,
    state: String,
}

/// What a server carries streams by, TCP aside.
#[derive(Debug)]
pub(crate) struct Libraries(Vec<Loaded>);

impl Libraries {
    /// Asks the server on a control socket.
    ///
    /// # Errors
    /// It cannot be reached, or its answer cannot be read.
    pub(crate) fn of(server: &Path) -> miette::Result<Self> {
        let text = control::status(server)?;
        let document: Document = serde_json::from_str(&text)
            .map_err(|error| miette::miette!("the status document of {}: {error}", server.display()))?;
        Ok(Libraries(document.protocols))
    }

    /// IP protocol number of the protocol of this name, upper or lower case, from the library of this file name where one
    /// is given.
    ///
    /// # Errors
    /// There is none, or it is not to be used; named are those that there are.
    pub(crate) fn number(&self, name: &str, library: Option<&str>) -> miette::Result<u8> {
        let is_it = |it: &&Loaded| {
            it.name.as_deref().is_some_and(|other| other.eq_ignore_ascii_case(name))
                && library.is_none_or(|library| it.library == library)
        };
        match self.0.iter().find(is_it) {
            Some(Loaded { ip_protocol: Some(number), state, .. }) if state == "ready" => Ok(*number),
            Some(Loaded { library, state, .. }) => {
                Err(miette::miette!("protocol `{name}` of {library} is not used: {state}"))
            }
            None => {
                let from = library.map_or(String::new(), |library| format!(" of {library}"));
                let quic = if name.eq_ignore_ascii_case("quic") && library.is_none() {
                    " (QUIC needs freena-stack --quic DIR)"
                } else {
                    ""
                };
                Err(miette::miette!("found protocol `{name}`{from}, expected {}{quic}", self.words()))
            }
        }
    }

    /// What there is, and which libraries were refused and why.
    fn words(&self) -> String {
        let mut words = "one that this freena-stack has: tcp, sctp, udp".to_owned();
        for it in self.0.iter().filter(|it| it.state == "ready") {
            // Its own have no library.
            match &it.name {
                Some(name) if it.library.is_empty() => words.extend([", ", name]),
                Some(name) => {
                    let _ = write!(words, ", {name} ({})", it.library);
                }
                None => {}
            }
        }
        for it in self.0.iter().filter(|it| it.state != "ready") {
            let _ = write!(words, "; {} is refused: {}", it.library, it.state);
        }
        words + "; or of the kernel: mptcp, udp-lite"
    }
}

/// A protocol of the kernel's besides TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernels {
    /// As people write it.
    name: &'static str,
    kind: i32,
    /// What socket(2) takes.
    pub(crate) number: i32,
    /// What has to be done where the kernel has it not.
    remedy: &'static str,
}

impl Kernels {
    /// RFC 8684, Linux 5.6.
    pub(crate) const MPTCP: Kernels = Kernels {
        name: "MPTCP",
        kind: libc::SOCK_STREAM,
        number: libc::IPPROTO_MPTCP,
        remedy: "it needs CONFIG_MPTCP, and the sysctl net.mptcp.enabled in this network namespace",
    };
    /// RFC 9260, one-to-one sockets (RFC 6458 section 4).
    pub(crate) const SCTP: Kernels = Kernels {
        name: "SCTP",
        kind: libc::SOCK_STREAM,
        number: libc::IPPROTO_SCTP,
        remedy: "it needs the module sctp",
    };
    /// RFC 3828.
    pub(crate) const UDP_LITE: Kernels = Kernels {
        name: "UDP-Lite",
        kind: libc::SOCK_DGRAM,
        number: libc::IPPROTO_UDPLITE,
        remedy: "not every version of Linux has it",
    };

    /// Makes sure that the kernel has it, by making a socket.
    ///
    /// # Errors
    /// It has not: what it says, and what it needs.
    pub(crate) fn check(self) -> miette::Result<Self> {
        let Kernels { name, kind, number, remedy } = self;
        // SAFETY: plain numbers; the descriptor is closed at once.
        let made = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, number) };
        if made < 0 {
            let error = io::Error::last_os_error();
            return Err(miette::miette!("the kernel has no {name} ({error}): {remedy}"));
        }
        // SAFETY: made above, used by nobody else.
        unsafe { libc::close(made) };
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries() -> Libraries {
        let loaded = |name: Option<&str>, library: &str, ip_protocol, state: &str| Loaded {
            name: name.map(str::to_owned),
            library: library.to_owned(),
            ip_protocol,
            state: state.to_owned(),
        };
        Libraries(vec![
            loaded(Some("steady"), "libsteady.so", Some(253), "ready"),
            loaded(Some("wild"), "libwild.so", Some(254), "crashed in wild_connect"),
            loaded(None, "libold.so", None, "is of ABI version 0"),
        ])
    }

    #[test]
    fn quic_is_the_servers_own() {
        let own = Loaded {
            name: Some("quic".to_owned()),
            library: String::new(),
            ip_protocol: Some(17),
            state: "ready".to_owned(),
        };
        let with = Libraries(vec![own]);
        assert_eq!(with.number("QUIC", None).unwrap(), 17);
        assert!(with.number("other", None).unwrap_err().to_string().contains("tcp, sctp, udp, quic; or of"));
        let error = libraries().number("quic", None).unwrap_err().to_string();
        assert!(error.contains("needs freena-stack --quic DIR"), "{error}");
    }

    #[test]
    fn a_protocol_is_found_by_its_name_and_its_library() {
        assert_eq!(libraries().number("Steady", None).unwrap(), 253);
        assert_eq!(libraries().number("STEADY", Some("libsteady.so")).unwrap(), 253);
    }

    #[test]
    fn an_error_names_what_there_is() {
        let error = libraries().number("sturdy", None).unwrap_err().to_string();
        let expected = "found protocol `sturdy`, expected one that this freena-stack has: tcp, sctp, udp, steady (libsteady.so); \
                        libwild.so is refused: crashed in wild_connect; libold.so is refused: is of ABI version 0; or of the \
                        kernel: mptcp, udp-lite";
        assert_eq!(error, expected);
        let error = libraries().number("steady", Some("libother.so")).unwrap_err().to_string();
        assert!(error.starts_with("found protocol `steady` of libother.so, expected"), "{error}");
        let error = libraries().number("wild", None).unwrap_err().to_string();
        assert_eq!(error, "protocol `wild` of libwild.so is not used: crashed in wild_connect");
    }
}
