//! A polling thread: moves datagrams between its links and the rings of all sockets.
//!
//! One turn: take frames from the links and put datagrams into receive rings ([`receive`]); take datagrams from the transmit
//! rings of active sockets and give them to the links ([`transmit`]); now and then look at the descriptors (kicks, closed
//! sockets, companions, commands). Nothing to do for a while: [`idle`] decides between spinning and sleeping.
//!
//! A socket is *active* while the worker looks at its transmit ring in every turn. After [`QUIET`] without a datagram it
//! becomes quiet: the program has to kick once, by a message on its descriptor.

mod addresses;
mod companion;
mod idle;
mod local;
mod pace;
mod path;
mod receive;
mod streams;
mod table;
mod transmit;

use addresses::Locals;
pub use idle::PollMode;
pub use path::Network;
use path::Paths;
use streams::Streams;
pub use streams::{Order, inherit_options, stream_options};
use table::Table;
pub use transmit::FragmentStats;
use transmit::Stage;

use crate::socket::Socket;
use crate::stream::Registry;
use crate::sys::{self, Epoll, EventFd, Ready};
use crossbeam::channel::{Receiver, Sender};
use freena_ip::{Limits, Reassembler};
use freena_shm_ring::{kick, wake};
use freena_stack_api::{Link, LinkInfo, LinkStats};
use freena_udp::{Binding, SocketKey, Udp, UdpStats};
use freena_wire::Mac;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use std::{io, mem};

/// How long a socket stays active after its last datagram.
const QUIET: Duration = Duration::from_millis(2);
/// The longest sleep. A program killed between publishing a record and kicking would leave it lying for other holders
/// of the socket; so all rings are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Turns between two looks at the descriptors while there is work.
const TURNS_PER_LOOK: u32 = 32;

/// What the control thread tells a worker.
pub enum Command {
    /// A new socket; answered when the worker knows it.
    Open(Arc<Socket>, Binding, Sender<()>),
    /// What a socket is bound to has changed.
    Rebind(SocketKey, Binding),
    /// Forget a socket; the worker answers by dropping its reference.
    Forget(SocketKey),
    /// Look at all descriptors, then answer.
    Sync(Sender<()>),
    /// Report.
    Report(Sender<Report>),
    /// Addresses, links or neighbours have changed: forget what was derived from them.
    NetworkChanged,
    /// Something about streams.
    Stream(Order),
    /// End.
    Stop,
}

/// What a worker tells the control thread.
#[derive(Debug)]
pub enum Event {
    /// The last descriptor of a socket was closed, and all that it had left to send is sent.
    Closed(SocketKey),
    /// The last descriptor of a listener was closed.
    ListenerClosed(freena_tcp::ListenerKey),
    /// Nothing needs a lease any more: what was steered for it is the kernel's again.
    LeaseEnded(u64),
    /// A link cannot be used any more.
    LinkLost {
        /// Interface name.
        interface: String,
        /// Why.
        error: io::Error,
    },
}

/// A worker's part of the status.
#[derive(Debug)]
pub struct Report {
    /// Core it is pinned to, if it is.
    pub core: Option<usize>,
    /// Its links.
    pub links: Vec<(LinkInfo, LinkStats)>,
    /// Counters of its stream engines, by IP protocol number.
    pub streams: Vec<(u8, freena_tcp::Stats)>,
    /// Its UDP counters.
    pub udp: UdpStats,
    /// Fragments received, by what became of them.
    pub reassembly: freena_ip::Counters,
    /// Datagrams sent as fragments.
    pub fragmented: FragmentStats,
    /// Frames that could not be read.
    pub malformed: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Turns with something to do.
    pub busy_turns: u64,
    /// CPU time of its thread.
    pub cpu: Duration,
}

/// A link and what is known of its interface.
pub struct Port {
    /// The back-end.
    pub link: Box<dyn Link>,
    /// Interface index.
    pub ifindex: u32,
    /// Address of the interface.
    pub mac: Mac,
    /// Frames to take from it in one turn: fewer where each may be a super-packet of dozens of datagrams, so that a turn
    /// does not overrun a receive ring before its program has had a chance to read.
    pub budget: usize,
    /// Whether the link shows a copy of all that the kernel gets (raw without steering), or only what is ours.
    pub sees_all: bool,
}

