//! The keys of a host for QUIC: how it proves who it is, and whom it trusts.
//!
//! All in one folder, as ssh has it:
//!
//! | file | what | who may read it |
//! |---|---|---|
//! | `key.pem` | private key, PKCS #8 | its owner alone |
//! | `cert.pem` | certificate of it, self-signed or of a CA, with what is between | all |
//! | `trusted` | lines of `ADDRESS FINGERPRINT`: the keys of other hosts; `*` for any address; `#` begins a comment | all |
//! | `ca.pem` | CAs whose certificates are believed too, if they name the peer's address | all |
//!
//! A fingerprint is `sha256:` and the SHA-256 of the public key (SubjectPublicKeyInfo, RFC 5280 section 4.1) in hexadecimal
//! digits: a certificate that is made anew with the same key keeps it.
#![forbid(unsafe_code)]

mod folder;
mod trust;

pub use folder::{Error, Host};

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

/// The fingerprint of a certificate's key.
///
/// # Errors
/// It is no certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Result<String, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &parsed.subject_public_key_info());
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{digits}"))
}
