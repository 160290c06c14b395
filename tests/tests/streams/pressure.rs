//! What others do to a server on purpose or by carelessness: floods of SYNs, handshakes that nobody finishes, peers that do not
//! read, programs that do not accept, a table that is full. Who has nothing to do with it goes on.

use super::wire::{Stream, connect, listen, wait_for};
use super::{Client, PORT, at, kernel_connect, kernel_listener};
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, number};
use freena_tests::netns::{ip, privileged};
use freena_wire::tcp::{self, flag};
use freena_wire::{checksum, protocol};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// SYNs of a flood, and how many are sent between pauses: faster, and the cable itself loses what others send.
const FLOOD: u32 = 120_000;
const AT_ONCE: u32 = 400;
const PAUSE: Duration = Duration::from_millis(10);
/// Half-open connections that the engine of a polling thread keeps: SYN cookies beyond (`MAX_HALF_OPEN`).
const MAX_HALF_OPEN: u64 = 4096;
/// What a flood may add to the server's memory: the records of half-open connections, and the cache of ways.
const FLOOD_KIB: u64 = 16 << 10;
/// Memory of a connection with a full transmit ring: that, and pages of words and of other rings.
const SLOW_KIB: u64 = (1 << 10) + 128;

/// A sender of SYNs whose sources do not exist, on the far host: the answers go there by the default route, and end there.
struct Flooder(Socket);

impl Flooder {
    fn new(lab: &Lab) -> Flooder {
        ip(&format!("route add default via {FAR4}"));
        let socket = lab.pair.far.run(|| {
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
                .expect("a raw socket")
        });
        Flooder(socket)
    }

    fn send(&self, number: u32) {
        let to: Ipv4Addr = NEAR4.parse().expect("an address");
        // 198.18.0.0/15 is for such things (RFC 2544).
        let from = Ipv4Addr::from(0xc612_0000 | number & 0x1_ffff);
        let head = tcp::Repr {
            src_port: 1024 + (number >> 3 & 0x7fff) as u16,
            dst_port: PORT,
            sequence: number.wrapping_mul(0x9e37_79b9),
            acknowledgement: 0,
            flags: flag::SYN,
            window: 65_535,
            urgent: 0,
            options: tcp::Options { mss: Some(1460), sack_permitted: true, ..tcp::Options::default() },
        };
        // The kernel fills in what is zero: length, identification, checksum.
        let mut packet = [0u8; 80];
        (packet[0], packet[8], packet[9]) = (0x45, 64, protocol::TCP);
        packet[12..16].copy_from_slice(&from.octets());
        packet[16..20].copy_from_slice(&to.octets());
        let len = head.emit(0, &mut packet[20..]);
        let sum = checksum::pseudo_v4(from, to, protocol::TCP, len as u16).bytes(&packet[20..20 + len]);
        head.emit(sum.checksum(), &mut packet[20..]);
        let name = SockAddr::from(SocketAddrV4::new(to, 0));
        // What the cable does not take is lost, as is the fate of SYNs.
        let _ = self.0.send_to(&packet[..20 + len], &name);
    }

