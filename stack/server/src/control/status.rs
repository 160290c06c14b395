//! The status document.

use super::client::Answer;
use super::policy::Rejected;
use super::requests::{os, socket_name};
use super::sockets::Entry;
use super::streams::{ConnectionStatus, ListenerStatus, counters};
use super::{Control, WorkerHandle};
use crate::stream::Stream;
use crate::worker::{Command, Report};
use freena_ebpf_abi::Counter;
use freena_shm_abi::control::Response;
use freena_shm_ring::mapping;
use freena_wire::protocol;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long to wait for the workers' part.
const REPORT_LIMIT: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Status {
    version: &'static str,
    pid: u32,
    control: String,
    poll: String,
    workers: Vec<WorkerStatus>,
    interfaces: Vec<InterfaceStatus>,
    sockets: Vec<SocketStatus>,
    listeners: Vec<ListenerStatus>,
    connections: Vec<ConnectionStatus>,
    protocols: Vec<ProtocolStatus>,
    /// Peers that several protocols might have reached, and which has.
    remembered: Vec<Reached>,
    kernel_sockets: Vec<KernelSocket>,
    processes: usize,
}

#[derive(Serialize)]
struct Reached {
    peer: String,
    protocol: String,
    /// How long that is believed yet.
    seconds: u64,
}

/// A protocol library, loaded or refused.
#[derive(Serialize)]
struct ProtocolStatus {
    name: Option<String>,
    library: String,
    ip_protocol: Option<u8>,
    /// Where it was found.
    file: Option<String>,
    /// `ready`, or why it is not used.
    state: String,
    /// Of the own key, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

#[derive(Serialize)]
struct WorkerStatus {
    index: usize,
    core: Option<usize>,
    turns: u64,
    sleeps: u64,
    busy_turns: u64,
    cpu_seconds: f64,
    malformed_frames: u64,
    tcp: BTreeMap<&'static str, u64>,
    /// Of protocol libraries, by IP protocol number.
    protocols: BTreeMap<u8, BTreeMap<&'static str, u64>>,
    udp: BTreeMap<&'static str, u64>,
    /// Fragments, in and out.
    fragments: BTreeMap<&'static str, u64>,
    links: Vec<LinkStatus>,
}

#[derive(Serialize)]
struct LinkStatus {
    interface: String,
    queue: u32,
    receive: String,
    send: String,
    reason: String,
    rx_frames: u64,
    rx_bytes: u64,
    rx_dropped: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_dropped: u64,
}

#[derive(Serialize)]
struct InterfaceStatus {
    name: String,
    index: u32,
    steered_by: String,
    reason: String,
    /// Who reassembles fragments, and why.
    fragments: &'static str,
    steering: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct SocketStatus {
    id: u64,
    pid: i32,
    program: String,
    protocol: &'static str,
    local: String,
    peer: Option<String>,
    path: String,
    reason: String,
    worker: usize,
    rx_datagrams: u64,
    rx_local: u64,
    rx_through_kernel: u64,
    rx_dropped: u64,
    tx_datagrams: u64,
    tx_local: u64,
    tx_through_kernel: u64,
    tx_dropped: u64,
    tokens: u64,
    kicks: u64,
    tx_ring_bytes: u32,
    rx_ring_bytes: u32,
}

#[derive(Serialize)]
struct KernelSocket {
    pid: i32,
    program: String,
    local: String,
    peer: Option<String>,
    path: &'static str,
    reason: String,
}

impl Control {
    pub(super) fn status(&mut self) -> Result<Answer, Rejected> {
        let document =
            serde_json::to_vec(&self.document()).map_err(|error| (libc::EIO, error.to_string()))?;
        let fd = mapping::memfd(c"freena-status", 0).map_err(os)?;
        let mut file = File::from(fd);
        file.write_all(&document).map_err(os)?;
        Ok(Answer { response: Response::new(), fds: vec![file.into()] })
    }

