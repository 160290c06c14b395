//! What programs ask for of stream sockets: to listen, to connect, and what comes after that.
//!
//! Connections that peers open are made by the workers and found in the registry, so that nothing is handed over for each
//! of them. What is steered is counted by leases, which end with the last socket that needs them.

mod join;
mod options;
mod status;

pub(super) use status::{ConnectionStatus, ListenerStatus, counters};

use super::client::Answer;
use super::ownership::keys;
use super::policy::{Carrier, Facts, Rejected, judge_descriptors, plain};
use super::requests::{named, os};
use super::{Control, WorkerHandle};
use crate::mirror::{Route, RouteKind};
use crate::stream::{Lease, Names, Owner, Parts, Stream};
use crate::sys;
use crate::worker::{Command, Order, stream_options};
use freena_ebpf_abi::FlowKey;
use freena_shm_abi::Endpoint;
use freena_shm_abi::control::{Request, Response, flag, verdict};
use freena_shm_abi::stream::{Asked, state};
use freena_tcp::{ListenerKey, Listening, Options};
use freena_udp::{Binding, Table};
use freena_wire::protocol;
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most connections that may wait for a listener (`net.core.somaxconn` of Linux).
const MAX_BACKLOG: u32 = 4096;
/// The longest that a protocol may keep the next one from being tried.
const MAX_STAGGER_MS: u32 = 60_000;
/// How many ports are tried that UDP has free, until one is free of TCP too.
const PORT_TRIES: u32 = 16;
/// A message that fills a send buffer of [`crate::stream::PAIR_BUFFER`] alone.
const FILL: [u8; 8 << 10] = [0; 8 << 10];

/// What the control thread alone knows of streams.
#[derive(Default)]
pub(super) struct Streams {
    listeners: Vec<Option<Arc<Stream>>>,
    /// What they hear.
    hearers: Table,
    /// The ends of joined connections that are not closed, by name.
    joined: HashMap<u64, join::Ends>,
    /// Connections that were ever joined.
    pub(super) joined_total: u64,
    leases: HashMap<u64, Leased>,
    next_lease: u64,
}

/// What is steered for a lease.
struct Leased {
    binding: Binding,
    protocols: Box<[u8]>,
    keys: Vec<FlowKey>,
}

/// Where a connection goes.
enum Way {
    /// Over a link.
    Link(Destination),
    /// To a listener on this host.
    Listener(join::Target),
}

impl Way {
    fn source(&self) -> IpAddr {
        match self {
            Way::Link(to) => to.source,
            Way::Listener(to) => to.source,
        }
    }
}

/// Where a connection over a link goes.
struct Destination {
    source: IpAddr,
    worker: usize,
    /// Interface to leave by, where it is not the route's business alone.
    ifindex: u32,
    reason: String,
}

impl Control {
    /// Carries a listener.
    pub(super) fn take_over_listener(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
    ) -> Result<Answer, Rejected> {
        self.carriers(request)?;
        let facts = self.examine(&companion, protocol::TCP)?;
        if !is_listening(&companion) {
            return Err((libc::EINVAL, "the socket does not listen".to_owned()));
        }
        let judged = self.judge(&facts).and_then(|reason| {
            self.judge_steering(&facts.binding)?;
            self.judge_room(&companion)?;
            let udp_port = hold_udp_port(request.protocols(), &facts, facts.binding.local)?;
            Ok((reason, udp_port))
        });
        match judged {
            Ok((reason, udp_port)) => {
                self.carry_listener(client, request, companion, &facts, (reason, udp_port)).map_err(os)
            }
            Err(reason) => Ok(self.leave(client, &facts, &reason)),
        }
    }

    /// Whether there is an engine for streams of each of these IP protocols.
    fn carriers(&self, request: &Request) -> Result<(), Rejected> {
        if request.protocols().is_empty() {
            return Err((libc::EINVAL, "the request names no protocol".to_owned()));
        }
        if has_messages(request) && *request.protocols() != [protocol::SCTP] {
            return Err((libc::EINVAL, "messages are carried by SCTP alone".to_owned()));
        }
        request.protocols().iter().try_for_each(|number| self.carrier(*number))
    }

