//! Known answers, and everything that must not open.

use crate::cipher::{Cipher, NONCE, Suite};
use crate::keys::{self, Kind};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const ALL: [Suite; 12] = [
    Suite::Gcm(128),
    Suite::Gcm(192),
    Suite::Gcm(256),
    Suite::Ctr(128),
    Suite::Ctr(192),
    Suite::Ctr(256),
    Suite::Cbc(128),
    Suite::Cbc(192),
    Suite::Cbc(256),
    Suite::ChaCha,
    Suite::Hmac,
    Suite::Blake3,
];

fn seal(cipher: &Cipher, nonce: [u8; NONCE], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut message = plain.to_vec();
    message.resize(plain.len() + cipher.suite().tail(plain.len()), 0);
    let (body, tail) = message.split_at_mut(plain.len());
    cipher.seal(nonce, aad, body, tail);
    message
}

fn open(cipher: &Cipher, nonce: [u8; NONCE], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut message = sealed.to_vec();
    let length = cipher.open(nonce, aad, &mut message)?;
    message.truncate(length);
    Some(message)
}

#[test]
fn what_is_sealed_opens_with_the_same_key_nonce_and_data_only() {
    for suite in ALL {
        let (cipher, other) = (Cipher::new(suite, &[7; 32]), Cipher::new(suite, &[8; 32]));
        for length in [0, 1, 15, 16, 17, 31, 32, 1000, 16_384] {
            let plain: Vec<u8> = (0..length).map(|it| it as u8).collect();
            let sealed = seal(&cipher, [1; NONCE], b"data", &plain);
            assert!(sealed.len() <= plain.len() + suite.growth());
            assert_eq!(
                open(&cipher, [1; NONCE], b"data", &sealed),
                Some(plain.clone()),
                "{suite:?}, {length}"
            );
            assert_eq!(open(&cipher, [2; NONCE], b"data", &sealed), None, "{suite:?}: nonce");
            assert_eq!(open(&cipher, [1; NONCE], b"date", &sealed), None, "{suite:?}: data");
            assert_eq!(open(&other, [1; NONCE], b"data", &sealed), None, "{suite:?}: key");
            if length >= 16 && !matches!(suite, Suite::Hmac | Suite::Blake3) {
                assert_ne!(&sealed[..16], &plain[..16]);
            }
            for cut in 0..sealed.len().min(40) {
                assert_eq!(
                    open(&cipher, [1; NONCE], b"data", &sealed[..cut]),
                    None,
                    "{suite:?}: {cut} bytes"
                );
            }
            for at in (0..sealed.len()).step_by(sealed.len() / 20 + 1) {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << (at % 8);
                assert_eq!(open(&cipher, [1; NONCE], b"data", &flipped), None, "{suite:?}: bit of byte {at}");
            }
        }
    }
}

#[test]
fn suites_do_not_share_keys() {
    for (index, suite) in ALL.iter().enumerate() {
        for other in &ALL[index + 1..] {
            let sealed = seal(&Cipher::new(*suite, &[7; 32]), [1; NONCE], b"", b"some plain text");
            assert_eq!(
                open(&Cipher::new(*other, &[7; 32]), [1; NONCE], b"", &sealed),
                None,
                "{suite:?} {other:?}"
            );
        }
    }
}

#[test]
fn key_files_that_others_can_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let name = path.to_str().unwrap();
    let key = "0123456789abcdef".repeat(4);
    fs::write(&path, format!("freena-key 1 shared {key}\n")).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = keys::read(name, Kind::Shared).unwrap_err();
        assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("0600"), "{error}");
        assert!(!error.contains("0123"), "{error}");
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let read = keys::read(name, Kind::Shared).unwrap();
    assert_eq!(read[..4], [0x01, 0x23, 0x45, 0x67]);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(keys::read(link.to_str().unwrap(), Kind::Shared).is_err(), "a link may lead anywhere tomorrow");
    // A program that has given up its rights goes on.
    fs::remove_file(&path).unwrap();
    assert_eq!(keys::read(name, Kind::Shared).unwrap()[..4], [0x01, 0x23, 0x45, 0x67]);
    let error = keys::read(folder.path().join("none").to_str().unwrap(), Kind::Shared).unwrap_err();
    assert!(error.contains("freena keygen"), "{error}");
}

#[test]
fn errors_of_key_files_tell_nothing_of_the_key() {
    let secret = "fedcba9876543210".repeat(4);
    for (text, expected) in [
        ("", "found no key"),
        (secret.as_str(), "found no key"),
        (&format!("freena-key 2 shared {secret}"), "another version"),
        (&format!("freena-key 1 public {secret}"), "another kind"),
        (&format!("freena-key 1 shared {}", &secret[..62]), "62 digits"),
        (&format!("freena-key 1 shared {}xy", &secret[..62]), "hexadecimal"),
        (&format!("freena-key 1 shared {}", "0".repeat(64)), "zeros"),
    ] {
        let error = keys::parse(text.as_bytes(), Kind::Shared).unwrap_err();
        assert!(error.contains(expected) && !error.contains("fedc"), "{text}: {error}");
    }
}