    fn document(&self) -> Status {
        let reports = self.reports();
        // How the fast path of this server carries data, in words, for each of its sockets.
        let path = reports
            .iter()
            .flatten()
            .flat_map(|report| report.links.first())
            .map(|(info, _)| format!("{} in, {} out", info.receive, info.send))
            .next()
            .unwrap_or_else(|| "unknown".to_owned());
        let (listeners, connections) = self.streams_status(&path);
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            control: self.args.control.display().to_string(),
            poll: format!("{:?}", self.args.poll).to_lowercase(),
            workers: reports.into_iter().flatten().enumerate().map(worker).collect(),
            interfaces: self.interfaces.iter().map(interface).collect(),
            sockets: self.sockets.iter().map(|entry| socket(entry, self.path_of(entry, &path))).collect(),
            listeners,
            connections,
            protocols: self.protocols_status(),
            remembered: self.reached(),
            kernel_sockets: self.kernel_sockets(),
            processes: self.clients.values().filter(|client| client.attached).count(),
        }
    }

    /// How a socket's datagrams travel, in words.
    fn path_of<'p>(&self, entry: &Entry, link: &'p str) -> &'p str {
        let binding = entry.socket.binding();
        let stays_here = |ip: IpAddr| self.network.with(|mirror| mirror.is_local(ip));
        let is_local = binding.local.is_loopback() || binding.peer.is_some_and(|(peer, _)| stays_here(peer));
        if is_local { "local, from ring to ring" } else { link }
    }

    /// Asks all workers; those that do not answer in time are missing.
    pub(super) fn reports(&self) -> Vec<Option<Report>> {
        let deadline = Instant::now() + REPORT_LIMIT;
        let waiting: Vec<_> = self
            .workers
            .iter()
            .map(|handle| {
                let (to, from) = crossbeam::channel::bounded(1);
                WorkerHandle::tell(handle, Command::Report(to));
                from
            })
            .collect();
        waiting.into_iter().map(|from| from.recv_deadline(deadline).ok()).collect()
    }

    fn protocols_status(&self) -> Vec<ProtocolStatus> {
        let quic = self.quic.iter().map(|keys| ProtocolStatus {
            name: Some("quic".to_owned()),
            library: String::new(),
            ip_protocol: Some(protocol::UDP),
            file: None,
            state: "ready".to_owned(),
            fingerprint: Some(keys.fingerprint.clone()),
        });
        let loaded = self.libraries.loaded.iter().map(|library| ProtocolStatus {
            name: Some(library.name().to_owned()),
            library: library.file_name().to_owned(),
            ip_protocol: Some(library.ip_protocol()),
            file: Some(library.path().display().to_string()),
            state: library.fault().unwrap_or("ready").to_owned(),
            fingerprint: None,
        });
        let refused = self.libraries.refused.iter().map(|(name, error)| ProtocolStatus {
            name: None,
            library: name.clone(),
            ip_protocol: None,
            file: None,
            state: error.to_string(),
            fingerprint: None,
        });
        quic.chain(loaded).chain(refused).collect()
    }

    /// What a stream protocol is called.
    pub(super) fn protocol_name(&self, number: u8) -> String {
        if number == protocol::UDP {
            return "quic".to_owned();
        }
        let own = if number == protocol::SCTP { "sctp" } else { "tcp" };
        let mut libraries = self.libraries.loaded.iter();
        libraries.find(|it| it.ip_protocol() == number).map_or(own, |it| it.name()).to_owned()
    }

    /// What the protocols are called whose peers a listener takes.
    pub(super) fn protocol_names(&self, listener: &Stream) -> String {
        let names: Vec<String> =
            listener.protocols.iter().map(|number| self.protocol_name(*number)).collect();
        names.join(", ")
    }

    fn reached(&self) -> Vec<Reached> {
        let all = self.registry.remembered.all(Instant::now()).into_iter();
        all.map(|(peer, protocol, left)| Reached {
            peer: peer.to_string(),
            protocol: self.protocol_name(protocol),
            seconds: left.as_secs(),
        })
        .collect()
    }

    fn kernel_sockets(&self) -> Vec<KernelSocket> {
        let of_client = |client: &super::client::Client| {
            let (pid, program) = (client.credentials.pid, client.name.clone());
            client
                .verdicts
                .iter()
                .map(move |verdict| KernelSocket {
                    pid,
                    program: program.clone(),
                    local: verdict.local.clone(),
                    peer: verdict.peer.clone(),
                    path: "kernel",
                    reason: verdict.reason.clone(),
                })
                .collect::<Vec<_>>()
        };
        self.clients.values().flat_map(of_client).collect()
    }
}

