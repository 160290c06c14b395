//! Connections between two programs on this host: both ends get one memory, and what one sends is what the other receives.
//!
//! No worker knows of them, and no packet is built. Once both programs have what is theirs, they do everything for each other
//! (`freena_shm_abi::joint`) but two things, which are done here: an end that finds that it needs a token asks for it, and when
//! the last descriptor of an end is closed, the other one is told, as the kernel's loopback would have told it. So a program
//! may be killed at any instant; and what it wrote into the memory is believed as little as anywhere.

use super::super::client::Answer;
use super::super::policy::Facts;
use super::super::requests::named;
use super::super::{Control, token};
use crate::mirror::{Route, RouteKind};
use crate::stream::{Lease, Names, Stream};
use crate::sys;
use crate::worker::inherit_options;
use freena_shm_abi::control::{Request, Response, verdict};
use freena_shm_abi::stream::{Info, ask, shut, state};
use freena_shm_ring::joint::end_direction;
use freena_shm_ring::wake;
use freena_udp::{Binding, Flow};
use freena_wire::protocol;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Messages that are read from a program at a time.
const DRAINED: u32 = 16;
/// Streams in each direction, as many as the SCTP engine offers.
const STREAMS: u32 = 2048;
/// MTU and largest segment of the loopback, for who asks.
const LOOPBACK: (u32, u32) = (65_536, 65_483);

/// An end of a joined connection, and the other one, which may be closed already.
pub(super) struct Ends {
    own: Arc<Stream>,
    pub(super) peer: Arc<Stream>,
}

/// A listener that a connection goes to.
pub(super) struct Target {
    pub(super) source: IpAddr,
    listener: Arc<Stream>,
}

impl Target {
    /// Whether it is an SCTP socket.
    pub(super) fn has_messages(&self) -> bool {
        self.listener.has_messages()
    }
}

impl Control {
    /// Whether a connection to this host is for a listener here.
    pub(super) fn judge_join(
        &self,
        binding: &Binding,
        (dst, dst_port): (IpAddr, u16),
        (source, oif): (Option<IpAddr>, Option<u32>),
        ifindex: u32,
    ) -> Result<Target, String> {
        let Ok(Route { kind: RouteKind::Local(hop), .. }) =
            self.network.with(|mirror| mirror.route(dst, source, oif))
        else {
            return Err("the route has just changed".to_owned());
        };
        let Some(source) = source.or(hop.prefsrc) else {
            return Err("the route has no source address: the kernel gives the error".to_owned());
        };
        let flow = Flow { src: source, src_port: binding.port, dst, dst_port, ifindex };
        let listener = self.streams.hearers.lookup(&flow);
        let listener = listener.and_then(|key| self.streams.listeners.get(key as usize)?.clone());
        let Some(listener) = listener else {
            let peer = SocketAddr::new(dst, dst_port);
            return Err(format!("to this host: no program under freena listens at {peer}"));
        };
        // A port that the program has chosen itself may be connected to the same peer already.
        let local = (source, binding.port);
        if binding.port != 0 && self.registry.connection(local, (dst, dst_port)).is_some() {
            return Err("the addresses are in use: the kernel gives the error".to_owned());
        }
        Ok(Target { source, listener })
    }

