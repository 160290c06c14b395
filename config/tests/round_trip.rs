//! Configurations written and read back, and input that nobody meant to write.

use std::net::IpAddr;

use freena_config::{
    AddressPrefix, Configuration, Connecting, Library, Parameter, Parts, PortRange, Protocol, ProtocolName,
    Role, Rule, Selection, Service, SocketType,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn parameters() -> impl Strategy<Value = Vec<Parameter>> {
    // Values with everything that XML treats in its own way.
    let value = "[a-z <>&\"'\t\n\r\u{85}\u{2028}あ😀]{0,12}";
    vec(value, 0..3).prop_map(|values| {
        let parameter = |(index, value): (usize, String)| Parameter {
            name: format!("parameter-{index}").parse().unwrap(),
            value: value.parse().unwrap(),
            origin: Default::default(),
        };
        values.into_iter().enumerate().map(parameter).collect()
    })
}

fn selection<T: Clone + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = Selection<T>> {
    vec(item, 0..4).prop_map(|items| Selection::of(items).unwrap_or_default())
}

fn ports() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

/// Any prefix: an address shortened to the longest prefix that has no other bits set.
fn prefix() -> impl Strategy<Value = AddressPrefix> {
    let v4 = (any::<u32>(), 0..=32u32).prop_map(|(bits, length)| {
        let address = IpAddr::V4((bits & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into());
        (address, length)
    });
    let v6 = (any::<u128>(), 0..=128u32).prop_map(|(bits, length)| {
        let address = IpAddr::V6((bits & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into());
        (address, length)
    });
    prop_oneof![v4, v6].prop_map(|(address, length)| AddressPrefix::new(address, length as u8).unwrap())
}

fn rule(services: usize) -> impl Strategy<Value = Rule> {
    // Flow names are far from the services' and stand beside a condition, as the format wants it.
    let names = (0..services)
        .map(|index| format!("service-{index}"))
        .chain(["FLOW.LABEL".into()])
        .collect::<Vec<_>>();
    let name = select(names).prop_map(|name| name.parse().unwrap());
    let transport = select(ProtocolName::known().collect::<Vec<_>>()).prop_map(|name| name.parse().unwrap());
    let roles = selection(select(vec![Role::Client, Role::Server]));
    let ports = vec(ports(), 1..4).prop_map(|items| Selection::of(items).unwrap());
    (
        any::<bool>(),
        selection(name),
        ports,
        selection(transport),
        roles,
        selection(prefix()),
        selection(prefix()),
        any::<bool>(),
    )
        .prop_map(|(used, services, ports, transports, roles, local, peer, plain)| Rule {
            services,
            ports,
            transports,
            roles,
            local,
            peer,
            plain: used && plain,
            ..Rule::new(used)
        })
}

fn service(index: usize) -> impl Strategy<Value = Service> {
    let library = option::of("[a-z][a-z あ.<&\"]{0,8}\\.so");
    // A local rule may name flows only.
    (library, parameters(), vec(rule(0), 0..3)).prop_map(move |(library, parameters, rules)| Service {
        name: format!("service-{index}").parse().unwrap(),
        library: library.map(|file| file.parse().unwrap()),
        parameters,
        rules,
        origin: Default::default(),
    })
}

fn library() -> impl Strategy<Value = Library> {
    prop_oneof![
        Just(Library::Framework),
        Just(Library::Kernel),
        "lib[a-z]{1,8}\\.so".prop_map(|file| file.parse().unwrap())
    ]
}

/// Protocols of one socket type: perhaps a default, and options that differ from it and from each other.
fn protocols(kind: SocketType) -> impl Strategy<Value = (Vec<Protocol>, Vec<Protocol>)> {
    let known = ProtocolName::known()
        .map(|name| name.parse::<ProtocolName>().unwrap())
        .filter(|name| name.socket_types().unwrap().contains(&kind));
    let names: Vec<_> = known.chain([format!("plugin-{kind}").parse().unwrap()]).collect();
    (Just(names).prop_shuffle(), any::<bool>(), any::<Index>(), vec((library(), parameters()), 6)).prop_map(
        move |(names, has_default, count, details)| {
            let count = count.index(names.len() + 1);
            let mut list: Vec<Protocol> = names
                .into_iter()
                .filter(|name| has_default || *name != kind.kernel_default())
                .zip(details)
                .take(count)
                .map(|(name, (library, parameters))| {
                    let plug_in = || Library::File("libplugin.so".parse().unwrap());
                    let library = if name.socket_types().is_some() { library } else { plug_in() };
                    let mut protocol = Protocol::new(name, library, Some(kind)).unwrap();
                    protocol.parameters = parameters;
                    protocol
                })
                .collect();
            let options = list.split_off(usize::from(has_default && !list.is_empty()));
            (list, options)
        },
    )
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let services = (0usize..4)
        .prop_flat_map(|count| ((0..count).map(service).collect::<Vec<_>>(), vec(rule(count), 0..4)));
    let protocols = SocketType::ALL.map(protocols);
    let connecting = prop_oneof![
        Just(Connecting::Default),
        (Connecting::MIN..=Connecting::MAX).prop_map(|stagger| Connecting::Options { stagger })
    ];
    ("[a-z&<\"あ][a-z &<\"あ]{0,20}[a-z]", services, protocols, connecting).prop_map(
        |(application, (services, rules), protocols, connecting)| {
            let (defaults, options): (Vec<_>, Vec<_>) = protocols.into_iter().unzip();
            let parts = Parts {
                application: application.parse().unwrap(),
                services,
                rules,
                defaults: defaults.concat(),
                options: options.concat(),
                connecting,
            };
            Configuration::new(parts.clone())
                .unwrap_or_else(|violations| panic!("{violations:#?}\n{parts:#?}"))
        },
    )
}

const FIXTURES: [&[u8]; 2] =
    [include_bytes!("fixtures/paper-figure-2.xml"), include_bytes!("fixtures/everything.xml")];

/// What every input must come to: a configuration that survives being written, or problems that lie in the file.
fn check(bytes: &[u8]) {
    match Configuration::from_bytes(bytes, "input") {
        Ok(configuration) => {
            let xml = configuration.to_xml();
            assert_eq!(
                Configuration::from_bytes(xml.as_bytes(), "written").expect(&xml),
                configuration,
                "{xml}"
            );
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            let text = format!("{:?}", miette::Report::new(error));
            assert!(text.contains("expected"), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(configuration in configuration()) {
        let xml = configuration.to_xml();
        let read = Configuration::from_bytes(xml.as_bytes(), "written");
        prop_assert_eq!(read.unwrap_or_else(|error| panic!("{error}\n{xml}")), configuration);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }

    #[test]
    fn random_markup_never_panics(
        pieces in vec(select(vec![
            "<", ">", "/>", "</", "<?xml version=\"1.0\" encoding=\"", "Shift_JIS\"?>", "?>", "<!--", "-->", "<![CDATA[", "]]>",
            "<!DOCTYPE a [", "&", ";", "&#", "=", "\"", "'", " ", "\r\n", "\r", "*", ",", "あ", "\u{FEFF}", "\0", "configuration",
            "application", "<services>", "<service name='a'>", "<rule use='true' ", "port='", "<protocols>", "<default name='", "UDP",
            "</configuration>", "<configuration application='a'>", "</services>",
        ]), 0..40)
    ) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn mutated_fixtures_never_panic(
        fixture in select(FIXTURES.to_vec()),
        edits in vec((any::<Index>(), 0usize..12, vec(any::<u8>(), 0..4)), 1..6),
    ) {
        let mut bytes = fixture.to_vec();
        for (at, removed, inserted) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, inserted);
        }
        check(&bytes);
    }

    #[test]
    fn cut_and_repeated_fixtures_never_panic(
        fixture in select(FIXTURES.to_vec()), from in any::<Index>(), length in any::<Index>(), to in any::<Index>(),
    ) {
        let from = from.index(fixture.len());
        let piece = &fixture[from..from + length.index(fixture.len() - from)];
        let mut bytes = fixture.to_vec();
        let to = to.index(bytes.len());
        bytes.splice(to..to, piece.iter().copied());
        check(&bytes);
        check(piece);
    }
}