/// Everything a worker needs from outside.
pub struct Setup {
    /// Number of the worker, and of its receive ring in each socket.
    pub index: usize,
    /// Core to run on.
    pub core: Option<usize>,
    /// Its links.
    pub ports: Vec<Port>,
    /// When to sleep.
    pub poll: PollMode,
    /// How long the adaptive mode spins.
    pub spin: Duration,
    /// Routes and neighbours.
    pub network: Network,
    /// Stream sockets that programs hold.
    pub registry: Arc<Registry>,
    /// Random bytes, the same for all workers.
    pub secret: [u8; 32],
    /// The most connections.
    pub max_connections: usize,
    /// Keys, where QUIC carries streams.
    pub quic: Option<freena_quic_keys::Host>,
    /// Protocol libraries.
    pub libraries: Vec<Arc<freena_plugin::Library>>,
    /// Commands, and the bell that announces them.
    pub commands: (Receiver<Command>, Arc<EventFd>),
    /// Events, and the bell that announces them.
    pub events: (Sender<Event>, Arc<EventFd>),
    /// Passed once the thread is on its core.
    pub pinned: Arc<Barrier>,
}

/// What an event in the epoll set is about.
mod token {
    pub(super) const BELL: u64 = 0;
    pub(super) const LINK: u64 = 1 << 32;
    pub(super) const PEER: u64 = 2 << 32;
    pub(super) const COMPANION: u64 = 3 << 32;
    pub(super) const STREAM: u64 = 4 << 32;
    pub(super) const LISTENER: u64 = 5 << 32;
    pub(super) const KERNEL_LISTENER: u64 = 6 << 32;
    pub(super) const KIND: u64 = 0xff << 32;
    /// Above the kind: which of the connections that have had this number one after the other.
    pub(super) const GENERATION_SHIFT: u32 = 40;
}

/// The thread's state.
pub struct Worker {
    setup: Setup,
    epoll: Epoll,
    table: Table,
    udp: Udp,
    paths: Paths,
    locals: Locals,
    reassembler: Reassembler,
    stage: Stage,
    streams: Streams,
    scratch: Vec<u8>,
    ready: Vec<Ready>,
    /// Links whose interface is gone, by index in `setup.ports`.
    lost: Vec<bool>,
    now: Instant,
    malformed: u64,
    turns: u64,
    busy_turns: u64,
    sleeps: u64,
    /// Sockets whose rings have filled in this turn.
    pressed: Vec<SocketKey>,
    stopping: bool,
}

