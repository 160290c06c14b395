//! Reassembly (RFC 791 section 3.2, RFC 815, RFC 8200 section 4.5, RFC 5722).
//!
//! Fragments are stored one by one as they came, so that a small one never costs more than it brought. Once they cover
//! the whole they are put together in one buffer that is used again.

use freena_wire::{Fragment, Malformed, Packet, ipv6};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Memory charged for a fragment besides its bytes, and for a datagram besides its fragments.
const FRAGMENT_COST: usize = 64;
const DATAGRAM_COST: usize = 256;

/// Bounds. When one is reached, the oldest datagram under way gives way to the new: one that is still not whole is most
/// likely never going to be, so a flood of fragments delays nobody for long (RFC 8900 section 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory for all datagrams under way, in bytes. Default 4 MiB, as `net.ipv4.ipfrag_high_thresh` of Linux.
    pub bytes: usize,
    /// Memory for those of one source address, in bytes. Default 2 MiB.
    pub bytes_per_source: usize,
    /// Datagrams under way. Default 1024.
    pub datagrams: usize,
    /// How long an IPv4 datagram may take from its first fragment on. Default 30 s, as Linux; RFC 1122 section 3.3.2
    /// asks for 60 to 120 s, at today's rates an invitation to mix datagrams up (RFC 4963).
    pub timeout_v4: Duration,
    /// The same for IPv6. Default 60 s (RFC 8200 section 4.5).
    pub timeout_v6: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 4 << 20,
            bytes_per_source: 2 << 20,
            datagrams: 1024,
            timeout_v4: Duration::from_secs(30),
            timeout_v6: Duration::from_secs(60),
        }
    }
}

/// Why a fragment, and mostly its datagram, is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The packet is whole.
    NotAFragment,
    /// It carries nothing.
    Empty,
    /// It is not the last one and its length is no multiple of 8.
    Length(usize),
    /// It overlaps one that came before. The datagram is discarded with all that is still to come of it (RFC 5722).
    Overlap,
    /// It belongs to a datagram that was discarded.
    Discarded,
    /// It reaches beyond the end that another fragment set, or sets another end.
    End,
    /// One fragment says congestion was experienced, another that its sender does not know of ECN (RFC 3168 section 5.3).
    Ecn,
    /// It alone is more than the memory for one source.
    TooLarge,
    /// The datagram is whole, but its further extension headers are wrong.
    Malformed(Malformed),
    /// The datagram is whole, and carries a fragment again.
    Nested,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotAFragment => f.write_str("not a fragment"),
            Why::Empty => f.write_str("fragment without payload"),
            Why::Length(len) => {
                write!(f, "fragment of {len} bytes, which is no multiple of 8, is not the last")
            }
            Why::Overlap => f.write_str("fragment overlaps another"),
            Why::Discarded => f.write_str("fragment of a datagram that was discarded"),
            Why::End => f.write_str("fragments disagree about the end of the datagram"),
            Why::Ecn => f.write_str("fragments disagree about ECN"),
            Why::TooLarge => f.write_str("fragment is larger than the memory for one source"),
            Why::Malformed(malformed) => write!(f, "reassembled packet: {malformed}"),
            Why::Nested => f.write_str("reassembled packet is a fragment again"),
        }
    }
}

impl std::error::Error for Why {}

/// What became of fragments and datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Fragments given in.
    pub fragments: u64,
    /// Datagrams put together.
    pub reassembled: u64,
    /// Fragments that came again, exactly alike, and were ignored.
    pub duplicates: u64,
    /// Fragments refused for [`Why::Empty`], [`Why::Length`] or [`Why::TooLarge`].
    pub malformed: u64,
    /// Datagrams discarded for [`Why::Overlap`].
    pub overlaps: u64,
    /// Datagrams discarded for [`Why::End`], [`Why::Ecn`], [`Why::Malformed`] or [`Why::Nested`].
    pub inconsistent: u64,
    /// Fragments of datagrams discarded before.
    pub late: u64,
    /// Datagrams that ran out of time.
    pub timeouts: u64,
    /// Datagrams that gave way to others for want of memory.
    pub evicted: u64,
}

/// A datagram put together.
#[derive(Clone, Copy, Debug)]
pub struct Reassembled<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol of the payload, behind any extension headers.
    pub protocol: u8,
    /// Time to live or hop limit of the first fragment.
    pub ttl: u8,
    /// Type of service or traffic class of the first fragment; congestion experienced if any fragment says so.
    pub tos: u8,
    /// The payload.
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// 0 for IPv6, where fragments need not agree (RFC 8200 section 4.5).
    protocol: u8,
}

/// What the first fragment says for the whole.
#[derive(Clone, Copy, Debug)]
struct First {
    protocol: u8,
    ttl: u8,
    tos: u8,
}

#[derive(Debug)]
struct Datagram {
    number: u64,
    deadline: Instant,
    /// By offset; disjoint.
    fragments: BTreeMap<u16, Box<[u8]>>,
    received: usize,
    total: Option<usize>,
    first: Option<First>,
    /// One bit for each ECN field seen.
    ecn: u8,
    discarded: bool,
    cost: usize,
}

