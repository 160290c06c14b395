//! What the services crypto and auth have in common: keys in files, ciphers and authenticators with one face, numbered
//! messages of streams, epochs and replay windows of datagrams.
//!
//! The key schedule of streams binds role, direction, cipher and both ends' random numbers; that of datagrams binds the
//! sender's epoch. docs/threat-model.md says what that holds against, and what not.

mod cipher;
mod datagram;
mod flow;
mod hidden;
mod keys;
mod stream;
mod window;

pub use cipher::Suite;
pub use flow::{Secured, parameters};

#[cfg(test)]
mod tests;
