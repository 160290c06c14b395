//! The pages that every program maps read-only.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Written by the server alone; the memfd carries `F_SEAL_FUTURE_WRITE` (Linux 5.1), so no program can map it writable.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ServerPage {
    /// [`crate::MAGIC`].
    pub magic: AtomicU64,
    /// [`crate::ABI_VERSION`].
    pub version: AtomicU32,
    /// Worker threads, and so receive rings per socket.
    pub workers: AtomicU32,
    /// Changes whenever an answer to [`crate::control::op::ROUTE`] may have become wrong.
    pub route_epoch: AtomicU64,
    /// How often a datagram socket of some program got an error to be told of (`POLLERR`).
    pub errors: AtomicU64,
    /// UDP ports that some socket of this server is bound to, at whatever address.
    pub udp_ports: PortSet,
}

const _: () = assert!(size_of::<ServerPage>() == 3 * 4096);

/// A bit for each port.
#[derive(Debug)]
#[repr(transparent)]
pub struct PortSet([AtomicU32; 1 << 11]);

impl PortSet {
    /// An empty set.
    pub const fn new() -> Self {
        PortSet([const { AtomicU32::new(0) }; 1 << 11])
    }

    fn word(&self, port: u16) -> (&AtomicU32, u32) {
        (&self.0[usize::from(port >> 5)], 1 << (port & 31))
    }

    /// Whether the port is in it.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        let (word, bit) = self.word(port);
        word.load(Ordering::Acquire) & bit != 0
    }

    /// Puts the port in.
    pub fn insert(&self, port: u16) {
        let (word, bit) = self.word(port);
        word.fetch_or(bit, Ordering::Release);
    }

    /// Takes the port out.
    pub fn remove(&self, port: u16) {
        let (word, bit) = self.word(port);
        word.fetch_and(!bit, Ordering::Release);
    }
}

impl Default for PortSet {
    fn default() -> Self {
        PortSet::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_in_the_set_until_it_is_taken_out() {
        let set = PortSet::new();
        for port in [0, 1, 31, 32, 53, 65_535] {
            assert!(!set.contains(port));
            set.insert(port);
            assert!(set.contains(port) && !set.contains(port ^ 2), "{port}");
        }
        set.remove(53);
        assert!(!set.contains(53) && set.contains(32));
    }
}