/// Puts fragments together. Owned by one thread.
///
/// Give it fragments with [`handle_fragment`](Reassembler::handle_fragment), and call
/// [`handle_timeout`](Reassembler::handle_timeout) when [`poll_timeout`](Reassembler::poll_timeout) says.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    datagrams: HashMap<Key, Datagram>,
    /// Datagrams under way by number, that is by age and, within one version, by deadline: IPv4, IPv6.
    ages: [BTreeMap<u64, Key>; 2],
    sources: HashMap<IpAddr, usize>,
    cost: usize,
    number: u64,
    counters: Counters,
    whole: Vec<u8>,
}

impl Reassembler {
    /// A reassembler within `limits`.
    pub fn new(limits: Limits) -> Reassembler {
        Reassembler {
            limits,
            datagrams: HashMap::new(),
            ages: Default::default(),
            sources: HashMap::new(),
            cost: 0,
            number: 0,
            counters: Counters::default(),
            whole: Vec::new(),
        }
    }

    /// Takes a fragment in, and lends out the datagram if that completes it. `Ok(None)`: it is not complete yet, or
    /// this fragment came before.
    ///
    /// # Errors
    /// Each variant of [`Why`].
    pub fn handle_fragment(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
    ) -> Result<Option<Reassembled<'_>>, Why> {
        let Some(fragment) = packet.fragment else { return Err(Why::NotAFragment) };
        self.counters.fragments += 1;
        let len = packet.payload.len();
        let cost = len + FRAGMENT_COST;
        let refusal = if len == 0 {
            Some(Why::Empty)
        } else if fragment.more && !len.is_multiple_of(8) {
            Some(Why::Length(len))
        } else if cost + DATAGRAM_COST > self.limits.bytes_per_source.min(self.limits.bytes) {
            Some(Why::TooLarge)
        } else {
            None
        };
        if let Some(why) = refusal {
            self.counters.malformed += 1;
            return Err(why);
        }
        self.handle_timeout(now);
        let key = Key {
            src: packet.src,
            dst: packet.dst,
            id: fragment.id,
            protocol: if packet.src.is_ipv4() { packet.protocol } else { 0 },
        };
        self.ensure(now, key);
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Err(Why::Discarded) };
        match datagram.add(fragment, packet) {
            Ok(true) => {}
            Ok(false) => {
                self.counters.duplicates += 1;
                return Ok(None);
            }
            Err(why) => {
                match why {
                    Why::Discarded => self.counters.late += 1,
                    Why::Overlap => self.counters.overlaps += 1,
                    _ => self.counters.inconsistent += 1,
                }
                self.discard(key);
                return Err(why);
            }
        }
        if datagram.total != Some(datagram.received) {
            self.charge(key, cost);
            self.make_room(key);
            return Ok(None);
        }
        self.complete(key)
    }

    /// When [`Reassembler::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.oldest_of_each()
            .filter_map(|(_, key)| self.datagrams.get(key))
            .map(|datagram| datagram.deadline)
            .min()
    }

    /// Gives up datagrams whose time has run out.
    pub fn handle_timeout(&mut self, now: Instant) {
        loop {
            let late = self
                .oldest_of_each()
                .map(|(_, key)| *key)
                .find(|key| self.datagrams.get(key).is_none_or(|datagram| datagram.deadline <= now));
            let Some(key) = late else { return };
            self.counters.timeouts += u64::from(self.remove(key).is_some_and(|datagram| !datagram.discarded));
        }
    }

    /// What became of fragments and datagrams so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Memory in use for datagrams under way, in bytes; never more than [`Limits::bytes`].
    pub fn memory(&self) -> usize {
        self.cost
    }

    /// Datagrams under way.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Makes sure that there is a place for `key`.
    fn ensure(&mut self, now: Instant, key: Key) {
        if self.datagrams.contains_key(&key) {
            return;
        }
        while self.datagrams.len() >= self.limits.datagrams.max(1) {
            self.evict_oldest(None, key);
        }
        let v4 = key.src.is_ipv4();
        self.number += 1;
        let deadline = now + if v4 { self.limits.timeout_v4 } else { self.limits.timeout_v6 };
        self.ages[usize::from(!v4)].insert(self.number, key);
        let datagram = Datagram {
            number: self.number,
            deadline,
            fragments: BTreeMap::new(),
            received: 0,
            total: None,
            first: None,
            ecn: 0,
            discarded: false,
            cost: 0,
        };
        self.datagrams.insert(key, datagram);
        self.charge(key, DATAGRAM_COST);
        self.make_room(key);
    }

    fn charge(&mut self, key: Key, cost: usize) {
        if let Some(datagram) = self.datagrams.get_mut(&key) {
            datagram.cost += cost;
            self.cost += cost;
            *self.sources.entry(key.src).or_default() += cost;
        }
    }

    fn refund(&mut self, src: IpAddr, cost: usize) {
        self.cost -= cost;
        if let Some(used) = self.sources.get_mut(&src) {
            *used -= cost;
            if *used == 0 {
                self.sources.remove(&src);
            }
        }
    }

    /// Evicts others until the bounds hold again, and at last `key` itself.
    fn make_room(&mut self, key: Key) {
        while self.sources.get(&key.src).is_some_and(|used| *used > self.limits.bytes_per_source) {
            self.evict_oldest(Some(key.src), key);
        }
        while self.cost > self.limits.bytes {
            self.evict_oldest(None, key);
        }
    }

    /// Evicts the oldest datagram (of one source), `last` only if there is no other.
    fn evict_oldest(&mut self, source: Option<IpAddr>, last: Key) {
        let oldest = self
            .ages
            .iter()
            .filter_map(|ages| {
                ages.iter().find(|(_, key)| **key != last && source.is_none_or(|source| key.src == source))
            })
            .min_by_key(|(number, _)| **number)
            .map_or(last, |(_, key)| *key);
        self.remove(oldest);
        self.counters.evicted += 1;
    }

    fn remove(&mut self, key: Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(&key)?;
        self.ages[usize::from(key.src.is_ipv6())].remove(&datagram.number);
        self.refund(key.src, datagram.cost);
        Some(datagram)
    }

    /// Drops what has come of a datagram, and remembers to drop the rest until its time is over.
    fn discard(&mut self, key: Key) {
        let Some(datagram) = self.datagrams.get_mut(&key) else { return };
        datagram.discarded = true;
        datagram.fragments.clear();
        let freed = datagram.cost - DATAGRAM_COST;
        datagram.cost = DATAGRAM_COST;
        self.refund(key.src, freed);
    }

    fn complete(&mut self, key: Key) -> Result<Option<Reassembled<'_>>, Why> {
        let Some(datagram) = self.remove(key) else { return Ok(None) };
        let Some(first) = datagram.first else { return Ok(None) };
        self.whole.clear();
        for bytes in datagram.fragments.values() {
            self.whole.extend_from_slice(bytes);
        }
        let (mut protocol, mut payload) = (first.protocol, self.whole.as_slice());
        if key.src.is_ipv6() {
            let upper = ipv6::upper(protocol, payload, false).map_err(Why::Malformed);
            let upper =
                upper.and_then(|upper| if upper.fragment.is_some() { Err(Why::Nested) } else { Ok(upper) });
            let upper = upper.inspect_err(|_| self.counters.inconsistent += 1)?;
            (protocol, payload) = (upper.protocol, upper.payload);
        }
        self.counters.reassembled += 1;
        let congestion = if datagram.ecn & CE != 0 { 3 } else { 0 };
        Ok(Some(Reassembled {
            src: key.src,
            dst: key.dst,
            protocol,
            ttl: first.ttl,
            tos: first.tos | congestion,
            payload,
        }))
    }

    fn oldest_of_each(&self) -> impl Iterator<Item = (&u64, &Key)> {
        self.ages.iter().filter_map(|ages| ages.first_key_value())
    }
}

