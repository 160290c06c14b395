//! The configuration as a whole, and what must hold between its parts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use crate::condition::{AddressPrefix, PortRange, Role};
use crate::connecting::Connecting;
use crate::origin::Origin;
use crate::protocol::{Protocol, ProtocolName};
use crate::selection::Selection;
use crate::value::{
    ApplicationName, InvalidValue, LibraryFile, Name, ParameterValue, folded, is_slip, quote,
};
use crate::{MAX_FILE_SIZE, MAX_PARAMETERS, MAX_PROBLEMS, MAX_PROTOCOLS, MAX_RULES, MAX_SERVICES};

/// A setting handed to a service or protocol: `<parameter name="..." value="...">`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, unique within its service or protocol.
    pub name: Name,
    /// Its value.
    pub value: ParameterValue,
    /// The start tag.
    pub origin: Origin,
}

/// A service that can be inserted into flows: `<service>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, unique in the configuration.
    pub name: Name,
    /// The plug-in that brings it; `None` means the framework's own service of that name.
    pub library: Option<LibraryFile>,
    /// Its settings, in the order of the file; at most [`MAX_PARAMETERS`].
    pub parameters: Vec<Parameter>,
    /// Its local rules, which are asked before the global ones, in the order of the file.
    pub rules: Vec<Rule>,
    /// The start tag.
    pub origin: Origin,
}

/// Says whether flows that meet all its conditions use services: `<rule>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether such flows use the service, or do without.
    pub used: bool,
    /// What the rule is about. Names of services of this configuration restrict a global rule to these; other names are
    /// the author's words for the flow (`ftp-data`) and restrict nothing, since the other conditions say which flow it is.
    pub services: Selection<Name>,
    /// The local or the peer's port is one of these.
    pub ports: Selection<PortRange>,
    /// The flow's transport protocol is one of these.
    pub transports: Selection<ProtocolName>,
    /// The application's socket plays this part.
    pub roles: Selection<Role>,
    /// The local address is one of these.
    pub local: Selection<AddressPrefix>,
    /// The peer's address is one of these.
    pub peer: Selection<AddressPrefix>,
    /// Whether a peer that has no freena is talked to without the services that this rule has used.
    pub plain: bool,
    /// The start tag.
    pub origin: Origin,
}

impl Rule {
    /// A rule for all flows and services, to be narrowed by setting its fields.
    pub fn new(used: bool) -> Self {
        Self {
            used,
            services: Selection::ANY,
            ports: Selection::ANY,
            transports: Selection::ANY,
            roles: Selection::ANY,
            local: Selection::ANY,
            peer: Selection::ANY,
            plain: false,
            origin: Origin::default(),
        }
    }

    fn has_conditions(&self) -> bool {
        !(self.ports.is_any()
            && self.transports.is_any()
            && self.roles.is_any()
            && self.local.is_any()
            && self.peer.is_any())
    }
}

/// The parts that [`Configuration::new`] makes a configuration of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The application that this configuration is for.
    pub application: ApplicationName,
    /// The services, from the application downwards: data sent passes the first one first.
    pub services: Vec<Service>,
    /// The global rules, which are asked where no local rule matches.
    pub rules: Vec<Rule>,
    /// The protocols for flows that the application opens: at most one for each socket type.
    pub defaults: Vec<Protocol>,
    /// Further protocols that the application's peers may use.
    pub options: Vec<Protocol>,
    /// By which of them the application opens flows.
    pub connecting: Connecting,
}

impl Parts {
    /// The parts of a configuration that changes nothing.
    pub fn new(application: ApplicationName) -> Self {
        Self {
            application,
            services: vec![],
            rules: vec![],
            defaults: vec![],
            options: vec![],
            connecting: Connecting::default(),
        }
    }
}

/// A valid configuration. What is valid is listed at [`Configuration::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration(Parts);

/// Something between the parts of a configuration that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The start tag of the part.
    pub origin: Origin,
    /// The attribute of the part; `None` means the part itself.
    pub attribute: Option<&'static str>,
    /// What was found and expected.
    pub invalid: InvalidValue,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.invalid.fmt(f)
    }
}

impl std::error::Error for Violation {}

impl Configuration {
    /// Makes a configuration of its parts.
    ///
    /// # Errors
    ///
    /// All of these that are found, though rules are looked at only until there are [`MAX_PROBLEMS`]:
    /// - two services of one name, two parameters of one name in one place, two defaults for one socket type, one protocol twice
    ///   for one socket type;
    /// - an option that is the kernel's default protocol of a socket type for which no default is named;
    /// - a local rule that names another service than its own;
    /// - a rule with a name that is no service and without any condition, or with a name one slip of the pen away from a service's;
    /// - a rule that allows plain traffic where it uses no services;
    /// - a rule for a transport protocol that freena does not know and the configuration does not declare;
    /// - more parts than [`MAX_SERVICES`], [`MAX_RULES`], [`MAX_PROTOCOLS`], [`MAX_PARAMETERS`], or more text than
    ///   [`MAX_FILE_SIZE`].
    pub fn new(parts: Parts) -> Result<Self, Vec<Violation>> {
        let mut check = Check { violations: Vec::new() };
        check.bounds(&parts);
        // The bounds come first: they keep the work of the other checks small.
        if check.violations.is_empty() {
            check.services(&parts);
            check.rules(&parts);
            check.protocols(&parts);
        }
        let configuration = Self(parts);
        if check.violations.is_empty() {
            check.size(&configuration);
        }
        if check.violations.is_empty() { Ok(configuration) } else { Err(check.violations) }
    }

