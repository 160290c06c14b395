//! `freena check --explain`: what a configuration decides for a flow, and which line says so.

use freena_config::{Configuration, Flow, ProtocolName, Role, SocketType};
use std::net::SocketAddr;
use std::str::FromStr;

/// A flow as it is named on the command line: `tcp,client,10.0.0.1:40000,10.0.0.2:21`. The last word, the peer, may be absent.
#[derive(Clone, Debug)]
pub(crate) struct FlowArgument(Flow);

impl FromStr for FlowArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected TRANSPORT,client|server,LOCAL:PORT[,PEER:PORT], such as tcp,client,10.0.0.1:40000,10.0.0.2:21";
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        let (transport, role, local, peer) = match words.as_slice() {
            [transport, role, local] => (transport, role, local, None),
            [transport, role, local, peer] => (transport, role, local, Some(peer)),
            _ => return Err(format!("found {} words, {EXPECTED}", words.len())),
        };
        let wrong = |word: &str| format!("found `{word}`, {EXPECTED}");
        let address = |word: &str| SocketAddr::from_str(word).map_err(|_| wrong(word));
        Ok(Self(Flow {
            transport: ProtocolName::from_str(transport).map_err(|_| wrong(transport))?,
            role: Role::from_str(role).map_err(|_| wrong(role))?,
            local: address(local)?,
            peer: peer.map(|it| address(it)).transpose()?,
        }))
    }
}

/// What the configuration decides for the flow: a line for each service and one for the protocol.
pub(crate) fn explain(configuration: &Configuration, file: &str, flow: &FlowArgument) -> String {
    let flow = &flow.0;
    let peer = flow.peer.map_or("a peer that is not known".to_owned(), |it| it.to_string());
    let mut text = format!("{} {} {} with {peer}:\n", flow.transport, flow.role, flow.local);
    let place = |rule: &freena_config::Rule| match rule.origin.position() {
        Some(position) => format!("{file}:{position}"),
        None => file.to_owned(),
    };
    for decision in configuration.services_for(flow) {
        let word = if decision.used { "used" } else { "not used" };
        let local = |rule| decision.service.rules.iter().any(|it| std::ptr::eq(it, rule));
        let why = match decision.rule {
            Some(rule) => {
                let kind = if local(rule) { "local" } else { "global" };
                let plain = if rule.plain { "; a peer without freena gets it in the clear" } else { "" };
                format!("by the {kind} rule at {}{plain}", place(rule))
            }
            None => "since no rule matches".to_owned(),
        };
        text.push_str(&format!("  {:<14} {word}, {why}\n", decision.service.name.as_str()));
    }
    let kind = [SocketType::Stream, SocketType::Datagram, SocketType::SeqPacket].into_iter().find(|kind| {
        let choice = configuration.protocols_for(*kind);
        choice.default.into_iter().chain(choice.options).any(|it| *it.name() == flow.transport)
    });
    let carried = match kind {
        Some(_) => format!("{} is a protocol of the file", flow.transport),
        None => format!("{} is not named in the file: the kernel's", flow.transport),
    };
    text.push_str(&format!("  {:<14} {carried}\n", "transport"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_2_is_explained_with_its_lines() {
        let figure = include_bytes!("../../../config/tests/fixtures/paper-figure-2.xml");
        let configuration = Configuration::from_bytes(figure, "ftp.xml").unwrap();
        let explain = |flow: &str| super::explain(&configuration, "ftp.xml", &flow.parse().unwrap());
        let control = explain("tcp,client,10.0.0.1:40000,10.0.0.2:21");
        assert!(control.contains("crypto         used, by the local rule at ftp.xml:8:7"), "{control}");
        assert!(control.contains("compression    not used, by the global rule at ftp.xml:13:7"), "{control}");
        let data = explain("tcp,client,10.0.0.1:40000,10.0.0.2:20");
        assert!(data.contains("compression    used, by the global rule at ftp.xml:12:7"), "{data}");
        assert!(data.contains("TCP is a protocol of the file"), "{data}");
    }

    #[test]
    fn a_flow_that_is_none_is_told() {
        for (text, expected) in [
            ("tcp", "found 1 words"),
            ("tcp,both,1.2.3.4:5", "found `both`"),
            ("tcp,client,1.2.3.4", "found `1.2.3.4`"),
            ("udp,server,[::1]:53,x:1", "found `x:1`"),
        ] {
            let error = text.parse::<FlowArgument>().unwrap_err();
            assert!(error.contains(expected) && error.contains("expected TRANSPORT"), "{error}");
        }
    }
}
