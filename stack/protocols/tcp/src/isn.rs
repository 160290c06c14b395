//! Initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 section 5.4) and SYN cookies (RFC 4987 section 3.6).

use crate::Flow;
use crate::siphash::SipHash;
use std::time::{Duration, Instant};

/// What of a SYN survives in a cookie as its segment size: the largest of these that is not larger.
const SIZES: [[u16; 4]; 2] = [[536, 1300, 1440, 1460], [1220, 1280, 1420, 1440]];
/// A cookie is good for this slot of time and the next.
const SLOT: Duration = Duration::from_secs(64);
/// Low bits of our timestamp that carry what else the SYN offered (as Linux does it).
const STAMP_BITS: u32 = 6;
const NO_SCALE: u8 = 15;

/// What an acknowledged cookie tells of its SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) mss: u16,
    /// The peer's window scale.
    pub(crate) scale: Option<u8>,
    pub(crate) sack: bool,
}

/// Numbers that others cannot guess.
#[derive(Debug)]
pub(crate) struct Numbers {
    sequence: SipHash,
    other: SipHash,
    /// When the engine saw time first.
    epoch: Option<Instant>,
    last_cookie: Option<Instant>,
}

impl Numbers {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let (first, second) = secret.split_at(16);
        let key = |bytes: &[u8]| SipHash::new(bytes.try_into().expect("16 of 32 bytes"));
        Numbers { sequence: key(first), other: key(second), epoch: None, last_cookie: None }
    }

    fn since(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.epoch.get_or_insert(now))
    }

    /// The clock of timestamps, in milliseconds.
    pub(crate) fn clock(&mut self, now: Instant) -> u32 {
        self.since(now).as_millis() as u32
    }

    /// RFC 6528 section 3: a clock of 4 µs and a hash of the addresses.
    pub(crate) fn initial(&mut self, now: Instant, flow: &Flow) -> u32 {
        let ticks = (self.since(now).as_micros() / 4) as u32;
        ticks.wrapping_add(self.sequence.flow(flow, 0) as u32)
    }

    /// A hash of the addresses, for whatever must not be foreseen.
    pub(crate) fn hash(&self, flow: &Flow) -> u64 {
        self.other.flow(flow, u64::MAX - 1)
    }

    /// What is added to the clock for a peer.
    pub(crate) fn clock_offset(&self, flow: &Flow) -> u32 {
        self.other.flow(flow, u64::MAX) as u32
    }

    /// Six bits of time, two of segment size, 24 that prove that we made it.
    fn cookie_at(&self, flow: &Flow, initial: u32, slot: u64, size: u32) -> u32 {
        let mac = self.other.flow(flow, u64::from(initial) << 32 | (slot & 0xff_ffff) << 8 | u64::from(size));
        (slot as u32 & 63) << 26 | size << 24 | (mac as u32 & 0xff_ffff)
    }

    /// A sequence number that remembers a SYN, and our timestamp that remembers its options.
    pub(crate) fn cookie(
        &mut self,
        now: Instant,
        flow: &Flow,
        initial: u32,
        mss: u16,
        stamped: (Option<u8>, bool),
    ) -> (u32, u32) {
        self.last_cookie = Some(now);
        let slot = self.since(now).as_secs() / SLOT.as_secs();
        let sizes = &SIZES[usize::from(flow.peer.is_ipv6())];
        let size = sizes.iter().rposition(|size| *size <= mss).unwrap_or(0) as u32;
        let (scale, sack) = stamped;
        let bits = u32::from(scale.map_or(NO_SCALE, |scale| scale.min(14))) | u32::from(sack) << 4;
        let value = self.clock(now).wrapping_add(self.clock_offset(flow));
        // Not ahead of the clock: the timestamps that follow must not go back.
        let stamped = value & !((1 << STAMP_BITS) - 1) | bits;
        let stamp = if stamped > value { stamped.wrapping_sub(1 << STAMP_BITS) } else { stamped };
        (self.cookie_at(flow, initial, slot, size), stamp)
    }

    /// Checks an acknowledged number. `initial`: the peer's; `echo`: our timestamp that it echoes.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        flow: &Flow,
        cookie: u32,
        initial: u32,
        echo: Option<u32>,
    ) -> Option<Remembered> {
        let last = self.last_cookie?;
        if now.saturating_duration_since(last) > SLOT * 2 {
            return None;
        }
        let slot = self.since(now).as_secs() / SLOT.as_secs();
        let size = cookie >> 24 & 3;
        let good = (0..=1).any(|age| {
            slot.checked_sub(age).is_some_and(|slot| self.cookie_at(flow, initial, slot, size) == cookie)
        });
        if !good {
            return None;
        }
        let mss = SIZES[usize::from(flow.peer.is_ipv6())][size as usize];
        let Some(bits) = echo else { return Some(Remembered { mss, scale: None, sack: false }) };
        let scale = (bits & 15) as u8;
        Some(Remembered { mss, scale: (scale != NO_SCALE).then_some(scale), sack: bits & 16 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow { local: [10, 0, 0, 1].into(), local_port: 80, peer: [10, 0, 0, 2].into(), peer_port: port }
    }

    /// RFC 6528 section 3.
    #[test]
    fn initial_numbers_grow_for_a_flow_and_differ_between_flows() {
        let mut numbers = Numbers::new(&[7; 32]);
        let now = crate::tests::epoch();
        let first = numbers.initial(now, &flow(1));
        let later = numbers.initial(now + Duration::from_secs(1), &flow(1));
        assert_eq!(later.wrapping_sub(first), 250_000);
        assert_ne!(numbers.initial(now, &flow(2)), first);
        assert_ne!(Numbers::new(&[8; 32]).initial(now, &flow(1)), first);
    }

    #[test]
    fn a_cookie_is_good_for_its_own_flow_and_for_two_minutes_at_most() {
        let mut numbers = Numbers::new(&[7; 32]);
        let now = crate::tests::epoch();
        assert_eq!(numbers.check(now, &flow(1), 5, 9, None), None, "none was sent");
        let (cookie, stamp) = numbers.cookie(now, &flow(1), 9, 1450, (Some(7), true));
        let good = Remembered { mss: 1440, scale: Some(7), sack: true };
        let later = now + Duration::from_secs(100);
        assert_eq!(numbers.check(later, &flow(1), cookie, 9, Some(stamp)), Some(good));
        assert_eq!(
            numbers.check(later, &flow(1), cookie, 9, None),
            Some(Remembered { mss: 1440, scale: None, sack: false })
        );
        assert_eq!(numbers.check(later, &flow(2), cookie, 9, Some(stamp)), None);
        assert_eq!(numbers.check(later, &flow(1), cookie, 8, Some(stamp)), None);
        assert_eq!(numbers.check(later, &flow(1), cookie ^ 1, 9, Some(stamp)), None);
        assert_eq!(numbers.check(now + Duration::from_secs(130), &flow(1), cookie, 9, Some(stamp)), None);
    }
}
