//! Transport protocols as libraries.
//!
//! A protocol written in C, or in whatever can export C functions, is loaded from a plug-in folder ([`Libraries`]) and
//! driven behind the same boundary as our own ones: [`Engine`] is a `freena_stack_api::stream::Protocol`. The interface is
//! [`abi`], of which `include/freena_protocol.h` is made.
//!
//! What a library does is checked where it would reach beyond its own connections: numbers of connections, positions,
//! lengths, the order of events. A library that breaks the contract, crashes or does not return is not called again: its
//! connections are reset, and others do not notice ([`guard`] says how far that goes).

pub mod abi;
mod batch;
mod checksum;
mod connection;
mod convert;
mod engine;
pub mod guard;
mod host;
mod library;

pub use engine::{Config, Engine};
pub use library::{DEFAULT_FOLDER, Libraries, Library, LoadError, MAX_FILE_NAME, MAX_NAME, SYMBOL};
