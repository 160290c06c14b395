//! QUIC (RFC 9000) as a protocol for streams of bytes, sans-IO: [`Protocol`](freena_stack_api::stream::Protocol) over
//! `quinn-proto`.
//!
//! One QUIC connection carries one stream of bytes in each direction: each end opens one *unidirectional* stream when the
//! handshake is done. A bidirectional stream would be invisible to the peer until whoever opened it has sent something, so that
//! a server that speaks first (SSH, SMTP, FTP) could not; with one stream for each direction who speaks first does not matter,
//! and the end of one direction says nothing of the other, as in TCP.
//!
//! | TCP | here |
//! |---|---|
//! | FIN | the end of the stream (RFC 9000 section 2.4) |
//! | both FINs acknowledged | CONNECTION_CLOSE with [`DONE`] from the first end that knows |
//! | RST | CONNECTION_CLOSE with [`RESET`] |
//! | SYN cookies | Retry (RFC 9000 section 8.1.2), when many handshakes are under way |
//! | refused | CONNECTION_REFUSED |
//!
//! Nothing leaves unencrypted: there is no 0-RTT, and no way to switch TLS off. Connections have no idle timeout of their own and
//! send nothing while they are idle, unless `SO_KEEPALIVE` asks for it; they do not migrate.
#![forbid(unsafe_code)]

mod connection;
mod engine;
mod protocol;
mod transport;

pub use engine::Quic;

use std::sync::Arc;

/// The name of the protocol inside of QUIC (RFC 7301).
pub const ALPN: &[u8] = b"freena";
/// Error code of a connection whose two directions have ended.
pub const DONE: u32 = 0;
/// Error code of a connection that is reset.
pub const RESET: u32 = 1;
/// The most bytes of a connection that have arrived and wait for room in the receive ring.
pub const RECEIVE_WINDOW: u32 = 4 << 20;
/// The most bytes of a connection that are taken from the transmit ring and not acknowledged.
pub const SEND_WINDOW: u64 = 4 << 20;

/// What an engine is made with.
#[derive(Clone)]
pub struct Config {
    /// Seeds what must be hard to guess: connection ids and tokens. Another one for each engine.
    pub secret: [u8; 32],
    /// Makes tokens of stateless resets (RFC 9000 section 10.3): the same for each engine and each run of a host, so that a
    /// server that was started anew ends connections of the one before.
    pub reset_key: [u8; 32],
    /// The most connections.
    pub max_connections: usize,
    /// The most handshakes of peers under way; from half of it on, peers have to prove their address first.
    pub max_half_open: usize,
    /// How this host proves who it is. ALPN and versions are set by the engine.
    pub server: Arc<rustls::ServerConfig>,
    /// Whom it trusts.
    pub client: Arc<rustls::ClientConfig>,
}
