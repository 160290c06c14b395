//! The XML schema, for editors that complete and check while one types.
//!
//! It comes from the tables of [`crate::schema`] that the reader uses, so elements and attributes cannot drift apart. The
//! reader checks more than XML Schema 1.0 can say: ranges that run backwards, names that do not exist, one default for
//! each socket type. The schema never refuses what the reader takes.

use std::collections::BTreeSet;

use crate::condition::Role;
use crate::protocol::{ProtocolName, SocketType};
use crate::schema::{Attribute, CONFIGURATION, Child, Element, Kind};

/// The XML schema of the format, as committed in `config/freena.xsd`.
pub fn xsd() -> String {
    let mut elements = Vec::new();
    collect(&CONFIGURATION, &mut elements);
    let kinds: BTreeSet<Kind> =
        elements.iter().flat_map(|element| element.attributes).map(|a| a.kind).collect();

    let mut xsd = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<!-- Made from the tables in config/src/schema.rs by `cargo xtask xsd`. -->\n",
        "<xs:schema xmlns:xs=\"http://www.w3.org/2001/XMLSchema\">\n",
    ));
    for element in elements {
        xsd.push_str(&declare(element));
    }
    for kind in kinds {
        xsd.push_str(&define(kind));
    }
    xsd.push_str("</xs:schema>\n");
    xsd
}

/// Adds `element` and all that may stand in it, each once.
fn collect(element: &'static Element, elements: &mut Vec<&'static Element>) {
    if !elements.iter().any(|known| std::ptr::eq(*known, element)) {
        elements.push(element);
        for child in element.children {
            collect(child.element, elements);
        }
    }
}

fn declare(element: &Element) -> String {
    let mut lines = vec![
        format!("  <xs:element name=\"{}\">", element.name),
        format!("    <xs:annotation><xs:documentation>{}</xs:documentation></xs:annotation>", element.doc),
        "    <xs:complexType>".into(),
    ];
    lines.extend(content(element.children));
    lines.extend(element.attributes.iter().flat_map(attribute));
    lines.extend(["    </xs:complexType>".into(), "  </xs:element>\n".into()]);
    lines.join("\n")
}

/// The children in any order, some of them once.
fn content(children: &[Child]) -> Vec<String> {
    let reference = |child: &Child| format!("<xs:element ref=\"{}\"/>", child.element.name);
    let (once, many): (Vec<_>, Vec<_>) = children.iter().partition(|child| child.once);
    let any_of_many = || {
        let choices: String = many.iter().map(|child| reference(child)).collect();
        format!("<xs:choice minOccurs=\"0\" maxOccurs=\"unbounded\">{choices}</xs:choice>")
    };
    match (once.as_slice(), many.as_slice()) {
        ([], []) => vec![],
        ([], _) => vec![format!("      {}", any_of_many())],
        (_, []) => {
            let optional = |child: &&Child| {
                format!("        <xs:element ref=\"{}\" minOccurs=\"0\"/>", child.element.name)
            };
            let mut lines = vec!["      <xs:all>".to_owned()];
            lines.extend(once.iter().map(optional));
            lines.push("      </xs:all>".to_owned());
            lines
        }
        // One that may stand anywhere between the many: they come before it, and after it if it is there.
        ([single], _) => vec![
            "      <xs:sequence>".to_owned(),
            format!("        {}", any_of_many()),
            format!(
                "        <xs:sequence minOccurs=\"0\">{}{}</xs:sequence>",
                reference(single),
                any_of_many()
            ),
            "      </xs:sequence>".to_owned(),
        ],
        _ => unreachable!("XML Schema 1.0 cannot say this content model; change the tables"),
    }
}

