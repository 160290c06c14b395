//! Shows what passes a link to whoever asks for it while the link is in use.

use crate::filter::Sight;
use freena_stack_api::{Burst, Chunk, Frame, Gso, Link, LinkInfo, LinkStats};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A packet that passed.
#[derive(Clone, Copy)]
pub struct Passed<'a> {
    /// What its headers tell.
    pub sight: Sight,
    /// The packet up to some point: all of one that arrived, the headers of one that was sent.
    pub header: &'a [u8],
    /// The rest.
    pub payload: &'a [Chunk<'a>],
    /// Payload bytes per segment of a super-packet, else 0.
    pub segment: u16,
}

/// The number of a link among those of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The thread that uses the link.
    pub worker: usize,
    /// The link.
    pub link: usize,
}

/// Takes copies of what passes. Called by the threads that carry it: it must neither block nor allocate.
pub trait Watcher: Send + Sync {
    /// A packet has passed.
    fn take(&self, place: Place, packet: &Passed<'_>);

    /// No more for now.
    fn flush(&self, place: Place);
}

/// The watchers of all links of a process.
#[derive(Default)]
pub struct Watchers {
    list: Mutex<Vec<Arc<dyn Watcher>>>,
    /// Counts changes of the list.
    changes: AtomicU64,
}

impl Watchers {
    /// Adds one: it sees what passes from now on.
    pub fn add(&self, watcher: Arc<dyn Watcher>) {
        self.change(|list| list.push(watcher));
    }

    /// Removes one. A link in the middle of a batch still shows it the rest; a link that sleeps keeps its reference until
    /// it is used again.
    pub fn remove(&self, watcher: &Arc<dyn Watcher>) {
        self.change(|list| list.retain(|other| !Arc::ptr_eq(other, watcher)));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<dyn Watcher>>)) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut list);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// A link that can be watched. While nobody does, that costs one load for each call.
pub struct Tap<L> {
    link: L,
    place: Place,
    watchers: Arc<Watchers>,
    /// The list as it was at the change that was last seen.
    watching: Vec<Arc<dyn Watcher>>,
    seen: u64,
}

impl<L: Link> Tap<L> {
    /// Wraps a link.
    pub fn new(link: L, place: Place, watchers: Arc<Watchers>) -> Self {
        Tap { link, place, watchers, watching: Vec::new(), seen: 0 }
    }

    /// Whether somebody watches.
    fn is_watched(&mut self) -> bool {
        let changes = self.watchers.changes.load(Ordering::Acquire);
        if changes != self.seen {
            self.seen = changes;
            self.watching = self.watchers.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        !self.watching.is_empty()
    }

    fn flush(&self) {
        self.watching.iter().for_each(|watcher| watcher.flush(self.place));
    }
}

impl<L: Link> Link for Tap<L> {
    fn info(&self) -> LinkInfo {
        self.link.info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        if !self.is_watched() {
            return self.link.receive(budget, sink);
        }
        let (place, watching) = (self.place, &self.watching);
        let received = self.link.receive(budget, &mut |frame| {
            let sight = Sight::new(frame.data, false);
            let packet = Passed { sight, header: frame.data, payload: &[], segment: frame.segment };
            watching.iter().for_each(|watcher| watcher.take(place, &packet));
            sink(frame);
        });
        self.flush();
        received
    }

    fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        let taken = self.link.transmit(bursts)?;
        if self.is_watched() {
            for burst in bursts.iter().take(taken) {
                let packet = Passed {
                    sight: Sight::new(burst.header, true),
                    header: burst.header,
                    payload: burst.payload,
                    segment: if burst.gso == Gso::None { 0 } else { burst.segment },
                };
                self.watching.iter().for_each(|watcher| watcher.take(self.place, &packet));
            }
            self.flush();
        }
        Ok(taken)
    }

    fn wait_fd(&self) -> RawFd {
        self.link.wait_fd()
    }

    fn stats(&self) -> LinkStats {
        self.link.stats()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.link.poll_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::{Loopback, datagram};

    #[derive(Default)]
    struct Notes(Mutex<Vec<(bool, usize, u16)>>);

    impl Watcher for Notes {
        fn take(&self, place: Place, packet: &Passed<'_>) {
            assert_eq!(place, Place { worker: 1, link: 2 });
            let len = packet.header.len() + packet.payload.iter().map(Chunk::len).sum::<usize>();
            self.0.lock().unwrap().push((packet.sight.outbound, len, packet.segment));
        }
        fn flush(&self, _: Place) {}
    }

    #[test]
    fn watchers_come_and_go_while_the_link_works() {
        let mut link = Loopback { takes: Some(1), ..Default::default() };
        link.arrived.extend([vec![1; 60], vec![2; 70], vec![3; 80]]);
        let watchers = Arc::new(Watchers::default());
        let mut tap = Tap::new(link, Place { worker: 1, link: 2 }, watchers.clone());
        assert_eq!(tap.receive(1, &mut |_| {}).unwrap(), 1);
        let notes = Arc::new(Notes::default());
        let watcher: Arc<dyn Watcher> = notes.clone();
        watchers.add(watcher.clone());
        assert_eq!(tap.receive(1, &mut |_| {}).unwrap(), 1);
        let (header, payload) = (datagram(100), [7; 100]);
        let chunks = [Chunk::new(&payload)];
        let burst = Burst {
            header: &header,
            l3: 14,
            l4: 34,
            checksum: 6,
            payload: &chunks,
            payload_len: 100,
            segment: 40,
            gso: Gso::Udp,
        };
        // What the link did not take did not pass.
        assert_eq!(tap.transmit(&[burst, burst]).unwrap(), 1);
        watchers.remove(&watcher);
        assert_eq!(tap.receive(1, &mut |_| {}).unwrap(), 1);
        assert_eq!(*notes.0.lock().unwrap(), [(false, 70, 0), (true, 142, 40)]);
    }
}