impl Worker {
    /// Prepares a worker; nothing runs yet.
    ///
    /// # Errors
    /// No descriptors or memory for its epoll set.
    pub fn new(setup: Setup) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(setup.commands.1.as_raw_fd(), libc::EPOLLIN, token::BELL)?;
        for (index, port) in setup.ports.iter().enumerate() {
            epoll.add(port.link.wait_fd(), libc::EPOLLIN, token::LINK | index as u64)?;
        }
        Ok(Worker {
            epoll,
            table: Table::default(),
            udp: Udp::default(),
            paths: Paths::new(setup.network.clone(), &setup.ports),
            locals: Locals::new(setup.network.clone()),
            reassembler: Reassembler::new(Limits::default()),
            stage: Stage::default(),
            streams: Streams::new(
                setup.index,
                setup.registry.clone(),
                setup.secret,
                setup.max_connections,
                (&setup.libraries, setup.quic.as_ref()),
            ),
            scratch: vec![0; 1 << 16],
            ready: Vec::with_capacity(64),
            lost: vec![false; setup.ports.len()],
            now: Instant::now(),
            malformed: 0,
            turns: 0,
            busy_turns: 0,
            sleeps: 0,
            pressed: Vec::new(),
            stopping: false,
            setup,
        })
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        if let Some(core) = self.setup.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            tracing::warn!(core, worker = self.setup.index, "cannot pin the thread to its core");
        }
        self.setup.pinned.wait();
        let mut idle = idle::Idle::new(self.setup.poll, self.setup.spin);
        let mut until_look = 0;
        while !self.stopping {
            self.now = Instant::now();
            self.turns += 1;
            let work = self.receive_all() + self.transmit_all() + self.serve_streams();
            if work > 0 {
                self.busy_turns += 1;
                idle.worked(self.now);
                self.give_way_to_readers(&idle);
                if until_look > 0 {
                    until_look -= 1;
                    continue;
                }
            }
            until_look = TURNS_PER_LOOK;
            self.retire_quiet();
            self.retire_quiet_streams();
            self.clear_remains();
            self.shrink_idle_streams();
            self.look_at_stuffed();
            self.find_forgotten_streams();
            if self.look(Some(Duration::ZERO)) > 0 {
                idle.worked(self.now);
            } else if work == 0 && idle.should_sleep(self.now) {
                self.sleep();
                idle.woke();
            } else if work == 0 {
                idle.give_way();
            }
        }
    }

    /// Stops looking at all rings and waits for the kernel to report something.
    fn sleep(&mut self) {
        self.retire(|_| true);
        if self.retire_all_streams() && self.table.active.is_empty() {
            self.sleeps += 1;
            // Fragments that wait for others in vain are forgotten in time.
            let now = Instant::now();
            let held_back = self.setup.ports.iter().filter_map(|port| port.link.poll_timeout()).min();
            let deadlines = [self.reassembler.poll_timeout(), self.streams.poll_timeout(now), held_back];
            let deadline = deadlines.into_iter().flatten().min();
            let until_deadline = deadline.map(|deadline| deadline.saturating_duration_since(now));
            if self.look(Some(until_deadline.map_or(LONGEST_SLEEP, |time| time.min(LONGEST_SLEEP)))) == 0 {
                self.find_forgotten();
            }
        }
    }

    /// Looks at the transmit rings of all quiet sockets.
    fn find_forgotten(&mut self) {
        let waiting = |local: &&table::Local| {
            local.socket.home == self.setup.index
                && !local.active
                && local.socket.memory.tx().has_data(local.tx.head)
        };
        let forgotten: Vec<SocketKey> =
            self.table.iter().filter(waiting).map(|local| local.socket.key).collect();
        for key in forgotten {
            self.activate(key);
        }
    }

    /// Makes active sockets quiet whose last datagram is long ago.
    fn retire_quiet(&mut self) {
        let now = self.now;
        self.retire(|local| now.duration_since(local.last_sent) > QUIET);
    }

    /// Makes those active sockets quiet that are `due`.
    fn retire(&mut self, due: impl Fn(&table::Local) -> bool) {
        let mut index = 0;
        while index < self.table.active.len() {
            let key = self.table.active[index];
            if self.table.get(key).is_none_or(&due) && self.suspend(key) {
                self.table.active.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Stops looking at a ring; false if something came in meanwhile, or it is needed for other reasons.
    fn suspend(&mut self, key: SocketKey) -> bool {
        let Some(local) = self.table.get_mut(key) else { return true };
        if local.closing || local.unread {
            return false;
        }
        let page = local.socket.memory.page();
        kick::suspend(&page.tx_kick.0);
        if local.socket.memory.tx().has_data(local.tx.head) {
            kick::resume(&page.tx_kick.0);
            return false;
        }
        local.active = false;
        true
    }

    /// Handles what the kernel reports of the descriptors; returns how much that was.
    fn look(&mut self, timeout: Option<Duration>) -> usize {
        let mut ready = mem::take(&mut self.ready);
        match self.epoll.wait(timeout) {
            Ok(reports) => ready.extend(reports),
            Err(error) => tracing::error!(%error, "epoll_wait failed"),
        }
        self.now = Instant::now();
        self.reassembler.handle_timeout(self.now);
        let mut count = 0;
        for report in ready.drain(..) {
            let index = (report.data & !token::KIND) as u32;
            match report.data & token::KIND {
                token::LINK => {} // The next turn receives from it.
                token::PEER => self.peer_ready(index, report.events),
                token::COMPANION => self.companion_ready(index, report.events),
                token::STREAM | token::LISTENER | token::KERNEL_LISTENER => {
                    self.stream_ready(report.data, report.events);
                }
                _ => self.take_commands(),
            }
            count += 1;
        }
        self.ready = ready;
        count
    }

    /// A kick, a fill, or the end of a socket.
    fn peer_ready(&mut self, key: SocketKey, events: u32) {
        let Some(local) = self.table.get_mut(key) else { return };
        local.unread = true;
        local.last_sent = self.now;
        local.socket.stats.kicks.add(1);
        if events & (libc::EPOLLHUP | libc::EPOLLRDHUP | libc::EPOLLERR) as u32 != 0 {
            local.closing = true;
        }
        self.activate(key);
    }

    /// Looks at the ring of a socket from now on.
    fn activate(&mut self, key: SocketKey) {
        let Some(local) = self.table.get_mut(key) else { return };
        if !local.active {
            local.active = true;
            kick::resume(&local.socket.memory.page().tx_kick.0);
            self.table.active.push(key);
        }
    }

    /// Reads the messages on the server's end, which makes the program's end writable again, and answers requests for a
    /// token.
    fn drain_peer(&mut self, key: SocketKey) {
        let Some(local) = self.table.get_mut(key) else { return };
        let socket = &local.socket;
        let mut forced = false;
        let mut message = [0u8; 8];
        // Bounded, so that one program cannot keep the worker here. What is left is not reported again: it is read in the
        // next turn.
        local.unread = true;
        for _ in 0..16 {
            match sys::receive(socket.peer_end.as_fd(), &mut message) {
                Ok(0) | Err(_) => {
                    local.unread = false;
                    break;
                }
                Ok(_) => forced |= message[0] == b't',
            }
        }
        let page = socket.memory.page();
        let pending = page.error.0.load(std::sync::atomic::Ordering::Relaxed) != 0
            || page.rx_wake.0.queued.load(std::sync::atomic::Ordering::Relaxed) != 0
            || (0..socket.memory.sizes().rx_rings as usize).any(|ring| {
                let channel = socket.memory.rx(ring);
                channel.has_data(channel.head().load(std::sync::atomic::Ordering::Acquire))
            });
        if pending && (wake::take_request(&page.rx_wake.0.token) || forced) {
            send_token(socket);
        }
    }

    fn take_commands(&mut self) {
        self.setup.commands.1.clear();
        while let Ok(command) = self.setup.commands.0.try_recv() {
            match command {
                Command::Open(socket, binding, done) => {
                    self.open(socket, binding);
                    let _ = done.send(());
                }
                Command::Rebind(key, binding) => self.rebind(key, binding),
                Command::Forget(key) => self.forget(key),
                Command::Sync(done) => {
                    // Everything that was closed before the request is in the epoll set by now.
                    while self.look_at_peers() {}
                    self.transmit_all();
                    self.serve_streams();
                    let _ = done.send(());
                }
                Command::Report(to) => {
                    let _ = to.send(self.report());
                }
                Command::NetworkChanged => {
                    self.paths.forget();
                    self.locals.forget();
                    self.lose_deleted();
                    self.reroute_streams();
                }
                Command::Stream(order) => self.obey(order),
                Command::Stop => self.stopping = true,
            }
        }
    }

    /// Handles kicks and closed sockets only; whether there may be more.
    fn look_at_peers(&mut self) -> bool {
        let Ok(ready) = self.epoll.wait(Some(Duration::ZERO)) else { return false };
        let ready: Vec<Ready> = ready.collect();
        for report in &ready {
            if report.data & token::KIND == token::PEER {
                self.peer_ready((report.data & !token::KIND) as u32, report.events);
            } else if report.data & token::KIND == token::COMPANION {
                self.companion_ready((report.data & !token::KIND) as u32, report.events);
            } else {
                self.stream_ready(report.data, report.events);
            }
        }
        // Peers are edge-triggered: each call reports new ones. Links and the bell stay and end the loop when alone.
        ready
            .iter()
            .any(|report| matches!(report.data & token::KIND, token::PEER | token::STREAM | token::LISTENER))
    }

    fn open(&mut self, socket: Arc<Socket>, binding: Binding) {
        let key = socket.key;
        let home = socket.home == self.setup.index;
        self.udp.bind(key, binding);
        self.table.insert(table::Local::new(socket.clone(), binding, self.now));
        if !home {
            return;
        }
        let edge = libc::EPOLLET | libc::EPOLLIN;
        let watched = self
            .epoll
            .add(socket.peer_end.as_raw_fd(), edge | libc::EPOLLRDHUP, token::PEER | u64::from(key))
            .and_then(|()| {
                self.epoll.add(socket.companion.as_raw_fd(), edge, token::COMPANION | u64::from(key))
            });
        if let Err(error) = watched {
            tracing::error!(socket = socket.id, %error, "cannot watch a socket");
            self.abandon(key);
        }
    }

    fn rebind(&mut self, key: SocketKey, binding: Binding) {
        if let Some(local) = self.table.get_mut(key) {
            if local.binding.port != binding.port {
                self.udp.close(key, local.binding.port);
            }
            local.binding = binding;
            self.udp.bind(key, binding);
        }
    }

    /// Drops everything known of a socket.
    fn forget(&mut self, key: SocketKey) {
        if let Some(local) = self.table.remove(key) {
            self.udp.close(key, local.binding.port);
            if local.socket.home == self.setup.index {
                let _ = self.epoll.remove(local.socket.peer_end.as_raw_fd());
                let _ = self.epoll.remove(local.socket.companion.as_raw_fd());
            }
        }
    }

    /// The program broke its side of the contract, or is gone: stop serving the socket.
    fn abandon(&mut self, key: SocketKey) {
        let Some(local) = self.table.get(key) else { return };
        // The program sees the end of the connection on its descriptor, and every call fails with ENETDOWN.
        // SAFETY: plain system call on an owned descriptor.
        unsafe { libc::shutdown(local.socket.peer_end.as_raw_fd(), libc::SHUT_RDWR) };
        self.forget(key);
        self.tell(Event::Closed(key));
    }

    fn tell(&self, event: Event) {
        // The control thread outlives the workers; if it is gone, the process is ending.
        let _ = self.setup.events.0.send(event);
        self.setup.events.1.signal();
    }

    /// An interface that is deleted takes its links with it, and an AF_XDP socket does not tell by itself.
    fn lose_deleted(&mut self) {
        for index in 0..self.setup.ports.len() {
            let ifindex = self.setup.ports[index].ifindex;
            if self.setup.network.with(|mirror| mirror.link(ifindex).is_none()) {
                self.lose(index, io::Error::from_raw_os_error(libc::ENODEV));
            }
        }
    }

    /// Takes note of a link that failed for good. One that is down may come up again; should its interface be gone,
    /// [`Worker::lose_deleted`] is told.
    fn lose(&mut self, index: usize, error: io::Error) {
        if error.raw_os_error() == Some(libc::ENETDOWN) {
            return;
        }
        if !mem::replace(&mut self.lost[index], true) {
            let link = &self.setup.ports[index].link;
            let _ = self.epoll.remove(link.wait_fd());
            let interface = link.info().interface;
            self.tell(Event::LinkLost { interface, error });
        }
    }

    fn report(&mut self) -> Report {
        self.streams.show_all(self.now);
        Report {
            core: self.setup.core,
            links: self.setup.ports.iter().map(|port| (port.link.info(), port.link.stats())).collect(),
            streams: self.streams.stats(),
            udp: self.udp.stats(),
            reassembly: self.reassembler.counters(),
            fragmented: self.stage.fragment_stats(),
            malformed: self.malformed,
            turns: self.turns,
            sleeps: self.sleeps,
            busy_turns: self.busy_turns,
            cpu: sys::thread_cpu_time(),
        }
    }
}

/// Makes the program's end readable.
fn send_token(socket: &Socket) {
    socket.stats.tokens.add(1);
    // A full queue (EAGAIN) is readable already; a closed one is reported by the epoll set.
    let _ = sys::send(socket.peer_end.as_fd(), b"r");
}
