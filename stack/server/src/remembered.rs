//! Which protocol a peer has been reached by, of those that might have been: tried first the next time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long it is believed: a peer may learn a protocol, or lose one (RFC 9621 section 4.2 leaves the time open).
const LIFETIME: Duration = Duration::from_secs(600);
/// The most peers that are remembered; beyond, who would be forgotten first is.
const MAX: usize = 4096;

type Peer = (IpAddr, u16);

/// By address and port, since what listens there decides.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<Peer, (u8, Instant)>>);

impl Remembered {
    fn peers(&self) -> MutexGuard<'_, HashMap<Peer, (u8, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `protocol` has reached `peer`.
    pub fn note(&self, peer: Peer, protocol: u8, now: Instant) {
        let mut peers = self.peers();
        if peers.len() >= MAX && !peers.contains_key(&peer) {
            peers.retain(|_, (_, until)| *until > now);
            if peers.len() >= MAX {
                let oldest = peers.iter().min_by_key(|(_, (_, until))| *until).map(|(peer, _)| *peer);
                oldest.map(|oldest| peers.remove(&oldest));
            }
        }
        peers.insert(peer, (protocol, now + LIFETIME));
    }

    /// Nothing has reached `peer`.
    pub fn forget(&self, peer: Peer) {
        self.peers().remove(&peer);
    }

    /// These protocols, with the one that has reached `peer` in front.
    pub fn order(&self, peer: Peer, protocols: &[u8], now: Instant) -> Box<[u8]> {
        let mut ordered: Box<[u8]> = protocols.into();
        if let Some((known, until)) = self.peers().get(&peer)
            && *until > now
            && let Some(at) = ordered.iter().position(|protocol| protocol == known)
        {
            ordered[..=at].rotate_right(1);
        }
        ordered
    }

    /// All peers, by address: what has reached them, and for how long that is believed yet.
    pub fn all(&self, now: Instant) -> Vec<(SocketAddr, u8, Duration)> {
        let peers = self.peers();
        let valid = peers.iter().filter(|(_, (_, until))| *until > now);
        let mut all: Vec<_> = valid
            .map(|((ip, port), (protocol, until))| {
                (SocketAddr::new(*ip, *port), *protocol, until.duration_since(now))
            })
            .collect();
        all.sort_unstable_by_key(|(peer, ..)| *peer);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> Peer {
        (IpAddr::from(number.to_be_bytes()), 80)
    }

    #[test]
    fn what_has_reached_a_peer_comes_first_for_a_while() {
        let (remembered, now) = (Remembered::default(), Instant::now());
        let order = |peer, at| remembered.order(peer, &[253, 6, 132], at).to_vec();
        assert_eq!(order(peer(1), now), [253, 6, 132]);
        remembered.note(peer(1), 132, now);
        assert_eq!(order(peer(1), now), [132, 253, 6]);
        assert_eq!(order(peer(2), now), [253, 6, 132], "another peer");
        assert_eq!(order((peer(1).0, 81), now), [253, 6, 132], "another port");
        assert_eq!(
            remembered.order(peer(1), &[253, 6], now).to_vec(),
            [253, 6],
            "not among those to choose from"
        );
        assert_eq!(order(peer(1), now + LIFETIME), [253, 6, 132], "too old");
        remembered.forget(peer(1));
        assert_eq!(order(peer(1), now), [253, 6, 132]);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (remembered, now) = (Remembered::default(), Instant::now());
        for number in 0..MAX as u32 + 1 {
            remembered.note(peer(number), 6, now + Duration::from_millis(number.into()));
        }
        let all = remembered.all(now);
        assert_eq!(all.len(), MAX);
        assert!(all.iter().all(|(it, ..)| it.ip() != peer(0).0), "the oldest is forgotten");
    }
}
