//! The ciphers, each with the same face: a message in place, a tag behind it, a nonce that is never used twice with a key.
//!
//! AES in GCM (NIST SP 800-38D; RFC 5116) and ChaCha20-Poly1305 (RFC 8439) are what they are. CTR and CBC only encrypt, so an
//! HMAC-SHA-256 over nonce, associated data and cipher text, cut to 16 bytes (RFC 4868), follows (encrypt-then-MAC). The
//! initialization vector of CBC must be unpredictable (NIST SP 800-38A, appendix C): it is the nonce, encrypted with a key
//! of its own. HMAC-SHA-256 and BLAKE3 alone authenticate and leave the message readable.

use crate::keys::Secret;
use aes::cipher::{
    BlockDecryptMut, BlockEncrypt, BlockEncryptMut, KeyInit, StreamCipher, generic_array::GenericArray,
};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::AeadInPlace;
use ring::aead::{self, AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::{hkdf, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes of a tag.
pub const TAG: usize = 16;
/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// A cipher and the size of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES in GCM, with a key of so many bits.
    Gcm(u16),
    /// AES in CTR with HMAC.
    Ctr(u16),
    /// AES in CBC with HMAC.
    Cbc(u16),
    /// ChaCha20-Poly1305.
    ChaCha,
    /// No encryption, HMAC-SHA-256.
    Hmac,
    /// No encryption, keyed BLAKE3.
    Blake3,
}

impl Suite {
    /// Its name, part of what keys are derived from.
    pub fn name(self) -> String {
        match self {
            Self::Gcm(bits) => format!("AES-{bits}-GCM"),
            Self::Ctr(bits) => format!("AES-{bits}-CTR-HMAC-SHA-256"),
            Self::Cbc(bits) => format!("AES-{bits}-CBC-HMAC-SHA-256"),
            Self::ChaCha => "ChaCha20-Poly1305".to_owned(),
            Self::Hmac => "HMAC-SHA-256".to_owned(),
            Self::Blake3 => "BLAKE3".to_owned(),
        }
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::Gcm(bits) | Self::Ctr(bits) | Self::Cbc(bits) => usize::from(bits) / 8,
            Self::ChaCha | Self::Hmac | Self::Blake3 => 32,
        }
    }

    /// Most bytes that a message grows by.
    pub fn growth(self) -> usize {
        if matches!(self, Self::Cbc(_)) { BLOCK + TAG } else { TAG }
    }

    /// Bytes that a message of `length` bytes grows by.
    pub fn tail(self, length: usize) -> usize {
        if matches!(self, Self::Cbc(_)) { BLOCK - length % BLOCK + TAG } else { TAG }
    }
}

/// `N` bytes derived from a secret (RFC 5869, HKDF-Expand).
pub fn expand(secret: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    let filled = key.expand(info, Length(out.len())).and_then(|it| it.fill(out));
    filled.expect("HKDF gives up to 255 times 32 bytes");
}

/// A secret made of a key and what both ends know (RFC 5869, HKDF-Extract and -Expand).
pub fn extract(salt: &[u8], key: &[u8], info: &[&[u8]]) -> Secret {
    let mut secret = Secret::default();
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    let filled = derived.expand(info, hkdf::HKDF_SHA256).and_then(|it| it.fill(&mut *secret));
    filled.expect("32 bytes are one block");
    secret
}

#[expect(clippy::large_enum_variant, reason = "it is in memory of its own, whatever its size")]
enum Keyed {
    Ring(LessSafeKey),
    Gcm192(aes_gcm::AesGcm<Aes192, aes::cipher::consts::U12>),
    Mac { cipher: Aes, vector: Option<Aes>, mac: hmac::Key },
    Hmac(hmac::Key),
    Blake3(blake3::Hasher),
}

