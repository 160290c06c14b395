//! Which rule decides, condition by condition.

use freena_config::{Configuration, Flow, Role};

/// The line of the rule that decides for service `a` (`None`: none), the first rule being on line 1.
fn line(rules: &str, flow: &Flow) -> Option<u32> {
    let xml = format!(
        "<configuration application='x'><services><service name='a'/><using-rules>{rules}</using-rules></services></configuration>"
    );
    let configuration =
        Configuration::from_bytes(xml.as_bytes(), "rules.xml").unwrap_or_else(|error| panic!("{error}"));
    let decisions = configuration.services_for(flow);
    let [decision] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert_eq!(decision.used, decision.rule.is_some_and(|rule| rule.used));
    decision.rule_line()
}

fn flow(local: &str, peer: Option<&str>) -> Flow {
    Flow {
        transport: "UDP".parse().unwrap(),
        role: Role::Client,
        local: local.parse().unwrap(),
        peer: peer.map(|peer| peer.parse().unwrap()),
    }
}

/// Whether one rule with these attributes matches.
fn matches(attributes: &str, flow: &Flow) -> bool {
    line(&format!("<rule use='true' {attributes}/>"), flow).is_some()
}

#[test]
fn ports_at_either_end() {
    let known = flow("10.0.0.1:40000", Some("10.0.0.2:53"));
    let unknown = flow("10.0.0.1:40000", None);
    for (port, with_peer, without) in [
        ("53", true, false),
        ("40000", true, true),
        ("39999-40001", true, true),
        ("54-39999, 40001-65535", false, false),
        ("1,50-53", true, false),
        ("*", true, true),
    ] {
        assert_eq!(matches(&format!("port='{port}'"), &known), with_peer, "{port}");
        assert_eq!(matches(&format!("port='{port}'"), &unknown), without, "{port}");
    }
    assert!(!matches("port='1-65535'", &flow("0.0.0.0:0", None)), "an unbound socket has no port");
}

#[test]
fn addresses_of_both_families() {
    let v4 = flow("10.1.2.3:1", Some("192.0.2.128:2"));
    let mapped = flow("[::ffff:10.1.2.3]:1", Some("[::ffff:192.0.2.128]:2"));
    for flow in [&v4, &mapped] {
        for (attributes, expected) in [
            ("local='10.0.0.0/8'", true),
            ("local='10.1.2.3'", true),
            ("local='10.1.2.2/31'", true),
            ("local='10.1.2.4/30'", false),
            ("local='0.0.0.0/0'", true),
            ("local='::/0'", false),
            ("peer='10.0.0.0/8'", false),
            ("peer='::1, 192.0.2.128/25'", true),
            ("local='10.0.0.0/8' peer='10.0.0.0/8'", false),
        ] {
            assert_eq!(matches(attributes, flow), expected, "{attributes} for {flow:?}");
        }
    }
    let v6 = flow("[2001:db8::1]:1", None);
    assert!(matches("local='2001:db8::/32'", &v6) && matches("local='::/0'", &v6));
    assert!(!matches("local='2001:db9::/32'", &v6) && !matches("local='0.0.0.0/0'", &v6));
    assert!(!matches("peer='::/0'", &v6), "an unknown peer has no address");
}

#[test]
fn transport_and_role() {
    let flow = flow("10.0.0.1:1", None);
    for (attributes, expected) in [
        ("transport='udp'", true),
        ("transport='TCP, UDP'", true),
        ("transport='UDP-Lite'", false),
        ("type='client'", true),
        ("type='server'", false),
        ("type='server, client'", true),
        ("type='*'", true),
        ("", true),
    ] {
        assert_eq!(matches(attributes, &flow), expected, "{attributes}");
    }
}

#[test]
fn the_first_match_wins_even_when_it_forbids() {
    let flow = flow("10.0.0.1:1", None);
    assert_eq!(line("\n<rule use='false' port='1'/>\n<rule use='true'/>", &flow), Some(2));
    assert_eq!(line("\n<rule use='false' port='2'/>\n<rule use='true'/>", &flow), Some(3));
    assert_eq!(line("\n<rule use='false' port='2'/>", &flow), None);
}

#[test]
fn a_global_rule_may_be_about_some_services() {
    let xml = "<configuration application='x'><services>
        <service name='compression'/>
        <service name='crypto'><rule use='false' port='9'/></service>
        <service name='audit'/>
        <using-rules>
          <rule use='true' service='crypto, mail' port='1-9'/>
          <rule use='true' service='mail' port='2'/>
        </using-rules></services></configuration>";
    let configuration = Configuration::from_bytes(xml.as_bytes(), "rules.xml").unwrap();
    let decided = |port| -> Vec<_> {
        let flow = flow(&format!("10.0.0.1:{port}"), None);
        configuration
            .services_for(&flow)
            .iter()
            .map(|decision| (decision.used, decision.rule_line()))
            .collect()
    };
    assert_eq!(decided(1), [(false, None), (true, Some(6)), (false, None)]);
    assert_eq!(decided(2), [(true, Some(7)), (true, Some(6)), (true, Some(7))]);
    assert_eq!(decided(9), [(false, None), (false, Some(3)), (false, None)], "the local rule first");
}