    fn carrier(&self, number: u8) -> Result<(), Rejected> {
        let libraries = &self.libraries.loaded;
        let own = matches!(number, protocol::TCP | protocol::SCTP);
        if own || number == protocol::UDP && self.quic.is_some() {
            return Ok(());
        }
        if number == protocol::UDP {
            let words = "no QUIC: freena-stack was started without --quic DIR, the folder of its keys";
            return Err((libc::EPROTONOSUPPORT, words.to_owned()));
        }
        match libraries.iter().find(|library| library.ip_protocol() == number) {
            Some(library) => match library.fault() {
                None => Ok(()),
                Some(fault) => Err((
                    libc::EPROTONOSUPPORT,
                    format!("{} is not used any more: it {fault}", library.file_name()),
                )),
            },
            None => {
                let known: Vec<String> = ["6 (tcp)".to_owned(), "132 (sctp)".to_owned()]
                    .into_iter()
                    .chain(libraries.iter().map(|it| format!("{} ({})", it.ip_protocol(), it.name())))
                    .collect();
                let known = known.join(", ");
                Err((libc::EPROTONOSUPPORT, format!("no stream protocol {number}, only {known}")))
            }
        }
    }

    fn carry_listener(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
        facts: &Facts,
        (reason, udp_port): (String, Option<OwnedFd>),
    ) -> io::Result<Answer> {
        // It holds nothing in its rings: the smallest ones.
        let parts = self.registry.make(1, 1)?;
        let page = &parts.memory().page().stream;
        options::read(&companion, facts.ipv6, has_messages(request), &page.asked);
        page.told.state.store(state::LISTEN, Ordering::Release);
        // Connections that come by the kernel are accepted without waiting for them.
        sys::set_nonblocking(&companion)?;
        let listening = listening(facts, &companion, &page.asked);
        let binding = facts.binding;
        let steered = keys(&binding, &self.local_addresses(), request.protocols());
        let lease = self.lease(binding, request.protocols(), steered.clone(), udp_port);
        let (stream, application_end) = parts.name(Names {
            ipv6: facts.ipv6,
            protocols: request.protocols().into(),
            home: self.least_loaded(),
            companion: Some(companion),
            owner: self.owner(client, reason.clone()),
            local: (binding.local, binding.port),
            peer: None,
            scope: facts.scope,
            ifindex: binding.ifindex,
            lease,
        });
        let stream = Arc::new(stream);
        let listeners = &mut self.streams.listeners;
        let key = listeners.iter().position(Option::is_none).unwrap_or_else(|| {
            listeners.push(None);
            listeners.len() - 1
        });
        listeners[key] = Some(stream.clone());
        if is_joinable(request) {
            self.streams.hearers.insert(key as ListenerKey, binding);
        }
        let backlog = request.backlog.min(MAX_BACKLOG) as usize;
        // Only what all workers know may be steered to them: they would answer a SYN with a reset.
        self.ask_all(|done| {
            Command::Stream(Order::Listen(key as ListenerKey, stream.clone(), listening, backlog, done))
        });
        self.own(&steered);
        self.registry.insert(stream.clone());
        let response = Response { verdict: verdict::FAST, socket_id: stream.id, ..Response::new() };
        let memory = stream.memory_fd.try_clone()?;
        Ok(Answer { response: named(response, facts).because(&reason), fds: vec![application_end, memory] })
    }

