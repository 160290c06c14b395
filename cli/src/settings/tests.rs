use super::*;

fn nowhere() -> &'static Path {
    Path::new("/nonexistent/control")
}

fn for_text(name: &str, protocols: &str) -> miette::Result<Settings> {
    let path = std::env::temp_dir().join(format!("freena-settings-{}-{name}.xml", std::process::id()));
    let text =
        format!("<configuration application=\"test\"><protocols>{protocols}</protocols></configuration>");
    std::fs::write(&path, text).unwrap();
    let settings = for_file(&path, nowhere());
    std::fs::remove_file(&path).unwrap();
    settings
}

#[test]
fn each_protocol_is_for_the_sockets_of_its_type() {
    let words = |names: &[&str]| for_protocols(names.iter().copied(), nowhere()).unwrap().0;
    assert_eq!(words(&["udp"]), "v=1 datagram=17 stream=kernel");
    assert_eq!(words(&["TCP"]), "v=1 datagram=kernel stream=6");
    assert_eq!(words(&["udp", "tcp"]), "v=1 datagram=17 stream=6");
}

#[test]
fn a_name_that_is_not_known_here_is_the_servers_to_know() {
    let error = for_protocols(["udp", "steady"], nowhere()).unwrap_err().to_string();
    assert!(error.contains("cannot reach freena-stack on /nonexistent/control"), "{error}");
}

#[test]
fn a_file_says_it_for_each_type() {
    let words = |name, text| for_text(name, text).unwrap().0;
    assert_eq!(words("both", r#"<default name="UDP"/><default name="TCP"/>"#), "v=1 datagram=17 stream=6");
    assert_eq!(words("one", r#"<default name="TCP"/>"#), "v=1 datagram=kernel stream=6");
    assert_eq!(words("kernel", r#"<default name="TCP" lib="kernel"/>"#), "v=1 datagram=kernel stream=kernel");
    let error = for_text("other", r#"<default name="MPTCP"/>"#).unwrap_err().to_string();
    assert!(error.contains("stream sockets are to use `MPTCP`"), "{error}");
    let error = for_text("asks", r#"<default name="QUIC"/>"#).unwrap_err().to_string();
    assert!(error.contains("cannot reach freena-stack on /nonexistent/control"), "{error}");
    let error = for_text("quic", r#"<default name="QUIC" lib="kernel"/>"#).unwrap_err().to_string();
    assert!(error.ends_with("the kernel has no QUIC"), "{error}");
    let library = r#"<default name="NEAT" lib="libneat.so" type="datagram"/>"#;
    let error = for_text("datagram", library).unwrap_err().to_string();
    assert!(error.contains("`NEAT` of libneat.so, but libraries carry stream sockets only"), "{error}");
}

#[test]
fn several_are_in_the_order_of_preference() {
    let words = |chosen: &[Chosen], connecting| settings(&[], chosen, connecting).unwrap().0;
    let (chosen, usual) = ([Chosen::Server(253), TCP], Connecting::default());
    assert_eq!(words(&chosen, usual), "v=1 datagram=kernel stream=253,6");
    let quick = Connecting::Options { stagger: 50 };
    assert_eq!(words(&chosen, quick), "v=1 datagram=kernel stream=253,6 stagger_ms=50");
    assert_eq!(words(&chosen, Connecting::Default), "v=1 datagram=kernel stream=253,6 connect=253");
    let kernels = [Chosen::Server(253), Chosen::Kernel];
    assert_eq!(words(&kernels, usual), "v=1 datagram=kernel stream=253 connect=253,6");
    assert_eq!(words(&kernels, Connecting::Default), "v=1 datagram=kernel stream=253 connect=253");
    assert_eq!(words(&[TCP], Connecting::Default), "v=1 datagram=kernel stream=6");
    let accepted = [Chosen::Kernel, Chosen::Server(253)];
    assert_eq!(words(&accepted, usual), "v=1 datagram=kernel stream=253 connect=kernel");
    assert_eq!(words(&[Chosen::Other(262)], usual), "v=1 datagram=kernel stream=kernel:262");
}

#[test]
fn what_cannot_be_together_is_refused() {
    let error = settings(&[], &[TCP, Chosen::Other(262)], Connecting::default()).unwrap_err();
    assert!(error.contains("protocol 262 of the kernel cannot be one of several"), "{error}");
    assert_eq!(settings(&[], &[TCP, TCP], Connecting::default()).unwrap_err(), "protocol 6 is named twice");
    let many: Vec<Chosen> = (1..=9).map(Chosen::Server).collect();
    let error = settings(&[], &many, Connecting::default()).unwrap_err();
    assert_eq!(error, "9 protocols for one type of socket, expected at most 8");
}
