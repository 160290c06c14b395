//! `freena run`.

use crate::services::{Folder, plan};
use crate::{ControlArgs, flows, install, program, settings};
use freena_config::Configuration;
use freena_service_chain::Plan;
use freena_shm_abi::control::{ENV_CONTROL, ENV_SERVICES, ENV_SETTINGS};
use freena_shm_abi::flows::ENV_FLOWS;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What to start, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE.xml", conflicts_with = "protocol", required_unless_present = "protocol")]
    config: Option<PathBuf>,

    /// Protocols for the sockets of their types, in place of a configuration: tcp, sctp, udp, a protocol library's name, or
    /// what the kernel has: mptcp, udp-lite. Of several for streams the first is for connecting, all for listening
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    protocol: Vec<String>,

    #[command(flatten)]
    services: Folder,

    #[command(flatten)]
    control: ControlArgs,

    /// Microseconds that a call looks for data before it sleeps [0-10000]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    spin_us: Option<u32>,

    /// Experimental: a program that waits by epoll looks at its connections itself while it does not sleep, for more requests
    /// per second over many connections; not for programs with an epoll instance in each of several threads
    #[arg(long)]
    look: bool,

    /// Milliseconds that one of several protocols may take to answer before the next one is tried too; overrules the
    /// configuration
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(10..=60_000))]
    stagger_ms: Option<u32>,

    /// Start the program on the kernel's sockets if the preload library cannot reach it
    #[arg(long)]
    allow_unreachable: bool,

    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Replaces this process by the program, with the preload library in it.
///
/// # Errors
/// The settings are not valid, or the program cannot be started or reached.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let settings = match &args.config {
        Some(path) => settings::for_file(path, &args.control.control)?,
        // clap demands one of the two.
        None => settings::for_protocols(args.protocol.iter().map(String::as_str), &args.control.control)?,
    };
    let plan = match &args.config {
        Some(path) => {
            let configuration = Configuration::from_file(path)?;
            let plan = plan::plan(&configuration, path, &args.services.all())?;
            insertable(&plan, &settings.0)?;
            (!plan.services.is_empty()).then_some(plan)
        }
        None => None,
    };
    let mut words = settings.0;
    if let Some(spin_us) = args.spin_us {
        words.push_str(&format!(" spin_us={spin_us}"));
    }
    if args.look {
        words.push_str(" look=1");
    }
    if let Some(stagger_ms) = args.stagger_ms {
        words.push_str(&format!(" stagger_ms={stagger_ms}"));
    }
    let (name, rest) = args.program.split_first().expect("clap demands a program");
    let path = program::locate(name)?;
    if let Err(unreachable) = program::examine(&path) {
        if !args.allow_unreachable {
            return Err(miette::miette!(
                help = "start it without freena, or with --allow-unreachable to have it use the kernel's sockets",
                "{unreachable}"
            ));
        }
        eprintln!("freena: {unreachable}; its sockets are the kernel's");
    }
    let library = install::find(install::PRELOAD)?;
    let mut preload = OsString::from(library.canonicalize().unwrap_or(library));
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut command = Command::new(&path);
    let inserts = plan.is_some();
    match plan {
        // Names and parameters of services, which name the files of keys: no keys.
        Some(plan) => command.env(ENV_SERVICES, plan.encode()),
        None => command.env_remove(ENV_SERVICES),
    };
    command.env_remove(ENV_FLOWS);
    if let Some(path) = args.config.as_ref().filter(|_| inserts) {
        match flows::create(&std::path::absolute(path).unwrap_or(path.clone())) {
            Ok(file) => _ = command.env(ENV_FLOWS, file),
            Err(why) => eprintln!("freena: flows with services are not shown in freena status: {why}"),
        }
    }
    let error = command
        .arg0(name)
        .args(rest)
        .env("LD_PRELOAD", preload)
        .env(ENV_SETTINGS, words)
        .env(ENV_CONTROL, std::path::absolute(&args.control.control).unwrap_or(args.control.control.clone()))
        .exec();
    Err(miette::miette!("cannot start {}: {error}", path.display()))
}

/// Whether all flows that the plan has services for can have them: what is asked to be encrypted never goes in the clear.
fn insertable(plan: &Plan, settings: &str) -> miette::Result<()> {
    if !plan.services.is_empty() && settings.contains("kernel:") {
        return Err(miette::miette!(
            "{}: services are inserted into TCP and UDP only, and the file has sockets use another protocol of the kernel; the program is not started",
            plan.source,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use freena_service_chain::PlanService;
    use std::path::PathBuf;

    #[test]
    fn what_would_go_in_the_clear_is_refused() {
        let plan = Plan {
            source: "x.xml".into(),
            services: vec![PlanService {
                name: "crypto".into(),
                library: PathBuf::new(),
                parameters: Vec::new(),
                rules: Vec::new(),
            }],
        };
        assert!(insertable(&plan, "v=1 stream=kernel").is_ok());
        let error = insertable(&plan, "v=1 stream=kernel:262").unwrap_err();
        assert!(error.to_string().contains("TCP and UDP only"), "{error}");
    }
}
