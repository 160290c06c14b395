//! `freena`, the command line.

mod check;
mod control;
mod flows;
mod install;
mod keygen;
mod measure;
mod program;
mod protocols;
mod run;
mod services;
mod settings;
mod status;
mod top;
mod trace;

use clap::{Parser, Subcommand};
use freena_shm_abi::control::{DEFAULT_PATH, ENV_CONTROL};
use std::path::PathBuf;
use std::process::ExitCode;

/// Gives unmodified programs another transport and services, through freena-stack.
#[derive(Debug, Parser)]
#[command(name = "freena", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a program whose sockets use the framework
    Run(run::Args),
    /// Show links, queues, sockets and flows with services: where data goes, and why
    Status(status::Args),
    /// Follow links, polling threads and sockets live
    Top(top::Args),
    /// Show the packets that the fast path carries, or write them to a pcapng file
    Trace(trace::Args),
    /// Validate a configuration file, or tell what it decides for a flow
    Check(check::Args),
    /// List the services that can be inserted into flows, or show one with its parameters
    Services(services::Args),
    /// Make a key for the services crypto and auth, or for QUIC
    Keygen(keygen::Args),
    /// Measure the framework against the kernel, on two hosts made for it
    Bench(measure::BenchArgs),
    /// The main job: two hosts, a server on each, an unmodified program between them, table and plot
    Demo(measure::DemoArgs),
}

/// Which server to talk to.
#[derive(Debug, clap::Args)]
struct ControlArgs {
    /// Control socket of freena-stack
    #[arg(long, value_name = "PATH", env = ENV_CONTROL, default_value = DEFAULT_PATH)]
    control: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Bench(args) => measure::bench(&args),
        Command::Demo(args) => measure::demo(&args),
    };
    match result {
        Ok(code) => code,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::FAILURE
        }
    }
}
