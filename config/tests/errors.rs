//! Every error says where, what was found, what was expected, and the nearest known name.

use std::time::{Duration, Instant};

use freena_config::{
    ApplicationName, Configuration, Library, MAX_FILE_SIZE, MAX_PROBLEMS, Parts, Protocol, ProtocolName,
    SocketType,
};

fn error(xml: &str) -> freena_config::ConfigError {
    match Configuration::from_bytes(xml.as_bytes(), "f") {
        Ok(configuration) => panic!("accepted: {xml}\n{configuration:#?}"),
        Err(error) => error,
    }
}

#[track_caller]
fn starts(message: &str, expected: &str) {
    assert!(message.starts_with(expected), "\n got: {message}\nwant: {expected}");
}

/// `xml` has one error, at the place marked `¦`, whose message starts with `expected`.
#[track_caller]
fn refused(xml: &str, expected: &str) {
    let (before, _) = xml.split_once('¦').expect("a mark");
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let line = before.matches('\n').count() + 1;
    let error = error(&xml.replace('¦', ""));
    assert_eq!(error.problems().len(), 1, "{xml}: {:#?}", error.problems());
    starts(&error.to_string(), &format!("f:{line}:{column}: {expected}"));
}

#[track_caller]
fn content(content: &str, expected: &str) {
    refused(&format!("<configuration application='a'>\n{content}\n</configuration>"), expected);
}

#[track_caller]
fn rule(attributes: &str, expected: &str) {
    let rules = format!("<using-rules>\n<rule {attributes}/></using-rules>");
    content(&format!("<services><service name='crypto'/>{rules}</services>"), expected);
}

#[track_caller]
fn protocols(protocols: &str, expected: &str) {
    content(&format!("<protocols>\n{protocols}</protocols>"), expected);
}

