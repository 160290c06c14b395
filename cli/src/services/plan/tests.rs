//! A plan decides as the configuration does, and errors name their place.

use super::*;
use freena_config::Flow;
use proptest::prelude::*;

/// The folder that cargo builds the libraries into.
fn folders() -> Vec<PathBuf> {
    vec![std::env::current_exe().unwrap().parent().unwrap().to_owned()]
}

fn read(services: &str) -> Configuration {
    let xml = format!("<configuration application='x'><services>{services}</services></configuration>");
    Configuration::from_bytes(xml.as_bytes(), "x.xml").unwrap_or_else(|error| panic!("{error}"))
}

fn fails(services: &str) -> String {
    plan(&read(services), Path::new("x.xml"), &folders()).unwrap_err().to_string()
}

#[test]
fn errors_name_their_place() {
    for (services, expected) in [
        (
            "\n<service name='nothing'/>",
            "x.xml:2:1: no library `libfreena_service_nothing.so` in the service folders",
        ),
        ("\n<service name='a' lib='libnone.so'/>", "x.xml:2:1: no library `libnone.so`"),
        (
            "\n<service name='crypto'>\n <parameter name='mode' value='ECB'/></service>",
            "x.xml:3:2: service `crypto`: found mode=\"ECB\", expected one of GCM, CTR, CBC",
        ),
        (
            "<service name='crypto'>\n<parameter name='rekey' value='0'/></service>",
            "x.xml:2:1: service `crypto`: found rekey=\"0\", expected a number from 1 to 65536 (MiB)",
        ),
        (
            "<service name='trace'>\n<parameter name='key' value='0'/></service>",
            "x.xml:2:1: service `trace`: found parameter \"key\"",
        ),
        (
            "<service name='trace'/><using-rules><rule use='true' transport='TCP'/>\n<rule use='false' transport='TCP' port='5'/></using-rules>",
            "x.xml:2:1: found a rule that never decides",
        ),
    ] {
        let error = fails(services);
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn the_papers_names_of_libraries_stand_for_the_frameworks_own() {
    let configuration = read(
        "<service name='secret' lib='libcrypto.so'><parameter name='mode' value='cbc'/></service><using-rules><rule use='true'/></using-rules>",
    );
    let plan = plan(&configuration, Path::new("x.xml"), &folders()).unwrap();
    assert!(plan.services[0].library.ends_with("libfreena_service_crypto.so"));
    let again = Plan::decode(&plan.encode()).unwrap();
    assert_eq!(again, plan);
}

#[test]
fn a_global_rule_that_decides_for_one_service_is_no_error() {
    let configuration = read(
        "<service name='crypto'><rule use='true'/></service><service name='trace'/><using-rules><rule use='true' port='5'/></using-rules>",
    );
    plan(&configuration, Path::new("x.xml"), &folders()).unwrap();
}

fn conditions() -> impl Strategy<Value = String> {
    let attribute = |name: &'static str, values: &'static [&'static str]| {
        prop::option::of(prop::sample::select(values))
            .prop_map(move |it| it.map_or(String::new(), |value| format!(" {name}='{value}'")))
    };
    (
        any::<bool>(),
        attribute("port", &["1", "1-3", "2,5-6", "1-65535"]),
        attribute("transport", &["TCP", "UDP", "TCP, UDP"]),
        attribute("type", &["client", "server", "client, server"]),
        attribute("local", &["10.0.0.0/8", "::1", "0.0.0.0/0, ::/0"]),
        attribute("peer", &["10.0.0.0/8", "::/0", "192.0.2.1"]),
    )
        .prop_map(|(used, a, b, c, d, e)| format!("use='{used}'{a}{b}{c}{d}{e}"))
}

proptest! {
    #[test]
    fn a_plan_decides_as_the_configuration(
        local in prop::collection::vec(conditions(), 0..3),
        global in prop::collection::vec((conditions(), prop::sample::select(&["", " service='crypto'", " service='trace, crypto'"][..])), 0..4),
        ports in (0u16..8, 0u16..8),
        addresses in prop::sample::select(&[("10.1.2.3", "192.0.2.1"), ("::1", "2001:db8::1"), ("::ffff:10.0.0.1", "10.0.0.2")][..]),
        client in any::<bool>(),
        tcp in any::<bool>(),
        known in any::<bool>(),
    ) {
        let local: String = local.iter().map(|it| format!("<rule {it}/>")).collect();
        let global: String = global.iter().map(|(it, about)| format!("<rule {it}{about}/>")).collect();
        let configuration = read(&format!(
            "<service name='crypto'>{local}</service><service name='trace'/><using-rules>{global}</using-rules>"
        ));
        // Rules that never decide are refused: there is nothing to compare then.
        let Ok(plan) = plan(&configuration, Path::new("x.xml"), &folders()) else { return Ok(()) };
        let plan = Plan::decode(&plan.encode()).unwrap();
        let address = |ip: &str, port| std::net::SocketAddr::new(ip.parse().unwrap(), port);
        let flow = Flow {
            transport: if tcp { "TCP" } else { "UDP" }.parse().unwrap(),
            role: if client { Role::Client } else { Role::Server },
            local: address(addresses.0, ports.0),
            peer: known.then(|| address(addresses.1, ports.1)),
        };
        let role = if client { chain::Role::Client } else { chain::Role::Server };
        let transport = flow.transport.to_string();
        let expected: Vec<_> = configuration.services_for(&flow).iter().map(|it| it.used).collect();
        let found: Vec<_> = plan.decide(&transport, role, flow.local, flow.peer).map(|it| it.used()).collect();
        prop_assert_eq!(found, expected);
    }
}