enum Aes {
    A128(Aes128),
    A192(Aes192),
    A256(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Self {
        match key.len() {
            16 => Self::A128(Aes128::new(GenericArray::from_slice(key))),
            24 => Self::A192(Aes192::new(GenericArray::from_slice(key))),
            _ => Self::A256(Aes256::new(GenericArray::from_slice(key))),
        }
    }
}

/// Calls `$body` with `$aes` bound to the cipher of its size.
macro_rules! each {
    ($cipher:expr, $aes:ident => $body:expr) => {
        match $cipher {
            Aes::A128($aes) => $body,
            Aes::A192($aes) => $body,
            Aes::A256($aes) => $body,
        }
    };
}

/// A cipher with its key, for one direction, all of it in the value itself: it belongs into [`crate::hidden::Hidden`].
pub struct Cipher {
    suite: Suite,
    keyed: Keyed,
}

impl Cipher {
    /// The cipher with keys derived from `secret`.
    pub fn new(suite: Suite, secret: &[u8; 32]) -> Self {
        let mut key = Zeroizing::new(vec![0; suite.key_bytes()]);
        let name = suite.name();
        expand(secret, &[b"key ", name.as_bytes()], &mut key);
        let ring = |algorithm: &'static aead::Algorithm, key: &[u8]| {
            let key = UnboundKey::new(algorithm, key).expect("the key has the algorithm's length");
            Keyed::Ring(LessSafeKey::new(key))
        };
        let keyed = match suite {
            Suite::Gcm(128) => ring(&AES_128_GCM, &key),
            Suite::Gcm(192) => Keyed::Gcm192(aes_gcm::AesGcm::new(GenericArray::from_slice(&key))),
            Suite::Gcm(_) => ring(&AES_256_GCM, &key),
            Suite::Hmac => Keyed::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &key)),
            Suite::Blake3 => {
                let mut fixed = Secret::default();
                fixed.copy_from_slice(&key);
                Keyed::Blake3(blake3::Hasher::new_keyed(&fixed))
            }
            Suite::ChaCha => ring(&CHACHA20_POLY1305, &key),
            Suite::Ctr(_) | Suite::Cbc(_) => {
                let mut mac = Secret::default();
                expand(secret, &[b"mac ", name.as_bytes()], &mut *mac);
                let mac = hmac::Key::new(hmac::HMAC_SHA256, &*mac);
                let cipher = Aes::new(&key);
                expand(secret, &[b"initialization vector ", name.as_bytes()], &mut key);
                let vector = matches!(suite, Suite::Cbc(_)).then(|| Aes::new(&key));
                Keyed::Mac { cipher, vector, mac }
            }
        };
        Self { suite, keyed }
    }

    /// Encrypts `body`, and writes what follows it to `tail`, which has [`Suite::tail`] bytes.
    pub fn seal(&self, nonce: [u8; NONCE], aad: &[u8], body: &mut [u8], tail: &mut [u8]) {
        match &self.keyed {
            Keyed::Ring(key) => {
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
                tail.copy_from_slice(tag.expect("a message is shorter than 64 GiB").as_ref());
            }
            Keyed::Gcm192(key) => {
                let tag = key.encrypt_in_place_detached(GenericArray::from_slice(&nonce), aad, body);
                tail.copy_from_slice(&tag.expect("a message is shorter than 64 GiB"));
            }
            Keyed::Hmac(key) => tail.copy_from_slice(&authenticate(key, nonce, aad, &[body])),
            Keyed::Blake3(key) => tail.copy_from_slice(&authenticate_blake3(key, nonce, aad, body)),
            Keyed::Mac { cipher, vector, mac } => {
                let (padding, tag) = tail.split_at_mut(tail.len() - TAG);
                match vector {
                    None => stream(cipher, nonce, body),
                    Some(vector) => {
                        padding.fill(padding.len() as u8);
                        encrypt_blocks(cipher, first_vector(vector, nonce), body, padding);
                    }
                }
                tag.copy_from_slice(&authenticate(mac, nonce, aad, &[body, padding]));
            }
        }
    }

    /// Decrypts `message`, and tells how many bytes of it are what was encrypted. `None` if it was not sealed with this key,
    /// nonce and associated data; then it holds anything.
    pub fn open(&self, nonce: [u8; NONCE], aad: &[u8], message: &mut [u8]) -> Option<usize> {
        let length = message.len().checked_sub(TAG)?;
        match &self.keyed {
            Keyed::Ring(key) => {
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(aad), message).ok().map(|opened| opened.len())
            }
            Keyed::Gcm192(key) => {
                let (body, tag) = message.split_at_mut(length);
                let (nonce, tag) = (GenericArray::from_slice(&nonce), GenericArray::from_slice(tag));
                key.decrypt_in_place_detached(nonce, aad, body, tag).ok().map(|()| length)
            }
            Keyed::Hmac(_) | Keyed::Blake3(_) => {
                let (body, tag) = message.split_at_mut(length);
                let expected = match &self.keyed {
                    Keyed::Blake3(key) => authenticate_blake3(key, nonce, aad, body),
                    Keyed::Hmac(key) => authenticate(key, nonce, aad, &[body]),
                    _ => return None,
                };
                bool::from(expected.as_slice().ct_eq(tag)).then_some(length)
            }
            Keyed::Mac { cipher, vector, mac } => {
                let (body, tag) = message.split_at_mut(length);
                let expected = authenticate(mac, nonce, aad, &[body]);
                if !bool::from(expected.as_slice().ct_eq(tag)) {
                    return None;
                }
                match vector {
                    None => {
                        stream(cipher, nonce, body);
                        Some(length)
                    }
                    Some(vector) => {
                        if length == 0 || !length.is_multiple_of(BLOCK) {
                            return None;
                        }
                        decrypt_blocks(cipher, first_vector(vector, nonce), body);
                        // The padding is authentic, so what it says tells nobody anything.
                        let padding = usize::from(*body.last()?);
                        length.checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding))
                    }
                }
            }
        }
    }

    /// What is encrypted how.
    pub fn suite(&self) -> Suite {
        self.suite
    }
}

