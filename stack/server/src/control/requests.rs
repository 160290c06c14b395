//! What programs ask for.

use super::client::{Answer, Verdict};
use super::ownership::keys;
use super::policy::{Facts, Rejected, judge_descriptors, plain};
use super::sockets::Entry;
use super::{Control, WorkerHandle};
use crate::socket::{Socket, SocketStats};
use crate::stream::{PAIR_BUFFER, Stream};
use crate::sys;
use crate::worker::Command;
use crossbeam::channel::Sender;
use freena_shm_abi::control::{Request, Response, op, verdict};
use freena_shm_abi::{ABI_VERSION, Endpoint};
use freena_shm_ring::SocketMapping;
use freena_shm_ring::mapping::Sizes;
use freena_udp::{Binding, SocketKey};
use freena_wire::protocol;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Default size of a transmit ring in bytes.
const TX_SIZE: u32 = 1 << 20;
/// Default size of a receive ring in bytes.
const RX_SIZE: u32 = 8 << 20;
/// How long the control thread waits for a worker.
const ANSWER_LIMIT: Duration = Duration::from_millis(200);

impl Control {
    /// Carries out one request.
    pub(super) fn answer(&mut self, client: u64, request: Request, mut fds: Vec<OwnedFd>) -> Answer {
        let result = self.check(client, &request).and_then(|()| {
            let fd = if fds.is_empty() { None } else { Some(fds.swap_remove(0)) };
            let fd = || fd.ok_or_else(|| (libc::EBADMSG, "the request needs a descriptor".to_owned()));
            match request.op {
                op::ATTACH => self.attach(client),
                op::TAKEOVER => self.take_over(client, &request, fd()?),
                op::CONNECT => self.connect_stream(client, &request, fd()?),
                op::ADOPT => self.adopt(&fd()?),
                op::COMPANION => self.companion(&fd()?),
                op::REFRESH => self.refresh(&request, &fd()?),
                op::ROUTE => Ok(self.route(&request)),
                op::SYNC => Ok(self.sync()),
                op::STATUS => self.status(),
                op::METRICS => self.metrics(),
                op::TRACE => self.trace(client, &request, fd().ok()),
                other => Err((libc::EOPNOTSUPP, format!("unknown request {other}"))),
            }
        });
        result.unwrap_or_else(|(errno, words)| {
            let response = Response { errno: errno as u32, ..Response::new() }.because(&words);
            Answer { response, fds: Vec::new() }
        })
    }

    fn check(&self, client: u64, request: &Request) -> Result<(), Rejected> {
        let client = self.clients.get(&client).ok_or((libc::EPIPE, String::new()))?;
        if request.version != ABI_VERSION {
            let got = request.version;
            return Err((
                libc::EPROTO,
                format!("the library speaks version {got}, freena-stack {ABI_VERSION}"),
            ));
        }
        if !client.allowed {
            let uid = client.credentials.uid;
            return Err((libc::EACCES, format!("user {uid} may not use this freena-stack (--allow)")));
        }
        let needs_attach = !matches!(request.op, op::ATTACH | op::STATUS | op::TRACE | op::METRICS);
        if needs_attach && !client.attached {
            return Err((libc::EPROTO, "the first request must be ATTACH".to_owned()));
        }
        Ok(())
    }

    fn attach(&mut self, client: u64) -> Result<Answer, Rejected> {
        if let Some(client) = self.clients.get_mut(&client) {
            client.attached = true;
        }
        Ok(Answer {
            response: Response { socket_id: self.boot_id, ..Response::new() },
            fds: vec![self.shared.fd.try_clone().map_err(os)?],
        })
    }

