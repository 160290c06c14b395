//! Framework against kernel, in one run, on one veth pair.
//!
//! Machines drift by a factor of two with what else runs on them, so series are interleaved: for each size every series
//! runs once a round, the order reversed from round to round, and the run with the median throughput stands for the
//! series. The servers of the framework run only while it is measured: an XDP program on the pair changes the
//! kernel's own path.
//!
//! The same between two programs of one host: kernel loopback against one server's rings ([`Hosts::One`]).
//!
//! And of TCP connections, what is done with them being the case ([`streams`]).
//!
//! And a listener that takes the peers of all protocols, against listeners of one each ([`mixed`]).
//!
//! And services inserted into programs, against the same libraries called in their source ([`services`]).
//!
//! A series that fails is reported with its reason, and the others go on.

mod account;
mod latency;
mod machine;
mod mixed;
mod options;
mod plot;
mod process;
mod progress;
mod report;
mod servers;
mod services;
mod streams;
mod table;
mod throughput;

use thiserror::Error;

use crate::lab::LabError;

pub use latency::latency;
pub use machine::Machine;
pub use mixed::{Client, Listener, MixedPoint, MixedReport, mixed};
pub use options::{Binaries, Hosts, Load, Options, Series, Wait};
pub use plot::PlotError;
pub use report::{Cost, Latency, LatencyPoint, Measured, Outcome, Report, Throughput, ThroughputPoint};
pub use services::{ServicePoint, ServicesReport, Transport, services};
pub use streams::{Case, StreamPoint, StreamReport, StreamRun, streams};
pub use throughput::throughput;

/// Why a benchmark could not be run at all.
#[derive(Debug, Error)]
pub enum Error {
    /// No lab to run it in.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// An option out of its bounds.
    #[error("{option} {got}: expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it was set to.
        got: String,
        /// What it may be set to.
        expected: &'static str,
    },
    /// What stands while it is measured does not.
    #[error("cannot start what is to be measured: {0}")]
    Start(String),
    /// Where the programs are cannot be told.
    #[error("cannot tell where this program's file is: {0}")]
    CurrentExe(#[source] std::io::Error),
}