fn worker((index, report): (usize, Report)) -> WorkerStatus {
    let udp = &report.udp;
    WorkerStatus {
        index,
        core: report.core,
        turns: report.turns,
        sleeps: report.sleeps,
        busy_turns: report.busy_turns,
        cpu_seconds: report.cpu.as_secs_f64(),
        malformed_frames: report.malformed,
        tcp: report.streams.first().map(|(_, stats)| counters(stats)).unwrap_or_default(),
        protocols: report.streams.iter().skip(1).map(|(number, stats)| (*number, counters(stats))).collect(),
        udp: BTreeMap::from([
            ("delivered", udp.delivered),
            ("malformed", udp.malformed),
            ("bad_checksum", udp.checksum),
            ("no_socket", udp.no_socket),
            ("partial_checksum_accepted", udp.partial_checksum),
        ]),
        fragments: fragments(&report),
        links: report
            .links
            .into_iter()
            .map(|(info, stats)| LinkStatus {
                interface: info.interface,
                queue: info.queue,
                receive: info.receive,
                send: info.send,
                reason: info.reason,
                rx_frames: stats.rx_frames,
                rx_bytes: stats.rx_bytes,
                rx_dropped: stats.rx_dropped,
                tx_frames: stats.tx_frames,
                tx_bytes: stats.tx_bytes,
                tx_dropped: stats.tx_dropped,
            })
            .collect(),
    }
}

fn fragments(report: &Report) -> BTreeMap<&'static str, u64> {
    let (came, left) = (&report.reassembly, &report.fragmented);
    BTreeMap::from([
        ("received", came.fragments),
        ("reassembled", came.reassembled),
        ("duplicate", came.duplicates),
        ("malformed", came.malformed),
        ("overlapping_datagrams", came.overlaps),
        ("inconsistent_datagrams", came.inconsistent),
        ("late", came.late),
        ("timed_out_datagrams", came.timeouts),
        ("evicted_datagrams", came.evicted),
        ("sent", left.fragments),
        ("sent_datagrams", left.datagrams),
    ])
}

fn interface(interface: &crate::links::Interface) -> InterfaceStatus {
    let steering = &interface.steering;
    InterfaceStatus {
        name: interface.name.clone(),
        index: interface.ifindex,
        steered_by: steering.describe(),
        reason: steering.reason().to_owned(),
        fragments: if steering.is_none() {
            "reassembled by freena-stack: the packet socket shows them all"
        } else {
            "reassembled by the kernel: a fragment that arrives before the first of its datagram does not tell whose it is"
        },
        steering: steering.counters().map_or_else(BTreeMap::new, |counters| {
            Counter::ALL.iter().map(|c| (c.name(), counters[*c as usize])).collect()
        }),
    }
}

fn socket(entry: &Entry, path: &str) -> SocketStatus {
    let socket = &entry.socket;
    let stats = &socket.stats;
    let binding = *socket.binding.lock().unwrap_or_else(PoisonError::into_inner);
    let sizes = socket.memory.sizes();
    SocketStatus {
        id: socket.id,
        pid: socket.owner.0,
        program: socket.owner.1.clone(),
        protocol: "udp",
        local: socket_name(binding.local, binding.port),
        peer: binding.peer.map(|(ip, port)| socket_name(ip, port)),
        path: path.to_owned(),
        reason: entry.reason.clone(),
        worker: socket.home,
        rx_datagrams: stats.rx_fast.get(),
        rx_local: stats.rx_local.get(),
        rx_through_kernel: stats.rx_kernel.get(),
        rx_dropped: stats.rx_dropped.get(),
        tx_datagrams: stats.tx_fast.get(),
        tx_local: stats.tx_local.get(),
        tx_through_kernel: stats.tx_kernel.get(),
        tx_dropped: stats.tx_dropped.get(),
        tokens: stats.tokens.get(),
        kicks: stats.kicks.get(),
        tx_ring_bytes: sizes.tx,
        rx_ring_bytes: sizes.rx,
    }
}
