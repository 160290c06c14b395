//! QUIC with another program's implementation at the other end: the `quinn` crate, which knows nothing of freena and takes only
//! what docs/quic.md says of the wire.

use crate::quic::{python, trust, with_quic};
use crate::{PORT, said};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, FAR6, NEAR4, NEAR6};
use freena_tests::program::Program;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Bytes sent in each direction.
const LEN: usize = 5_000_000;
/// How long a conversation may take.
const LONG: Duration = Duration::from_secs(30);

fn content() -> Vec<u8> {
    (0..LEN as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Takes the one certificate that it knows.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>, Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        assert_eq!(*end, self.0, "the server's certificate");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("QUIC has TLS 1.3 alone")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

/// No idle timeout, as docs/quic.md asks of other implementations.
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    Arc::new(transport)
}

/// A client that takes this certificate and speaks this protocol inside of QUIC.
fn client(certificate: &Path, alpn: &str) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(certificate, provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.into()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a cipher")));
    config.transport_config(transport());
    config
}

/// A server with the keys in this folder.
fn server(keys: &Path) -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(keys.join("cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(keys.join("key.pem")).expect("a key");
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a key that fits its certificate");
    tls.alpn_protocols = vec!["freena".into()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("a cipher")));
    config.transport_config(transport());
    config
}

/// Runs a conversation on this thread.
fn run<T>(conversation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LONG, conversation).await.expect("in time") })
}

/// Sends everything on a stream of its own, and its end.
async fn send(connection: &Connection, data: &[u8]) {
    let mut stream = connection.open_uni().await.expect("a stream");
    stream.write_all(data).await.expect("room");
    stream.finish().expect("a stream that has not ended");
}

/// Everything that comes, to its end.
async fn receive(connection: &Connection) -> Vec<u8> {
    let mut stream = connection.accept_uni().await.expect("a stream");
    stream.read_to_end(2 * LEN).await.expect("a stream that ends")
}

const ECHO: &str = "
import socket
s = socket.create_server(('::', PORT), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, _ = s.accept()
    got = b''
    try:
        while part := c.recv(1 << 16): got += part
        c.sendall(got)
        c.close()
        print(len(got), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
";

#[test]
fn a_client_of_quinn_talks_to_an_unmodified_program() {
    with_quic("a_client_of_quinn_talks_to_an_unmodified_program", |lab, near, _| {
        let script = ECHO.replace("PORT", &PORT.to_string());
        let mut echo = Program::start(python(near, &script));
        assert_eq!(echo.line(), "ready");
        let certificate = lab.path("near-keys/cert.pem");
        let (certificate, data) = (&certificate, &content());
        let connect = |from: &'static str, to: &'static str, alpn: &'static str| async move {
            let endpoint = Endpoint::client(SocketAddr::new(from.parse().expect("an address"), 0));
            let mut endpoint = endpoint.expect("an endpoint");
            endpoint.set_default_client_config(client(certificate, alpn));
            let to = SocketAddr::new(to.parse().expect("an address"), PORT);
            let connection = endpoint.connect(to, "any").expect("a configuration").await;
            (endpoint, connection)
        };
        for (from, to) in [(FAR4, NEAR4), (FAR6, NEAR6)] {
            let got = lab.pair.far.run(|| {
                run(async {
                    let (endpoint, connection) = connect(from, to, "freena").await;
                    let connection = connection.expect("a connection");
                    send(&connection, data).await;
                    let got = receive(&connection).await;
                    connection.close(VarInt::from_u32(0), b"");
                    endpoint.wait_idle().await;
                    got
                })
            });
            assert!(got == *data, "{} bytes came back", got.len());
            assert_eq!(echo.line(), LEN.to_string());
        }
        // Code 1 is a reset.
        lab.pair.far.run(|| {
            run(async {
                let (endpoint, connection) = connect(FAR4, NEAR4, "freena").await;
                let connection = connection.expect("a connection");
                let mut stream = connection.open_uni().await.expect("a stream");
                stream.write_all(b"something").await.expect("room");
                tokio::time::sleep(Duration::from_millis(200)).await;
                connection.close(VarInt::from_u32(1), b"");
                endpoint.wait_idle().await;
            });
        });
        assert_eq!(echo.line(), "Connection reset by peer");
        // One that speaks something else inside of QUIC never gets as far as the program.
        let refused = lab.pair.far.run(|| run(async { connect(FAR4, NEAR4, "h3").await.1.err() }));
        let Some(ConnectionError::ConnectionClosed(close)) = refused else { panic!("{refused:?}") };
        assert!(close.to_string().contains("error 120"), "no_application_protocol of RFC 7301: {close}");
    });
}

#[test]
fn an_unmodified_program_talks_to_a_server_of_quinn() {
    with_quic("an_unmodified_program_talks_to_a_server_of_quinn", |lab, near, _| {
        let keys = lab.path("quinn-keys");
        let mut keygen = Command::new(binaries::freena("freena"));
        keygen.args(["keygen", "--quic"]).arg(&keys);
        let fingerprint = said(keygen).trim().to_owned();
        trust(lab, "near-keys", &format!("{FAR4} {fingerprint}\n{FAR6} {fingerprint}"));
        for address in [FAR4, FAR6] {
            let ask = format!(
                "import socket\ns = socket.create_connection(('{address}', {PORT}))\n\
                 data = bytes((at * 2654435761 >> 24) & 255 for at in range({LEN}))\n\
                 s.sendall(data)\ns.shutdown(socket.SHUT_WR)\ngot = b''\n\
                 while part := s.recv(1 << 16): got += part\nassert got == data, len(got)\n\
                 print(len(got), s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))"
            );
            // Started when the server listens.
            let client = python(near, &ask);
            let keys = &keys;
            let (got, end) = lab.pair.far.run(move || {
                run(async move {
                    let at = SocketAddr::new(address.parse().expect("an address"), PORT);
                    let endpoint = Endpoint::server(server(keys), at).expect("an endpoint");
                    let mut client = Program::start(client);
                    let connection = endpoint.accept().await.expect("a peer").await.expect("a handshake");
                    let got = receive(&connection).await;
                    send(&connection, &got).await;
                    let end = connection.closed().await;
                    tokio::task::spawn_blocking(move || {
                        assert_eq!(client.line(), format!("{LEN} 261"));
                        client.succeed();
                    })
                    .await
                    .expect("a client that succeeds");
                    (got, end)
                })
            });
            assert!(got == content(), "{} bytes came", got.len());
            let ConnectionError::ApplicationClosed(close) = &end else { panic!("{end:?}") };
            assert_eq!(close.error_code, VarInt::from_u32(0));
        }
    });
}
