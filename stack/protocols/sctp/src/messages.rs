//! Which message the bytes belong to that are sent next, and what a program is given of one that has come.
//!
//! A program that knows nothing of SCTP writes and reads bytes: each chunk sent is a message of its own on stream 0. One that has
//! opened an SCTP socket has messages, each behind a head (`freena_shm_abi::message`); their fragments are chunks with following
//! sequence numbers (RFC 9260 section 6.9).

use crate::wire::{Data, data};
use freena_shm_abi::message::{HEAD, Head, flag};
use std::collections::HashMap;
use zerocopy::{FromZeros, IntoBytes};

/// What a chunk says besides its bytes and sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) stream: u16,
    /// Number of the message in its stream.
    pub(crate) number: u16,
    /// Payload protocol identifier.
    pub(crate) protocol: [u8; 4],
    /// Of section 3.3.1.
    pub(crate) flags: u8,
}

/// A head that the library does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// How what is written falls into messages.
#[derive(Debug)]
pub(crate) struct Messages {
    /// As the program has them; otherwise each chunk is one.
    framed: bool,
    /// Position behind the one that is being sent, if there is one.
    end: Option<u64>,
    /// What its next chunk says.
    label: Label,
    /// The number of the next message of each stream that was used.
    numbers: HashMap<u16, u16>,
}

impl Messages {
    pub(crate) fn new(framed: bool) -> Self {
        let label = Label { stream: 0, number: 0, protocol: [0; 4], flags: data::BEGIN };
        Messages { framed, end: None, label, numbers: HashMap::new() }
    }

    pub(crate) fn are_framed(&self) -> bool {
        self.framed
    }

    /// Reads the head at `next`, if a message begins there; returns where its bytes begin.
    ///
    /// # Errors
    /// There is no message that could be sent.
    pub(crate) fn begin(
        &mut self,
        next: u64,
        written: u64,
        streams: u16,
        load: impl FnOnce(u64, &mut [u8]) -> bool,
    ) -> Result<u64, Unreadable> {
        if !self.framed || self.end.is_some() || next == written {
            return Ok(next);
        }
        let mut head = Head::new_zeroed();
        let start = next + HEAD as u64;
        if start > written || !load(next, head.as_mut_bytes()) {
            return Err(Unreadable);
        }
        let end = start + u64::from(head.length);
        if end == start || end > written || head.stream >= streams {
            return Err(Unreadable);
        }
        let unordered = head.flags & flag::UNORDERED != 0;
        let number = if unordered { 0 } else { self.numbers.get(&head.stream).copied().unwrap_or(0) };
        if !unordered {
            self.numbers.insert(head.stream, number.wrapping_add(1));
        }
        self.end = Some(end);
        self.label = Label {
            stream: head.stream,
            number,
            protocol: head.payload_protocol.to_ne_bytes(),
            flags: data::BEGIN | if unordered { data::UNORDERED } else { 0 },
        };
        Ok(start)
    }

    /// Position behind what may go with the next chunk.
    pub(crate) fn end(&self, written: u64) -> u64 {
        if self.framed { self.end.unwrap_or(written) } else { written }
    }

    /// What the next chunk says. `last`: it takes all that is left of the message.
    pub(crate) fn label(&self, last: bool) -> Label {
        let end = if last || !self.framed { data::END } else { 0 };
        Label { flags: self.label.flags | end, ..self.label }
    }

    /// What lies before `next` was sent.
    pub(crate) fn sent(&mut self, next: u64) {
        if !self.framed {
            self.label.number = self.label.number.wrapping_add(1);
            return;
        }
        self.label.flags &= !data::BEGIN;
        if self.end == Some(next) {
            self.end = None;
        }
    }
}

/// A chunk that has arrived, as a program gets it: behind a head.
pub(crate) fn piece(data: &Data<'_>) -> Vec<u8> {
    let flags = [(data::END, flag::END), (data::BEGIN, flag::BEGIN), (data::UNORDERED, flag::UNORDERED)];
    let head = Head {
        length: data.bytes.len() as u32,
        payload_protocol: u32::from_ne_bytes(data.protocol),
        sequence: data.sequence,
        stream: data.stream,
        number: data.number,
        flags: flags.iter().filter(|(bit, _)| data.flags & bit != 0).map(|(_, flag)| flag).sum(),
        pad: 0,
    };
    let mut piece = Vec::with_capacity(HEAD + data.bytes.len());
    piece.extend_from_slice(head.as_bytes());
    piece.extend_from_slice(data.bytes);
    piece
}

/// Whether a message ends with this piece.
pub(crate) fn is_last(piece: &[u8]) -> bool {
    let mut head = Head::new_zeroed();
    head.as_mut_bytes().copy_from_slice(&piece[..HEAD]);
    head.flags & flag::END != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the library writes it.
    fn message(stream: u16, flags: u16, length: u32) -> Vec<u8> {
        let head = Head {
            length,
            payload_protocol: u32::from_ne_bytes([0, 0, 0, 46]),
            stream,
            flags,
            ..Head::default()
        };
        [head.as_bytes(), &vec![7; length as usize]].concat()
    }

    fn begin(messages: &mut Messages, next: u64, all: &[u8]) -> Result<u64, Unreadable> {
        messages.begin(next, all.len() as u64, 10, |at, to| {
            let from = all.get(at as usize..at as usize + to.len());
            from.is_some_and(|from| {
                to.copy_from_slice(from);
                true
            })
        })
    }

    #[test]
    fn messages_are_numbered_by_stream_and_cut_into_fragments() {
        let all = [message(3, 0, 100), message(3, flag::UNORDERED, 10), message(3, 0, 5), message(4, 0, 5)]
            .concat();
        let mut messages = Messages::new(true);
        let mut next = begin(&mut messages, 0, &all).unwrap();
        assert_eq!((next, messages.end(all.len() as u64)), (20, 120));
        let first = messages.label(false);
        assert_eq!(
            (first.stream, first.number, first.protocol, first.flags),
            (3, 0, [0, 0, 0, 46], data::BEGIN)
        );
        messages.sent(80);
        assert_eq!(begin(&mut messages, 80, &all), Ok(80), "it is not over");
        assert_eq!(messages.label(true).flags, data::END);
        messages.sent(120);
        next = begin(&mut messages, 120.max(next), &all).unwrap();
        assert_eq!(messages.label(true).flags, data::BEGIN | data::END | data::UNORDERED);
        messages.sent(next + 10);
        next = begin(&mut messages, next + 10, &all).unwrap();
        assert_eq!((messages.label(true).stream, messages.label(true).number), (3, 1));
        messages.sent(next + 5);
        next = begin(&mut messages, next + 5, &all).unwrap();
        assert_eq!((messages.label(true).stream, messages.label(true).number), (4, 0));
        messages.sent(next + 5);
        assert_eq!(begin(&mut messages, all.len() as u64, &all), Ok(all.len() as u64));
    }

    #[test]
    fn heads_that_make_no_sense_are_refused() {
        for bad in [message(10, 0, 1), message(0, 0, 0), vec![0; 19], message(0, 0, 9)[..28].to_vec()] {
            assert_eq!(begin(&mut Messages::new(true), 0, &bad), Err(Unreadable));
        }
        assert_eq!(begin(&mut Messages::new(false), 0, &[1; 30]), Ok(0), "bytes have none");
    }
}