    fn flood(&self, count: u32) {
        for number in 0..count {
            self.send(number);
            if number % AT_ONCE == 0 {
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Memory that a process keeps resident, in KiB.
fn resident(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.program.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.program.pid())).expect("it runs").count()
}

/// A counter of the engines of all polling threads.
fn of_tcp(status: &Value, name: &str) -> u64 {
    status["workers"].as_array().expect("a list").iter().map(|worker| number(&worker["tcp"], name)).sum()
}

fn counter(server: &Server, name: &str) -> u64 {
    of_tcp(&server.status(), name)
}

/// A question and its answer over a connection: what others do must not keep it from that.
fn exchange(ours: &mut Stream, theirs: &mut TcpStream) {
    theirs.write_all(b"question").expect("sent");
    let mut got = [0; 8];
    ours.read_exact(&mut got);
    ours.write_all(b"answer!!");
    theirs.read_exact(&mut got).expect("an answer");
    assert_eq!(&got, b"answer!!");
}

#[test]
fn a_flood_of_syns_stops_nobody() {
    privileged("a_flood_of_syns_stops_nobody", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let client = Client::attached(&server.control);
        let listener = listen(&client, &lab.pair.near, at(NEAR4, PORT), 64);
        let mut theirs = kernel_connect(&lab, at(NEAR4, PORT));
        let mut ours = listener.accept_fast();
        exchange(&mut ours, &mut theirs);
        let before = resident(&server);
        let (flooder, over) = (Flooder::new(&lab), AtomicBool::new(false));
        let (mut exchanges, mut opened) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                flooder.flood(FLOOD);
                over.store(true, Ordering::Release);
            });
            while !over.load(Ordering::Acquire) {
                exchange(&mut ours, &mut theirs);
                exchanges += 1;
                if exchanges % 20 == 0 {
                    // A new one, most of them by a cookie.
                    let mut theirs = kernel_connect(&lab, at(NEAR4, PORT));
                    exchange(&mut listener.accept_fast(), &mut theirs);
                    opened += 1;
                }
            }
        });
        let status = server.status();
        let of = |name| of_tcp(&status, name);
        assert!(
            exchanges >= 100 && opened >= 5,
            "{exchanges} exchanges and {opened} connections in the flood"
        );
        assert_eq!(of("half_open"), MAX_HALF_OPEN);
        assert!(of("cookies_sent") > u64::from(FLOOD) / 2, "{status:#}");
        assert!(of("cookies_accepted") > 0, "{status:#}");
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < FLOOD_KIB, "the flood has taken {grown} KiB");
        // With the listener goes what is half open.
        drop((ours, theirs, listener));
        server.wait_until("nothing is half open", |status| of_tcp(status, "half_open") == 0);
    });
}

#[test]
fn handshakes_that_nobody_finishes_stop_nobody() {
    privileged("handshakes_that_nobody_finishes_stop_nobody", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let client = Client::attached(&server.control);
        let listener = listen(&client, &lab.pair.near, at(NEAR4, PORT), 8);
        let flooder = Flooder::new(&lab);
        flooder.flood(3000);
        server.wait_until("they are half open", |status| of_tcp(status, "half_open") == 3000);
        for _ in 0..20 {
            let mut theirs = kernel_connect(&lab, at(NEAR4, PORT));
            exchange(&mut listener.accept_fast(), &mut theirs);
        }
        // Each is asked again, and nothing more comes of it.
        server.wait_until("they are asked again", |status| of_tcp(status, "retransmitted") >= 3000);
        assert_eq!((counter(&server, "half_open"), counter(&server, "cookies_sent")), (3000, 0));
    });
}

#[test]
fn peers_that_do_not_read_stop_nobody() {
    /// Peers that do not read.
    const SLOW: usize = 40;
    const MUCH: usize = 2 << 20;
    privileged("peers_that_do_not_read_stop_nobody", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let client = Client::attached(&server.control);
        let (far, name) = kernel_listener(&lab, FAR4);
        let before = resident(&server);
        let byte = |stream: usize, at: usize| (stream + at / 5) as u8;
        let mut slow: Vec<(Stream, TcpStream, usize)> = (0..SLOW)
            .map(|_| {
                let ours = connect(&client, &lab.pair.near, name);
                let (theirs, _) = far.accept().expect("accepted");
                socket2::SockRef::from(&theirs).set_recv_buffer_size(64 << 10).expect("an option");
                (ours, theirs, 0)
            })
            .collect();
        let mut ours = connect(&client, &lab.pair.near, name);
        let (mut theirs, _) = far.accept().expect("accepted");
        let fill = |slow: &mut Vec<(Stream, TcpStream, usize)>| {
            for (number, (stream, _, written)) in slow.iter_mut().enumerate() {
                let more: Vec<u8> =
                    (*written..MUCH.min(*written + 65_536)).map(|at| byte(number, at)).collect();
                *written += stream.write(&more);
            }
        };
        // Long enough for windows to close, and to be asked for several times.
        let (started, mut exchanges) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(6) {
            fill(&mut slow);
            exchange(&mut ours, &mut theirs);
            exchanges += 1;
        }
        assert!(exchanges > 1000, "{exchanges} exchanges beside {SLOW} that do not read");
        assert!(slow.iter().all(|(_, _, written)| *written < MUCH), "more was taken than buffers hold");
        let each = resident(&server).saturating_sub(before) / SLOW as u64;
        assert!(each < SLOW_KIB, "a connection whose peer does not read keeps {each} KiB in the server");
        let status = server.status();
        let closed = status["connections"].as_array().expect("a list").iter();
        let closed = closed.filter(|it| number(it, "tx_queue_bytes") > 512 << 10).count();
        assert_eq!(closed, SLOW, "shown as having much to send");
        // And nothing is lost when they read at last.
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (number, (stream, mut theirs, written)) in slow.into_iter().enumerate() {
            readers.push(thread::spawn(move || {
                let mut all = vec![0; MUCH];
                theirs.read_exact(&mut all).expect("all that was written");
                assert!(all.iter().enumerate().all(|(at, it)| *it == byte(number, at)), "other bytes");
            }));
            writers.push((number, stream, written));
        }
        for (number, mut stream, mut written) in writers {
            let rest: Vec<u8> = (written..MUCH).map(|at| byte(number, at)).collect();
            wait_for("all is written", || {
                written += stream.write(&rest[rest.len() - (MUCH - written)..]);
                written == MUCH
            });
        }
        readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
    });
}

