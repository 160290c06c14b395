//! What an engine has to tell its driver, in order.

use crate::stream::{Event, Handle};
use std::collections::VecDeque;

/// Events that wait to be polled. Of what has arrived and what is acknowledged, a connection keeps one event waiting at most:
/// the engine fills its position in when it is polled.
#[derive(Debug, Default)]
pub struct Events(VecDeque<Event>);

impl Events {
    /// Something has happened.
    pub fn push(&mut self, event: Event) {
        self.0.push_back(event);
    }

    /// Bytes have arrived in order. `told`: whether such an event of the connection waits already.
    pub fn received(&mut self, connection: Handle, told: &mut bool) {
        if !std::mem::replace(told, true) {
            self.push(Event::Received { connection, position: 0 });
        }
    }

    /// Bytes were acknowledged. `told` as above.
    pub fn acknowledged(&mut self, connection: Handle, told: &mut bool) {
        if !std::mem::replace(told, true) {
            self.push(Event::Acknowledged { connection, position: 0 });
        }
    }

    /// The oldest one.
    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}
