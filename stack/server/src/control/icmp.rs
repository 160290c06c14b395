//! What routers and hosts say of packets that did not get through: the MTU of paths (RFC 1191, RFC 8201), and for streams, whose
//! errors no companion collects, what is unreachable.
//!
//! The kernel takes these messages too, for what it sends itself, but tells nobody. So they are read here as well, by
//! packet sockets whose filter lets little else through. A message counts if it quotes a packet that a socket of ours
//! may have sent (RFC 5927); for datagrams the kernel judges by the companions, which have the same addresses and ports, and
//! the sequence number of a segment is judged by the engine.

use super::{Control, WorkerHandle, token};
use crate::mirror::RouteKind;
use crate::stream::Stream;
use crate::sys::{self, Epoll};
use crate::worker::{Command, Order};
use freena_ebpf_abi::FlowKey;
use freena_tcp::{Flow, IcmpError};
use freena_udp::Binding;
use freena_wire::icmp::{self, Cause, Quote};
use freena_wire::{ethernet, parse_frame, protocol};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

/// Messages taken at a time, so that a flood of them does not keep programs from being served.
const BUDGET: usize = 64;
/// Bytes of a message that are looked at: its headers and those that it quotes, with room for extension headers.
const SNAP: usize = 1280;

/// Where the messages come in: for IPv4 and for IPv6.
pub(super) struct Icmp([Socket; 2]);

impl Icmp {
    /// Begins to listen on all interfaces, since a router's answer may come by another one than its cause left by.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub(super) fn listen(epoll: &Epoll, udp: bool) -> io::Result<Self> {
        let open = |ethertype: u16, filter: &[SockFilter]| {
            // `SOCK_DGRAM`: from the IP header on, whatever the interface has before it.
            let kind = Type::DGRAM.nonblocking().cloexec();
            let socket =
                Socket::new(Domain::PACKET, kind, Some(Protocol::from(i32::from(ethertype.to_be()))))?;
            // What came before the filter is refused by the parser.
            socket.attach_filter(filter)?;
            epoll.add(socket.as_raw_fd(), libc::EPOLLIN, token::ICMP)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Icmp([open(ethernet::IPV4, &filter_v4(udp))?, open(ethernet::IPV6, &filter_v6(udp))?]))
    }

    /// Takes what has come in and gives it to `sink`, each as a frame.
    fn receive(&self, mut sink: impl FnMut(&[u8])) {
        // The parser wants an Ethernet header in front.
        let mut frame = [0; ethernet::HEADER_LEN + SNAP];
        for (socket, ethertype) in self.0.iter().zip([ethernet::IPV4, ethernet::IPV6]) {
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            for _ in 0..BUDGET {
                let Ok(len) = sys::receive(socket.as_fd(), &mut frame[ethernet::HEADER_LEN..]) else { break };
                sink(&frame[..ethernet::HEADER_LEN + len]);
            }
        }
    }
}

impl Control {
    /// Takes in what routers said.
    pub(super) fn hear_icmp(&mut self) {
        let mut changed = false;
        self.icmp.receive(|frame| {
            let Ok(packet) = parse_frame(frame) else { return };
            let Ok(error) = icmp::parse(&packet) else { return };
            let quote = &error.quote;
            let segment = self.segment_of(quote);
            match (error.cause, segment) {
                (Cause::TooBig { mtu }, segment) if segment.is_some() || self.may_have_sent(quote) => {
                    changed |= self.lower(quote.src, quote.dst, mtu);
                }
                (cause, Some((stream, flow))) => {
                    self.tell_of_error(quote.protocol, &stream, flow, quote, cause)
                }
                (Cause::ProtocolUnreachable, None) => self.hear_of_protocol(quote),
                _ => {}
            }
        });
        if changed {
            self.network_changed();
        }
    }

    fn tell_of_error(&self, protocol: u8, stream: &Stream, flow: Flow, quote: &Quote<'_>, cause: Cause) {
        let quoted = quote.payload.get(..8).and_then(|bytes| bytes.try_into().ok());
        if let (Some(error), Some(quoted)) = (stream_error(cause), quoted) {
            let order = Order::Icmp(protocol, flow, quoted, error);
            WorkerHandle::tell(&self.workers[stream.home], Command::Stream(order));
        }
    }

    /// A host does not have a library's protocol: told to the engine for each socket that is being connected by it, since
    /// the engine alone can read the header that is quoted.
    fn hear_of_protocol(&self, quote: &Quote<'_>) {
        let number = quote.protocol;
        // First what costs one look, since anybody can send such messages.
        if !self.ownership.owns(&FlowKey::new(quote.src, 0, number)) {
            return;
        }
        for stream in self.registry.connecting(number, quote.src, quote.dst) {
            let Some((peer, peer_port)) = stream.peer else { continue };
            let flow = Flow { local: quote.src, local_port: stream.local.1, peer, peer_port };
            self.tell_of_error(number, &stream, flow, quote, Cause::ProtocolUnreachable);
        }
    }

    /// Forgets what is too old to be believed.
    pub(super) fn expire_path_mtus(&mut self) {
        let expired = self.network.with_path_mtus(|known| {
            let before = known.len();
            known.handle_timeout(Instant::now());
            known.len() < before
        });
        if expired {
            self.network_changed();
        }
    }