    fn take_over(&mut self, client: u64, request: &Request, companion: OwnedFd) -> Result<Answer, Rejected> {
        let is_stream =
            socket2::SockRef::from(&companion).r#type().is_ok_and(|kind| kind == socket2::Type::STREAM);
        // Of a stream socket the protocol of UDP means QUIC.
        if request.protocols() != [protocol::UDP] || is_stream {
            return self.take_over_listener(client, request, companion);
        }
        let facts = self.examine(&companion, protocol::UDP)?;
        let judged = self.judge(&facts);
        let judged = judged.and_then(|reason| {
            judge_descriptors(&companion)?;
            match self.sockets.vacancy() {
                Some(vacancy) => Ok((reason, vacancy)),
                None => {
                    Err(format!("freena-stack carries {} sockets, which is its limit", self.sockets.len()))
                }
            }
        });
        match judged {
            Ok((reason, (key, id))) => {
                self.carry(client, request, companion, &facts, reason, key, id).map_err(os)
            }
            Err(reason) => Ok(self.leave(client, &facts, &reason)),
        }
    }

    /// The socket stays with the kernel.
    pub(super) fn leave(&mut self, client: u64, facts: &Facts, reason: &str) -> Answer {
        if let Some(client) = self.clients.get_mut(&client) {
            let binding = &facts.binding;
            client.remember(Verdict {
                local: socket_name(binding.local, binding.port),
                peer: binding.peer.map(|(ip, port)| socket_name(ip, port)),
                reason: reason.to_owned(),
            });
        }
        let response = Response { verdict: verdict::KERNEL, ..Response::new() }.because(reason);
        Answer { response, fds: Vec::new() }
    }

    #[allow(clippy::too_many_arguments, reason = "one caller; the parts are what it has just looked up")]
    fn carry(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
        facts: &Facts,
        reason: String,
        key: SocketKey,
        id: u64,
    ) -> io::Result<Answer> {
        let pick = |wanted: u32, default| if wanted == 0 { default } else { wanted };
        let sizes = Sizes::clamp(
            pick(request.tx_size, TX_SIZE),
            pick(request.rx_size, RX_SIZE),
            self.workers.len() as u32,
        );
        let (memory, memory_fd) = SocketMapping::create(sizes, id)?;
        let (peer_end, application_end) = sys::seqpacket_pair()?;
        sys::set_option(&application_end, libc::SOL_SOCKET, libc::SO_SNDBUF, PAIR_BUFFER)?;
        // Any process that inherits or receives the application end recognises it by the name of its peer.
        sys::bind_abstract(&peer_end, &format!("freena-socket:{:016x}:{id}", self.boot_id))?;
        let owner = self
            .clients
            .get(&client)
            .map_or_else(Default::default, |client| (client.credentials.pid, client.name.clone()));
        let socket = Arc::new(Socket {
            id,
            key,
            ipv6: facts.ipv6,
            home: self.least_loaded(),
            memory,
            memory_fd: memory_fd.try_clone()?,
            peer_end,
            companion,
            identity: sys::identity(&application_end)?,
            owner,
            binding: Mutex::new(facts.binding),
            server_page: self.shared.page(),
            stats: SocketStats::default(),
        });
        let response = Response { verdict: verdict::FAST, socket_id: id, ..Response::new() };
        let response = named(response, facts).because(&reason);
        // Only what all workers know may be steered to them: a datagram that came in between would find no socket, while
        // the companion still takes it.
        self.ask_all(|done| Command::Open(socket.clone(), facts.binding, done));
        if let Err(error) = self.keep_out_of_companion(&socket.companion) {
            self.tell_all(|| Command::Forget(key));
            return Err(error);
        }
        let keys = keys(&facts.binding, &self.local_addresses(), &[protocol::UDP]);
        for key in &keys {
            self.ownership.take(*key, &self.interfaces);
        }
        self.hearers.enter(key, facts.binding, &self.shared.page().udp_ports);
        self.sockets.insert(Entry { socket, keys, reason });
        Ok(Answer { response, fds: vec![application_end, memory_fd] })
    }

