//! Which services apply to which flows: a configuration without XML, as it is handed to programs.
//!
//! `freena` makes it of the configuration: libraries are found, parameters checked, and each service has all rules that may
//! decide for it, local ones first. The text form has a line for each thing, words with a tab between them, and begins with
//! `freena-plan 1`. Keys are not in it: parameters name files.

use crate::flow::{Resolved, Role};
use freena_service_host::{Checked, Library};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

const FIRST_LINE: &str = "freena-plan\t1";

/// What a program's flows get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Where it comes from, for messages: the configuration's file.
    pub source: String,
    /// The services, from the program downwards.
    pub services: Vec<PlanService>,
}

/// A service of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanService {
    /// Its name in the configuration.
    pub name: String,
    /// Its library: an absolute path.
    pub library: PathBuf,
    /// Its parameters as they were given.
    pub parameters: Vec<(String, String)>,
    /// Its rules, and the global ones that are about it. The first that matches decides; if none does, it is not used.
    pub rules: Vec<PlanRule>,
}

/// A rule of a plan. A condition that is `None` is met by every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanRule {
    /// Whether flows that meet all conditions use the service.
    pub used: bool,
    /// Whether peers without freena are talked to all the same.
    pub allow_plain: bool,
    /// Line in the configuration, 0 if it has none.
    pub line: u32,
    /// One of the flow's ports is in one of these ranges.
    pub ports: Option<Vec<(u16, u16)>>,
    /// The flow's transport is one of these, in upper case: `TCP`, `UDP`.
    pub transports: Option<Vec<String>>,
    /// This end has this part in the flow.
    pub role: Option<Role>,
    /// Own address is in one of these prefixes.
    pub local: Option<Vec<(IpAddr, u8)>>,
    /// Peer's address is in one of these prefixes.
    pub peer: Option<Vec<(IpAddr, u8)>>,
}

/// What a plan says of a flow and a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The service.
    pub service: &'a PlanService,
    /// The rule that says so; `None` if none matches.
    pub rule: Option<&'a PlanRule>,
}

impl Decision<'_> {
    /// Whether the flow uses the service.
    pub fn used(&self) -> bool {
        self.rule.is_some_and(|rule| rule.used)
    }
}

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line} of the plan of services: {what}")]
pub struct PlanError {
    /// The line.
    pub line: usize,
    /// What was found and expected.
    pub what: String,
}

impl Plan {
    /// Decides for each service whether a flow uses it, in the order of the services. `peer` is `None` while it is not known.
    pub fn decide(
        &self,
        transport: &str,
        role: Role,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> impl Iterator<Item = Decision<'_>> {
        self.services.iter().map(move |service| {
            let rule = service.rules.iter().find(|rule| rule.matches(transport, role, local, peer));
            Decision { service, rule }
        })
    }

    /// The plan as text.
    pub fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nsource\t{}\n", escape(&self.source));
        for service in &self.services {
            let library = escape(&service.library.to_string_lossy());
            let _ = writeln!(text, "service\t{}\t{library}", escape(&service.name));
            for (name, value) in &service.parameters {
                let _ = writeln!(text, "parameter\t{}\t{}", escape(name), escape(value));
            }
            for rule in &service.rules {
                let _ = writeln!(text, "rule\t{}", rule.encode());
            }
        }
        text
    }

    /// A plan from its text.
    ///
    /// # Errors
    /// Where it is none.
    pub fn decode(text: &str) -> Result<Self, PlanError> {
        let mut plan = Plan::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |what: &str| PlanError { line: index + 1, what: what.to_owned() };
            if index == 0 {
                if line != FIRST_LINE {
                    return Err(wrong("expected `freena-plan 1`: another version has made it"));
                }
                continue;
            }
            let words: Vec<String> = line.split('\t').map(unescape).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match (words.as_slice(), plan.services.last_mut()) {
                (["source", source], _) => plan.source = (*source).to_owned(),
                (["service", name, library], _) => plan.services.push(PlanService {
                    name: (*name).to_owned(),
                    library: PathBuf::from(library),
                    parameters: Vec::new(),
                    rules: Vec::new(),
                }),
                (["parameter", name, value], Some(service)) => {
                    service.parameters.push(((*name).to_owned(), (*value).to_owned()));
                }
                (["rule", rule @ ..], Some(service)) => {
                    service.rules.push(PlanRule::decode(rule).ok_or_else(|| wrong("no rule"))?);
                }
                _ => return Err(wrong("expected source, service, parameter or rule")),
            }
        }
        if text.is_empty() {
            return Err(PlanError { line: 1, what: "it is empty".to_owned() });
        }
        Ok(plan)
    }
}