    /// Begins to connect.
    pub(super) fn connect_stream(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
    ) -> Result<Answer, Rejected> {
        self.carriers(request)?;
        let mut facts = self.examine(&companion, protocol::TCP)?;
        if is_listening(&companion) || facts.binding.peer.is_some() {
            return Err((libc::EISCONN, "the socket listens or is connected".to_owned()));
        }
        let peer = (plain(request.peer.ip()), request.peer.port);
        facts.peer_scope = request.peer.scope;
        let judged = self.judge_connect(&companion, &facts, request, peer).and_then(|to| {
            self.judge_room(&companion)?;
            let udp_port = hold_ports(request.protocols(), &companion, &mut facts, to.source())?;
            Ok((to, udp_port))
        });
        facts.binding.peer = Some(peer);
        match judged {
            Ok((Way::Link(to), udp_port)) => {
                self.begin(client, request, companion, &mut facts, (to, udp_port)).map_err(os)
            }
            Ok((Way::Listener(to), _)) => self.join(client, request, companion, &mut facts, to).map_err(os),
            Err(reason) => Ok(self.leave(client, &facts, &reason)),
        }
    }

    fn begin(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
        facts: &mut Facts,
        (to, udp_port): (Destination, Option<OwnedFd>),
    ) -> io::Result<Answer> {
        let parts = self.registry.make(request.tx_size, request.rx_size)?;
        let page = &parts.memory().page().stream;
        options::read(&companion, facts.ipv6, has_messages(request), &page.asked);
        page.told.state.store(state::SYN_SENT, Ordering::Release);
        fill(&parts);
        facts.binding.local = to.source;
        let binding = facts.binding;
        let peer = binding.peer.unwrap_or((to.source, 0));
        let stagger = Duration::from_millis(request.stagger_ms.min(MAX_STAGGER_MS).into());
        let steered = keys(&binding, &[], request.protocols());
        let lease = self.lease(binding, request.protocols(), steered.clone(), udp_port);
        self.own(&steered);
        let (stream, application_end) = parts.name(Names {
            ipv6: facts.ipv6,
            protocols: self.registry.remembered.order(peer, request.protocols(), Instant::now()),
            home: to.worker,
            companion: Some(companion),
            owner: self.owner(client, to.reason.clone()),
            local: (binding.local, binding.port),
            peer: binding.peer,
            scope: facts.peer_scope,
            ifindex: to.ifindex,
            lease,
        });
        let stream = Arc::new(stream);
        self.registry.insert(stream.clone());
        let response = Response { verdict: verdict::FAST, socket_id: stream.id, ..Response::new() };
        let memory = stream.memory_fd.try_clone()?;
        // The names are known already: what comes of the handshake the page will tell.
        WorkerHandle::tell(&self.workers[to.worker], Command::Stream(Order::Connect(stream, stagger)));
        let response = named(response, facts).because(&to.reason);
        Ok(Answer { response, fds: vec![application_end, memory] })
    }