    /// Connects a program to a listener on this host.
    pub(super) fn join(
        &mut self,
        client: u64,
        request: &Request,
        companion: OwnedFd,
        facts: &mut Facts,
        Target { source, listener }: Target,
    ) -> io::Result<Answer> {
        facts.binding.local = source;
        let (local, Some(peer)) = ((source, facts.binding.port), facts.binding.peer) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let reason = format!("connected to {}, a program under freena on this host", listener.owner.program);
        let parts = self.registry.make_joined(request.tx_size)?;
        for part in &parts {
            let stream = &part.memory().page().stream;
            show(&stream.told.info);
            stream.told.state.store(state::ESTABLISHED, Ordering::Release);
        }
        let [one, other] = parts;
        let messages = super::has_messages(request);
        super::options::read(&companion, facts.ipv6, messages, &one.memory().page().stream.asked);
        inherit_options(&listener.memory.page().stream.asked, &other.memory().page().stream.asked);
        // Nothing is steered for them.
        let lease = self.lease(facts.binding, &[protocol::TCP], Vec::new(), None);
        let names = |ipv6, companion, owner, (local, peer), lease: &Arc<Lease>| Names {
            ipv6,
            protocols: [if messages { protocol::SCTP } else { protocol::TCP }].into(),
            home: listener.home,
            companion,
            owner,
            local,
            peer: Some(peer),
            scope: facts.peer_scope,
            ifindex: 0,
            lease: lease.clone(),
        };
        let owner = self.owner(client, reason.clone());
        let (one, end) = one.name(names(facts.ipv6, Some(companion), owner, (local, peer), &lease));
        let accepted_by = listener.owner.clone();
        let (other, other_end) =
            other.name(names(listener.ipv6, None, accepted_by, (peer, local), &listener.lease));
        match listener.hand_out(&other, &other_end, Some(&one.peer_end)) {
            Ok(()) => {}
            // The kernel's queue of the same listener is another one: it may have room, or lets the program wait.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe) => {
                return Ok(self.leave(client, facts, "the listener's queue is full: the kernel's is used"));
            }
            Err(error) => return Err(error),
        }
        let (one, other) = (Arc::new(one), Arc::new(other));
        for (own, peer) in [(&one, &other), (&other, &one)] {
            self.registry.insert(own.clone());
            self.streams.joined.insert(own.id, Ends { own: own.clone(), peer: peer.clone() });
            let events = libc::EPOLLET | libc::EPOLLIN | libc::EPOLLRDHUP;
            self.epoll.add(own.peer_end.as_raw_fd(), events, token::JOINED | own.id)?;
        }
        self.streams.joined_total += 1;
        let joint = one.joint_fd.as_deref().map(OwnedFd::try_clone).transpose()?;
        let fds = [Some(end), Some(one.memory_fd.try_clone()?), joint, Some(other.peer_end.try_clone()?)];
        let response = Response { verdict: verdict::FAST, socket_id: one.id, ..Response::new() };
        let response = named(response, facts).because(&reason);
        Ok(Answer { response, fds: fds.into_iter().flatten().collect() })
    }

    /// A message of an end of a joined connection, or its last descriptor is closed.
    pub(in super::super) fn hear_joined(&mut self, id: u64, events: u32) {
        if events & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            self.part(id);
        } else if let Some(ends) = self.streams.joined.get(&id) {
            ends.hear();
        }
    }

    /// Makes an end writable whose program found it full, while its peer was reading, if it is one.
    pub(super) fn make_writable(&self, id: u64) {
        if let Some(ends) = self.streams.joined.get(&id) {
            ends.drain();
        }
    }

    /// The last descriptor of an end is closed.
    fn part(&mut self, id: u64) {
        let Some(ends) = self.streams.joined.remove(&id) else { return };
        self.registry.remove(&ends.own);
        let _ = self.epoll.remove(ends.own.peer_end.as_raw_fd());
        if self.streams.joined.contains_key(&ends.peer.id) {
            ends.tell_end();
        }
    }
}

impl Ends {
    /// Answers what an end asks for; does for its peer what its program could not.
    fn hear(&self) {
        self.drain();
        let told = &self.own.memory.page().stream.told;
        if self.own.memory.page().stream.asked.shut.load(Ordering::Relaxed) & shut::WRITE != 0
            && matches!(
                told.state.load(Ordering::Relaxed),
                state::FIN_WAIT_2 | state::CLOSED | state::TIME_WAIT
            )
        {
            shut(&self.peer, libc::SHUT_WR);
        }
        let back = Ends { own: self.peer.clone(), peer: self.own.clone() };
        back.drain();
        let waits = &self.peer.memory.page().rx_wake.0;
        let wants_edge = || waits.eager.load(Ordering::Relaxed) != 0 && wake::is_sent(&waits.token);
        if back.has_news() && (wake::take_request(&waits.token) || wants_edge()) {
            send_token(&self.peer);
        }
    }

