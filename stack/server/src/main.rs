//! `freena-stack`, the protocol server.
//!
//! The only crate that wires: it opens links, starts one polling thread per queue, and serves programs over the control
//! socket. [`control`] is the slow path (who owns what), [`worker`] the fast one (datagrams).

mod args;
mod control;
mod cores;
mod links;
mod metrics;
mod mirror;
mod remembered;
mod socket;
mod steering;
mod stream;
mod sys;
mod worker;

use args::{Args, LogFormat};
use clap::Parser;
use control::{Control, LinkName, Listener, Setup, WorkerHandle};
use freena_link_middleware::{Place, Tap, Watchers};
use freena_plugin::Libraries;
use metrics::Metrics;
use mirror::Mirror;
use std::error::Error;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use sys::EventFd;
use worker::{Network, Port, Worker};

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FREENA_STACK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freena-stack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    sys::raise_descriptor_limit();
    let signal = end_signal()?;
    let listener = Listener::bind(&args.control)?;
    let network = Network::new(Mirror::open()?);
    let mut interfaces = Vec::new();
    let mut ports = Vec::new();
    for name in &args.interfaces {
        let (interface, more) = links::open(name, &args, &network)?;
        interfaces.push(interface);
        ports.extend(more);
    }
    let ready = ready_line(&args, &ports);
    let (events, event_queue) = crossbeam::channel::unbounded();
    let event_bell = Arc::new(EventFd::new()?);
    let registry = Arc::new(stream::Registry::new(args.max_sockets));
    let mut secret = [0; 32];
    sys::random(&mut secret)?;
    // SAFETY: only root, or who runs the server, can have put a library into a folder that passes the checks.
    let libraries = unsafe { Libraries::load_all(&args.plugin_folders()) };
    for (_, error) in &libraries.refused {
        tracing::error!("a protocol library is refused: {error}");
    }
    // A server without its keys would silently be one without QUIC: it does not start.
    let quic = args.quic.as_deref().map(freena_quic_keys::Host::open).transpose()?;
    let mut workers = Vec::new();
    let choice = cores::Choice::begin();
    let pinned = Arc::new(Barrier::new(2));
    let watchers = Arc::new(Watchers::default());
    let mut links = Vec::new();
    for (index, (core, mut ports)) in assign(&args, ports).into_iter().enumerate() {
        ports = ports.into_iter().map(|port| tapped(port, index, &mut links, &watchers)).collect();
        let (commands, command_queue) = crossbeam::channel::unbounded();
        let bell = Arc::new(EventFd::new()?);
        let served = ports.iter().map(|port| port.ifindex).collect();
        let worker = Worker::new(worker::Setup {
            index,
            core,
            ports,
            poll: args.poll,
            spin: Duration::from_micros(u64::from(args.spin_us)),
            network: network.clone(),
            registry: registry.clone(),
            secret,
            max_connections: args.max_sockets as usize,
            libraries: libraries.loaded.clone(),
            quic: quic.clone(),
            commands: (command_queue, bell.clone()),
            events: (events.clone(), event_bell.clone()),
            pinned: pinned.clone(),
        })?;
        let name = format!("{}{index}", cores::THREAD_PREFIX);
        let thread = thread::Builder::new().name(name).spawn(move || worker.run())?;
        workers.push(WorkerHandle { commands, bell, interfaces: served, thread });
        pinned.wait();
    }
    drop(choice);
    let (event_sender, events) = (events, (event_queue, event_bell));
    let metrics_address = args.metrics.clone();
    let taps = (links.into(), watchers);
    let mut control = Control::new(Setup {
        args,
        listener,
        interfaces,
        network,
        workers,
        taps,
        registry,
        libraries,
        quic,
        events,
        event_sender,
        signal,
    })?;
    let metrics = match metrics_address {
        Some(address) => {
            let (ours, theirs) = sys::seqpacket_pair()?;
            control.connect(ours)?;
            Some(Metrics::serve(&address, theirs)?)
        }
        None => None,
    };
    match &metrics {
        Some(metrics) => println!("{ready}, metrics on {}", metrics.address),
        None => println!("{ready}"),
    }
    // Fails where systemd did not start this process: nobody waits for it then.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    control.run()?;
    Ok(())
}

/// A descriptor that becomes readable on SIGTERM, SIGINT and SIGHUP.
fn end_signal() -> std::io::Result<OwnedFd> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader.into())
}

/// Spreads the queues over threads and the threads over cores: one thread per queue, as long as there are cores (the
/// ring layout allows 16).
fn assign(args: &Args, ports: Vec<Port>) -> Vec<(Option<usize>, Vec<Port>)> {
    let cores = match &args.cores {
        Some(cores) => cores.0.clone(),
        None => cores::least_used(),
    };
    let threads = ports.len().min(cores.len().max(1)).min(freena_shm_abi::socket::MAX_RX_RINGS);
    let mut shares: Vec<(Option<usize>, Vec<Port>)> =
        (0..threads).map(|index| (cores.get(index).copied(), Vec::new())).collect();
    for (index, port) in ports.into_iter().enumerate() {
        shares[index % threads].1.push(port);
    }
    shares
}

/// Lets traces watch the link of a port; `links` gets its name.
fn tapped(port: Port, worker: usize, links: &mut Vec<LinkName>, watchers: &Arc<Watchers>) -> Port {
    let place = Place { worker, link: links.len() };
    links.push(LinkName { ifindex: port.ifindex, queue: port.link.info().queue });
    Port { link: Box::new(Tap::new(port.link, place, watchers.clone())), ..port }
}

fn ready_line(args: &Args, ports: &[Port]) -> String {
    let links: Vec<String> = ports
        .iter()
        .map(|port| {
            let info = port.link.info();
            format!("{} queue {}: {} in, {} out", info.interface, info.queue, info.receive, info.send)
        })
        .collect();
    format!("freena-stack: ready on {} ({})", args.control.display(), links.join("; "))
}
