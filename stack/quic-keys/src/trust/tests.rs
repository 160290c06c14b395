use super::*;
use crate::Host;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use std::fs;

fn trust(folder: &std::path::Path) -> Trust {
    Trust::new(folder.to_owned(), Arc::new(rustls::crypto::ring::default_provider()))
}

fn judge(folder: &std::path::Path, certificate: &CertificateDer<'_>, address: &str) -> Result<(), String> {
    let name = ServerName::IpAddress(address.parse::<IpAddr>().unwrap().into());
    trust(folder).verify(certificate, &[], &name, UnixTime::now()).map_err(|doubt| doubt.to_string())
}

fn write(folder: &std::path::Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_pin_is_of_one_address_or_of_any() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Host::open(own.path()).unwrap();
    let peer = Host::open(other.path()).unwrap();
    let certificate = &certificates(&other.path().join("cert.pem")).unwrap()[0];
    let refused = judge(own.path(), certificate, "10.0.0.2").unwrap_err();
    assert!(refused.contains(&peer.fingerprint) && refused.contains("no ca.pem"), "{refused}");

    write(own.path(), "trusted", &format!("# ours\n10.0.0.2 {} # b\n", peer.fingerprint));
    assert_eq!(judge(own.path(), certificate, "10.0.0.2"), Ok(()));
    assert!(judge(own.path(), certificate, "10.0.0.3").is_err());
    write(own.path(), "trusted", &format!("* {}\n", peer.fingerprint));
    assert_eq!(judge(own.path(), certificate, "10.0.0.3"), Ok(()));

    // The address has another key: what any address may have does not count.
    let wrong = format!("* {}\n10.0.0.2 sha256:{}\n", peer.fingerprint, "0".repeat(64));
    write(own.path(), "trusted", &wrong);
    let refused = judge(own.path(), certificate, "10.0.0.2").unwrap_err();
    assert!(refused.contains("is not that of 10.0.0.2"), "{refused}");

    write(own.path(), "trusted", "10.0.0.2 sha256:12\n");
    let refused = judge(own.path(), certificate, "10.0.0.2").unwrap_err();
    assert!(refused.contains("in line 1") && refused.contains("expected an address"), "{refused}");
}

#[test]
fn a_ca_vouches_for_the_address_it_names() {
    let own = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 2].into())];
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap();
    write(own.path(), "ca.pem", &ca.pem());
    assert_eq!(judge(own.path(), leaf.der(), "10.0.0.2"), Ok(()));
    let refused = judge(own.path(), leaf.der(), "10.0.0.3").unwrap_err();
    assert!(refused.contains("for its certificate"), "{refused}");
}