impl PlanService {
    /// Loads the library and checks the parameters.
    ///
    /// # Errors
    /// In words: why the library is refused, or which parameter is wrong.
    ///
    /// # Safety
    /// As [`Library::open`].
    #[expect(unsafe_code, reason = "loading a library runs its code")]
    pub unsafe fn resolve(&self) -> Result<Resolved, String> {
        // SAFETY: as the caller promises.
        let library = unsafe { Library::open(&self.library) }.map_err(|error| error.to_string())?;
        let parameters = Checked::new(library.name(), library.parameters(), &self.parameters)
            .map_err(|error| error.to_string())?;
        Ok(Resolved { library: Arc::new(library), parameters })
    }
}

impl PlanRule {
    fn matches(&self, transport: &str, role: Role, local: SocketAddr, peer: Option<SocketAddr>) -> bool {
        let port = |port: u16, (first, last): (u16, u16)| (first..=last).contains(&port);
        let in_one = |list: &Option<Vec<(IpAddr, u8)>>, address: Option<IpAddr>| match (list, address) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(list), Some(address)) => list.iter().any(|prefix| contains(*prefix, address)),
        };
        self.ports.as_ref().is_none_or(|ranges| {
            ranges
                .iter()
                .any(|range| port(local.port(), *range) || peer.is_some_and(|peer| port(peer.port(), *range)))
        }) && self.transports.as_ref().is_none_or(|list| list.iter().any(|it| it == transport))
            && self.role.is_none_or(|it| it == role)
            && in_one(&self.local, Some(local.ip()))
            && in_one(&self.peer, peer.map(|peer| peer.ip()))
    }

    /// Whether every flow that `other` matches is matched by this one too, as far as one item of a list covers another.
    pub fn covers(&self, other: &PlanRule) -> bool {
        fn all<T>(own: &Option<Vec<T>>, others: &Option<Vec<T>>, covers: impl Fn(&T, &T) -> bool) -> bool {
            match (own, others) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(own), Some(others)) => others.iter().all(|it| own.iter().any(|own| covers(own, it))),
            }
        }
        let prefix = |own: &(IpAddr, u8), it: &(IpAddr, u8)| own.1 <= it.1 && contains(*own, it.0);
        all(&self.ports, &other.ports, |own, it| own.0 <= it.0 && it.1 <= own.1)
            && all(&self.transports, &other.transports, |own, it| own == it)
            && (self.role.is_none() || self.role == other.role)
            && all(&self.local, &other.local, prefix)
            && all(&self.peer, &other.peer, prefix)
    }

    /// `used plain line ports transports role local peer`, lists with commas, `*` for "any".
    fn encode(&self) -> String {
        fn list<T>(items: &Option<Vec<T>>, word: impl Fn(&T) -> String) -> String {
            items.as_ref().map_or("*".into(), |items| items.iter().map(word).collect::<Vec<_>>().join(","))
        }
        let prefix = |(address, length): &(IpAddr, u8)| format!("{address}/{length}");
        let role = match self.role {
            None => "*",
            Some(Role::Client) => "client",
            Some(Role::Server) => "server",
        };
        [
            u8::from(self.used).to_string(),
            u8::from(self.allow_plain).to_string(),
            self.line.to_string(),
            list(&self.ports, |(first, last)| format!("{first}-{last}")),
            list(&self.transports, |it| escape(it)),
            role.to_owned(),
            list(&self.local, prefix),
            list(&self.peer, prefix),
        ]
        .join("\t")
    }

    fn decode(words: &[&str]) -> Option<Self> {
        fn list<T>(word: &str, item: impl Fn(&str) -> Option<T>) -> Option<Option<Vec<T>>> {
            if word == "*" {
                return Some(None);
            }
            word.split(',').map(item).collect::<Option<Vec<T>>>().map(Some)
        }
        fn pair<A: FromStr, B: FromStr>(word: &str, between: char) -> Option<(A, B)> {
            let (first, second) = word.split_once(between)?;
            Some((first.parse().ok()?, second.parse().ok()?))
        }
        let bit = |word: &str| match word {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        let &[used, plain, line, ports, transports, role, local, peer] = words else { return None };
        Some(Self {
            used: bit(used)?,
            allow_plain: bit(plain)?,
            line: line.parse().ok()?,
            ports: list(ports, |it| pair(it, '-'))?,
            transports: list(transports, |it| Some(it.to_owned()))?,
            role: match role {
                "*" => None,
                "client" => Some(Role::Client),
                "server" => Some(Role::Server),
                _ => return None,
            },
            local: list(local, |it| pair(it, '/'))?,
            peer: list(peer, |it| pair(it, '/'))?,
        })
    }
}

/// Whether `address`, or the IPv4 address that it is mapped from, begins with the prefix.
fn contains((prefix, length): (IpAddr, u8), address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let rest = width.saturating_sub(length.into());
        (a ^ b).checked_shr(rest).unwrap_or(0) == 0
    };
    match (prefix, address.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// `text` as one word: `\`, tab and line ends are written as `\\`, `\t`, `\n`, `\r`.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('t')) => text.push('\t'),
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some('r')) => text.push('\r'),
            ('\\', Some(other)) => text.push(other),
            (c, _) => text.push(c),
        }
    }
    text
}
