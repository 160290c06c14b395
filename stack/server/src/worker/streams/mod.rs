//! Stream sockets of a worker: the TCP engine, and what it needs and does between the links and the rings.
//!
//! Segments go into the engine as they arrive ([`driver`] stores their payload and makes accepted connections). Once in a
//! turn the words of active connections are looked at ([`programs`]), then what has happened is told to the programs
//! ([`events`]), and what is to be sent is given to the links ([`transmit`]). Payload is copied once, from the frame into the
//! receive ring; what is sent is read from the transmit ring by the link, until the peer has acknowledged it.
//!
//! A connection is *active* as a datagram socket is: while something happens its words are looked at in every turn, and
//! after a while of quiet the program has to kick.

mod accept;
mod driver;
mod engines;
mod events;
mod memory;
mod options;
mod programs;
mod race;
mod solicit;
mod table;
mod transmit;

pub use options::{inherit as inherit_options, of as stream_options};

use super::path::{Key, Path as Way, Paths};
use super::{Worker, token};
use crate::stream::{Registry, Stream};
use crate::sys::Epoll;
use crossbeam::channel::Sender;
use driver::Host;
use engines::Engines;
use freena_plugin::Library;
use freena_stack_api::RxChecksum;
use freena_tcp::{Config, Flow, Handle, IcmpError, ListenerKey, Listening, Stats};
use freena_wire::Packet;
use race::Race;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::{Listener, Table};
use transmit::Stage;

/// Half-open connections of one worker; beyond, SYN cookies.
const MAX_HALF_OPEN: usize = 4096;
/// Connections of one worker that wait for old duplicates.
const MAX_TIME_WAIT: usize = 16_384;
/// How long the way to a peer is believed, as in [`super::path`].
const WAY_LIFETIME: Duration = Duration::from_secs(1);

/// What the control thread tells a worker of streams.
pub enum Order {
    /// A listener; answered when the worker knows it.
    Listen(ListenerKey, Arc<Stream>, Listening, usize, Sender<()>),
    /// What a listener's options are now, and how many connections may wait for it, if that has changed.
    Relisten(ListenerKey, Listening, Option<usize>),
    /// A listener is closed.
    Unlisten(ListenerKey),
    /// A program wants to connect; how long a protocol may take to answer before the next one is tried too.
    Connect(Arc<Stream>, Duration),
    /// A router or a host says that a packet of a protocol did not get through, whose header began with these bytes.
    Icmp(u8, Flow, [u8; 8], IcmpError),
}

/// All stream state of a worker.
pub(super) struct Streams {
    engines: Engines,
    table: Table,
    stage: Stage,
    /// Sockets that several protocols may carry, until it is known which.
    races: Vec<Race>,
    registry: Arc<Registry>,
    /// Number of the worker.
    index: usize,
    /// Whether there has ever been a stream: a worker without pays one look at this.
    used: bool,
    /// When all quiet connections were last looked at.
    swept: Instant,
}

impl Streams {
    pub(super) fn new(
        index: usize,
        registry: Arc<Registry>,
        secret: [u8; 32],
        max_connections: usize,
        (libraries, quic): (&[Arc<Library>], Option<&freena_quic_keys::Host>),
    ) -> Self {
        let config =
            Config { secret, max_connections, max_half_open: MAX_HALF_OPEN, max_time_wait: MAX_TIME_WAIT };
        Streams {
            engines: Engines::new(config, libraries, quic),
            table: Table::default(),
            stage: Stage::default(),
            races: Vec::new(),
            registry,
            index,
            used: false,
            swept: Instant::now(),
        }
    }

    /// Whether there is anything for streams to do.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Takes a segment from a link.
    pub(super) fn receive(
        &mut self,
        paths: &mut Paths,
        epoll: &Epoll,
        now: Instant,
        segment: (&Packet<'_>, RxChecksum, u16),
        ifindex: u32,
    ) {
        let mut host = Host {
            table: &mut self.table,
            registry: &self.registry,
            protocol: segment.0.protocol,
            index: self.index,
            paths,
            epoll,
            now,
            ifindex,
        };
        self.engines.handle_packet(now, segment, ifindex, &mut host);
    }

    /// When the worker must look here again, if it sleeps.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.used {
            return None;
        }
        let retry = self.stage.poll_timeout();
        let crowded = (!self.table.crowded.is_empty()).then(|| now + accept::RETRY);
        let stuffed = (!self.table.stuffed.is_empty()).then(|| now + programs::STUFFED);
        let race = race::poll_timeout(&self.races);
        [self.engines.poll_timeout(), retry, crowded, stuffed, race].into_iter().flatten().min()
    }

    /// Brings the figures in all pages up to date.
    pub(super) fn show_all(&mut self, now: Instant) {
        for (handle, connection) in self.table.iter_mut() {
            programs::show(connection, &self.engines, handle, now);
        }
    }

    /// Counters of the engines, by protocol.
    pub(super) fn stats(&self) -> Vec<(u8, Stats)> {
        self.engines.stats()
    }

    /// Whether packets of this protocol are for an engine here.
    pub(super) fn carries(&self, protocol: u8) -> bool {
        self.engines.has(protocol)
    }
}

