//! `freena check`.

use crate::services::Folder;
use crate::services::explain::{FlowArgument, explain};
use crate::services::plan::plan;
use freena_config::{Configuration, Connecting, Protocol, SocketType};
use std::path::PathBuf;
use std::process::ExitCode;

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file
    #[arg(value_name = "FILE.xml")]
    file: PathBuf,
    /// Tell for a flow, `TRANSPORT,client|server,LOCAL:PORT[,PEER:PORT]`, which services it gets and which rule says so
    #[arg(long, value_name = "FLOW")]
    explain: Option<FlowArgument>,
    #[command(flatten)]
    folder: Folder,
}

/// Says what the file means, or what is wrong with it and where.
///
/// # Errors
/// The file cannot be read or is not valid, or a service that it asks for cannot be had.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let configuration = Configuration::from_file(&args.file)?;
    plan(&configuration, &args.file, &args.folder.all())?;
    if let Some(flow) = &args.explain {
        print!("{}", explain(&configuration, &args.file.display().to_string(), flow));
        return Ok(ExitCode::SUCCESS);
    }
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
    if !configuration.options().is_empty() {
        match configuration.connecting() {
            Connecting::Default => println!("  connects by the default alone"),
            Connecting::Options { stagger } => {
                println!(
                    "  connects by the options too, one after the other, where nothing is heard for {stagger} ms"
                )
            }
        }
    }
    println!("  {} services, {} global rules", configuration.services().len(), configuration.rules().len());
    Ok(ExitCode::SUCCESS)
}

fn describe(protocol: &Protocol) -> String {
    format!("{} ({})", protocol.name().as_str(), protocol.library().as_str().unwrap_or("the framework's own"))
}
