//! What the fuzzer runs: one function per target, each taking any bytes and panicking when something is wrong.
//!
//! `tests/corpus.rs` replays `fuzz/corpus` through them with a stable compiler.

mod input;
mod packets;
mod quic;
mod sctp;
mod services;
#[path = "../../../shm/ring/tests/support/mod.rs"]
mod support;
mod tcp;

pub use packets::{frame, reassembly, xdp_parse};
pub use quic::quic_streams;
pub use sctp::{sctp_messages, sctp_packets};
pub use services::{service_datagram, service_stream};
pub use tcp::{tcp_ops, tcp_segments};

use freena_config::Configuration;
use freena_shm_abi::control::{Request, Response};
use zerocopy::{FromBytes, IntoBytes};

/// A target: bytes in, a panic if something is wrong.
pub type Target = fn(&[u8]);

/// All targets by name, which is also their folder in the corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("ring_ops", ring_ops),
    ("config", config),
    ("frame", frame),
    ("reassembly", reassembly),
    ("control", control),
    ("xdp_parse", xdp_parse),
    ("tcp_segments", tcp_segments),
    ("tcp_ops", tcp_ops),
    ("sctp_packets", sctp_packets),
    ("sctp_messages", sctp_messages),
    ("quic_streams", quic_streams),
    ("service_stream", service_stream),
    ("service_datagram", service_datagram),
];

/// Operations on a ring, against the reference queue of the ring's own tests.
pub fn ring_ops(bytes: &[u8]) {
    let (size, operations) = support::operation::parse(bytes);
    support::operation::run(size, &operations);
}

/// A configuration file: refused with reasons, or written and read again as the same.
pub fn config(bytes: &[u8]) {
    match Configuration::from_bytes(bytes, "fuzz.xml") {
        Ok(configuration) => {
            let xml = configuration.to_xml();
            let again =
                Configuration::from_bytes(xml.as_bytes(), "fuzz.xml").expect("it was written by this crate");
            assert_eq!(again.to_xml(), xml);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Messages on the control socket: every value of every field can be read.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = Request::read_from_bytes(bytes) {
        assert_eq!(request.as_bytes(), bytes);
        let _ = (request.peer.ip(), request.local.ip(), request.peer.is_some());
    }
    if let Ok(response) = Response::read_from_bytes(bytes) {
        assert_eq!(response.as_bytes(), bytes);
        assert!(response.reason().len() <= response.reason.len());
        let words = response.reason().to_owned();
        assert_eq!(response.because(&words).reason(), words);
    }
    if let Ok(words) = str::from_utf8(bytes) {
        let response = Response::new().because(words);
        assert!(words.starts_with(response.reason()));
    }
}
