//! `freena check`.

use freena_config::{Configuration, Protocol, SocketType};
use std::path::PathBuf;
use std::process::ExitCode;

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file
    #[arg(value_name = "FILE.xml")]
    file: PathBuf,
}

/// Says what the file means, or what is wrong with it and where.
///
/// # Errors
/// The file cannot be read or is not valid.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let configuration = Configuration::from_file(&args.file)?;
    println!("{}: valid, for application {}", args.file.display(), configuration.application().as_str());
    for socket_type in [SocketType::Stream, SocketType::Datagram] {
        let choice = configuration.protocols_for(socket_type);
        match choice.default {
            Some(default) => println!("  {} sockets: {}", socket_type.as_str(), describe(default)),
            None => println!("  {} sockets: the kernel's", socket_type.as_str()),
        }
        for option in &choice.options {
            println!("    also: {}", describe(option));
        }
    }
    println!("  {} services, {} global rules", configuration.services().len(), configuration.rules().len());
    Ok(ExitCode::SUCCESS)
}

fn describe(protocol: &Protocol) -> String {
    format!("{} ({})", protocol.name().as_str(), protocol.library().as_str().unwrap_or("the framework's own"))
}
