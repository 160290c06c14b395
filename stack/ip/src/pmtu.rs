//! Path MTU discovery (RFC 1191, RFC 8201): what routers said about the paths to destinations.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// The least MTU believed for IPv4, in bytes: 512 of data and the largest usual headers, as `net.ipv4.route.min_pmtu` of
/// Linux. RFC 791 would allow 68, which serves attackers only.
pub const MIN_V4: u32 = 552;
/// The least MTU of an IPv6 link, in bytes (RFC 8200 section 5).
pub const MIN_V6: u32 = 1280;
/// How long a smaller MTU is believed before the larger one is tried again (RFC 1191 section 6.3, RFC 8201 section 4).
const AGE: Duration = Duration::from_secs(600);

/// MTUs that occur, for routers that do not tell theirs (RFC 1191 section 7.1).
const PLATEAUS: [u32; 10] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// The cache. Entries are lost first come, first gone, once there are as many as it may hold.
#[derive(Debug)]
pub struct PathMtu {
    entries: HashMap<IpAddr, Entry>,
    /// In order of expiry, which is that of arrival. A destination told of again has more than one place; only the
    /// one with its present number counts.
    order: VecDeque<(Instant, u64, IpAddr)>,
    capacity: usize,
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mtu: u32,
    expires: Instant,
    number: u64,
}

impl PathMtu {
    /// A cache of at most `capacity` destinations (at least 1), some 100 bytes each.
    pub fn new(capacity: usize) -> PathMtu {
        PathMtu { entries: HashMap::new(), order: VecDeque::new(), capacity: capacity.max(1), number: 0 }
    }

    /// The MTU of the path to `dst`, where it is known to be less than the route's.
    pub fn get(&self, now: Instant, dst: IpAddr) -> Option<u32> {
        self.entries.get(&dst).filter(|entry| now < entry.expires).map(|entry| entry.mtu)
    }

    /// Takes in that a router said a packet of `sent` bytes to `dst` was too big for a link with this `mtu` (0 where it
    /// did not say), while the route's own MTU is `route`. Returns the new MTU, or `None` where nothing changes: the
    /// value is no less than what is used already, or IPv6 and below its minimum (RFC 8201 section 4).
    ///
    /// The caller has checked that the quoted packet is of a flow of ours (RFC 5927 section 7).
    pub fn too_big(&mut self, now: Instant, dst: IpAddr, mtu: u32, sent: u32, route: u32) -> Option<u32> {
        let mtu = match dst {
            IpAddr::V4(_) if mtu == 0 => {
                PLATEAUS.into_iter().find(|plateau| *plateau < sent).unwrap_or(MIN_V4).max(MIN_V4)
            }
            IpAddr::V4(_) => mtu.max(MIN_V4),
            IpAddr::V6(_) if mtu < MIN_V6 => return None,
            IpAddr::V6(_) => mtu,
        };
        if mtu >= self.get(now, dst).unwrap_or(route).min(route) {
            return None;
        }
        self.handle_timeout(now);
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&dst) {
            self.forget_oldest();
        }
        self.number += 1;
        let entry = Entry { mtu, expires: now + AGE, number: self.number };
        self.entries.insert(dst, entry);
        self.order.push_back((entry.expires, entry.number, dst));
        if self.order.len() > self.capacity * 2 {
            self.order.retain(|(_, number, dst)| {
                self.entries.get(dst).is_some_and(|entry| entry.number == *number)
            });
        }
        Some(mtu)
    }

    /// When [`PathMtu::handle_timeout`] is next worth calling; only memory depends on it.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.order.front().map(|(expires, ..)| *expires)
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(expires, ..)| *expires <= now) {
            self.forget_first();
        }
    }

    /// How many destinations it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_oldest(&mut self) {
        let before = self.entries.len();
        while self.entries.len() == before && !self.order.is_empty() {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, number, dst)) = self.order.pop_front()
            && self.entries.get(&dst).is_some_and(|entry| entry.number == number)
        {
            self.entries.remove(&dst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn only_less_is_believed_and_for_ten_minutes() {
        let (mut cache, start) = (PathMtu::new(8), Instant::now());
        assert_eq!(cache.too_big(start, V4, 1500, 1500, 1500), None);
        assert_eq!(cache.too_big(start, V4, 1400, 1500, 1500), Some(1400));
        assert_eq!(cache.too_big(start, V4, 1450, 1500, 1500), None);
        assert_eq!(cache.too_big(start, V4, 1300, 1400, 1500), Some(1300));
        assert_eq!(cache.get(start + Duration::from_secs(599), V4), Some(1300));
        assert_eq!(cache.get(start + Duration::from_secs(600), V4), None);
        assert_eq!(cache.poll_timeout(), Some(start + AGE));
        cache.handle_timeout(start + AGE);
        assert!(cache.is_empty() && cache.poll_timeout().is_none());
    }

    #[test]
    fn absurd_values_do_no_harm() {
        let (mut cache, now) = (PathMtu::new(8), Instant::now());
        assert_eq!(cache.too_big(now, V4, 68, 1500, 1500), Some(MIN_V4));
        assert_eq!(cache.too_big(now, V6, 1279, 1500, 1500), None);
        assert_eq!(cache.too_big(now, V6, 1280, 1500, 1500), Some(1280));
    }

    #[test]
    fn a_silent_router_means_the_next_plateau() {
        let (mut cache, now) = (PathMtu::new(8), Instant::now());
        assert_eq!(cache.too_big(now, V4, 0, 1500, 1500), Some(1492));
        assert_eq!(cache.too_big(now, V4, 0, 1492, 1500), Some(1006));
        assert_eq!(cache.too_big(now, V4, 0, 1006, 1500), Some(MIN_V4));
        assert_eq!(cache.too_big(now, V4, 0, 552, 1500), None);
    }

    #[test]
    fn it_is_bounded() {
        let (mut cache, start) = (PathMtu::new(16), Instant::now());
        for n in 0..1000u32 {
            let now = start + Duration::from_millis(n.into());
            // One destination is told of again and again.
            cache.too_big(now, V4, 1499 - n % 900, 1500, 1500);
            cache.too_big(now, IpAddr::from((0x0b00_0000 + n).to_be_bytes()), 1400, 1500, 1500);
            assert!(cache.len() <= 16 && cache.order.len() <= 33, "{} {}", cache.len(), cache.order.len());
        }
        assert_eq!(cache.get(start + Duration::from_secs(1), [11, 0, 3, 231].into()), Some(1400));
        assert_eq!(cache.get(start + Duration::from_secs(1), [11, 0, 0, 1].into()), None);
    }
}
