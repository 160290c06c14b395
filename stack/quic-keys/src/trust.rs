//! Who is believed to be who it should be.

use crate::fingerprint;
use crate::folder::{Error, Guard, certificates, read};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Looks into the folder at each handshake, so that a new peer needs no new server.
#[derive(Debug)]
pub(crate) struct Trust {
    folder: PathBuf,
    provider: Arc<CryptoProvider>,
}

/// Why a peer is not believed.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    #[error("its key {key} is not that of {address} in {}", .file.display())]
    Other { key: String, address: IpAddr, file: PathBuf },
    #[error("its key {key} is not in {}, and there is no ca.pem", .file.display())]
    Unknown { key: String, file: PathBuf },
    #[error("its key {key} is not in {}, and for its certificate: {error}", .file.display())]
    Certificate { key: String, file: PathBuf, error: rustls::Error },
    #[error(transparent)]
    Files(#[from] Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Trust {
    pub(crate) fn new(folder: PathBuf, provider: Arc<CryptoProvider>) -> Self {
        Trust { folder, provider }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Doubt> {
        let key = fingerprint(certificate)?;
        let address = match name {
            ServerName::IpAddress(address) => Some(IpAddr::from(*address)),
            _ => None,
        };
        let file = self.folder.join("trusted");
        let text = match read(&file, Guard::Trusted) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let pins = pins(&String::from_utf8_lossy(&text), &file)?;
        let of_address = || pins.iter().filter(|(of, _)| *of == address);
        if of_address().next().is_some() {
            // Whose key is known has no other, whatever else would be believed.
            let is_it = of_address().any(|(_, pin)| *pin == key);
            return match (is_it, address) {
                (false, Some(address)) => Err(Doubt::Other { key, address, file }),
                _ => Ok(()),
            };
        }
        if pins.iter().any(|(of, pin)| of.is_none() && *pin == key) {
            return Ok(());
        }
        let authorities = self.folder.join("ca.pem");
        if !authorities.exists() {
            return Err(Doubt::Unknown { key, file });
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&authorities)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        match verifier.verify_server_cert(certificate, between, name, &[], now) {
            Ok(_) => Ok(()),
            Err(error) => Err(Doubt::Certificate { key, file, error }),
        }
    }
}

/// The lines of `trusted`: an address, or none for any, and a fingerprint.
fn pins(text: &str, file: &std::path::Path) -> Result<Vec<(Option<IpAddr>, String)>, Error> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut all = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let wrong = |found: &str| Error::Content {
            path: file.to_owned(),
            found: format!("\"{found}\" in line {number}"),
            expected: "an address or *, a space, and sha256: with 64 hexadecimal digits",
        };
        let [address, pin] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(wrong(line)) };
        let address = if address == "*" { None } else { Some(address.parse().map_err(|_| wrong(address))?) };
        let digits = pin.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(pin));
        }
        all.push((address, pin.to_ascii_lowercase()));
    }
    Ok(all)
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(certificate, between, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(doubt) => {
                tracing::warn!(peer = %name.to_str(), "a peer is not trusted: {doubt}");
                Err(CertificateError::Other(OtherError(Arc::new(doubt))).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
