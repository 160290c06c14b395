//! Elements to typed values.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use crate::encoding;
use crate::error::{ConfigError, Problems};
use crate::model::{Configuration, Parameter, Parts, Rule, Service, Violation};
use crate::protocol::{Library, Protocol, ProtocolName, SocketType};
use crate::schema::{self, Kind};
use crate::selection::Selection;
use crate::tree::{self, Node, Value};
use crate::value::{InvalidValue, is_xml_space};
use crate::{MAX_FILE_SIZE, MAX_PROBLEMS};

impl Configuration {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when the file cannot be read, else as [`Configuration::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let name = path.as_ref().display().to_string();
        let mut bytes = Vec::new();
        // One byte more than allowed is enough to know that there are too many.
        let read =
            File::open(&path).and_then(|file| file.take(MAX_FILE_SIZE as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => Self::from_bytes(&bytes, &name),
            Err(source) => Err(ConfigError::Read { file: name, source }),
        }
    }

    /// Reads a configuration from the bytes of a file; `name` stands for the file in messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with every problem found, up to [`crate::MAX_PROBLEMS`]: bytes that are not text in the declared
    /// encoding, XML that is not well-formed or has a DTD, elements, attributes and values that the format does not have, and
    /// what [`Configuration::new`] lists, the latter only where there is nothing else.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, ConfigError> {
        let text = encoding::decode(bytes).map_err(|undecodable| {
            let (text, span, invalid) = *undecodable;
            let mut problems = Problems::new(&text);
            problems.report(span, invalid);
            ConfigError::invalid(name, &text, problems.into_list())
        })?;
        let mut problems = Problems::new(&text);
        let root = tree::parse(&text, &mut problems);
        let parts = root.as_ref().and_then(|root| Builder { problems: &mut problems }.configuration(root));
        if let Some(parts) = parts.filter(|_| problems.is_empty()) {
            match Self::new(parts) {
                Ok(configuration) => return Ok(configuration),
                Err(violations) => {
                    for violation in violations.into_iter().take(MAX_PROBLEMS) {
                        let span = root.as_ref().and_then(|root| locate(root, &violation)).unwrap_or(0..0);
                        problems.report(span, violation.invalid);
                    }
                }
            }
        }
        Err(ConfigError::invalid(name, &text, problems.into_list()))
    }
}

/// The bytes that a violation is about: the value of its attribute, else its start tag.
fn locate(root: &Node, violation: &Violation) -> Option<std::ops::Range<usize>> {
    fn find(node: &Node, start: usize) -> Option<&Node> {
        if node.origin.bytes()?.start == start {
            return Some(node);
        }
        node.children.iter().find_map(|child| find(child, start))
    }
    let tag = violation.origin.bytes()?;
    let node = find(root, tag.start)?;
    let named = |name: &'static str| node.element.attribute(name).and_then(|_| node.value(name));
    let value = violation.attribute.and_then(|name| match name {
        "service" => named("service").or_else(|| named("services")),
        _ => named(name),
    });
    Some(value.map_or(tag, |value| value.span.clone()))
}

/// Each method takes a node of one element and returns its value, or `None` after a problem was reported.
struct Builder<'p, 'a> {
    problems: &'p mut Problems<'a>,
}

impl Builder<'_, '_> {
    fn configuration(&mut self, node: &Node) -> Option<Parts> {
        let application = self.read(node, "application").flatten();
        let (mut services, mut rules, mut defaults, mut options) = (vec![], vec![], vec![], vec![]);
        for child in node.children.iter().flat_map(|section| &section.children) {
            match child.element {
                e if std::ptr::eq(e, &schema::SERVICE) => services.extend(self.service(child)),
                e if std::ptr::eq(e, &schema::USING_RULES) => rules.extend(self.rules(child)),
                e if std::ptr::eq(e, &schema::DEFAULT) => defaults.extend(self.protocol(child)),
                _ => options.extend(self.protocol(child)),
            }
        }
        let mut sections = node.children.iter();
        let protocols = sections.find(|section| std::ptr::eq(section.element, &schema::PROTOCOLS));
        let connecting = protocols.map_or(Some(None), |section| self.read(section, "connect"));
        let connecting = connecting?.unwrap_or_default();
        Some(Parts { application: application?, services, rules, defaults, options, connecting })
    }

    fn service(&mut self, node: &Node) -> Option<Service> {
        let (name, library) = (self.read(node, "name"), self.read(node, "lib"));
        let (parameters, rules) = (self.parameters(node), self.rules(node));
        Some(Service { name: name??, library: library?, parameters, rules, origin: node.origin.clone() })
    }

    fn parameters(&mut self, node: &Node) -> Vec<Parameter> {
        let nodes = node.children.iter().filter(|child| std::ptr::eq(child.element, &schema::PARAMETER));
        nodes.filter_map(|child| self.parameter(child)).collect()
    }

    fn parameter(&mut self, node: &Node) -> Option<Parameter> {
        let (name, value) = (self.read(node, "name"), self.read(node, "value"));
        Some(Parameter { name: name??, value: value??, origin: node.origin.clone() })
    }

    fn rules(&mut self, node: &Node) -> Vec<Rule> {
        let nodes = node.children.iter().filter(|child| std::ptr::eq(child.element, &schema::RULE));
        nodes.filter_map(|child| self.rule(child)).collect()
    }

    fn rule(&mut self, node: &Node) -> Option<Rule> {
        if let (Some(_), Some(second)) = (node.value("service"), node.value("services")) {
            let invalid = InvalidValue::described(
                "service and services in one rule",
                "one of them: they mean the same",
            );
            self.problems.report(second.span.clone(), invalid);
            return None;
        }
        let used = self.read::<Boolean>(node, "use");
        let service = if node.value("services").is_some() { "services" } else { "service" };
        let services = self.selection(node, service);
        let ports = self.selection(node, "port");
        let transports = self.selection(node, "transport");
        let roles = self.selection(node, "type");
        let (local, peer) = (self.selection(node, "local"), self.selection(node, "peer"));
        let plain = self.read::<Boolean>(node, "plain");
        Some(Rule {
            used: used??.0,
            services: services?,
            ports: ports?,
            transports: transports?,
            roles: roles?,
            local: local?,
            peer: peer?,
            plain: plain?.is_some_and(|plain| plain.0),
            origin: node.origin.clone(),
        })
    }

    fn protocol(&mut self, node: &Node) -> Option<Protocol> {
        let name: Option<Option<ProtocolName>> = self.read(node, "name");
        let library: Option<Option<Library>> = self.read(node, "lib");
        let socket_type: Option<Option<SocketType>> = self.read(node, "type");
        let parameters = self.parameters(node);
        match Protocol::new(name??, library?.unwrap_or_default(), socket_type?) {
            Ok(mut protocol) => {
                protocol.parameters = parameters;
                protocol.origin = node.origin.clone();
                Some(protocol)
            }
            Err(invalid) => {
                let told = node.value("type").or(node.value("name")).map(|value| value.span.clone());
                self.problems.report(told.or(node.origin.bytes()).unwrap_or(0..0), invalid);
                None
            }
        }
    }

    /// The condition in attribute `name`; everything if it is absent.
    fn selection<T: FromStr<Err = InvalidValue>>(&mut self, node: &Node, name: &str) -> Option<Selection<T>> {
        self.read(node, name).map(Option::unwrap_or_default)
    }

    /// The value of attribute `name`: `Some(None)` if it is absent, `None` if it is invalid.
    fn read<T: FromStr<Err = InvalidValue>>(&mut self, node: &Node, name: &str) -> Option<Option<T>> {
        let Some(value) = node.value(name) else { return Some(None) };
        // White space around a value is not part of it, except in what a service gets to see as it stands.
        let text = match value.attribute.kind {
            Kind::Value => value.text.as_str(),
            _ => value.text.trim_matches(is_xml_space),
        };
        match text.parse() {
            Ok(parsed) => Some(Some(parsed)),
            Err(invalid) => {
                self.problems.report(place(value, text, &invalid), invalid);
                None
            }
        }
    }
}

/// The bytes of the file that `invalid` is about.
fn place(value: &Value, text: &str, invalid: &InvalidValue) -> std::ops::Range<usize> {
    // A value with references in it is shorter than what stands in the file: then all of it is meant.
    let same = value.text.len() == value.span.len();
    let lead = value.text.len() - value.text.trim_start_matches(is_xml_space).len();
    let lead = if text.len() == value.text.len() { 0 } else { lead };
    match &invalid.range {
        Some(range) if same => value.span.start + lead + range.start..value.span.start + lead + range.end,
        _ => value.span.clone(),
    }
}

/// The value of `use`.
struct Boolean(bool);

impl FromStr for Boolean {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        match value {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err(InvalidValue::new(value, "true or false").suggest(value, ["true", "false"])),
        }
    }
}
