//! Packets that a library wants sent, asked for several at a time.

use crate::abi::{FREENA_MAX_HEADER, FREENA_NONE, FreenaFlow, FreenaTransmit};
use std::mem::MaybeUninit;

/// Most packets asked for at a time.
pub(crate) const SIZE: usize = 64;

/// What was asked for and not yet handed on.
pub(crate) struct Batch {
    packets: Box<[FreenaTransmit; SIZE]>,
    next: usize,
    end: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let none = FreenaTransmit {
            connection: FREENA_NONE,
            header_length: 0,
            ttl: 0,
            tos: 0,
            pad: 0,
            flow: FreenaFlow { local: [0; 16], peer: [0; 16], local_port: 0, peer_port: 0 },
            length: 0,
            position: 0,
            header: [0; FREENA_MAX_HEADER],
        };
        Batch { packets: Box::new([none; SIZE]), next: 0, end: 0 }
    }

    /// Room for the library to write to. What was not handed on is forgotten.
    pub(crate) fn room(&mut self) -> *mut FreenaTransmit {
        (self.next, self.end) = (0, 0);
        self.packets.as_mut_ptr()
    }

    /// The library has written so many.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = count.min(SIZE);
    }

    pub(crate) fn pop(&mut self) -> Option<FreenaTransmit> {
        let packet = self.packets[..self.end].get(self.next)?;
        self.next += 1;
        Some(*packet)
    }

    /// Forgets the packets of a connection that is released.
    pub(crate) fn forget(&mut self, connection: u32) {
        for packet in &mut self.packets[self.next..self.end] {
            if packet.connection == connection {
                // Of no length, from nowhere: it is skipped.
                packet.header_length = 0;
            }
        }
    }
}

/// Room for events on the stack.
pub(crate) type Room<T, const N: usize> = [MaybeUninit<T>; N];
