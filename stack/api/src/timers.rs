//! The deadlines of all connections, in one ordered set.

use std::collections::BTreeSet;
use std::time::Instant;

/// Deadlines by owner, the earliest first. Each owner has at most one entry, kept beside its other state.
///
/// An entry may be earlier than what its owner waits for: a time-out that is pushed back by every acknowledgement costs
/// nothing until the first of these moments comes, and is entered anew then.
#[derive(Debug)]
pub struct Timers<O> {
    entries: BTreeSet<(Instant, O)>,
}

impl<O> Default for Timers<O> {
    fn default() -> Self {
        Timers { entries: BTreeSet::new() }
    }
}

impl<O: Copy + Ord> Timers<O> {
    /// Sees to it that `owner` is woken at `deadline` or earlier. `queued` is the owner's entry.
    #[inline]
    pub fn schedule(&mut self, owner: O, queued: &mut Option<Instant>, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        match *queued {
            Some(at) if at <= deadline => return,
            Some(at) => {
                self.entries.remove(&(at, owner));
            }
            None => {}
        }
        self.entries.insert((deadline, owner));
        *queued = Some(deadline);
    }

    /// Forgets the owner's entry.
    pub fn cancel(&mut self, owner: O, queued: &mut Option<Instant>) {
        if let Some(at) = queued.take() {
            self.entries.remove(&(at, owner));
        }
    }

    /// The earliest entry.
    #[inline]
    pub fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Takes an entry that is due; its owner must forget it.
    pub fn pop(&mut self, now: Instant) -> Option<O> {
        let &(at, owner) = self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(owner)
    }
}
