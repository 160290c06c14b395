//! The example of the paper, figure 2, as printed.

use std::net::SocketAddr;

use freena_config::{Configuration, Flow, Library, ProtocolName, Role, SocketType};

const FIGURE: &[u8] = include_bytes!("fixtures/paper-figure-2.xml");

fn figure() -> Configuration {
    Configuration::from_bytes(FIGURE, "paper-figure-2.xml").unwrap_or_else(|error| panic!("{error}"))
}

fn flow(transport: ProtocolName, role: Role, local: u16, peer: u16) -> Flow {
    let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
    Flow { transport, role, local: address(local), peer: Some(address(peer)) }
}

/// For each service, whether it is used and the line of the rule that says so.
fn decided(flow: &Flow) -> Vec<(String, bool, Option<u32>)> {
    let configuration = figure();
    let decisions = configuration.services_for(flow);
    decisions.iter().map(|d| (d.service.name.to_string(), d.used, d.rule_line())).collect()
}

fn expect(crypto: (bool, u32), compression: (bool, u32)) -> Vec<(String, bool, Option<u32>)> {
    [("crypto", crypto), ("compression", compression)]
        .map(|(name, (used, line))| (name.into(), used, Some(line)))
        .into()
}

#[test]
fn every_part_is_read() {
    let figure = figure();
    assert_eq!(figure.application().as_str(), "ftp_server");
    let [crypto, compression] = figure.services() else { panic!("{:?}", figure.services()) };
    assert_eq!(crypto.library.as_ref().unwrap().as_str(), "libcrypto.so");
    let parameters: Vec<_> = crypto.parameters.iter().map(|p| (p.name.as_str(), p.value.as_str())).collect();
    assert_eq!(parameters, [("algorithm", "AES"), ("key_size", "128"), ("mode", "CBC")]);
    assert_eq!(crypto.rules[0].services.to_string(), "ftp-ctl");
    assert_eq!(crypto.rules[0].transports.items().unwrap(), [ProtocolName::Tcp, ProtocolName::Sctp]);
    assert!(compression.parameters.is_empty() && compression.rules.is_empty());
    assert_eq!(figure.rules().len(), 2);

    let stream = figure.protocols_for(SocketType::Stream);
    let tcp = stream.default.unwrap();
    assert_eq!((tcp.name(), tcp.library()), (&ProtocolName::Tcp, &Library::Kernel));
    let [sctp] = stream.options.as_slice() else { panic!("{:?}", stream.options) };
    assert_eq!((sctp.name(), sctp.library().as_str()), (&ProtocolName::Sctp, Some("libscpt.so")));
    assert_eq!(sctp.parameter("path-mtu").unwrap().value.as_str(), "true");
    let datagram = figure.protocols_for(SocketType::Datagram);
    assert_eq!((datagram.default, datagram.options.len()), (None, 0));
}

#[test]
fn the_local_rule_beats_the_global_one() {
    let control = flow(ProtocolName::Tcp, Role::Client, 40_000, 21);
    assert_eq!(decided(&control), expect((true, 8), (false, 13)));
}

#[test]
fn the_first_global_rule_that_matches_decides() {
    let data = flow(ProtocolName::Sctp, Role::Client, 20, 40_000);
    assert_eq!(decided(&data), expect((true, 12), (true, 12)));
    let data = flow(ProtocolName::Udp, Role::Client, 20, 40_000);
    assert_eq!(decided(&data), expect((false, 13), (false, 13)));
    let data = flow(ProtocolName::Tcp, Role::Server, 21, 40_000);
    assert_eq!(decided(&data), expect((false, 13), (false, 13)));
}

#[test]
fn it_survives_being_written() {
    let written = figure().to_xml();
    assert_eq!(Configuration::from_bytes(written.as_bytes(), "written").unwrap(), figure(), "{written}");
}

#[test]
fn the_labels_of_the_drawing_are_refused_in_words() {
    let text = String::from_utf8(FIGURE.to_vec()).unwrap();
    let labelled = text.replace(
        "<configuration application=\"ftp_server\">",
        "<configuration application=\"ftp_server\">      Service",
    );
    let error = Configuration::from_bytes(labelled.as_bytes(), "figure.xml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "figure.xml:2:47: found the text \"Service\", expected elements only; comments are written <!-- so -->"
    );
}