#[test]
fn elements_and_attributes() {
    content(
        "¦<service name='a'/>",
        r#"found <service>, expected <services> or <protocols> inside configuration; did you mean "services"?"#,
    );
    content(
        "<services>\n  ¦<servise name='a'/></services>",
        r#"found <servise>, expected <service> or <using-rules> inside services; did you mean "service"?"#,
    );
    content("<services/>¦<services/>", "found a second <services>, expected only one; the first is at 2:1");
    content(
        "<services>\n<service ¦nam='a'/></services>",
        r#"found the attribute "nam", expected name or lib in <service>; did you mean "name"?"#,
    );
    content(
        "<services>\n¦<service lib='a'/></services>",
        r#"found <service> without name, expected name="...""#,
    );
    content(
        "<services>\n<service name='a' ¦name='b'/></services>",
        r#"found a second attribute "name", expected each attribute once"#,
    );
    content("<services ¦x='1'/>", r#"found the attribute "x", expected no attribute in <services>"#);
    content("  ¦日本 text ", r#"found the text "日本 text", expected elements only"#);
    content("<!-- 日本 -->¦<![CDATA[x]]>", "found the text");
}

#[test]
fn xml_syntax() {
    refused("¦", r#"found no element, expected <configuration application="...">"#);
    refused(
        "<configuration application='a'>¦",
        "found the end of the file, expected </configuration>; it was opened at 1:1",
    );
    refused("<configuration application='a'>\n¦</config>", "found </config>, expected </configuration>");
    refused(
        "<configuration application='a'/>\n¦<x/>",
        "found <x>, expected the end of the file after </configuration>",
    );
    refused("<configuration application='a'/>\n¦</x>", "found </x>, expected a start tag before it");
    refused("\n<configuration application=¦a/>", r#"found a value without quotes, expected name="value""#);
    refused("<configuration application='¦&foo;'/>", r#"found "&foo;", expected &amp;"#);
    refused("<configuration application='¦<'/>", r#"found "<" in a value, expected "&lt;""#);
    refused(
        "¦<configuration application='a'",
        r#"found "<configuration application='a'", expected well-formed XML; syntax error: tag not closed"#,
    );
    refused(
        "<!-- -->\n¦<?xml version='1.0'?><configuration application='a'/>",
        "found an XML declaration, expected",
    );
    refused(
        "¦<?xml version='1.1'?><configuration application='a'/>",
        r#"found "1.1", expected XML version "1.0""#,
    );
    refused(
        "<?xml version='1.0' encoding='¦latin-1'?><a/>",
        r#"found "latin-1", expected the encoding UTF-8, Shift_JIS or EUC-JP"#,
    );
    refused(
        "<configuration application='a'>\n ¦\u{1}",
        "found the character U+0001, expected a character that XML 1.0 allows",
    );
}

#[test]
fn no_entities_are_expanded() {
    let bomb = "<?xml version='1.0'?>\n¦<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;'>]>\n<configuration application='&c;'/>";
    refused(bomb, "found a document type declaration, expected no DTD");
}

#[test]
fn rules() {
    rule("use='¦maybe'", r#"found "maybe", expected true or false"#);
    rule("use='true' port='20, ¦99999'", r#"found "99999", expected a port from 1 to 65535"#);
    rule(
        "use='true' port='¦2048-1024'",
        "found the range 2048-1024, expected the lower port first; write 1024-2048",
    );
    rule("use='true' port='¦0'", r#"found "0", expected a port from 1 to 65535"#);
    rule("use='true' port=' ¦+5'", r#"found "+5", expected a port"#);
    rule(
        "use='true' port='20,¦,21'",
        "found an empty list item, expected a value on each side of every comma",
    );
    rule("use='true' port='20, ¦*'", r#"found "*", expected '*' alone"#);
    rule(
        "use='true' type='¦cleint'",
        r#"found "cleint", expected client, server or *; did you mean "client"?"#,
    );
    rule(
        "use='true' transport='¦TCP, SCPT'",
        r#"found "SCPT", expected TCP, UDP, SCTP, QUIC, MPTCP, UDP-Lite or a protocol declared in <protocols>; did you mean "SCTP"?"#,
    );
    rule(
        "use='true' peer='¦10.0.0.1/8'",
        r#"found "10.0.0.1/8", expected a prefix whose further bits are zero; write 10.0.0.0/8, or 10.0.0.1 for"#,
    );
    rule(
        "use='true' local='::1, ¦10.0.0.0/33'",
        r#"found "10.0.0.0/33", expected a prefix length from 0 to 32"#,
    );
    rule("use='true' local='¦::ffff:10.0.0.1'", r#"found "::ffff:10.0.0.1", expected an IPv4 address"#);
    rule(
        "use='true' service='a' services='¦b'",
        "found service and services in one rule, expected one of them",
    );
    rule(
        "use='true' services='¦http'",
        r#"found "http", which is no service of this file, expected a condition"#,
    );
    rule(
        "use='true' service='¦crypt' port='1'",
        r#"found "crypt", expected the name of a service, or a name for a flow that is not so like one; did you mean "crypto"?"#,
    );
    let local = "<services><service name='a'>\n<rule use='true' service='¦b'/></service><service name='b'/></services>";
    content(local, r#"found the service "b", expected the name of a flow: a local rule is about "a" only"#);
}

#[test]
fn services_and_protocols() {
    content(
        "<services><service name='a'/>\n<service name='¦a'/></services>",
        r#"found a second service "a", expected each service once; the first is at 2:11"#,
    );
    content(
        "<services><service name='a'>\n<parameter name='p' value=''/><parameter name='¦p' value=''/></service></services>",
        r#"found a second parameter "p", expected each parameter once; the first is at 3:1"#,
    );
    content(
        "<services><service name='a'\nlib='¦../x.so'/></services>",
        r#"found "../x.so", expected the file name of a plug-in without a folder"#,
    );
    content(
        "<services><service name='a'\nlib='¦kernel'/></services>",
        r#"found "kernel", expected the file name"#,
    );
    protocols(
        "<default name='¦UPD'/>",
        r#"found the unknown protocol UPD, expected TCP, UDP, SCTP, QUIC, MPTCP or UDP-Lite, or a lib that brings it; did you mean "UDP"?"#,
    );
    protocols("<default name='¦DCCP' lib='kernel'/>", "found the unknown protocol DCCP");
    protocols(
        "<default name='¦DCCP' lib='d.so'/>",
        r#"found the plug-in protocol DCCP without type, expected type="stream|datagram|seqpacket""#,
    );
    protocols(
        "<default name='UDP' lib='¦Kernel'/>",
        r#"found "Kernel", expected "kernel" or the file name of a plug-in without a folder, such as "libudp.so"; did you mean "kernel"?"#,
    );
    protocols("<default name='UDP' type='¦stream'/>", r#"found "stream", expected type="datagram" for UDP"#);
    protocols(
        "<default name='UDP' type='¦dgram'/>",
        r#"found "dgram", expected stream, datagram or seqpacket; did you mean "datagram"?"#,
    );
    protocols(
        "<default name='TCP'/><default name='¦SCTP'/>",
        "found a second default for stream sockets, expected one default for each socket type",
    );
    protocols(
        "<default name='TCP'/><option name='¦tcp'/>",
        "found TCP for stream sockets again, expected each protocol once",
    );
    protocols(
        "<option name='¦TCP' lib='x.so'/>",
        r#"found the option TCP and no default for stream sockets, expected <default name="TCP">"#,
    );
}

#[test]
fn several_at_once_in_the_order_of_the_file() {
    let error = error(
        "<configuration>\n<bogus><inner/></bogus>\n<protocols><default name='UPD'/>\n<option nam='x'/></protocols></configuration>",
    );
    let lines: Vec<_> = error.problems().iter().map(|problem| problem.position().line).collect();
    assert_eq!(lines, [1, 2, 3, 4], "{:#?}", error.problems());
    starts(&error.to_string(), "f:1:1: found <configuration> without application, ");
    assert!(error.to_string().ends_with(" (and 3 more)"), "{error}");
    let drawn = format!("{:?}", miette::Report::new(error));
    for part in ["<bogus>", "\"UDP\"", "[f:1:1]"] {
        assert!(drawn.contains(part), "no {part} in\n{drawn}");
    }
}

#[test]
fn columns_count_characters_in_every_encoding() {
    let text = |encoding: &str| {
        format!("<?xml version='1.0' encoding='{encoding}'?>\r\n<configuration application='日本語' x=''/>")
    };
    for encoding in [encoding_rs::UTF_8, encoding_rs::SHIFT_JIS, encoding_rs::EUC_JP] {
        let text = text(encoding.name());
        let error = Configuration::from_bytes(&encoding.encode(&text).0, "f").unwrap_err();
        starts(&error.to_string(), "f:2:34: found the attribute \"x\"");
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let repeated = |start: &str, piece: &dyn Fn(usize) -> String| {
        let mut xml = start.to_owned();
        for index in 0.. {
            let next = piece(index);
            if xml.len() + next.len() > MAX_FILE_SIZE {
                return xml;
            }
            xml.push_str(&next);
        }
        unreachable!()
    };
    let start = "<configuration application='a'><services>";
    let services = |i: usize| format!("<service name='s{i}'/>");
    let started = Instant::now();
    for xml in [
        repeated("", &|_| "<a>".into()),
        repeated(start, &|i| format!("<service name='s{i}'>")),
        repeated("<configuration ", &|i| format!("a{i}='' ")),
        repeated("<configuration application='a' ", &|_| "application='' ".into()),
        repeated("<configuration application='", &|_| "&amp;".into()),
        repeated(start, &services),
        repeated(&format!("{start}<using-rules>"), &|_| "<rule use='true'/>".into()),
        repeated("<configuration application='a'><protocols><default name='", &|_| "é".into()),
        repeated(&format!("{start}<using-rules><rule use='true' port='1"), &|_| ",1".into()),
        repeated(&format!("{start}<service name='crypto"), &|_| "\u{1F600}".into()),
        repeated("<!--", &|_| "-".into()),
        repeated("", &|_| "\r".into()),
        repeated("<?xml ", &|_| "a='' ".into()),
    ] {
        let _ = error(&xml);
    }
    // As many comparisons of names as the bounds allow.
    let mut rules = String::from(start);
    (0..64).for_each(|i| rules += &format!("<service name='{i:->60}'/>"));
    rules += "<using-rules>";
    let mut label = 0;
    while rules.len() < MAX_FILE_SIZE - 60000 {
        let names: Vec<_> = (0..64)
            .map(|_| {
                label += 1;
                format!("{label:+>60}")
            })
            .collect();
        rules += &format!("<rule use='true' port='1' service='{}'/>", names.join(","));
    }
    rules += "</using-rules></services></configuration>";
    Configuration::from_bytes(rules.as_bytes(), "f").unwrap();
    // The same names without a condition are errors, each with its own search for a similar one.
    let _ = error(&rules.replace("port='1' ", ""));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn sizes_are_bounded() {
    let too_large = " ".repeat(MAX_FILE_SIZE + 1);
    starts(
        &error(&too_large).to_string(),
        "f:1:1: found a file of more than 1048576 bytes, expected at most 1048576 bytes",
    );
    let many = "<x/>".repeat(100);
    assert_eq!(
        error(&format!("<configuration application='a'>{many}</configuration>")).problems().len(),
        MAX_PROBLEMS
    );
    // Two bytes a character in Shift_JIS, three in UTF-8: the file is within the bound, what would be written is not.
    let value = "あ".repeat(3000);
    let parameters: String = (0..80).map(|i| format!("<parameter name='p{i}' value='{value}'/>")).collect();
    let services = ["a", "b"].map(|name| format!("<service name='{name}'>{parameters}</service>")).concat();
    let root = format!("<configuration application='a'><services>{services}</services></configuration>");
    let xml = format!("<?xml version='1.0' encoding='Shift_JIS'?>{root}");
    let bytes = encoding_rs::SHIFT_JIS.encode(&xml).0.into_owned();
    assert!(bytes.len() < MAX_FILE_SIZE);
    let error = Configuration::from_bytes(&bytes, "f").unwrap_err();
    assert!(error.to_string().contains("bytes of UTF-8 to write"), "{error}");
}

#[test]
fn files_that_cannot_be_read() {
    let error = Configuration::from_file("/nonexistent/freena.xml").unwrap_err();
    starts(&error.to_string(), "/nonexistent/freena.xml: found ");
    #[cfg(unix)]
    assert!(Configuration::from_file("/dev/zero").unwrap_err().to_string().contains("more than"));
}

#[test]
fn a_configuration_without_a_file() {
    let application: ApplicationName = "dig".parse().unwrap();
    let udp = Protocol::new("udp".parse().unwrap(), Library::Framework, None).unwrap();
    let configuration = Configuration::for_protocol(application.clone(), udp.clone()).unwrap();
    assert_eq!(configuration.protocols_for(SocketType::Datagram).default.unwrap().name(), &ProtocolName::Udp);
    let twice = Parts { defaults: vec![udp.clone(), udp], ..Parts::new(application) };
    let violations = Configuration::new(twice).unwrap_err();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].origin.position(), None);
    let unknown = Protocol::new("upd".parse().unwrap(), Library::Framework, None).unwrap_err();
    assert_eq!(unknown.help.as_deref(), Some("did you mean \"UDP\"?"));
}