    /// The connection of ours, by TCP, SCTP or QUIC, that a quoted segment belongs to.
    fn segment_of(&self, quote: &Quote<'_>) -> Option<(Arc<Stream>, Flow)> {
        let number = quote.protocol;
        let has_ports = matches!(number, protocol::TCP | protocol::SCTP | protocol::UDP);
        let (local_port, peer_port) = quote.ports().filter(|_| has_ports)?;
        // First what costs one look, since anybody can send such messages.
        if !self.ownership.owns(&FlowKey::new(quote.src, local_port, number)) {
            return None;
        }
        let stream = self.registry.connection((quote.src, local_port), (quote.dst, peer_port))?;
        let flow = Flow { local: quote.src, local_port, peer: quote.dst, peer_port };
        stream.protocols.contains(&number).then_some((stream, flow))
    }

    fn may_have_sent(&self, quote: &Quote<'_>) -> bool {
        let Some((src_port, dst_port)) = quote.ports().filter(|_| quote.protocol == protocol::UDP) else {
            return false;
        };
        // First what costs one look, since anybody can send such messages.
        self.ownership.owns(&FlowKey::new(quote.src, src_port, protocol::UDP))
            && self.sockets.iter().any(|entry| {
                let binding = entry.socket.binding();
                may_send(&binding, (quote.src, src_port), (quote.dst, dst_port))
            })
    }

    /// Believes that packets of more than `mtu` bytes do not reach `dst`; whether that is news.
    fn lower(&self, src: IpAddr, dst: IpAddr, mtu: u32) -> bool {
        let interface = self.network.with(|mirror| match mirror.route(dst, Some(src), None) {
            // Of the interface, not the route: asked for a route, the kernel already tells what it took in itself.
            Ok(route) => match route.kind {
                RouteKind::Unicast(hop) => mirror.link(hop.ifindex).map(|link| link.mtu),
                _ => None,
            },
            Err(_) => None,
        });
        let Some(interface) = interface else { return false };
        let now = Instant::now();
        let lowered = self.network.with_path_mtus(|known| {
            // A router that does not tell its MTU means: less than what was sent, which was this at most.
            let sent = known.get(now, dst).unwrap_or(interface);
            known.too_big(now, dst, mtu, sent, interface)
        });
        if let Some(mtu) = lowered {
            tracing::info!(%dst, mtu, "a router lowers the path MTU");
        }
        lowered.is_some()
    }
}

/// What an error means for a connection; others, such as a hop limit that ran out, mean nothing lasting.
fn stream_error(cause: Cause) -> Option<IcmpError> {
    Some(match cause {
        Cause::NetUnreachable => IcmpError::Network,
        Cause::HostUnreachable => IcmpError::Host,
        Cause::ProtocolUnreachable => IcmpError::Protocol,
        Cause::PortUnreachable => IcmpError::Port,
        Cause::Prohibited => IcmpError::Prohibited,
        Cause::TooBig { .. } | Cause::HopLimit | Cause::ReassemblyTime | Cause::Parameter => return None,
    })
}

/// Whether a socket with this binding sends from `src` to `dst`.
fn may_send(binding: &Binding, src: (IpAddr, u16), dst: (IpAddr, u16)) -> bool {
    binding.port == src.1
        && (binding.local == src.0 || binding.local.is_unspecified())
        && binding.peer.is_none_or(|peer| peer == dst)
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

/// ICMP type 3, not fragmented: code 4, or about anything but a datagram of UDP (about those too if `udp`).
fn filter_v4(udp: bool) -> [SockFilter; 13] {
    [
        instruction(LOAD_BYTE, 0, 0, 9),
        instruction(JUMP_EQUAL, 0, 10, protocol::ICMP.into()),
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 6),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 8, 0, 0x3fff),
        instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 0),
        instruction(JUMP_EQUAL, 4, 0, 0x0304),
        // The type is the upper byte.
        instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 0, 8),
        instruction(JUMP_EQUAL, 0, 3, 3),
        // The protocol of the quoted header.
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, icmp::HEADER_LEN as u32 + 9),
        instruction(JUMP_EQUAL, u8::from(!udp), 0, protocol::UDP.into()),
        instruction(RETURN, 0, 0, SNAP as u32),
        instruction(RETURN, 0, 0, 0),
    ]
}

/// ICMPv6 type 2, and types 1 and 4 about anything but a datagram of UDP (about those too if `udp`); without extension headers.
fn filter_v6(udp: bool) -> [SockFilter; 10] {
    [
        instruction(LOAD_BYTE, 0, 0, 6),
        instruction(JUMP_EQUAL, 0, 7, protocol::ICMPV6.into()),
        instruction(LOAD_BYTE, 0, 0, 40),
        instruction(JUMP_EQUAL, 4, 0, 2),
        instruction(JUMP_EQUAL, 1, 0, 1),
        instruction(JUMP_EQUAL, 0, 3, 4),
        // The next header of the quoted one.
        instruction(LOAD_BYTE, 0, 0, 40 + icmp::HEADER_LEN as u32 + 6),
        instruction(JUMP_EQUAL, u8::from(!udp), 0, protocol::UDP.into()),
        instruction(RETURN, 0, 0, SNAP as u32),
        instruction(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_must_fit_what_a_socket_is_bound_to() {
        let ip = |last| IpAddr::from([10, 9, 0, last]);
        let any = IpAddr::from([0; 4]);
        let bound = |local, peer| Binding { local, port: 7, peer, ifindex: 0, dual: false, share: false };
        let (src, dst) = ((ip(1), 7), (ip(2), 9));
        assert!(may_send(&bound(any, None), src, dst));
        assert!(may_send(&bound(ip(1), Some(dst)), src, dst));
        assert!(!may_send(&bound(ip(3), None), src, dst), "another source address");
        assert!(!may_send(&bound(any, None), (ip(1), 8), dst), "another source port");
        assert!(!may_send(&bound(any, Some((ip(2), 10))), src, dst), "connected to another port");
        assert!(!may_send(&bound(any, Some((ip(4), 9))), src, dst), "connected to another host");
    }
}
