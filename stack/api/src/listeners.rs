//! Listeners: who hears a peer that opens a connection.

use crate::stream::{Flow, ListenerKey, Listening};
use std::collections::HashMap;
use std::net::IpAddr;

/// Listeners by port.
#[derive(Debug, Default)]
pub struct Listeners {
    ports: HashMap<u16, Vec<(ListenerKey, Listening)>>,
    by_key: HashMap<ListenerKey, u16>,
}

/// How well a listener fits; `None` if it does not hear the flow at all.
fn score(listening: &Listening, flow: &Flow, ifindex: u32) -> Option<u32> {
    let mut score = match (listening.local, flow.local) {
        (own, asked) if own == asked => 4,
        (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => 1,
        (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => 1,
        (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && listening.dual => 0,
        _ => return None,
    };
    if listening.ifindex != 0 {
        if ifindex != 0 && listening.ifindex != ifindex {
            return None;
        }
        score += 2;
    }
    Some(score)
}

impl Listeners {
    /// Adds a listener, or changes it.
    pub fn insert(&mut self, key: ListenerKey, listening: Listening) {
        self.remove(key);
        self.by_key.insert(key, listening.port);
        self.ports.entry(listening.port).or_default().push((key, listening));
    }

    /// Removes a listener.
    pub fn remove(&mut self, key: ListenerKey) {
        let Some(port) = self.by_key.remove(&key) else { return };
        if let Some(list) = self.ports.get_mut(&port) {
            list.retain(|(other, _)| *other != key);
            if list.is_empty() {
                self.ports.remove(&port);
            }
        }
    }

    /// A listener by name.
    pub fn get(&self, key: ListenerKey) -> Option<&Listening> {
        let list = self.ports.get(self.by_key.get(&key)?)?;
        list.iter().find(|(other, _)| *other == key).map(|(_, listening)| listening)
    }

    /// The most specific listener; those that share an address take turns by `hash`. `ifindex` 0: whatever the interface.
    pub fn lookup(
        &self,
        flow: &Flow,
        ifindex: u32,
        hash: impl FnOnce() -> u64,
    ) -> Option<(ListenerKey, &Listening)> {
        let list = self.ports.get(&flow.local_port)?;
        let scores = || list.iter().filter_map(|entry| Some((score(&entry.1, flow, ifindex)?, entry)));
        let best = scores().map(|(score, _)| score).max()?;
        let mut equals = scores().filter(|(score, _)| *score == best).map(|(_, entry)| entry);
        let first = equals.clone().next()?;
        let sharing = equals.clone().filter(|(_, listening)| listening.share).count();
        let (key, listening) = match first.1.share && sharing > 1 {
            true => {
                equals.filter(|(_, listening)| listening.share).nth((hash() % sharing as u64) as usize)?
            }
            false => equals.next()?,
        };
        Some((*key, listening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Options;

    fn listening(local: &str) -> Listening {
        let local: IpAddr = local.parse().unwrap();
        Listening { local, port: 80, dual: false, share: false, ifindex: 0, options: Options::default() }
    }

    fn flow(local: &str) -> Flow {
        Flow { local: local.parse().unwrap(), local_port: 80, peer: [9, 9, 9, 9].into(), peer_port: 1 }
    }

    #[test]
    fn the_most_specific_hears() {
        let mut listeners = Listeners::default();
        let key = |listeners: &Listeners, local: &str, ifindex| {
            listeners.lookup(&flow(local), ifindex, || 0).map(|(key, _)| key)
        };
        listeners.insert(1, Listening { dual: true, ..listening("::") });
        assert_eq!((key(&listeners, "10.0.0.1", 3), key(&listeners, "fd00::1", 3)), (Some(1), Some(1)));
        listeners.insert(2, listening("0.0.0.0"));
        assert_eq!(key(&listeners, "10.0.0.1", 3), Some(2));
        listeners.insert(3, listening("10.0.0.1"));
        assert_eq!((key(&listeners, "10.0.0.1", 3), key(&listeners, "10.0.0.2", 3)), (Some(3), Some(2)));
        listeners.insert(4, Listening { ifindex: 7, ..listening("10.0.0.1") });
        assert_eq!((key(&listeners, "10.0.0.1", 7), key(&listeners, "10.0.0.1", 3)), (Some(4), Some(3)));
        for listener in [1, 2, 3, 4] {
            listeners.remove(listener);
        }
        assert_eq!(key(&listeners, "10.0.0.1", 7), None);
        listeners.insert(1, listening("::"));
        assert_eq!(key(&listeners, "10.0.0.1", 7), None, "IPV6_V6ONLY");
    }

    #[test]
    fn those_that_share_take_turns() {
        let mut listeners = Listeners::default();
        for key in 0..4 {
            listeners.insert(key, Listening { share: true, ..listening("0.0.0.0") });
        }
        let heard: std::collections::HashSet<_> =
            (0..8).map(|hash| listeners.lookup(&flow("10.0.0.1"), 0, || hash).unwrap().0).collect();
        assert_eq!(heard.len(), 4);
    }
}
