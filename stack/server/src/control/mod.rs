//! The control thread: clients, sockets, and what the kernel tells of the network.
//!
//! It owns all that is rare and may block shortly; the workers own all that is frequent. Descriptors and lifetime: a
//! socket lives as long as some process holds a copy of its application end, which the home worker sees and reports as
//! [`Event::Closed`].

mod client;
mod icmp;
mod listener;
mod local;
mod metrics;
mod ownership;
mod policy;
mod requests;
mod sockets;
mod status;
mod streams;
mod trace;

pub use listener::Listener;
pub use trace::LinkName;

use crate::args::{Args, Users};
use crate::links::Interface;
use crate::stream::Registry;
use crate::sys::{self, Epoll, EventFd};
use crate::worker::{Command, Event, Network};
use client::Client;
use crossbeam::channel::{Receiver, Sender};
use freena_link_middleware::Watchers;
use freena_shm_abi::server::ServerPage;
use freena_shm_abi::{ABI_VERSION, MAGIC};
use freena_shm_ring::mapping;
use icmp::Icmp;
use local::Hearers;
use ownership::Ownership;
use sockets::Sockets;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use std::{io, thread};
use trace::Traces;

/// The most control connections.
const MAX_CLIENTS: usize = 4096;

/// What an event in the epoll set is about. Clients follow from [`token::CLIENTS`] on.
mod token {
    pub(super) const LISTENER: u64 = 0;
    pub(super) const EVENTS: u64 = 1;
    pub(super) const MIRROR: u64 = 2;
    pub(super) const SIGNAL: u64 = 3;
    pub(super) const ICMP: u64 = 4;
    pub(super) const CLIENTS: u64 = 16;
    /// Ends of joined connections follow from here on, by their socket's name.
    pub(super) const JOINED: u64 = 1 << 61;
    /// Traces follow from here on; nobody connects that often.
    pub(super) const TRACES: u64 = 1 << 62;
}

/// A worker as the control thread sees it.
pub struct WorkerHandle {
    /// For commands.
    pub commands: Sender<Command>,
    /// Announces them.
    pub bell: Arc<EventFd>,
    /// Interfaces that it has a link on.
    pub interfaces: Vec<u32>,
    /// Its thread.
    pub thread: thread::JoinHandle<()>,
}

impl WorkerHandle {
    fn tell(&self, command: Command) {
        // A worker that is gone has panicked; the process is ending then.
        let _ = self.commands.send(command);
        self.bell.signal();
    }
}

/// The page that every program may read.
struct SharedPage {
    page: *const ServerPage,
    fd: OwnedFd,
}

impl SharedPage {
    fn new(workers: u32) -> io::Result<Self> {
        let len = size_of::<ServerPage>();
        let fd = mapping::memfd(c"freena-server", len)?;
        let base = mapping::map_shared(fd.as_raw_fd(), len, libc::PROT_READ | libc::PROT_WRITE)?;
        // After this process has mapped it: nobody else can map it writable (Linux 5.1).
        mapping::seal(&fd, libc::F_SEAL_FUTURE_WRITE)?;
        let shared = SharedPage { page: base.cast(), fd };
        let page = shared.page();
        page.magic.store(MAGIC, Ordering::Relaxed);
        page.version.store(ABI_VERSION, Ordering::Relaxed);
        page.workers.store(workers, Ordering::Relaxed);
        page.route_epoch.store(1, Ordering::Release);
        Ok(shared)
    }

    fn page(&self) -> &'static ServerPage {
        // SAFETY: mapped by `new` with the size of the page, never unmapped; all fields are atomic.
        unsafe { &*self.page }
    }
}