    /// Whether there is something for the program of this end to find.
    fn has_news(&self) -> bool {
        let (page, rx) = (self.own.memory.page(), self.own.memory.rx_pipe());
        rx.tail().load(Ordering::Acquire) != rx.head().load(Ordering::Relaxed)
            || page.error.0.load(Ordering::Relaxed) != 0
            || state::is_end_of_file(page.stream.told.state.load(Ordering::Relaxed))
    }

    /// Reads the messages of this end, which makes it writable; but not those that say "full" while it is.
    fn drain(&self) {
        let from = self.own.peer_end.as_fd();
        let (tx, half) = (self.own.memory.tx_pipe(), u64::from(self.own.memory.sizes().tx) / 2);
        let used = tx.tail().load(Ordering::Relaxed).wrapping_sub(tx.head().load(Ordering::Relaxed));
        let mut message = [0u8; 8];
        let (mut asked, mut forced) = (false, false);
        for _ in 0..DRAINED {
            if used > half && !matches!(sys::peek(from, &mut message), Ok(1..) if message[0] != b'f') {
                break;
            }
            match sys::receive(from, &mut message) {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    asked = true;
                    forced |= message[0] == b't';
                }
            }
        }
        if asked && self.has_news() && (wake::take_request(&self.own.memory.page().rx_wake.0.token) || forced)
        {
            send_token(&self.own);
        }
    }

    /// Tells the peer that this end is closed: by a reset where the kernel sends one.
    fn tell_end(&self) {
        let (own, peer) = (&self.own.memory, &self.peer.memory);
        let (page, asked) = (peer.page(), &own.page().stream.asked);
        let was_unread = {
            let rx = own.rx_pipe();
            rx.tail().load(Ordering::Acquire) != rx.head().load(Ordering::Acquire)
        };
        // Who closed a listener did not take what was in its queue.
        let was_taken =
            self.own.companion.get().is_some() || asked.flags.load(Ordering::Relaxed) & ask::TAKEN != 0;
        let (own_state, told) = (&own.page().stream.told.state, &page.stream.told);
        if is_over(told.state.load(Ordering::Acquire)) {
            return;
        }
        let is_reset = was_unread || !was_taken || asked.linger.load(Ordering::Relaxed) == 0;
        let how = if is_reset {
            own_state.store(state::CLOSED, Ordering::Release);
            page.error.0.store(libc::ECONNRESET as u32, Ordering::Release);
            told.state.store(state::CLOSED, Ordering::Release);
            libc::SHUT_RDWR
        } else {
            told.gone.store(1, Ordering::Release);
            let (_, other) = end_direction(own_state, &told.state);
            if is_over(other) { libc::SHUT_RDWR } else { libc::SHUT_WR }
        };
        if wake::take_request(&page.rx_wake.0.token) {
            send_token(&self.peer);
        }
        shut(&self.peer, how);
    }
}

fn is_over(state: u32) -> bool {
    matches!(state, state::CLOSED | state::TIME_WAIT)
}

/// Makes the program's end readable.
fn send_token(stream: &Stream) {
    // A full queue (EAGAIN) is readable already.
    let _ = sys::send(stream.peer_end.as_fd(), b"r");
}

/// Shows the program's end, and all who poll it, that a direction has ended.
fn shut(stream: &Stream, how: i32) {
    // SAFETY: plain system call on an owned descriptor.
    unsafe { libc::shutdown(stream.peer_end.as_raw_fd(), how) };
}

/// What `TCP_INFO` says of the loopback.
fn show(info: &Info) {
    let (mtu, segment) = LOOPBACK;
    info.path_mtu.store(mtu, Ordering::Relaxed);
    info.send_mss.store(segment, Ordering::Relaxed);
    info.receive_mss.store(segment, Ordering::Relaxed);
    info.ssthresh.store(u32::MAX, Ordering::Relaxed);
    info.cwnd.store(10, Ordering::Relaxed);
    // Of sockets with messages.
    info.streams.store(STREAMS << 16 | STREAMS, Ordering::Relaxed);
}
