//! Measures what the framework is worth, on the machine at hand, against the kernel on the same wire.
//!
//! Three layers, each usable alone:
//!
//! - [`programs`]: what the binaries `freena-perf-send`, `freena-perf-recv` and `freena-perf-pingpong` share. They are
//!   ordinary socket programs and know nothing of freena; the same binary runs bare and under `freena run`.
//! - [`lab`]: two hosts made of network namespaces joined by one veth pair, removed again whatever happens.
//! - [`bench`]: runs every series interleaved on one lab and makes a table, a JSON file and a plot of the outcome.
#![deny(unsafe_code)]

pub mod bench;
pub mod lab;
pub mod programs;
