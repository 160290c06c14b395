use super::*;
use std::os::unix::fs::PermissionsExt;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn keys_are_made_once_and_for_their_owner() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/quic");
    let host = Host::open(&folder).unwrap();
    assert_eq!(fs::metadata(folder.join("key.pem")).unwrap().mode() & 0o777, 0o600);
    assert!(host.fingerprint.starts_with("sha256:") && host.fingerprint.len() == 7 + 64);
    let again = Host::open(&folder).unwrap();
    assert_eq!((host.fingerprint, host.secret), (again.fingerprint, again.secret));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Host::open(folder.path()).unwrap();
    set_mode(&folder.path().join("key.pem"), 0o640);
    let error = Host::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("key.pem: found mode 0640") && error.contains("0600"), "{error}");
    set_mode(&folder.path().join("key.pem"), 0o600);
    set_mode(folder.path(), 0o777);
    let error = Host::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("found mode 0777") && error.contains("nobody else can write"), "{error}");
}

#[test]
fn what_is_no_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    Host::open(folder.path()).unwrap();
    fs::write(folder.path().join("key.pem"), "no key").unwrap();
    let error = Host::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("key.pem: found") && error.contains("expected a private key"), "{error}");
    let other = tempfile::tempdir().unwrap();
    Host::open(other.path()).unwrap();
    fs::copy(other.path().join("key.pem"), folder.path().join("key.pem")).unwrap();
    let error = Host::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("cert.pem: found") && error.contains("expected a certificate of the key"),
        "{error}"
    );
}