    /// Whether a connection to `peer` is the fast path's.
    fn judge_connect(
        &self,
        companion: &OwnedFd,
        facts: &Facts,
        request: &Request,
        peer: (IpAddr, u16),
    ) -> Result<Way, String> {
        let binding = &facts.binding;
        let dst = peer.0;
        if peer.1 == 0 || dst.is_unspecified() || (dst.is_ipv6() && !facts.ipv6) {
            return Err("no such destination: the kernel gives the error".to_owned());
        }
        let v6only = sys::get_option(companion, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap_or(0) != 0;
        if dst.is_ipv4() && facts.ipv6 && v6only {
            return Err("an IPv6-only socket reaches no IPv4 address: the kernel gives the error".to_owned());
        }
        if binding.ifindex != 0 && !self.is_served(binding.ifindex) {
            let name = self.interface_name(binding.ifindex);
            return Err(format!("bound to interface {name}, which freena-stack does not serve"));
        }
        let source = (!binding.local.is_unspecified()).then_some(binding.local);
        if source.is_some_and(|source| source.is_ipv4() != dst.is_ipv4()) {
            return Err("bound to an address of the other IP version: the kernel gives the error".to_owned());
        }
        let oif = [binding.ifindex, facts.peer_scope].into_iter().find(|i| *i != 0);
        let way = self.way(dst, source, oif);
        match way.carrier {
            Carrier::Link => {}
            Carrier::Rings { ifindex } if is_joinable(request) => {
                let target = self.judge_join(binding, peer, (source, oif), ifindex)?;
                if target.has_messages() != has_messages(request) {
                    return Err("to this host: one end is an SCTP socket, the other is not".to_owned());
                }
                return Ok(Way::Listener(target));
            }
            Carrier::Rings { .. } => return Err("to this host: the kernel's TCP carries it".to_owned()),
            Carrier::Kernel => return Err(way.reason),
        }
        let hop = match self.network.with(|mirror| mirror.route(dst, source, oif)) {
            Ok(Route { kind: RouteKind::Unicast(hop), .. }) => hop,
            _ => return Err("the route has just changed".to_owned()),
        };
        self.is_steered(hop.ifindex)?;
        let Some(source) = source.or(hop.prefsrc) else {
            return Err("the route has no source address: the kernel gives the error".to_owned());
        };
        let worker = self.workers.iter().position(|worker| worker.interfaces.contains(&hop.ifindex));
        let Some(worker) = worker else {
            return Err(format!("no polling thread serves {}", self.interface_name(hop.ifindex)));
        };
        Ok(Way::Link(Destination { source, worker, ifindex: oif.unwrap_or(0), reason: way.reason }))
    }

    /// Streams cannot share an interface with the kernel's own TCP, which would answer each segment with a reset.
    fn is_steered(&self, ifindex: u32) -> Result<(), String> {
        let interface = self.interfaces.iter().find(|interface| interface.ifindex == ifindex);
        match interface {
            Some(interface) if interface.steering.is_none() => Err(format!(
                "nothing steers on {}: the kernel would answer each segment too ({})",
                interface.name,
                interface.steering.reason()
            )),
            _ => Ok(()),
        }
    }

    fn judge_steering(&self, binding: &Binding) -> Result<(), String> {
        let hears = |ifindex: u32| {
            (binding.ifindex == 0 || binding.ifindex == ifindex)
                && (binding.local.is_unspecified()
                    || self.network.with(|mirror| {
                        mirror
                            .addresses()
                            .iter()
                            .any(|own| own.address == binding.local && own.ifindex == ifindex)
                    }))
        };
        self.interfaces
            .iter()
            .map(|interface| interface.ifindex)
            .filter(|ifindex| hears(*ifindex))
            .try_for_each(|ifindex| self.is_steered(ifindex))
    }

    fn judge_room(&self, companion: &OwnedFd) -> Result<(), String> {
        judge_descriptors(companion)?;
        let others = self.sockets.len();
        if self.registry.is_full(others) {
            let carried = self.registry.len() + others;
            return Err(format!("freena-stack carries {carried} sockets, which is its limit"));
        }
        Ok(())
    }

    /// Answers for a stream that a process has inherited or received.
    pub(super) fn adopt_stream(&self, stream: &Stream) -> Result<Answer, Rejected> {
        let response = Response { verdict: verdict::FAST, socket_id: stream.id, ..Response::new() };
        let mut fds = vec![stream.memory_fd.try_clone().map_err(os)?];
        if let (Some(joint), Some(ends)) = (&stream.joint_fd, self.streams.joined.get(&stream.id)) {
            fds.push(joint.try_clone().map_err(os)?);
            fds.push(ends.peer.peer_end.try_clone().map_err(os)?);
        }
        Ok(Answer { response: named_stream(response, stream), fds })
    }

    /// The kernel socket of a stream.
    pub(super) fn companion_of_stream(&self, stream: &Stream) -> Result<Answer, Rejected> {
        let response = Response { socket_id: stream.id, ..Response::new() };
        Ok(Answer { response: named_stream(response, stream), fds: vec![stream.companion().map_err(os)?] })
    }

    /// A listener's backlog or options have changed.
    pub(super) fn refresh_stream(&self, request: &Request, stream: &Arc<Stream>) -> Result<Answer, Rejected> {
        self.make_writable(stream.id);
        let listeners = &self.streams.listeners;
        let same = |entry: &Option<Arc<Stream>>| entry.as_ref().is_some_and(|other| other.id == stream.id);
        if let (Some(key), Some(companion)) = (listeners.iter().position(same), stream.companion.get()) {
            let facts = self.examine(companion, protocol::TCP)?;
            let listening = listening(&facts, companion, &stream.memory.page().stream.asked);
            // 0 where it is an option that has changed.
            let backlog = Some(request.backlog).filter(|it| *it > 0).map(|it| it.min(MAX_BACKLOG) as usize);
            self.tell_all(|| Command::Stream(Order::Relisten(key as ListenerKey, listening, backlog)));
            // Who connects once the program has its answer finds the listener as it is now.
            self.ask_all(Command::Sync);
        }
        let response = Response { verdict: verdict::FAST, socket_id: stream.id, ..Response::new() };
        Ok(Answer { response: named_stream(response, stream), fds: Vec::new() })
    }

    /// The last descriptor of a listener is closed. Its connections live on.
    pub(super) fn close_listener(&mut self, key: ListenerKey) {
        if let Some(listener) = self.streams.listeners.get_mut(key as usize).and_then(Option::take) {
            self.streams.hearers.remove(key, listener.local.1);
        }
        self.tell_all(|| Command::Stream(Order::Unlisten(key)));
    }

    fn lease(
        &mut self,
        binding: Binding,
        protocols: &[u8],
        keys: Vec<FlowKey>,
        udp_port: Option<OwnedFd>,
    ) -> Arc<Lease> {
        let id = self.streams.next_lease;
        self.streams.next_lease += 1;
        self.streams.leases.insert(id, Leased { binding, protocols: protocols.into(), keys });
        Arc::new(Lease { id, udp_port, events: (self.lease_events.clone(), self.events.1.clone()) })
    }

    fn own(&mut self, keys: &[FlowKey]) {
        for key in keys {
            self.ownership.take(*key, &self.interfaces);
        }
    }

    /// Nothing needs a lease any more.
    pub(super) fn end_lease(&mut self, id: u64) {
        let Some(leased) = self.streams.leases.remove(&id) else { return };
        for key in leased.keys {
            self.ownership.give(key, &self.interfaces);
        }
    }

    /// The host's addresses have changed: listeners on all of them hear others now.
    pub(super) fn readdress_streams(&mut self, addresses: &[IpAddr]) {
        for leased in self.streams.leases.values_mut() {
            if leased.binding.peer.is_some() {
                continue;
            }
            let new = keys(&leased.binding, addresses, &leased.protocols);
            for key in &new {
                self.ownership.take(*key, &self.interfaces);
            }
            for key in std::mem::replace(&mut leased.keys, new) {
                self.ownership.give(key, &self.interfaces);
            }
        }
    }

    fn owner(&self, client: u64, reason: String) -> Arc<Owner> {
        let (pid, program) = self
            .clients
            .get(&client)
            .map_or_else(Default::default, |client| (client.credentials.pid, client.name.clone()));
        Arc::new(Owner { pid, program, reason })
    }
}

/// Whether programs on this host that ask for this are joined: what never leaves the host needs no encryption.
fn is_joinable(request: &Request) -> bool {
    let joinable = |number: &u8| matches!(*number, protocol::TCP | protocol::UDP);
    has_messages(request) || request.protocols().iter().any(joinable)
}

/// Whether it is about a socket that its program has opened as SCTP.
fn has_messages(request: &Request) -> bool {
    request.flags & flag::MESSAGES != 0
}

/// Makes a socket that is about to connect unwritable until it is drained.
fn fill(parts: &Parts) {
    while sys::send(parts.application_end.as_fd(), &FILL).is_ok() {}
}

/// Has the kernel hold the UDP port of a socket that QUIC may carry, so that no other program gets what comes to it.
fn hold_udp_port(protocols: &[u8], facts: &Facts, local: IpAddr) -> Result<Option<OwnedFd>, String> {
    if !protocols.contains(&protocol::UDP) {
        return Ok(None);
    }
    let port = facts.binding.port;
    let hold = || {
        let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        if local.is_ipv6() {
            socket.set_only_v6(!facts.binding.dual)?;
        }
        socket.set_reuse_port(facts.binding.share)?;
        // What is not steered to the engine is nobody's.
        socket.set_recv_buffer_size(1)?;
        let name = match local {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                std::net::SocketAddrV6::new(v6, port, 0, facts.peer_scope.max(facts.scope)).into()
            }
            other => SocketAddr::new(other, port),
        };
        socket.bind(&name.into())?;
        Ok(socket.into())
    };
    hold().map(Some).map_err(|error: io::Error| format!("QUIC needs UDP port {port}: {error}"))
}