impl Worker {
    /// One turn for streams; returns how much there was to do.
    pub(super) fn serve_streams(&mut self) -> usize {
        if !self.streams.used {
            return 0;
        }
        let mut work = self.hear_programs();
        self.streams.engines.handle_timeout(self.now);
        self.run_races();
        self.deliver_streams();
        work += self.tell_programs();
        work + self.transmit_streams()
    }

    /// Lets engines store what has waited for room, and accept who has waited for a place.
    fn deliver_streams(&mut self) {
        let streams = &mut self.streams;
        let mut host = Host {
            table: &mut streams.table,
            registry: &streams.registry,
            protocol: 0,
            index: streams.index,
            paths: &mut self.paths,
            epoll: &self.epoll,
            now: self.now,
            ifindex: 0,
        };
        streams.engines.deliver(self.now, &mut host);
    }

    /// Carries out what the control thread asks for.
    pub(super) fn obey(&mut self, order: Order) {
        self.streams.used = true;
        match order {
            Order::Listen(key, stream, listening, backlog, done) => {
                self.listen(key, stream, listening, backlog);
                let _ = done.send(());
            }
            Order::Relisten(key, listening, backlog) => {
                if let Some(listener) = self.streams.table.listener(key) {
                    listener.backlog = backlog.unwrap_or(listener.backlog);
                    for protocol in &listener.stream.protocols {
                        self.streams.engines.listen(*protocol, key, listening);
                    }
                }
            }
            Order::Unlisten(key) => self.unlisten(key),
            Order::Connect(stream, stagger) => self.connect(stream, stagger),
            Order::Icmp(protocol, flow, quoted, error) => {
                self.streams.engines.handle_icmp(protocol, self.now, &flow, quoted, error);
            }
        }
    }

    fn listen(&mut self, key: ListenerKey, stream: Arc<Stream>, listening: Listening, backlog: usize) {
        for protocol in &stream.protocols {
            self.streams.engines.listen(*protocol, key, listening);
        }
        let home = stream.home == self.setup.index;
        let listener = Listener {
            stream: stream.clone(),
            backlog,
            pending: Default::default(),
            queued: 0,
            kernel_waits: false,
        };
        self.streams.table.insert_listener(key, listener);
        if !home {
            return;
        }
        let edge = libc::EPOLLET | libc::EPOLLIN;
        let peer = stream.peer_end.as_raw_fd();
        let watched = self.epoll.add(peer, edge | libc::EPOLLRDHUP, token::LISTENER | u64::from(key));
        let watched = watched.and_then(|()| match stream.companion.get() {
            Some(companion) => {
                self.epoll.add(companion.as_raw_fd(), edge, token::KERNEL_LISTENER | u64::from(key))
            }
            None => Ok(()),
        });
        if let Err(error) = watched {
            tracing::error!(socket = stream.id, %error, "cannot watch a listener");
        }
        // Connections that came between listen(2) and now.
        self.accept_from_kernel(key);
    }

    fn unlisten(&mut self, key: ListenerKey) {
        if let Some(listener) = self.streams.table.remove_listener(key) {
            for protocol in &listener.stream.protocols {
                self.streams.engines.unlisten(*protocol, key);
            }
            if listener.stream.home == self.setup.index {
                let _ = self.epoll.remove(listener.stream.peer_end.as_raw_fd());
                if let Some(companion) = listener.stream.companion.get() {
                    let _ = self.epoll.remove(companion.as_raw_fd());
                }
            }
        }
    }

    /// Routes or neighbours have changed.
    pub(super) fn reroute_streams(&mut self) {
        if !self.streams.used {
            return;
        }
        let streams = &mut self.streams;
        streams.stage.retry_now();
        let all: Vec<(Handle, Flow, u32)> =
            streams.table.iter().map(|(handle, c)| (handle, c.flow, c.stream.ifindex)).collect();
        for (handle, flow, ifindex) in all {
            let way = find_way(&mut self.paths, &flow, ifindex, self.now);
            let Some(connection) = streams.table.get_mut(handle) else { continue };
            connection.way = None;
            if let Way::Fast(fast) = way {
                let path = driver::path_of(&fast);
                if path != connection.path {
                    connection.path = path;
                    streams.engines.set_path(self.now, handle, path);
                }
            }
        }
    }
}

/// Has the epoll set report kicks and the end of a connection's descriptors.
fn watch(epoll: &Epoll, handle: Handle, stream: &Stream) -> std::io::Result<()> {
    let events = libc::EPOLLET | libc::EPOLLIN | libc::EPOLLRDHUP;
    let data = token::STREAM | generation(stream) << token::GENERATION_SHIFT | u64::from(handle.0);
    epoll.add(stream.peer_end.as_raw_fd(), events, data)
}

/// Tells a report of the epoll set about a connection from one about an earlier one with the same handle.
fn generation(stream: &Stream) -> u64 {
    stream.id & 0xff_ffff
}

/// Which way segments of a flow go.
fn find_way(paths: &mut Paths, flow: &Flow, ifindex: u32, now: Instant) -> Way {
    let link_local = match flow.peer {
        IpAddr::V6(peer) => peer.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let ifindex = if link_local && ifindex == 0 { paths.first_interface() } else { ifindex };
    paths.find(Key { dst: flow.peer, src: Some(flow.local), ifindex }, now)
}