/// What the control thread is made from.
pub struct Setup {
    /// The command line.
    pub args: Args,
    /// Where clients connect.
    pub listener: Listener,
    /// The interfaces served.
    pub interfaces: Vec<Interface>,
    /// Routes and neighbours.
    pub network: Network,
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// The links by number, and who watches them.
    pub taps: (Arc<[LinkName]>, Arc<Watchers>),
    /// Stream sockets.
    pub registry: Arc<Registry>,
    /// Protocol libraries.
    pub libraries: freena_plugin::Libraries,
    /// Keys, where QUIC carries streams.
    pub quic: Option<freena_quic_keys::Host>,
    /// Events of the workers, and the bell that announces them.
    pub events: (Receiver<Event>, Arc<EventFd>),
    /// For events of this thread's own.
    pub event_sender: Sender<Event>,
    /// Readable when the process shall end.
    pub signal: OwnedFd,
}

/// The thread's state.
pub struct Control {
    args: Args,
    listener: Listener,
    interfaces: Vec<Interface>,
    network: Network,
    workers: Vec<WorkerHandle>,
    events: (Receiver<Event>, Arc<EventFd>),
    /// Kept open: it is in the epoll set.
    _signal: OwnedFd,
    epoll: Epoll,
    clients: HashMap<u64, Client>,
    next_client: u64,
    sockets: Sockets,
    registry: Arc<Registry>,
    libraries: freena_plugin::Libraries,
    /// Keys, where QUIC carries streams.
    quic: Option<freena_quic_keys::Host>,
    streams: streams::Streams,
    lease_events: Sender<Event>,
    ownership: Ownership,
    hearers: Hearers,
    shared: SharedPage,
    icmp: Icmp,
    traces: Traces,
    closed: metrics::Closed,
    netns: u64,
    boot_id: u64,
}

impl Control {
    /// Prepares the thread.
    ///
    /// # Errors
    /// No descriptors or memory.
    pub fn new(setup: Setup) -> io::Result<Self> {
        let Setup {
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
        } = setup;
        let epoll = Epoll::new()?;
        epoll.add(listener.as_raw_fd(), libc::EPOLLIN, token::LISTENER)?;
        epoll.add(events.1.as_raw_fd(), libc::EPOLLIN, token::EVENTS)?;
        epoll.add(network.with(|mirror| mirror.fd()), libc::EPOLLIN, token::MIRROR)?;
        epoll.add(signal.as_raw_fd(), libc::EPOLLIN, token::SIGNAL)?;
        let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        let control = Control {
            icmp: Icmp::listen(&epoll, quic.is_some())?,
            traces: Traces::new(taps.1, taps.0),
            closed: metrics::Closed::default(),
            epoll,
            clients: HashMap::new(),
            next_client: token::CLIENTS,
            sockets: Sockets::new(args.max_sockets),
            ownership: Ownership::default(),
            hearers: Hearers::default(),
            shared: SharedPage::new(workers.len() as u32)?,
            netns: sys::netns_cookie(&probe)?,
            boot_id: registry.boot_id,
            registry,
            libraries,
            quic,
            streams: streams::Streams::default(),
            lease_events: event_sender,
            args,
            listener,
            interfaces,
            network,
            workers,
            events,
            _signal: signal,
        };
        Ok(control)
    }

    /// Takes a connection that was not accepted but made by this process, for its own use.
    ///
    /// # Errors
    /// No descriptors or memory.
    pub fn connect(&mut self, fd: OwnedFd) -> io::Result<()> {
        let token = self.next_client;
        self.next_client += 1;
        self.epoll.add(fd.as_raw_fd(), libc::EPOLLIN, token)?;
        let credentials = sys::credentials(&fd)?;
        self.clients.insert(token, Client::new(fd, credentials, true));
        Ok(())
    }

