//! `freena status`.

use crate::{ControlArgs, control, flows};
use freena_shm_abi::control::DEFAULT_PATH;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Which server, and in which form.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    control: ControlArgs,

    /// Print the document as JSON
    #[arg(long)]
    json: bool,

    /// Print all counters in Prometheus' text format
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

/// Prints what the server tells of itself, and programs of their flows with services, which need no server.
///
/// # Errors
/// The server cannot be reached, and was named, or no program has services either.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let path = &args.control.control;
    if args.metrics {
        print!("{}", control::metrics(path)?);
        return Ok(ExitCode::SUCCESS);
    }
    let programs = flows::all();
    let server = control::status(path);
    if let Err(error) = server {
        if programs.is_empty() {
            return Err(error);
        }
        if args.json {
            println!("{}", json!({ "programs_with_services": flows::as_json(&programs) }));
        } else {
            println!("no freena-stack on {}", path.display());
            flows::print(&programs);
        }
        let named = path.as_os_str() != DEFAULT_PATH;
        return if named { Err(error) } else { Ok(ExitCode::SUCCESS) };
    }
    let mut status: Value = serde_json::from_str(&server?)
        .map_err(|error| miette::miette!("the status document is no JSON: {error}"))?;
    if args.json {
        status["programs_with_services"] = flows::as_json(&programs);
        println!("{status}");
    } else {
        print(&status);
        flows::print(&programs);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Value) {
    println!(
        "freena-stack {} (pid {}) on {}, poll mode {}, {} processes attached",
        word(&status["version"]),
        status["pid"],
        word(&status["control"]),
        word(&status["poll"]),
        status["processes"]
    );
    for interface in list(&status["interfaces"]) {
        println!("\ninterface {} (index {})", word(&interface["name"]), interface["index"]);
        println!("  steered by {}: {}", word(&interface["steered_by"]), word(&interface["reason"]));
        println!("  fragments: {}", word(&interface["fragments"]));
        let counters = interface["steering"].as_object();
        let counters = counters.into_iter().flatten().filter(|(_, n)| n.as_u64() != Some(0));
        let counters: Vec<String> = counters.map(|(name, n)| format!("{name} {n}")).collect();
        if !counters.is_empty() {
            println!("  steering: {}", counters.join(", "));
        }
    }
    for worker in list(&status["workers"]) {
        let core =
            worker["core"].as_u64().map_or("no core of its own".to_owned(), |core| format!("core {core}"));
        println!("\nworker {} on {core}, slept {} times", worker["index"], worker["sleeps"]);
        for link in list(&worker["links"]) {
            println!(
                "  {} queue {}: receives by {}, sends by {}",
                word(&link["interface"]),
                link["queue"],
                word(&link["receive"]),
                word(&link["send"])
            );
            println!("    why: {}", word(&link["reason"]));
            println!(
                "    in {} frames, {} dropped; out {} frames, {} dropped",
                link["rx_frames"], link["rx_dropped"], link["tx_frames"], link["tx_dropped"]
            );
        }
    }
    println!("\nsockets on the fast path:");
    for socket in list(&status["sockets"]) {
        println!(
            "  {} {} {} (pid {}): {}",
            word(&socket["protocol"]),
            word(&socket["local"]),
            socket["peer"].as_str().map_or(String::new(), |peer| format!("-> {peer}")),
            socket["pid"],
            word(&socket["program"])
        );
        println!("    path: {}; {}", word(&socket["path"]), word(&socket["reason"]));
        println!(
            "    in {} datagrams and {} through the kernel, {} dropped; out {} and {} through the kernel, {} dropped",
            socket["rx_datagrams"],
            socket["rx_through_kernel"],
            socket["rx_dropped"],
            socket["tx_datagrams"],
            socket["tx_through_kernel"],
            socket["tx_dropped"]
        );
    }
    print_streams(status);
    if !list(&status["remembered"]).is_empty() {
        println!("\npeers that several protocols might have reached:");
    }
    for peer in list(&status["remembered"]) {
        println!("  {} by {}, for {} s more", word(&peer["peer"]), word(&peer["protocol"]), peer["seconds"]);
    }
    println!("\nsockets that stayed with the kernel:");
    for socket in list(&status["kernel_sockets"]) {
        println!(
            "  {} (pid {}), {}: {}",
            word(&socket["program"]),
            socket["pid"],
            word(&socket["local"]),
            word(&socket["reason"])
        );
    }
}

fn print_streams(status: &Value) {
    println!("\nlisteners on the fast path:");
    for listener in list(&status["listeners"]) {
        println!(
            "  {} {} (pid {}): {}",
            word(&listener["protocol"]),
            word(&listener["local"]),
            listener["pid"],
            word(&listener["program"])
        );
        println!("    path: {}; {}", word(&listener["path"]), word(&listener["reason"]));
    }
    println!("\nconnections on the fast path:");
    for connection in list(&status["connections"]) {
        println!(
            "  {} {} -> {} {} (pid {}): {}",
            word(&connection["protocol"]),
            word(&connection["local"]),
            word(&connection["peer"]),
            word(&connection["state"]),
            connection["pid"],
            word(&connection["program"])
        );
        println!("    path: {}; {}", word(&connection["path"]), word(&connection["reason"]));
        println!(
            "    round trip {} us, window {} segments of {} bytes ({}), {} in flight, {} retransmitted",
            connection["srtt_us"],
            connection["cwnd"],
            connection["mss"],
            word(&connection["congestion"]),
            connection["in_flight"],
            connection["retransmitted"]
        );
        println!(
            "    sent {} bytes, received {}; waiting to be acknowledged {}, to be read {}",
            connection["bytes_sent"],
            connection["bytes_received"],
            connection["tx_queue_bytes"],
            connection["rx_queue_bytes"]
        );
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
