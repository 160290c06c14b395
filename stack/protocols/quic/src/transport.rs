//! Settings of the QUIC connections.

use crate::{ALPN, Config, RECEIVE_WINDOW, SEND_WINDOW};
use freena_stack_api::stream::{Congestion, Options, Path};
use quinn_proto::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::net::IpAddr;
use std::sync::Arc;

/// UDP payload that every path must carry (RFC 9000 section 14).
const LEAST: u32 = 1200;
/// Bytes of an IPv4 or IPv6 header and a UDP header.
fn headers(peer: IpAddr) -> u32 {
    if peer.is_ipv4() { 28 } else { 48 }
}

/// Of a connection over `path`.
pub(crate) fn transport(peer: IpAddr, path: &Path, options: &Options) -> Arc<TransportConfig> {
    let most = path.mtu.saturating_sub(headers(peer)).clamp(LEAST, 65_527);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(most as u16);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .max_idle_timeout(None)
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    match options.congestion {
        Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::NewReno => transport.congestion_controller_factory(Arc::new(NewRenoConfig::default())),
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    Arc::new(transport)
}

/// Of all connections of an engine.
pub(crate) fn endpoint(config: &Config) -> EndpointConfig {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &config.reset_key);
    let mut endpoint = EndpointConfig::new(Arc::new(key));
    endpoint.rng_seed(Some(config.secret));
    endpoint.max_udp_payload_size(65_527).expect("the largest that there is");
    endpoint
}

/// TLS of the side that listens.
///
/// # Errors
/// The provider has not the cipher of Initial packets.
pub(crate) fn server(tls: &rustls::ServerConfig) -> Result<Arc<QuicServerConfig>, NoInitialCipherSuite> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // No 0-RTT: what it carries can be replayed (RFC 8446 section 8).
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    Ok(Arc::new(QuicServerConfig::try_from(tls)?))
}

/// TLS of the side that connects.
///
/// # Errors
/// As [`server`].
pub(crate) fn client(tls: &rustls::ClientConfig) -> Result<Arc<QuicClientConfig>, NoInitialCipherSuite> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = false;
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(tls)?))
}