    /// Where nothing steers, the kernel sees all that the link sees: the companion must not receive it a second time. The
    /// link shows what is for this host alone; broadcast and multicast come by the companion as everywhere.
    fn keep_out_of_companion(&self, companion: &OwnedFd) -> io::Result<()> {
        let unsteered = self.interfaces.iter().filter(|interface| interface.steering.is_none());
        let raw: Vec<u32> = unsteered.map(|interface| interface.ifindex).collect();
        if raw.is_empty() {
            return Ok(());
        }
        let statement = |code: u32, jt, jf, k| socket2::SockFilter::new(code as u16, jt, jf, k);
        let load = |field: i32| {
            let at = (libc::SKF_AD_OFF + field) as u32;
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
        };
        let equal = |jt, jf, k| statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
        let to_pass = raw.len() as u8 + 1;
        let mut program = vec![
            load(libc::SKF_AD_PKTTYPE),
            equal(0, to_pass, libc::PACKET_HOST.into()),
            // The interface that the packet arrived on.
            load(libc::SKF_AD_IFINDEX),
        ];
        for (index, ifindex) in raw.iter().enumerate() {
            program.push(equal((raw.len() - index) as u8, 0, *ifindex));
        }
        program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
        program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
        socket2::SockRef::from(companion).attach_filter(&program)
    }

    /// Worker with the fewest sockets at home.
    pub(super) fn least_loaded(&self) -> usize {
        let mut load = vec![0u32; self.workers.len()];
        for entry in self.sockets.iter() {
            load[entry.socket.home] += 1;
        }
        (0..load.len()).min_by_key(|index| load[*index]).unwrap_or(0)
    }

    fn find(&mut self, application_end: &OwnedFd) -> Result<&mut Entry, Rejected> {
        let identity = sys::identity(application_end).map_err(os)?;
        self.sockets
            .find(identity)
            .ok_or((libc::ENOENT, "the descriptor is no socket of this freena-stack".to_owned()))
    }

    fn find_stream(&self, application_end: &OwnedFd) -> Option<Arc<Stream>> {
        self.registry.find(sys::identity(application_end).ok()?)
    }

    fn adopt(&mut self, application_end: &OwnedFd) -> Result<Answer, Rejected> {
        if let Some(stream) = self.find_stream(application_end) {
            return self.adopt_stream(&stream);
        }
        let entry = self.find(application_end)?;
        let id = entry.socket.id;
        let memory = entry.socket.memory_fd.try_clone().map_err(os)?;
        let binding = *entry.socket.binding.lock().unwrap_or_else(PoisonError::into_inner);
        let ipv6 = entry.socket.ipv6;
        let facts = Facts { binding, ipv6, scope: 0, peer_scope: 0 };
        let response = Response { verdict: verdict::FAST, socket_id: id, ..Response::new() };
        Ok(Answer { response: named(response, &facts), fds: vec![memory] })
    }

    fn companion(&mut self, application_end: &OwnedFd) -> Result<Answer, Rejected> {
        if let Some(stream) = self.find_stream(application_end) {
            return self.companion_of_stream(&stream);
        }
        let entry = self.find(application_end)?;
        let response = Response { socket_id: entry.socket.id, ..Response::new() };
        Ok(Answer { response, fds: vec![entry.socket.companion.try_clone().map_err(os)?] })
    }

    fn refresh(&mut self, request: &Request, application_end: &OwnedFd) -> Result<Answer, Rejected> {
        if let Some(stream) = self.find_stream(application_end) {
            return self.refresh_stream(request, &stream);
        }
        let socket = self.find(application_end)?.socket.clone();
        let facts = self.examine(&socket.companion, protocol::UDP)?;
        self.rebind(&socket, facts.binding);
        let response = Response { verdict: verdict::FAST, socket_id: socket.id, ..Response::new() };
        Ok(Answer { response: named(response, &facts), fds: Vec::new() })
    }

    fn rebind(&mut self, socket: &Arc<Socket>, binding: Binding) {
        let mut current = socket.binding.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == binding {
            return;
        }
        let before = std::mem::replace(&mut *current, binding);
        drop(current);
        let ports = &self.shared.page().udp_ports;
        if before.port == binding.port {
            self.hearers.rebind(socket.key, binding);
        } else {
            self.hearers.enter(socket.key, binding, ports);
            self.hearers.leave(socket.key, &before, ports);
        }
        let addresses = self.local_addresses();
        self.resteer(socket.key, &addresses);
        self.tell_all(|| Command::Rebind(socket.key, binding));
    }