fn attribute(attribute: &Attribute) -> [String; 3] {
    let required = if attribute.required { " use=\"required\"" } else { "" };
    [
        format!(
            "      <xs:attribute name=\"{}\" type=\"{}\"{required}>",
            attribute.name,
            type_name(attribute.kind)
        ),
        format!(
            "        <xs:annotation><xs:documentation>{}</xs:documentation></xs:annotation>",
            attribute.doc
        ),
        "      </xs:attribute>".to_owned(),
    ]
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Application => "application-name",
        Kind::Name => "name",
        Kind::Value => "value",
        Kind::ServiceLibrary => "service-library",
        Kind::ProtocolName => "protocol-name",
        Kind::ProtocolLibrary => "protocol-library",
        Kind::SocketType => "socket-type",
        Kind::Connecting => "connecting",
        Kind::Boolean => "boolean",
        Kind::Names => "names",
        Kind::Ports => "ports",
        Kind::Transports => "transports",
        Kind::Roles => "roles",
        Kind::Addresses => "addresses",
    }
}

/// `xs:token` takes the white space at the ends away, as the reader does.
fn define(kind: Kind) -> String {
    const NAME: &str = r"[^\s,*/\\.][^\s,*/\\]{0,63}";
    const FILE: &str = r"[^/\\:]{1,255}";
    let known = || ProtocolName::known().collect::<Vec<_>>();
    let name = type_name(kind);
    match kind {
        Kind::Application => pattern(name, ".{1,255}"),
        Kind::Name => pattern(name, NAME),
        Kind::Value => format!(
            "  <xs:simpleType name=\"{name}\">\n    <xs:restriction base=\"xs:string\"><xs:maxLength value=\"4096\"/></xs:restriction>\n  </xs:simpleType>\n"
        ),
        Kind::ServiceLibrary => pattern(name, FILE),
        Kind::ProtocolName => union(name, &known(), NAME),
        Kind::ProtocolLibrary => union(name, &["kernel"], FILE),
        Kind::SocketType => union(name, &SocketType::ALL.map(SocketType::as_str), ""),
        Kind::Connecting => union(name, &["default"], "[0-9]{2,5}"),
        Kind::Boolean => union(name, &["true", "false"], ""),
        Kind::Names => union(name, &["*"], &list(NAME)),
        Kind::Ports => union(name, &["*"], &list("[0-9]+( *- *[0-9]+)?")),
        Kind::Transports => union(name, &[&["*"], known().as_slice()].concat(), &list(NAME)),
        Kind::Roles => {
            let roles = Role::ALL.map(Role::as_str);
            union(name, &[&["*"], &roles[..]].concat(), &list(&format!("({})", roles.join("|"))))
        }
        Kind::Addresses => union(name, &["*"], &list("[0-9A-Fa-f:.]+(/[0-9]+)?")),
    }
}

/// The pattern of one or more items with commas between them.
fn list(item: &str) -> String {
    format!("{item}( *, *{item})*")
}

fn pattern(name: &str, pattern: &str) -> String {
    format!(
        "  <xs:simpleType name=\"{name}\">\n    <xs:restriction base=\"xs:token\"><xs:pattern value=\"{pattern}\"/></xs:restriction>\n  </xs:simpleType>\n"
    )
}

/// Values that an editor can offer, and the pattern of the others; an empty pattern means there are none.
fn union(name: &str, values: &[&str], others: &str) -> String {
    let values: String = values.iter().map(|value| format!("<xs:enumeration value=\"{value}\"/>")).collect();
    let values = format!("<xs:restriction base=\"xs:token\">{values}</xs:restriction>");
    if others.is_empty() {
        return format!("  <xs:simpleType name=\"{name}\">\n    {values}\n  </xs:simpleType>\n");
    }
    format!(
        "  <xs:simpleType name=\"{name}\">\n    <xs:union>\n      <xs:simpleType>{values}</xs:simpleType>\n      <xs:simpleType><xs:restriction base=\"xs:token\"><xs:pattern value=\"{others}\"/></xs:restriction></xs:simpleType>\n    </xs:union>\n  </xs:simpleType>\n"
    )
}
