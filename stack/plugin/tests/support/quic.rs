//! QUIC engines that trust each other.

use freena_quic::{Config, Quic};
use freena_quic_keys::Host;
use std::fs;
use std::sync::LazyLock;

/// One host's keys, which it trusts itself: both sides have them.
static KEYS: LazyLock<Host> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::open(folder.path()).expect("keys can be made");
    fs::write(folder.path().join("trusted"), format!("* {}\n", host.fingerprint)).expect("written");
    // Read at each handshake.
    std::mem::forget(folder);
    host
});

/// An engine.
pub fn engine(secret: [u8; 32]) -> Quic {
    Quic::new(&Config {
        secret,
        reset_key: KEYS.secret,
        max_connections: 256,
        max_half_open: 64,
        server: KEYS.server.clone(),
        client: KEYS.client.clone(),
    })
    .expect("a provider that has QUIC")
}
