//! Two hosts on one machine: network namespaces joined by a veth pair, removed again whatever happens.
//!
//! ```text
//!  freena-<pid>-a                          freena-<pid>-b
//!  veth0 10.213.0.1/24  fd00:213::1/64 --- veth0 10.213.0.2/24  fd00:213::2/64
//! ```
//!
//! Where a benchmark wants a bad path, a third namespace, freena-<pid>-w, lies between the two.
//!
//! The pair has one queue each way and an MTU of 1500. Each host knows the other's link address from the start
//! (permanent neighbour entries), so that no measurement begins with a resolution.
//!
//! The namespaces go when the [`Lab`] is dropped (a panic that unwinds included), when the process gets `SIGINT`,
//! `SIGTERM` or `SIGHUP`, and, where it had no chance (`SIGKILL`), when the next lab is made. What runs inside dies with
//! the thread that started it ([`Host::command`]).

mod access;
mod host;
mod remains;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use thiserror::Error;

pub use access::{Access, enter};
pub use host::Host;
use remains::Remains;

/// Name of the interface in each host.
pub const INTERFACE: &str = "veth0";
/// Names of the interfaces of the host between the two.
pub const WIRE: [&str; 2] = ["one", "two"];
/// Largest IP packet on the pair, in bytes.
pub const MTU: u32 = 1500;

/// Why a lab could not be made.
#[derive(Debug, Error)]
pub enum LabError {
    /// Neither root nor a user namespace.
    #[error(
        "cannot make network namespaces: this process lacks CAP_NET_ADMIN and CAP_SYS_ADMIN, and a user namespace in \
         which it would have them was refused while {step}: {source}"
    )]
    Access {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program `ip` could not be started.
    #[error("cannot start `ip` (Debian package iproute2): {0}")]
    Ip(#[source] io::Error),
    /// `ip` was started and failed.
    #[error("`ip {arguments}` failed: {message}")]
    Setup {
        /// Its arguments.
        arguments: String,
        /// What it wrote to standard error.
        message: String,
    },
    /// Something else that the operating system refused.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl LabError {
    fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { step: step.into(), source }
    }
}

/// The two hosts. See the module's description.
#[derive(Debug)]
pub struct Lab {
    a: Host,
    b: Host,
    wire: Option<Host>,
    directory: PathBuf,
    remains: Arc<Mutex<Remains>>,
    signals: Handle,
    watcher: Option<JoinHandle<()>>,
}

impl Lab {
    /// Makes the two hosts and joins them, after removing those of processes that are no more.
    ///
    /// The calling process needs CAP_NET_ADMIN and CAP_SYS_ADMIN: call [`enter`] first in `main`. While the lab exists,
    /// `SIGINT`, `SIGTERM` and `SIGHUP` remove it and then end the process as they would have done.
    ///
    /// # Errors
    /// [`LabError`], by the step that failed; nothing is left behind then.
    pub fn new() -> Result<Self, LabError> {
        Self::make(false)
    }

    /// As [`Lab::new`], with a third host between the two, whose interfaces [`WIRE`] something has to pass frames on
    /// between. The two hosts give it no super-packets.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with_wire() -> Result<Self, LabError> {
        Self::make(true)
    }

    fn make(wire: bool) -> Result<Self, LabError> {
        // Namespaces are named after the process; one that makes several labs numbers those after the first.
        static SERIAL: AtomicU32 = AtomicU32::new(0);

        remains::sweep();
        let prefix = remains::prefix(std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let names = [format!("{prefix}-a"), format!("{prefix}-b")];
        let remains = Arc::new(Mutex::new(Remains::default()));
        let (signals, watcher) =
            watch_signals(Arc::clone(&remains)).map_err(LabError::system("watch for signals"))?;

        // Held while things come into being, so that a signal finds either all of it or none. Dropping `guard`
        // on an error and then `remains` removes what exists by then.
        let made = {
            let mut remains = remains.lock().unwrap_or_else(PoisonError::into_inner);
            let made = build(&names, &prefix, wire.then(|| format!("{prefix}-w")), &mut remains);
            if made.is_err() {
                remains.clear();
            }
            made
        };
        match made {
            Ok((a, b, wire, directory)) => {
                Ok(Self { a, b, wire, directory, remains, signals, watcher: Some(watcher) })
            }
            Err(error) => {
                signals.close();
                // It ends at once: its source is closed. A panic there has been printed already.
                let _ = watcher.join();
                Err(error)
            }
        }
    }

    /// The host that sends.
    #[must_use]
    pub fn a(&self) -> &Host {
        &self.a
    }

    /// The host that receives.
    #[must_use]
    pub fn b(&self) -> &Host {
        &self.b
    }

    /// What stands between the two, if there is such a host.
    #[must_use]
    pub fn wire(&self) -> Option<&Host> {
        self.wire.as_ref()
    }

    /// A directory for control sockets and the like, readable by this user only, removed with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remains.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.signals.close();
        if let Some(watcher) = self.watcher.take() {
            // A panic there has been printed already; there is nothing left to undo.
            let _ = watcher.join();
        }
    }
}