    /// Serves until a signal asks to end.
    ///
    /// # Errors
    /// The epoll set failed: nothing sensible can go on.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let deadline = self.network.with_path_mtus(|known| known.poll_timeout());
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready: Vec<_> = self.epoll.wait(timeout)?.collect();
            if deadline.is_some() {
                self.expire_path_mtus();
            }
            for report in ready {
                match report.data {
                    token::LISTENER => self.accept(),
                    token::EVENTS => self.take_events(),
                    token::MIRROR => self.follow_network(),
                    token::ICMP => self.hear_icmp(),
                    token::SIGNAL => return self.end(),
                    trace @ token::TRACES.. => self.end_trace(trace),
                    joined @ token::JOINED.. => self.hear_joined(joined - token::JOINED, report.events),
                    client => self.serve(client),
                }
            }
        }
    }

    fn end(self) -> io::Result<()> {
        tracing::info!("ending");
        for worker in &self.workers {
            worker.tell(Command::Stop);
        }
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a polling thread has panicked");
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Some(fd) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                tracing::warn!(limit = MAX_CLIENTS, "too many control connections: one is refused");
                continue;
            }
            let credentials = match sys::credentials(&fd) {
                Ok(credentials) => credentials,
                Err(_) => continue,
            };
            let token = self.next_client;
            self.next_client += 1;
            if self.epoll.add(fd.as_raw_fd(), libc::EPOLLIN, token).is_ok() {
                let allowed = self.is_allowed(credentials.uid);
                self.clients.insert(token, Client::new(fd, credentials, allowed));
            }
        }
    }

    fn is_allowed(&self, uid: u32) -> bool {
        // SAFETY: no arguments, cannot fail.
        let own = unsafe { libc::geteuid() };
        match &self.args.allow {
            Users::All => true,
            Users::Only(ids) => uid == 0 || uid == own || ids.contains(&uid),
        }
    }

    /// Answers what a client has asked, or forgets it when it is gone.
    fn serve(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        match client.receive() {
            Ok(Some((request, fds))) => {
                let answer = self.answer(token, request, fds);
                if let Some(client) = self.clients.get(&token)
                    && client.send(&answer).is_err()
                {
                    // It does not read its answers, or is gone.
                    self.clients.remove(&token);
                }
            }
            Ok(None) => {}
            Err(_) => {
                self.clients.remove(&token);
            }
        }
    }

    fn take_events(&mut self) {
        self.events.1.clear();
        while let Ok(event) = self.events.0.try_recv() {
            match event {
                Event::Closed(key) => self.close_socket(key),
                Event::ListenerClosed(key) => self.close_listener(key),
                Event::LeaseEnded(id) => self.end_lease(id),
                Event::LinkLost { interface, error } => {
                    tracing::error!(interface, %error, "the interface cannot be used any more");
                    self.network_changed();
                }
            }
        }
    }

    fn follow_network(&mut self) {
        let changes = match self.network.with(|mirror| mirror.process()) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(%error, "cannot follow the kernel's routes");
                return;
            }
        };
        if changes.addresses {
            self.readdress();
        }
        if changes.links {
            self.check_mtus();
        }
        if changes.links || changes.addresses || changes.routes {
            self.network_changed();
        } else if changes.neighbours {
            self.tell_all(|| Command::NetworkChanged);
        }
    }

    /// Says so where an MTU was raised beyond what a link was opened for. Sending follows the MTU at once.
    fn check_mtus(&self) {
        for interface in &self.interfaces {
            let mtu = self.network.with(|mirror| mirror.link(interface.ifindex).map_or(0, |link| link.mtu));
            if mtu > interface.max_mtu {
                let (interface, holds) = (&interface.name, interface.max_mtu);
                tracing::error!(
                    interface,
                    mtu,
                    holds,
                    "frames larger than the AF_XDP socket holds will be lost: restart freena-stack"
                );
            }
        }
    }

    /// Whatever was derived from routes is void.
    fn network_changed(&mut self) {
        self.shared.page().route_epoch.fetch_add(1, Ordering::Release);
        self.tell_all(|| Command::NetworkChanged);
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }

    fn is_served(&self, ifindex: u32) -> bool {
        self.interfaces.iter().any(|interface| interface.ifindex == ifindex)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
