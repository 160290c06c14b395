//! Numbers that cannot be guessed, and the state cookie: all that a listener would have to remember of a handshake, signed
//! and given to the peer to bring back. RFC 9260 section 5.1.3.

use crate::wire::Init;
use freena_stack_api::stream::Flow;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// Section 16: Valid.Cookie.Life.
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of the signature.
const SIGNATURE: usize = 16;
/// Bytes of a cookie without it.
const BODY: usize = 40;

/// What a cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// Own tag and initial sequence number.
    pub(crate) tag: u32,
    pub(crate) sequence: u32,
    /// What the peer's INIT said.
    pub(crate) peer: Init,
    /// Tags of the association that there was already, else zero: the tie-tags of section 5.2.2.
    pub(crate) ties: (u32, u32),
}

/// Why a cookie is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not one of ours, or for another flow.
    Forged,
    /// Too old, by so much.
    Stale(Cookie, Duration),
}

/// The engine's secret and what is made from it.
#[derive(Debug)]
pub(crate) struct Secrets {
    key: [u8; 32],
    counter: u64,
    epoch: Option<Instant>,
}

impl Secrets {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Secrets { key, counter: 0, epoch: None }
    }

    /// A number that cannot be guessed, and is not zero.
    pub(crate) fn random(&mut self) -> u32 {
        self.counter += 1;
        let hash = blake3::keyed_hash(&self.key, &self.counter.to_le_bytes());
        u32::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at])).max(1)
    }

    fn milliseconds(&mut self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.epoch.get_or_insert(now)).as_millis() as u64
    }

    fn sign(&self, flow: &Flow, body: &[u8]) -> [u8; SIGNATURE] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"state cookie");
        for (address, port) in [(flow.local, flow.local_port), (flow.peer, flow.peer_port)] {
            match address {
                IpAddr::V4(address) => hasher.update(&address.octets()),
                IpAddr::V6(address) => hasher.update(&address.octets()),
            };
            hasher.update(&port.to_be_bytes());
        }
        hasher.update(body);
        let hash = hasher.finalize();
        std::array::from_fn(|at| hash.as_bytes()[at])
    }

    /// Makes a cookie.
    pub(crate) fn bake(&mut self, now: Instant, flow: &Flow, cookie: &Cookie) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BODY + SIGNATURE);
        bytes.extend_from_slice(&cookie.tag.to_be_bytes());
        bytes.extend_from_slice(&cookie.sequence.to_be_bytes());
        cookie.peer.emit(&mut bytes);
        bytes.extend_from_slice(&cookie.ties.0.to_be_bytes());
        bytes.extend_from_slice(&cookie.ties.1.to_be_bytes());
        bytes.extend_from_slice(&self.milliseconds(now).to_be_bytes());
        let signature = self.sign(flow, &bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }

    /// Reads a cookie that a peer has brought back.
    pub(crate) fn open(&mut self, now: Instant, flow: &Flow, bytes: &[u8]) -> Result<Cookie, Refusal> {
        let (body, signature) = bytes.split_at_checked(BODY).ok_or(Refusal::Forged)?;
        if !bool::from(self.sign(flow, body).ct_eq(signature)) {
            return Err(Refusal::Forged);
        }
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| body[at + byte]));
        let (peer, _) = Init::parse(&body[8..24]).ok_or(Refusal::Forged)?;
        let cookie = Cookie { tag: word(0), sequence: word(4), peer, ties: (word(24), word(28)) };
        let made = u64::from(word(32)) << 32 | u64::from(word(36));
        let age = Duration::from_millis(self.milliseconds(now).saturating_sub(made));
        if age > LIFE { Err(Refusal::Stale(cookie, age - LIFE)) } else { Ok(cookie) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_one_flow_and_a_minute() {
        let now = crate::tests::epoch();
        let mut secrets = Secrets::new([7; 32]);
        let flow =
            Flow { local: [10, 0, 0, 1].into(), local_port: 1, peer: [10, 0, 0, 2].into(), peer_port: 2 };
        let peer = Init { tag: 3, window: 4, outbound: 5, inbound: 6, sequence: 7 };
        let cookie = Cookie { tag: 1, sequence: 2, peer, ties: (8, 9) };
        let baked = secrets.bake(now, &flow, &cookie);
        assert_eq!(secrets.open(now + LIFE, &flow, &baked), Ok(cookie));
        let late = Duration::from_millis(5);
        assert_eq!(secrets.open(now + LIFE + late, &flow, &baked), Err(Refusal::Stale(cookie, late)));
        assert_eq!(secrets.open(now, &Flow { peer_port: 3, ..flow }, &baked), Err(Refusal::Forged));
        for at in 0..baked.len() {
            let mut other = baked.clone();
            other[at] ^= 1;
            assert_eq!(secrets.open(now, &flow, &other), Err(Refusal::Forged), "byte {at}");
        }
        assert_eq!(secrets.open(now, &flow, &baked[..BODY]), Err(Refusal::Forged));
        assert_eq!(secrets.open(now, &flow, &[]), Err(Refusal::Forged));
    }
}
