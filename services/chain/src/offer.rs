//! What an end offers, and whether two offers agree.

use crate::error::FlowError;
use crate::flow::{Resolved, Role};
use crate::wire::Reader;
use sha2::{Digest, Sha256};

/// Most services of a flow.
pub(crate) const MAX_SERVICES: usize = 16;
/// Most bytes that a service announces.
pub(crate) const MAX_ANNOUNCEMENT: usize = 1024;

/// A service as it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    name: String,
    version: u32,
    /// Of the parameters that both ends must share.
    digest: [u8; 16],
    pub(crate) announcement: Vec<u8>,
}

impl Offered {
    pub(crate) fn new(service: &Resolved, announcement: Vec<u8>) -> Self {
        let digest = Sha256::digest(service.parameters.agreed().as_bytes());
        Self {
            name: service.library.name().to_owned(),
            version: service.library.version(),
            digest: digest[..16].try_into().expect("16 of 32 bytes"),
            announcement,
        }
    }
}

/// All that an end offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) role: Role,
    pub(crate) nonce: [u8; 32],
    pub(crate) services: Vec<Offered>,
}

impl Offer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.role as u8];
        bytes.extend(self.nonce);
        bytes.push(self.services.len() as u8);
        for it in &self.services {
            bytes.push(it.name.len() as u8);
            bytes.extend(it.name.as_bytes());
            bytes.extend(it.version.to_be_bytes());
            bytes.extend(it.digest);
            bytes.extend((it.announcement.len() as u16).to_be_bytes());
            bytes.extend(&it.announcement);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let role = match reader.byte()? {
            it if it == Role::Client as u8 => Role::Client,
            it if it == Role::Server as u8 => Role::Server,
            _ => return None,
        };
        let nonce = reader.array()?;
        let count = usize::from(reader.byte()?);
        let mut services = Vec::new();
        for _ in 0..(count <= MAX_SERVICES).then_some(count)? {
            let length = usize::from(reader.byte()?);
            let name = std::str::from_utf8(reader.take(length)?).ok()?;
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
            let name = name.bytes().all(plain).then(|| name.to_owned())?;
            let version = u32::from_be_bytes(reader.array()?);
            let digest = reader.array()?;
            let length = usize::from(u16::from_be_bytes(reader.array()?));
            let announcement = reader.take((length <= MAX_ANNOUNCEMENT).then_some(length)?)?.to_vec();
            services.push(Offered { name, version, digest, announcement });
        }
        reader.0.is_empty().then_some(Self { role, nonce, services })
    }

    /// Whether the peer's services are those of this end.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn compare(&self, peer: &Offer) -> Result<(), FlowError> {
        let list = |offer: &Offer| {
            let names: Vec<String> =
                offer.services.iter().map(|it| format!("{} (version {})", it.name, it.version)).collect();
            if names.is_empty() { "no services".to_owned() } else { names.join(", ") }
        };
        let key = |it: &Offered| (it.name.clone(), it.version);
        if !self.services.iter().map(key).eq(peer.services.iter().map(key)) {
            let why = format!("the peer has {}, expected {}", list(peer), list(self));
            return Err(FlowError::Mismatch(why));
        }
        for (own, peer) in self.services.iter().zip(&peer.services) {
            if own.digest != peer.digest {
                let why = format!("the peer has other parameters of the service `{}`", own.name);
                return Err(FlowError::Mismatch(why));
            }
        }
        Ok(())
    }

    /// What is put into each datagram of the sender: two bytes that differ if services or their parameters do.
    pub(crate) fn digest(&self) -> [u8; 2] {
        let mut hash = Sha256::new();
        for it in &self.services {
            hash.update(it.name.as_bytes());
            hash.update([0]);
            hash.update(it.version.to_be_bytes());
            hash.update(it.digest);
        }
        let digest = hash.finalize();
        [digest[0], digest[1]]
    }
}
