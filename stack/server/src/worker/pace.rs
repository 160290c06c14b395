//! Waiting for programs that keep up, so that a stream goes through the first part of its ring only.
//!
//! A batch starts anew at the beginning of a ring that has been read empty (`Producer::begin_batch`). A program that reads on
//! another core while the worker writes is never far behind, but hardly ever done when a batch begins; the stream would then go
//! through the whole ring, through pages that have never been touched and that no cache holds. Waiting for the rest costs less. A
//! program that waits for this very core gets it.

use super::Worker;
use super::idle::Idle;
use freena_shm_ring::Producer;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far into its ring a stream may come before its program is waited for, and the most that it may have to read then, in
/// bytes. One turn brings about as much.
pub(super) const NEAR: u64 = 256 << 10;
/// The longest wait in one turn.
const PATIENCE: Duration = Duration::from_micros(50);

/// What is remembered of a program that has been waited for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Its head, when it last was.
    head: Option<u64>,
}

impl Pace {
    /// Whether to wait for a program that has read up to `head` and has `unread` bytes left: not for one that has read nothing
    /// since the last time, nor for one that is far behind.
    fn is_worth_waiting(&mut self, head: u64, unread: u64) -> bool {
        self.head.replace(head) != Some(head) && unread <= NEAR
    }
}

impl Worker {
    /// Gives way to the programs whose rings have filled.
    pub(super) fn give_way_to_readers(&mut self, idle: &Idle) {
        if self.pressed.is_empty() {
            return;
        }
        idle.give_way();
        let end = Instant::now() + PATIENCE;
        while let Some(key) = self.pressed.pop() {
            let Some(local) = self.table.get_mut(key) else { continue };
            let channel = local.socket.memory.rx(self.setup.index);
            let mut producer = Producer::new(channel, &mut local.rx);
            let head = channel.head().load(Ordering::Relaxed);
            if !local.pace.is_worth_waiting(head, producer.unread()) {
                continue;
            }
            while producer.unread() > 0 && Instant::now() < end {
                idle.give_way();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_keeps_up_is_waited_for() {
        let mut pace = Pace::default();
        assert!(
            pace.is_worth_waiting(0, 64) && pace.is_worth_waiting(64, 0) && pace.is_worth_waiting(128, NEAR)
        );
    }

    #[test]
    fn a_program_that_stands_still_is_waited_for_once() {
        let mut pace = Pace::default();
        assert!(pace.is_worth_waiting(64, 64));
        assert!(!pace.is_worth_waiting(64, 128) && !pace.is_worth_waiting(64, 192));
        assert!(pace.is_worth_waiting(128, 192));
    }

    #[test]
    fn a_program_that_is_far_behind_is_not_waited_for() {
        let mut pace = Pace::default();
        assert!(!pace.is_worth_waiting(64, NEAR + 64) && !pace.is_worth_waiting(128, 8 << 20));
    }
}
