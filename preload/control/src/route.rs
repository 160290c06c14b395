//! Which way datagrams to an address go: the server's answers, kept until it says that they may be wrong.

use crate::client;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use freena_shm_abi::Endpoint;
use freena_shm_abi::control::{Request, Response, op, verdict};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the server.
    Server,
    /// Through the kernel.
    Kernel,
    /// It is on this host: through the server where a program under freena has the port.
    ThisHost,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which way.
    pub way: Way,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// The epoch that it belongs to.
    pub epoch: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Destination, IPv4-mapped for IPv4.
    pub to: [u8; 16],
    /// Its scope.
    pub scope: u32,
    /// Source address, all zeros for any.
    pub from: [u8; 16],
    /// Interface, 0 for any.
    pub ifindex: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    query: Query,
    prefix_len: u16,
    route: Route,
}

/// Entries kept. A program that talks to more prefixes than this asks the server again for some.
const ENTRIES: usize = 64;

/// Read without a lock under a sequence counter; written under the process's lock.
struct Place {
    sequence: AtomicU32,
    entry: UnsafeCell<Entry>,
}

// SAFETY: `entry` is copied with volatile reads and believed only if `sequence` was even and unchanged.
unsafe impl Sync for Place {}

const EMPTY: Entry = Entry {
    query: Query { to: [0; 16], scope: 0, from: [0; 16], ifindex: 0 },
    prefix_len: 0,
    // Never equal to a server's epoch.
    route: Route { way: Way::Kernel, mtu: 0, epoch: u64::MAX },
};

static CACHE: [Place; ENTRIES] =
    [const { Place { sequence: AtomicU32::new(0), entry: UnsafeCell::new(EMPTY) } }; ENTRIES];
static NEXT: AtomicU32 = AtomicU32::new(0);
static UNATTACHED: AtomicU64 = AtomicU64::new(0);

/// The server's present epoch: an answer with another one is not to be used.
#[inline]
pub fn epoch() -> u64 {
    client::server_page().map_or(&UNATTACHED, |page| &page.route_epoch).load(Ordering::Acquire)
}

impl Route {
    /// Whether datagrams to `port` go through the server.
    #[inline]
    pub fn is_fast(&self, port: u16) -> bool {
        match self.way {
            Way::Server => true,
            Way::Kernel => false,
            Way::ThisHost => client::server_page().is_some_and(|page| page.udp_ports.contains(port)),
        }
    }
}

/// Looks an address up, asking the server if need be.
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn resolve(query: &Query) -> Result<Route, client::Failure> {
    let now = epoch();
    for place in &CACHE {
        if let Some(entry) = place.read()
            && entry.route.epoch == now
            && entry.answers(query)
        {
            return Ok(entry.route);
        }
    }
    ask(query)
}

#[cold]
fn ask(query: &Query) -> Result<Route, client::Failure> {
    let endpoint = |addr: [u8; 16], scope| {
        if addr == [0; 16] && scope == 0 {
            return Endpoint::NONE;
        }
        let ip = freena_shm_abi::endpoint::ip_of(&addr);
        Endpoint { addr, scope, port: 0, family: if ip.is_ipv4() { 4 } else { 6 }, pad: 0 }
    };
    // The unspecified IPv6 address is a destination too (it means loopback), so the family is always given.
    let mut peer = endpoint(query.to, query.scope);
    if peer.family == 0 {
        peer.family = 6;
    }
    let request =
        Request { peer, local: endpoint(query.from, 0), ifindex: query.ifindex, ..Request::new(op::ROUTE) };
    let connection = client::open()?;
    let response: Response = connection.call(&request, &[])?.response;
    let way = match response.verdict {
        verdict::FAST => Way::Server,
        verdict::LOCAL => Way::ThisHost,
        _ => Way::Kernel,
    };
    let route = Route { way, mtu: response.mtu, epoch: response.epoch };
    let place = &CACHE[NEXT.fetch_add(1, Ordering::Relaxed) as usize % ENTRIES];
    // Still under the process's lock, which `connection` holds: nobody else writes.
    place.write(Entry { query: *query, prefix_len: response.prefix_len.min(128), route });
    Ok(route)
}

/// Forgets everything: another server answers now.
pub(crate) fn clear() {
    for place in &CACHE {
        place.write(EMPTY);
    }
}

impl Entry {
    fn answers(&self, query: &Query) -> bool {
        let shift = 128 - u32::from(self.prefix_len);
        let differ = u128::from_be_bytes(self.query.to) ^ u128::from_be_bytes(query.to);
        differ.checked_shr(shift).unwrap_or(0) == 0
            && self.query.scope == query.scope
            && self.query.from == query.from
            && self.query.ifindex == query.ifindex
    }
}

impl Place {
    fn read(&self) -> Option<Entry> {
        let before = self.sequence.load(Ordering::Acquire);
        if before & 1 != 0 {
            return None;
        }
        // SAFETY: the cell is always mapped and any bytes in it are plain integers and one `Way`; that one may be
        // torn only if the sequence moves, and then the copy is dropped below, as `MaybeUninit`, before it is looked at.
        let copy =
            unsafe { core::ptr::read_volatile(self.entry.get().cast::<core::mem::MaybeUninit<Entry>>()) };
        fence(Ordering::Acquire);
        if self.sequence.load(Ordering::Relaxed) != before {
            return None;
        }
        // SAFETY: no write happened during the copy, so it is the value that was last written whole.
        Some(unsafe { copy.assume_init() })
    }

    fn write(&self, entry: Entry) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        // SAFETY: only one thread writes, under the process's lock; readers are told by the odd sequence.
        unsafe { core::ptr::write_volatile(self.entry.get(), entry) };
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> [u8; 16] {
        core::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets()
    }

    #[test]
    fn an_answer_holds_for_its_prefix_and_for_nothing_else() {
        let query = Query { to: v4(1), scope: 0, from: [0; 16], ifindex: 0 };
        let route = Route { way: Way::Server, mtu: 1500, epoch: 1 };
        let entry = Entry { query, prefix_len: 120, route };
        assert!(entry.answers(&Query { to: v4(200), ..query }));
        assert!(!entry.answers(&Query { to: [0; 16], ..query }));
        assert!(!entry.answers(&Query { ifindex: 3, ..query }));
        assert!(!entry.answers(&Query { from: v4(9), ..query }));
        let exact = Entry { query, prefix_len: 128, route };
        assert!(exact.answers(&query) && !exact.answers(&Query { to: v4(2), ..query }));
        let all = Entry { query, prefix_len: 0, route };
        assert!(all.answers(&Query { to: [0xff; 16], ..query }));
    }

    #[test]
    fn a_place_returns_what_was_written() {
        let place = Place { sequence: AtomicU32::new(0), entry: UnsafeCell::new(EMPTY) };
        let query = Query { to: v4(1), scope: 0, from: [0; 16], ifindex: 0 };
        place.write(Entry { query, prefix_len: 96, route: Route { way: Way::Server, mtu: 9000, epoch: 7 } });
        let read = place.read().map(|entry| (entry.prefix_len, entry.route.mtu));
        assert_eq!(read, Some((96, 9000)));
        place.sequence.store(3, Ordering::Relaxed);
        assert!(place.read().is_none());
    }
}