fn build(
    names: &[String; 2],
    prefix: &str,
    wire: Option<String>,
    remains: &mut Remains,
) -> Result<(Host, Host, Option<Host>, PathBuf), LabError> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("{prefix}-"))
        .suffix(remains::SUFFIX)
        .tempdir()
        .map_err(LabError::system("make a temporary directory"))?
        .keep();
    remains.directory = Some(directory.clone());
    for name in names.iter().chain(&wire) {
        remains.namespaces.push(name.clone());
        ip(&["netns", "add", name])?;
    }
    let [one, two] = names;
    let queues = ["mtu", &MTU.to_string(), "numtxqueues", "1", "numrxqueues", "1"];
    match &wire {
        None => {
            let link = ["link", "add", INTERFACE, "netns", one, "address", &link_address(1)];
            let peer = ["type", "veth", "peer", INTERFACE, "netns", two, "address", &link_address(2)];
            ip(&[&link[..], &queues, &peer, &queues].concat())?;
        }
        Some(wire) => {
            for (number, (name, end)) in (1..).zip(names.iter().zip(WIRE)) {
                // One segment in each packet that the driver gets, whether the kernel's TCP makes it or a packet socket: the
                // kernel cuts up what is longer.
                let single = ["gso_max_segs", "1", "gso_max_size", "1520"];
                let link = ["link", "add", INTERFACE, "netns", name, "address", &link_address(number)];
                let peer = ["type", "veth", "peer", end, "netns", wire];
                ip(&[&link[..], &queues, &single, &peer, &queues].concat())?;
                ip(&["-n", wire, "link", "set", end, "up"])?;
            }
        }
    }
    configure(one, 1, 2)?;
    configure(two, 2, 1)?;
    // It has no addresses of its own.
    let wire = wire.map(|name| host(&name, 0)).transpose()?;
    Ok((host(one, 1)?, host(two, 2)?, wire, directory))
}

/// Gives the host its addresses and its neighbour, and brings its interfaces up.
fn configure(name: &str, own: u8, peer: u8) -> Result<(), LabError> {
    let (v4, v6) = addresses(own);
    let (peer_v4, peer_v6) = addresses(peer);
    let link_address = link_address(peer);
    let inside = |arguments: &[&str]| ip(&[&["-n", name], arguments].concat());
    inside(&["link", "set", "lo", "up"])?;
    inside(&["address", "add", &format!("{v4}/24"), "dev", INTERFACE])?;
    inside(&["address", "add", &format!("{v6}/64"), "dev", INTERFACE, "nodad"])?;
    inside(&["link", "set", INTERFACE, "up"])?;
    for peer in [peer_v4.to_string(), peer_v6.to_string()] {
        inside(&[
            "neighbour",
            "replace",
            &peer,
            "lladdr",
            &link_address,
            "dev",
            INTERFACE,
            "nud",
            "permanent",
        ])?;
    }
    Ok(())
}

fn host(name: &str, own: u8) -> Result<Host, LabError> {
    let (v4, v6) = addresses(own);
    let mac = [0x02, 0xF0, 0xEE, 0xAA, 0, own];
    Host::open(name, v4, v6, mac).map_err(LabError::system(format!("open the network namespace {name}")))
}

fn addresses(host: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 213, 0, host), Ipv6Addr::new(0xFD00, 0x213, 0, 0, 0, 0, 0, host.into()))
}

fn link_address(host: u8) -> String {
    format!("02:f0:ee:aa:00:{host:02x}")
}

fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().map_err(LabError::Ip)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(LabError::Setup { arguments: arguments.join(" "), message })
}

/// Starts the thread that, when a signal would end the process, removes the lab first.
fn watch_signals(remains: Arc<Mutex<Remains>>) -> io::Result<(Handle, JoinHandle<()>)> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let watcher = thread::Builder::new().name("lab-signals".into()).spawn(move || {
        for signal in signals.forever() {
            remains.lock().unwrap_or_else(PoisonError::into_inner).clear();
            // Ends the process for these three.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok((handle, watcher))
}
