//! The folder of keys.

use crate::fingerprint;
use crate::trust::Trust;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig, version};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The largest file that is read.
const MAX_SIZE: u64 = 1 << 20;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read a key, or write what is trusted.
    #[error("{}: found mode {mode:04o} of user {owner}, expected {expected}", .path.display())]
    Permissions {
        /// Of what.
        path: PathBuf,
        /// What was found.
        mode: u32,
        /// Whose it is.
        owner: u32,
        /// What was expected.
        expected: &'static str,
    },
    /// A file is not what it should be.
    #[error("{}: found {found}, expected {expected}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// A host's keys, ready for use.
#[derive(Clone, Debug)]
pub struct Host {
    /// For the side that listens.
    pub server: Arc<ServerConfig>,
    /// For the side that connects; reads `trusted` and `ca.pem` at each handshake.
    pub client: Arc<ClientConfig>,
    /// A secret that is the same as long as the key is.
    pub secret: [u8; 32],
    /// Of the own key.
    pub fingerprint: String,
}

impl Host {
    /// Reads the keys of a folder; makes it, and a self-signed key in it, where there is none.
    ///
    /// # Errors
    /// By variant.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        make(folder)?;
        check(folder, Guard::Trusted)?;
        let (key_path, chain_path) = (folder.join("key.pem"), folder.join("cert.pem"));
        let key_text = Zeroizing::new(read(&key_path, Guard::Secret)?);
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| Error::Content {
            path: key_path.clone(),
            found: error.to_string(),
            expected: "a private key in PEM form",
        })?;
        let chain = certificates(&chain_path)?;
        let secret = ring::hmac::sign(
            &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der()),
            b"freena stateless reset",
        );
        let unusable = |error: rustls::Error| Error::Content {
            path: chain_path.clone(),
            found: error.to_string(),
            expected: "a certificate of the key in key.pem",
        };
        let fingerprint = fingerprint(&chain[0]).map_err(unusable)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(unusable)?;
        let client = client(provider, folder).map_err(unusable)?;
        let mut host =
            Host { server: Arc::new(server), client: Arc::new(client), secret: [0; 32], fingerprint };
        host.secret.copy_from_slice(secret.as_ref());
        Ok(host)
    }
}

fn client(provider: Arc<CryptoProvider>, folder: &Path) -> Result<ClientConfig, rustls::Error> {
    let trust = Trust::new(folder.to_owned(), provider.clone());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(trust)).with_no_client_auth())
}

/// Makes what is missing. A key that is there is never overwritten.
fn make(folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed(folder))?;
    let key_path = folder.join("key.pem");
    if fs::symlink_metadata(&key_path).is_ok() {
        return Ok(());
    }
    let unmade = |error: rcgen::Error| failed(&key_path)(io::Error::other(error));
    let key = rcgen::KeyPair::generate().map_err(unmade)?;
    let certificate = rcgen::CertificateParams::new(vec!["freena".to_owned()])
        .and_then(|it| it.self_signed(&key))
        .map_err(unmade)?;
    let write = |path: &Path, mode, text: &str| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    // Last what tells that both are there.
    let chain_path = folder.join("cert.pem");
    write(&chain_path, 0o644, &certificate.pem()).map_err(failed(&chain_path))?;
    write(&key_path, 0o600, &Zeroizing::new(key.serialize_pem())).map_err(failed(&key_path))
}

/// How a file must be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nobody else may read it.
    Secret,
    /// Nobody else may write to it.
    Trusted,
}

fn check(path: &Path, guard: Guard) -> Result<u64, Error> {
    let found = fs::metadata(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let (others, expected) = match guard {
        Guard::Secret => (0o077, "a file of root's or the server's user, for its owner alone (0600)"),
        Guard::Trusted => (0o022, "one of root's or the server's user that nobody else can write to"),
    };
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    // The user of this process: who owns what it makes.
    let own = fs::metadata("/proc/self").map_or(0, |it| it.uid());
    if mode & others != 0 || (owner != 0 && owner != own) {
        return Err(Error::Permissions { path: path.to_owned(), mode, owner, expected });
    }
    Ok(found.len())
}

/// Reads a file that is kept as it must be.
pub(crate) fn read(path: &Path, guard: Guard) -> Result<Vec<u8>, Error> {
    let size = check(path, guard)?;
    if size > MAX_SIZE {
        let found = format!("{size} bytes");
        return Err(Error::Content { path: path.to_owned(), found, expected: "at most 1 MiB" });
    }
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// The certificates of a file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path, Guard::Trusted)?;
    let content =
        |found: String| Error::Content { path: path.to_owned(), found, expected: "certificates in PEM form" };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| content(error.to_string()))?;
    if all.is_empty() { Err(content("none".to_owned())) } else { Ok(all) }
}

#[cfg(test)]
mod tests;