    /// The configuration in which `protocol` is the only default and there is nothing else: what
    /// `freena run --protocol` stands for.
    ///
    /// # Errors
    ///
    /// When the parameters of `protocol` are too many, too long or share a name.
    pub fn for_protocol(application: ApplicationName, protocol: Protocol) -> Result<Self, Vec<Violation>> {
        Self::new(Parts { defaults: vec![protocol], ..Parts::new(application) })
    }

    /// The application that this configuration is for.
    pub fn application(&self) -> &ApplicationName {
        &self.0.application
    }

    /// The services, from the application downwards.
    pub fn services(&self) -> &[Service] {
        &self.0.services
    }

    /// The global rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// The default protocols, at most one for each socket type.
    pub fn defaults(&self) -> &[Protocol] {
        &self.0.defaults
    }

    /// The optional protocols.
    pub fn options(&self) -> &[Protocol] {
        &self.0.options
    }

    /// By which protocols the application opens flows.
    pub fn connecting(&self) -> Connecting {
        self.0.connecting
    }

    /// Takes the configuration apart, to change it and make a new one.
    pub fn into_parts(self) -> Parts {
        self.0
    }
}

struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn report(&mut self, origin: &Origin, attribute: impl Into<Option<&'static str>>, invalid: InvalidValue) {
        self.violations.push(Violation { origin: origin.clone(), attribute: attribute.into(), invalid });
    }

    fn bounds(&mut self, parts: &Parts) {
        let rules: Vec<_> =
            parts.services.iter().flat_map(|service| &service.rules).chain(&parts.rules).collect();
        let protocols: Vec<_> = parts.defaults.iter().chain(&parts.options).collect();
        self.bound(parts.services.len(), MAX_SERVICES, "services", |index| &parts.services[index].origin);
        self.bound(rules.len(), MAX_RULES, "rules", |index| &rules[index].origin);
        self.bound(protocols.len(), MAX_PROTOCOLS, "protocols", |index| &protocols[index].origin);
        let parameters = parts.services.iter().map(|service| &service.parameters);
        for list in parameters.chain(protocols.iter().map(|protocol| &protocol.parameters)) {
            self.bound(list.len(), MAX_PARAMETERS, "parameters", |index| &list[index].origin);
        }
    }

    fn bound<'a>(&mut self, count: usize, most: usize, what: &str, origin: impl Fn(usize) -> &'a Origin) {
        if count > most {
            let invalid = InvalidValue::described(format!("{count} {what}"), format!("at most {most}"));
            self.report(origin(most), None, invalid);
        }
    }

    /// Reports each part whose key an earlier one has. `describe` says what was found and expected.
    fn unique<'a, T, K: Eq + Hash>(
        &mut self,
        parts: impl IntoIterator<Item = &'a T>,
        attribute: &'static str,
        key: impl Fn(&'a T) -> K,
        origin: impl Fn(&T) -> &Origin,
        describe: impl Fn(&T) -> (String, String),
    ) where
        T: 'a,
    {
        let mut seen: HashMap<K, &T> = HashMap::new();
        for part in parts {
            if let Some(first) = seen.get(&key(part)) {
                let (found, expected) = describe(part);
                let mut invalid = InvalidValue::described(found, expected);
                if let Some(position) = origin(first).position() {
                    invalid = invalid.help(format!("the first is at {position}"));
                }
                self.report(origin(part), attribute, invalid);
            } else {
                seen.insert(key(part), part);
            }
        }
    }

    fn parameters(&mut self, parameters: &[Parameter]) {
        self.unique(
            parameters,
            "name",
            |p| &p.name,
            |p| &p.origin,
            |p| (format!("a second parameter {}", quote(p.name.as_str())), "each parameter once".into()),
        );
    }

    fn services(&mut self, parts: &Parts) {
        self.unique(
            &parts.services,
            "name",
            |s| &s.name,
            |s| &s.origin,
            |s| (format!("a second service {}", quote(s.name.as_str())), "each service once".into()),
        );
        for service in &parts.services {
            self.parameters(&service.parameters);
        }
    }

    fn rules(&mut self, parts: &Parts) {
        for rule in parts.services.iter().flat_map(|it| &it.rules).chain(&parts.rules) {
            if rule.plain && !rule.used && self.violations.len() < MAX_PROBLEMS {
                let expected = "use=\"true\": without the services everything is plain";
                let invalid =
                    InvalidValue::described("plain=\"true\" in a rule that uses no services", expected);
                self.report(&rule.origin, "plain", invalid);
            }
        }
        let services = Names::new(&parts.services);
        let declared: Vec<&ProtocolName> =
            parts.defaults.iter().chain(&parts.options).map(Protocol::name).collect();
        let owned = |service| move |rule| (rule, Some(service));
        let local = parts.services.iter().flat_map(|service| service.rules.iter().map(owned(&service.name)));
        for (rule, owner) in local.chain(parts.rules.iter().map(|rule| (rule, None))) {
            for name in rule.services.items().unwrap_or_default() {
                if let Some(invalid) = rule_name(rule, name, owner, &services) {
                    self.report(&rule.origin, "service", invalid);
                }
                // To look for similar names is work: not more often than anybody reads of it.
                if self.violations.len() >= MAX_PROBLEMS {
                    return;
                }
            }
            for transport in rule.transports.items().unwrap_or_default() {
                if transport.socket_types().is_none() && !declared.contains(&transport) {
                    self.report(&rule.origin, "transport", undeclared(transport, &declared));
                }
                if self.violations.len() >= MAX_PROBLEMS {
                    return;
                }
            }
        }
    }

    fn protocols(&mut self, parts: &Parts) {
        self.unique(
            &parts.defaults,
            "name",
            |p| p.socket_type(),
            |p| &p.origin,
            |p| {
                let found = format!("a second default for {} sockets", p.socket_type());
                (found, "one default for each socket type; others are an <option>".into())
            },
        );
        let mut options: Vec<&Protocol> = Vec::new();
        for option in &parts.options {
            let kind = option.socket_type();
            let has_default = parts.defaults.iter().any(|default| default.socket_type() == kind);
            if !has_default && *option.name() == kind.kernel_default() {
                let found = format!("the option {} and no default for {kind} sockets", option.name());
                let expected = format!(
                    "<default name=\"{}\">: without a default, {kind} sockets use the kernel's",
                    option.name()
                );
                self.report(&option.origin, "name", InvalidValue::described(found, expected));
            } else {
                options.push(option);
            }
        }
        // Of two equal defaults the check above has told already.
        let mut kinds = HashSet::new();
        let defaults = parts.defaults.iter().filter(|default| kinds.insert(default.socket_type()));
        self.unique(
            defaults.chain(options),
            "name",
            |p| (p.name(), p.socket_type()),
            |p| &p.origin,
            |p| (format!("{} for {} sockets again", p.name(), p.socket_type()), "each protocol once".into()),
        );
        for protocol in parts.defaults.iter().chain(&parts.options) {
            self.parameters(&protocol.parameters);
        }
    }

    /// Keeps the promise that what can be written can be read back.
    fn size(&mut self, configuration: &Configuration) {
        let size = configuration.to_xml().len();
        if size > MAX_FILE_SIZE {
            let found = format!("a configuration that takes {size} bytes of UTF-8 to write");
            let invalid = InvalidValue::described(found, format!("at most {MAX_FILE_SIZE}"));
            self.report(&Origin::default(), None, invalid);
        }
    }
}

