//! SCTP (RFC 9260), sans-IO, as a carrier of streams of bytes.
//!
//! What a program writes is sent as user messages on stream 0, cut where packets end; what arrives, on whatever stream, is one
//! stream of bytes in the order in which the peer sent it: what recv(2) on a one-to-one socket gives to a program that does not
//! ask for message boundaries (RFC 6458 section 4). What the program has written stays in its transmit ring until it is
//! acknowledged, and is sent again from there; packets are composed here, since their checksum covers the payload.
//!
//! It is driven as [`Protocol`](freena_stack_api::stream::Protocol) says.
#![forbid(unsafe_code)]

mod association;
mod cookie;
mod engine;
mod env;
mod input;
mod messages;
mod output;
mod protocol;
mod receiver;
mod sender;
mod wire;

/// All associations and listeners of one worker.
#[derive(Debug)]
pub struct Sctp {
    engine: engine::Engine,
}

/// What is fixed for the life of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Random bytes, for tags, initial sequence numbers and the signature of state cookies.
    pub secret: [u8; 32],
    /// Most associations; `ENOBUFS` and dropped cookies beyond.
    pub max_connections: usize,
}

impl Sctp {
    /// An engine without associations.
    pub fn new(config: Config) -> Self {
        Sctp { engine: engine::Engine::new(config) }
    }
}

#[cfg(test)]
mod tests {
    /// A moment to begin at.
    #[expect(clippy::disallowed_methods, reason = "there is no other way to have an `Instant`")]
    pub(crate) fn epoch() -> std::time::Instant {
        std::time::Instant::now()
    }
}