/// A connection of the far host's kernel that is only begun.
fn begin(lab: &Lab, port: u16) -> Socket {
    let socket =
        lab.pair.far.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket"));
    socket.set_nonblocking(true).expect("an option");
    let _ = socket.connect(&at(NEAR4, port).into());
    socket
}

/// Whether select(2) calls it writable: connected.
fn is_connected(socket: &Socket) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, which outlives the call.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & libc::POLLOUT != 0
}

#[test]
fn a_full_queue_answers_nobody_and_loses_nobody() {
    /// Peers that connect, one after the other, to a program that does not accept.
    const PEERS: usize = 60;
    const BACKLOG: u32 = 4;
    privileged("a_full_queue_answers_nobody_and_loses_nobody", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let client = Client::attached(&server.control);
        let held = descriptors(&server);
        let listener = listen(&client, &lab.pair.near, at(NEAR4, PORT), BACKLOG);
        let other = listen(&client, &lab.pair.near, at(NEAR4, PORT + 1), BACKLOG);
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let peer = begin(&lab, PORT);
            thread::sleep(Duration::from_millis(5));
            peers.push(peer);
        }
        // As with the kernel's: some are connected, the others hear nothing.
        let connected = peers.iter().filter(|peer| is_connected(peer)).count();
        for peer in &mut peers[..connected] {
            peer.write_all(b"hello").expect("the first ones are the connected ones");
        }
        assert_eq!(connected, BACKLOG as usize + 1, "connected, of {PEERS}");
        assert!(counter(&server, "backlog") > 0);
        assert_eq!(counter(&server, "half_open"), 0, "nobody waits for an answer that does not come");
        // Another listener of the program has nothing to do with it.
        let mut theirs = kernel_connect(&lab, at(NEAR4, PORT + 1));
        exchange(&mut other.accept_fast(), &mut theirs);
        // Once the program accepts, all are served, those that were not answered too.
        thread::scope(|scope| {
            for (number, peer) in peers.iter_mut().enumerate() {
                scope.spawn(move || {
                    wait_for("connected", || is_connected(peer));
                    peer.set_nonblocking(false).expect("an option");
                    if number >= connected {
                        peer.write_all(b"hello").expect("sent");
                    }
                    let mut got = [0; 7];
                    peer.read_exact(&mut got).expect("an answer");
                    assert_eq!(&got, b"welcome");
                });
            }
            let accept = || {
                let mut ours = listener.accept_fast();
                scope.spawn(move || {
                    let mut got = [0; 5];
                    ours.read_exact(&mut got);
                    assert_eq!(&got, b"hello");
                    ours.write_all(b"welcome");
                });
            };
            (0..PEERS).for_each(|_| accept());
        });
        drop((peers, theirs, listener, other));
        server.wait_until("no connection is left", |status| {
            status["connections"].as_array().is_some_and(Vec::is_empty)
        });
        wait_for("no descriptor is left", || descriptors(&server) <= held + 1);
    });
}
