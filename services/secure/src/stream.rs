//! Streams: numbered messages, keys of each direction, new keys after so many bytes.

use crate::cipher::{Cipher, NONCE, Suite, expand, extract};
use crate::hidden::Hidden;
use crate::keys::Secret;
use freena_service_api::{Message, Passed, Trouble, Verdict};

/// Most messages with one key.
const MAX_MESSAGES: u64 = 1 << 32;

/// A direction's cipher, and which message is next. Both ends count alike, so nothing of it goes over the wire; a message
/// that is lost, doubled, or overtaken by another one does not open.
struct Way {
    secret: Secret,
    cipher: Cipher,
    number: u64,
    bytes: u64,
    rekeys: u64,
}

impl Way {
    fn new(suite: Suite, secret: Secret) -> Self {
        Self { cipher: Cipher::new(suite, &secret), secret, number: 0, bytes: 0, rekeys: 0 }
    }

    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[NONCE - 8..].copy_from_slice(&self.number.to_be_bytes());
        nonce
    }

    /// A message of `bytes` has passed; the next one has another key if this one has done enough. The old secret is gone
    /// then, so who gets hold of the new one cannot read what was before (as RFC 8446, section 7.2).
    fn passed(&mut self, bytes: usize, rekey: u64) {
        self.number += 1;
        self.bytes += bytes as u64;
        if self.bytes >= rekey || self.number >= MAX_MESSAGES {
            let mut next = Secret::default();
            expand(&self.secret, &[b"next"], &mut *next);
            let rekeys = self.rekeys + 1;
            *self = Self { rekeys, ..Self::new(self.cipher.suite(), next) };
        }
    }
}

/// Both directions of a stream.
pub struct Stream {
    out: Hidden<Way>,
    inward: Hidden<Way>,
    rekey: u64,
}

impl Stream {
    /// With keys that are this flow's alone: `transcript` has the random numbers of both ends in it.
    pub fn new(suite: Suite, key: &[u8], transcript: &[u8; 32], client: bool, rekey: u64) -> Self {
        let name = suite.name();
        let way = |role: &str| {
            let info: [&[u8]; 3] = [b"freena crypto 1 stream ", name.as_bytes(), role.as_bytes()];
            Hidden::new(Way::new(suite, extract(transcript, key, &info)))
        };
        let (client_way, server_way) = (way(" client"), way(" server"));
        let (out, inward) = if client { (client_way, server_way) } else { (server_way, client_way) };
        Self { out, inward, rekey }
    }

    pub fn seal(&mut self, message: &mut Message<'_>) -> Verdict {
        let aad = message.kind().to_be_bytes();
        let length = message.bytes().len();
        let nonce = self.out.nonce();
        let tail = self.out.cipher.suite().tail(length);
        let Some((_, body, tail)) = message.extend(0, tail) else { return Err(Trouble::Fault) };
        self.out.cipher.seal(nonce, &aad, body, tail);
        self.out.passed(length, self.rekey);
        Ok(Passed::On)
    }

    pub fn open(&mut self, message: &mut Message<'_>) -> Verdict {
        let aad = message.kind().to_be_bytes();
        let nonce = self.inward.nonce();
        let sealed = message.bytes();
        let length = self.inward.cipher.open(nonce, &aad, sealed).ok_or(Trouble::Forged)?;
        let tail = message.bytes().len() - length;
        message.shrink(0, tail);
        self.inward.passed(length, self.rekey);
        Ok(Passed::On)
    }

    pub fn rekeys(&self) -> u64 {
        self.out.rekeys + self.inward.rekeys
    }
}
