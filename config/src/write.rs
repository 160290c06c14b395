//! A configuration back to XML.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, Event};

use crate::connecting::Connecting;
use crate::model::{Configuration, Parameter, Rule, Service};
use crate::protocol::Protocol;

/// The attributes of an element; those without value are left out.
type Attributes<'a> = &'a [(&'static str, Option<String>)];

impl Configuration {
    /// The configuration as an XML file in UTF-8. Reading it gives an equal configuration; comments, the order of
    /// attributes and other spellings of the same are not kept.
    pub fn to_xml(&self) -> String {
        let mut output = Output(Writer::new_with_indent(Vec::new(), b' ', 2));
        output.configuration(self).expect("a Vec takes every write");
        let mut bytes = output.0.into_inner();
        bytes.push(b'\n');
        String::from_utf8(bytes).expect("all that is written comes from strings")
    }
}

struct Output(Writer<Vec<u8>>);

impl Output {
    fn configuration(&mut self, configuration: &Configuration) -> io::Result<()> {
        self.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        let application = Some(configuration.application().to_string());
        self.element("configuration", &[("application", application)], |output| {
            if !(configuration.services().is_empty() && configuration.rules().is_empty()) {
                output.element("services", &[], |output| {
                    configuration.services().iter().try_for_each(|service| output.service(service))?;
                    if configuration.rules().is_empty() {
                        return Ok(());
                    }
                    output.element("using-rules", &[], |output| output.rules(configuration.rules()))
                })?;
            }
            let connecting = configuration.connecting();
            let connecting = (connecting != Connecting::default()).then(|| connecting.to_string());
            if configuration.defaults().is_empty()
                && configuration.options().is_empty()
                && connecting.is_none()
            {
                return Ok(());
            }
            output.element("protocols", &[("connect", connecting)], |output| {
                let mut write =
                    |name, list: &[Protocol]| list.iter().try_for_each(|p| output.protocol(name, p));
                write("default", configuration.defaults())?;
                write("option", configuration.options())
            })
        })
    }

    fn service(&mut self, service: &Service) -> io::Result<()> {
        let library = service.library.as_ref().map(ToString::to_string);
        let attributes = [("name", Some(service.name.to_string())), ("lib", library)];
        if service.parameters.is_empty() && service.rules.is_empty() {
            return self.empty("service", &attributes);
        }
        self.element("service", &attributes, |output| {
            output.parameters(&service.parameters)?;
            output.rules(&service.rules)
        })
    }

    fn protocol(&mut self, element: &str, protocol: &Protocol) -> io::Result<()> {
        let attributes = [
            ("name", Some(protocol.name().to_string())),
            ("lib", protocol.library().as_str().map(str::to_owned)),
            ("type", (!protocol.has_usual_type()).then(|| protocol.socket_type().to_string())),
        ];
        if protocol.parameters.is_empty() {
            return self.empty(element, &attributes);
        }
        self.element(element, &attributes, |output| output.parameters(&protocol.parameters))
    }

    fn parameters(&mut self, parameters: &[Parameter]) -> io::Result<()> {
        parameters.iter().try_for_each(|parameter| {
            let (name, value) = (parameter.name.to_string(), parameter.value.to_string());
            self.empty("parameter", &[("name", Some(name)), ("value", Some(value))])
        })
    }

    fn rules(&mut self, rules: &[Rule]) -> io::Result<()> {
        rules.iter().try_for_each(|rule| {
            let attributes = [
                ("use", Some(rule.used.to_string())),
                ("service", (!rule.services.is_any()).then(|| rule.services.to_string())),
                ("port", (!rule.ports.is_any()).then(|| rule.ports.to_string())),
                ("transport", (!rule.transports.is_any()).then(|| rule.transports.to_string())),
                ("type", (!rule.roles.is_any()).then(|| rule.roles.to_string())),
                ("local", (!rule.local.is_any()).then(|| rule.local.to_string())),
                ("peer", (!rule.peer.is_any()).then(|| rule.peer.to_string())),
                ("plain", rule.plain.then(|| "true".to_owned())),
            ];
            self.empty("rule", &attributes)
        })
    }

    /// Writes an element whose children `content` writes.
    fn element(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.0.write_event(Event::Start(start_tag(name, attributes)))?;
        content(self)?;
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    fn empty(&mut self, name: &str, attributes: Attributes<'_>) -> io::Result<()> {
        self.0.write_event(Event::Empty(start_tag(name, attributes)))
    }
}

fn start_tag<'a>(name: &'a str, attributes: Attributes<'_>) -> BytesStart<'a> {
    let mut start = BytesStart::new(name);
    for (key, value) in attributes {
        if let Some(value) = value {
            // As bytes: for strings, quick-xml would escape in its own way, which leaves line ends as they are.
            start.push_attribute((key.as_bytes(), escape(value).as_bytes()));
        }
    }
    start
}

/// Escapes a value so that the normalisation of attribute values (XML 1.0, section 3.3.3) gives it back.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            _ => escaped.push(c),
        }
    }
    escaped
}