    /// Steers what a socket hears now, and no more what it heard before.
    fn resteer(&mut self, key: SocketKey, addresses: &[IpAddr]) {
        let Some(entry) = self.sockets.get_mut(key) else { return };
        let binding = *entry.socket.binding.lock().unwrap_or_else(PoisonError::into_inner);
        let new = keys(&binding, addresses, &[protocol::UDP]);
        let old = std::mem::replace(&mut entry.keys, new.clone());
        for key in new {
            self.ownership.take(key, &self.interfaces);
        }
        for key in old {
            self.ownership.give(key, &self.interfaces);
        }
    }

    /// The host's addresses have changed.
    pub(super) fn readdress(&mut self) {
        let addresses = self.local_addresses();
        let keys: Vec<SocketKey> = self.sockets.iter_mut().map(|entry| entry.socket.key).collect();
        for key in keys {
            self.resteer(key, &addresses);
        }
        self.readdress_streams(&addresses);
    }

    pub(super) fn local_addresses(&self) -> Vec<IpAddr> {
        self.network.with(|mirror| {
            let unicast = |ip: &IpAddr| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified();
            mirror.addresses().iter().map(|a| a.address).filter(unicast).collect()
        })
    }

    fn route(&mut self, request: &Request) -> Answer {
        // Read before the look-up: if routes change in between, the answer is already void.
        let epoch = self.shared.page().route_epoch.load(std::sync::atomic::Ordering::Acquire);
        let dst = plain(request.peer.ip());
        let src =
            request.local.is_some().then(|| plain(request.local.ip())).filter(|ip| !ip.is_unspecified());
        let oif = [request.ifindex, request.peer.scope].into_iter().find(|i| *i != 0);
        let way = self.way(dst, src, oif);
        let mapped = if dst.is_ipv4() { 96 } else { 0 };
        let response = Response {
            verdict: way.carrier.verdict(),
            prefix_len: u16::from(way.prefix_len) + mapped,
            mtu: way.mtu,
            epoch,
            ..Response::new()
        };
        Answer { response: response.because(&way.reason), fds: Vec::new() }
    }

    /// Waits until the workers have seen what was closed before.
    fn sync(&mut self) -> Answer {
        self.ask_all(Command::Sync);
        self.take_events();
        Answer { response: Response::new(), fds: Vec::new() }
    }

    /// Gives a command to all workers and waits until they have carried it out.
    pub(super) fn ask_all(&self, command: impl Fn(Sender<()>) -> Command) {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let (done, all) = crossbeam::channel::bounded(self.workers.len());
        for worker in &self.workers {
            WorkerHandle::tell(worker, command(done.clone()));
        }
        for _ in 0..self.workers.len() {
            if all.recv_deadline(deadline).is_err() {
                tracing::warn!("a polling thread does not answer");
                break;
            }
        }
    }

    /// The last descriptor of a socket is closed.
    pub(super) fn close_socket(&mut self, key: SocketKey) {
        let Some(entry) = self.sockets.remove(key) else { return };
        self.closed.add(&entry.socket.stats);
        self.hearers.leave(key, &entry.socket.binding(), &self.shared.page().udp_ports);
        for key in &entry.keys {
            self.ownership.give(*key, &self.interfaces);
        }
        self.tell_all(|| Command::Forget(key));
    }
}

/// Fills the socket's names in.
pub(super) fn named(response: Response, facts: &Facts) -> Response {
    let binding = &facts.binding;
    // A program sees addresses in the family of its socket.
    let endpoint = |ip: IpAddr, port, scope| {
        let family = if facts.ipv6 { 6 } else { 4 };
        Endpoint { family, ..Endpoint::new(ip, port, scope) }
    };
    Response {
        local: endpoint(binding.local, binding.port, facts.scope),
        peer: binding.peer.map_or(Endpoint::NONE, |(ip, port)| endpoint(ip, port, facts.peer_scope)),
        ..response
    }
}

pub(super) fn socket_name(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// An operating system error as the answer to a request.
pub(super) fn os(error: io::Error) -> Rejected {
    (error.raw_os_error().unwrap_or(libc::EIO), error.to_string())
}