/// The first 16 bytes of an HMAC-SHA-256.
fn authenticate(key: &hmac::Key, nonce: [u8; NONCE], aad: &[u8], parts: &[&[u8]]) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(key);
    context.update(&nonce);
    context.update(&(aad.len() as u32).to_be_bytes());
    context.update(aad);
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref()[..TAG].try_into().expect("16 of 32 bytes")
}

/// The first 16 bytes of a keyed BLAKE3.
fn authenticate_blake3(key: &blake3::Hasher, nonce: [u8; NONCE], aad: &[u8], body: &[u8]) -> [u8; TAG] {
    let mut hasher = key.clone();
    hasher.update(&nonce);
    hasher.update(&(aad.len() as u32).to_be_bytes());
    hasher.update(aad);
    hasher.update(body);
    hasher.finalize().as_bytes()[..TAG].try_into().expect("16 of 32 bytes")
}

/// The nonce and a counter from 0 as a block.
fn block(nonce: [u8; NONCE]) -> GenericArray<u8, aes::cipher::consts::U16> {
    let mut block = [0; BLOCK];
    block[..NONCE].copy_from_slice(&nonce);
    block.into()
}

fn first_vector(key: &Aes, nonce: [u8; NONCE]) -> GenericArray<u8, aes::cipher::consts::U16> {
    let mut block = block(nonce);
    each!(key, aes => aes.encrypt_block(&mut block));
    block
}

fn stream(cipher: &Aes, nonce: [u8; NONCE], body: &mut [u8]) {
    use aes::cipher::InnerIvInit;
    each!(cipher, aes => {
        let core = ctr::CtrCore::<_, ctr::flavors::Ctr32BE>::inner_iv_init(aes, &block(nonce));
        aes::cipher::StreamCipherCoreWrapper::from_core(core).apply_keystream(body);
    });
}

/// `body` and then `padding`, which end together at the end of a block.
fn encrypt_blocks(
    cipher: &Aes,
    vector: GenericArray<u8, aes::cipher::consts::U16>,
    body: &mut [u8],
    padding: &mut [u8],
) {
    use aes::cipher::InnerIvInit;
    let whole = body.len() / BLOCK * BLOCK;
    let (blocks, rest) = body.split_at_mut(whole);
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()..].copy_from_slice(padding);
    each!(cipher, aes => {
        let mut encryptor = cbc::Encryptor::inner_iv_init(aes, &vector);
        for block in blocks.chunks_exact_mut(BLOCK) {
            encryptor.encrypt_block_mut(GenericArray::from_mut_slice(block));
        }
        encryptor.encrypt_block_mut(GenericArray::from_mut_slice(&mut last));
    });
    rest.copy_from_slice(&last[..rest.len()]);
    padding.copy_from_slice(&last[rest.len()..]);
}

fn decrypt_blocks(cipher: &Aes, vector: GenericArray<u8, aes::cipher::consts::U16>, body: &mut [u8]) {
    use aes::cipher::InnerIvInit;
    each!(cipher, aes => {
        let mut decryptor = cbc::Decryptor::inner_iv_init(aes, &vector);
        // Several at once: blocks of cipher text, unlike those of plain text, do not wait for each other.
        let (blocks, _) = aes::cipher::inout::InOutBuf::from(body).into_chunks();
        decryptor.decrypt_blocks_inout_mut(blocks);
    });
}