/// The names of the services, to be looked up and compared with.
struct Names<'a> {
    exact: HashSet<&'a str>,
    folded: Vec<(&'a str, Vec<char>)>,
}

impl<'a> Names<'a> {
    fn new(services: &'a [Service]) -> Self {
        let names = || services.iter().map(|service| service.name.as_str());
        Self { exact: names().collect(), folded: names().map(|name| (name, folded(name))).collect() }
    }
}

/// What is wrong with `name` in the attribute `service` of `rule`, which is a local rule of the service `owner`, if any.
fn rule_name(rule: &Rule, name: &Name, owner: Option<&Name>, services: &Names<'_>) -> Option<InvalidValue> {
    let text = name.as_str();
    if services.exact.contains(text) {
        let owner = owner.filter(|owner| *owner != name)?.as_str();
        let expected = format!("the name of a flow: a local rule is about {} only", quote(owner));
        let invalid = InvalidValue::described(format!("the service {}", quote(text)), expected);
        return Some(invalid.help("rules about several services stand in <using-rules>"));
    }
    if !rule.has_conditions() {
        let found = format!("{}, which is no service of this file", quote(text));
        let expected = "a condition (port, transport, type, local or peer) that says which flow that is";
        let known = services.folded.iter().map(|(name, _)| *name);
        return Some(InvalidValue::described(found, expected).suggest(text, known));
    }
    // A misspelt service would turn a rule about one service into a rule about all.
    let letters = folded(text);
    let (service, _) = services.folded.iter().find(|(_, service)| is_slip(&letters, service))?;
    let expected = "the name of a service, or a name for a flow that is not so like one";
    Some(InvalidValue::new(text, expected).suggest(text, [*service]))
}

/// What is wrong with a rule about `transport`, which is neither known nor among the `declared`.
fn undeclared(transport: &ProtocolName, declared: &[&ProtocolName]) -> InvalidValue {
    let known = ProtocolName::known().collect::<Vec<_>>();
    let expected = format!("{} or a protocol declared in <protocols>", known.join(", "));
    let all = known.into_iter().chain(declared.iter().map(|name| name.as_str()));
    InvalidValue::new(transport.as_str(), expected).suggest(transport.as_str(), all)
}