/// Has the kernel hold the ports of a connection, and `facts` tell which: the same of TCP and, for QUIC, of UDP.
fn hold_ports(
    protocols: &[u8],
    companion: &OwnedFd,
    facts: &mut Facts,
    source: IpAddr,
) -> Result<Option<OwnedFd>, String> {
    let refused = |error: io::Error| format!("no port can be had from the kernel: {error}");
    if facts.binding.port != 0 || !protocols.contains(&protocol::UDP) {
        hold_port(companion, facts, source, 0).map_err(refused)?;
        return hold_udp_port(protocols, facts, source);
    }
    let mut tries = 0..PORT_TRIES;
    loop {
        let udp_port = hold_udp_port(protocols, facts, source)?;
        let port = udp_port.as_ref().and_then(|it| socket2::SockRef::from(it).local_addr().ok()?.as_socket());
        match hold_port(companion, facts, source, port.map_or(0, |name| name.port())) {
            Ok(()) => return Ok(udp_port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries.next().is_some() => {}
            Err(error) => return Err(refused(error)),
        }
    }
}

/// Has the kernel socket hold the port of a connection, any if 0, and `facts` tell it.
fn hold_port(companion: &OwnedFd, facts: &mut Facts, source: IpAddr, port: u16) -> io::Result<()> {
    if facts.binding.port != 0 {
        return Ok(());
    }
    let source = match source {
        IpAddr::V4(v4) if facts.ipv6 => v4.to_ipv6_mapped().into(),
        other => other,
    };
    let name = match source {
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { facts.peer_scope } else { 0 };
            std::net::SocketAddrV6::new(v6, port, 0, scope).into()
        }
        v4 => SocketAddr::new(v4, port),
    };
    let socket = socket2::SockRef::from(companion);
    let late = sys::get_option(companion, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT).unwrap_or(0);
    if late != 0 {
        sys::set_option(companion, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0)?;
    }
    socket.bind(&name.into())?;
    if late != 0 {
        sys::set_option(companion, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, late)?;
    }
    let bound = socket.local_addr()?.as_socket().map_or(0, |name| name.port());
    facts.binding.port = bound;
    Ok(())
}

fn is_listening(companion: &OwnedFd) -> bool {
    sys::get_option(companion, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).unwrap_or(0) != 0
}

fn listening(facts: &Facts, companion: &OwnedFd, asked: &Asked) -> Listening {
    let binding = &facts.binding;
    let options = Options { defer_accept: options::defer_accept(companion), ..stream_options(asked) };
    Listening {
        local: binding.local,
        port: binding.port,
        dual: binding.dual,
        share: binding.share,
        ifindex: binding.ifindex,
        options,
    }
}

/// Fills a stream's names in.
fn named_stream(response: Response, stream: &Stream) -> Response {
    let endpoint = |(ip, port): (IpAddr, u16)| {
        let family = if stream.ipv6 { 6 } else { 4 };
        Endpoint { family, ..Endpoint::new(ip, port, stream.scope) }
    };
    Response { local: endpoint(stream.local), peer: stream.peer.map_or(Endpoint::NONE, endpoint), ..response }
}
