//! The elements and attributes of the format: the one table that the reader, the error messages and the XML schema use.

/// What an attribute's value is; decides its type in the XML schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Application,
    Name,
    Value,
    ServiceLibrary,
    ProtocolName,
    ProtocolLibrary,
    SocketType,
    Connecting,
    Boolean,
    Names,
    Ports,
    Transports,
    Roles,
    Addresses,
}

/// An attribute of an element.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) doc: &'static str,
}

/// An element.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) attributes: &'static [Attribute],
    pub(crate) children: &'static [Child],
}

/// An element that may stand in another.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) element: &'static Element,
    /// Whether it may stand there only once.
    pub(crate) once: bool,
}

impl Element {
    pub(crate) fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(crate) fn child(&self, name: &str) -> Option<&'static Child> {
        self.children.iter().find(|child| child.element.name == name)
    }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Attribute {
    Attribute { name, kind, required: true, doc }
}

const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Attribute {
    Attribute { name, kind, required: false, doc }
}

const fn many(element: &'static Element) -> Child {
    Child { element, once: false }
}

const fn once(element: &'static Element) -> Child {
    Child { element, once: true }
}

/// The root.
pub(crate) static CONFIGURATION: Element = Element {
    name: "configuration",
    doc: "The services and protocols of one application.",
    attributes: &[required(
        "application",
        Kind::Application,
        "The application that this configuration is for.",
    )],
    children: &[once(&SERVICES), once(&PROTOCOLS)],
};

pub(crate) static SERVICES: Element = Element {
    name: "services",
    doc: "The services, from the application downwards, and the global rules.",
    attributes: &[],
    children: &[many(&SERVICE), once(&USING_RULES)],
};

pub(crate) static SERVICE: Element = Element {
    name: "service",
    doc: "A service that can be inserted into flows, with its parameters and its local rules.",
    attributes: &[
        required("name", Kind::Name, "The name of the service, unique in the file."),
        optional(
            "lib",
            Kind::ServiceLibrary,
            "The plug-in that brings the service. Default: the framework's own service of that name.",
        ),
    ],
    children: &[many(&PARAMETER), many(&RULE)],
};

pub(crate) static USING_RULES: Element = Element {
    name: "using-rules",
    doc: "The global rules: asked where no local rule of a service matches. The first match decides.",
    attributes: &[],
    children: &[many(&RULE)],
};

pub(crate) static PARAMETER: Element = Element {
    name: "parameter",
    doc: "A setting for the service or protocol it stands in.",
    attributes: &[
        required("name", Kind::Name, "The name of the parameter, unique in its service or protocol."),
        required("value", Kind::Value, "The value, passed on as it stands."),
    ],
    children: &[],
};

pub(crate) static RULE: Element = Element {
    name: "rule",
    doc: "Says whether flows that meet all conditions use services. In a list the first rule that matches decides.",
    attributes: &[
        required("use", Kind::Boolean, "Whether the flows use the services, or do without."),
        optional(
            "service",
            Kind::Names,
            "Services that a global rule is restricted to, or names for the flow, which restrict nothing. Default: *",
        ),
        optional("services", Kind::Names, "Another spelling of the attribute service."),
        optional("port", Kind::Ports, "The port at either end of the flow: ports and ranges. Default: *"),
        optional("transport", Kind::Transports, "The transport protocols. Default: *"),
        optional("type", Kind::Roles, "The part of the application's socket in the flow. Default: *"),
        optional(
            "local",
            Kind::Addresses,
            "The address of the application's end: addresses and prefixes. Default: *",
        ),
        optional("peer", Kind::Addresses, "The address of the other end: addresses and prefixes. Default: *"),
        optional(
            "plain",
            Kind::Boolean,
            "Whether a peer that has no freena is talked to without the services, in the clear. Default: false",
        ),
    ],
    children: &[],
};

pub(crate) static PROTOCOLS: Element = Element {
    name: "protocols",
    doc: "The transport protocols of the application's sockets.",
    attributes: &[optional(
        "connect",
        Kind::Connecting,
        "By which the application opens flows: default alone, or the options too, each when the one before has failed or has not answered for so many milliseconds. Default: 250",
    )],
    children: &[many(&DEFAULT), many(&OPTION)],
};

const PROTOCOL_ATTRIBUTES: &[Attribute] = &[
    required("name", Kind::ProtocolName, "The protocol, in upper or lower case."),
    optional(
        "lib",
        Kind::ProtocolLibrary,
        "Whose implementation: kernel, or a plug-in. Default: the framework's own.",
    ),
    optional(
        "type",
        Kind::SocketType,
        "The type of the sockets that it serves. Default: by the protocol, if that is known.",
    ),
];

pub(crate) static DEFAULT: Element = Element {
    name: "default",
    doc: "The protocol for flows that the application opens: one for each socket type. Peers may use it too.",
    attributes: PROTOCOL_ATTRIBUTES,
    children: &[many(&PARAMETER)],
};

pub(crate) static OPTION: Element = Element {
    name: "option",
    doc: "A further protocol that peers may use.",
    attributes: PROTOCOL_ATTRIBUTES,
    children: &[many(&PARAMETER)],
};

/// Attributes of the root that belong to XML itself; they tell an editor where the schema is.
pub(crate) const SCHEMA_HINTS: [&str; 2] = ["xmlns:xsi", "xsi:noNamespaceSchemaLocation"];
