//! `cargo xtask`: generates what is committed but not written by hand, or checks that it is up to date.

mod ebpf;
mod header;
mod ledger;
mod run;
mod services;
mod toolchain;
mod xsd;

use std::{path::Path, process::ExitCode};

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds ebpf/freena-xdp.o, preparing a toolchain under the target folder where none is installed
    Ebpf(Check),
    /// Writes config/freena.xsd from the types of the configuration
    Xsd(Check),
    /// Writes the C headers of protocol and service libraries from the types of the interfaces
    Header(Check),
    /// Writes docs/services-reference.md from the services' tables of parameters
    Services(Check),
    /// Writes docs/ledger.md: what CPython's tests of sockets give with freena and without (as root; some 3 minutes)
    Ledger {
        #[command(flatten)]
        check: Check,
        /// Streams too, into docs/ledger-streams.md
        #[arg(long)]
        streams: bool,
    },
}

#[derive(Args)]
struct Check {
    /// Change nothing; fail where what is committed differs from what would be generated
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Ebpf(Check { check }) => ebpf::run(check),
        Task::Xsd(Check { check }) => xsd::run(check),
        Task::Header(Check { check }) => header::run(check),
        Task::Services(Check { check }) => services::run(check),
        Task::Ledger { check, streams } => ledger::run(check.check, streams),
    };
    match result {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