/// Bits of [`Datagram::ecn`]: not ECN-capable, congestion experienced (RFC 3168 section 5).
const NOT_ECT: u8 = 1 << 0;
const CE: u8 = 1 << 3;

impl Datagram {
    /// Stores a fragment; `false` where it is there already.
    fn add(&mut self, fragment: Fragment, packet: &Packet<'_>) -> Result<bool, Why> {
        if self.discarded {
            return Err(Why::Discarded);
        }
        let (start, len) = (usize::from(fragment.offset), packet.payload.len());
        let end = start + len;
        let before = self.fragments.range(..=fragment.offset).next_back();
        if let Some((offset, bytes)) = before {
            // RFC 8200 section 4.5 lets exact duplicates pass, since networks do duplicate.
            let ends_alike = fragment.more == (self.total != Some(end));
            if *offset == fragment.offset && **bytes == *packet.payload && ends_alike {
                return Ok(false);
            }
            if usize::from(*offset) + bytes.len() > start {
                return Err(Why::Overlap);
            }
        }
        let after = self.fragments.range(fragment.offset..).next();
        if after.is_some_and(|(offset, _)| usize::from(*offset) < end) {
            return Err(Why::Overlap);
        }
        let reached = self.fragments.last_key_value().map_or(0, |(at, bytes)| usize::from(*at) + bytes.len());
        match self.total {
            Some(total) if end > total || !fragment.more => return Err(Why::End),
            None if !fragment.more && reached > end => return Err(Why::End),
            _ => {}
        }
        self.ecn |= 1 << (packet.tos & 3);
        if self.ecn & (NOT_ECT | CE) == NOT_ECT | CE {
            return Err(Why::Ecn);
        }
        if !fragment.more {
            self.total = Some(end);
        }
        if start == 0 {
            self.first = Some(First { protocol: packet.protocol, ttl: packet.ttl, tos: packet.tos });
        }
        self.fragments.insert(fragment.offset, packet.payload.into());
        self.received += len;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
