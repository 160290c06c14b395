//! Programs that keep no rule: the server and the traffic of a well-behaved program go on.

mod client;

use client::{Carried, Client};
use freena_shm_abi::control::{Request, Response, op, verdict};
use freena_shm_abi::socket::{SocketPage, TX_OFFSET};
use freena_shm_abi::{Endpoint, Record};
use freena_tests::binaries;
use freena_tests::lab::{FAR4, Lab, NEAR4, Server};
use freena_tests::netns::privileged;
use freena_tests::program::Program;
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::mem::offset_of;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const PORT: u16 = 7001;

/// A server, and a program that has done nothing wrong.
struct Victims<'l> {
    server: Server<'l>,
    _echo: Program,
    far: UdpSocket,
}

impl<'l> Victims<'l> {
    fn new(lab: &'l Lab, arguments: &[&str]) -> Victims<'l> {
        let server = lab.near_server_with(arguments);
        let mut echo = server.script("echo.py", &[&NEAR4, &PORT]);
        echo.expect("ready");
        let far = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
        far.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let victims = Victims { server, _echo: echo, far };
        victims.assert_well("before");
        victims
    }

    /// The well-behaved program answers, by the fast path; the server answers.
    fn assert_well(&self, when: &str) {
        let mut buffer = [0; 64];
        for round in 0..3u8 {
            self.far.send_to(&[round; 9], (NEAR4, PORT)).expect("sent");
            let len = self.far.recv(&mut buffer).unwrap_or_else(|error| panic!("no answer {when}: {error}"));
            assert_eq!(buffer[..len], [round; 9], "{when}");
        }
        self.server.socket(PORT);
    }

    fn end(mut self) {
        self.assert_well("at the end");
        self.server.stop();
        let said = self.server.program.errors();
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// A kernel socket that may be carried.
fn companion() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).expect("bound");
    socket
}

/// Numbers that look random and are the same in each run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll(256) as u8).collect()
    }
}

#[test]
fn messages_that_are_no_requests() {
    privileged("messages_that_are_no_requests", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let control = &victims.server.control;
        // Of a wrong length: the connection is closed.
        for len in [0, 1, 71, 73, 256, 65_536] {
            let client = Client::attached(control);
            client.send(&vec![1; len], &[]).expect("sent");
            assert!(client.receive().is_err(), "an answer to {len} bytes");
        }
        // Of the right length: an answer that says what is wrong, in words.
        let client = Client::silent(control).expect("a connection");
        let refused = |client: &Client, request: Request, errno: i32, words: &str| {
            let (response, fds) = client.call(&request, &[]).expect("an answer");
            assert_eq!(response.errno as i32, errno, "{}", response.reason());
            assert!(response.reason().contains(words) && fds.is_empty(), "{}", response.reason());
        };
        refused(&client, Request::new(op::SYNC), libc::EPROTO, "ATTACH");
        let other = Request { version: 77, ..Request::new(op::ATTACH) };
        refused(&client, other, libc::EPROTO, "version 77");
        let client = Client::attached(control);
        refused(&client, Request::new(99), libc::EOPNOTSUPP, "unknown request 99");
        for op in [op::TAKEOVER, op::ADOPT, op::COMPANION, op::REFRESH] {
            refused(&client, Request::new(op), libc::EBADMSG, "descriptor");
        }
        // Noise.
        let mut dice = Dice(0xc0de);
        for _ in 0..2000 {
            let mut bytes = dice.bytes(size_of::<Request>());
            bytes[..4].copy_from_slice(&freena_shm_abi::ABI_VERSION.to_le_bytes());
            bytes[4..6].copy_from_slice(&(dice.roll(12) as u16).to_le_bytes());
            client.send(&bytes, &[]).expect("sent");
            client.receive().expect("an answer");
        }
        victims.assert_well("after noise");
        // Requests without end whose answers nobody reads: hung up on, not waited for.
        let client = Client::attached(control);
        let end = Instant::now() + Duration::from_secs(5);
        while client.send(Request::new(op::STATUS).as_bytes(), &[]).is_ok() {
            assert!(Instant::now() < end, "a client that reads nothing is served for ever");
        }
        victims.end();
    });
}

#[test]
fn descriptors_of_the_wrong_kind() {
    privileged("descriptors_of_the_wrong_kind", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let client = Client::attached(&victims.server.control);
        let take = |fds: &[RawFd]| -> Response {
            let request = Request::of(op::TAKEOVER, 17);
            let (response, fds) = client.call(&request, fds).expect("an answer");
            assert!(response.errno != 0 && fds.is_empty(), "it was taken over: {}", response.reason());
            response
        };
        let open = |domain, kind, protocol| Socket::new(domain, kind, protocol).expect("a socket");
        let file = File::open("/dev/null").expect("a file");
        assert_eq!(take(&[file.as_raw_fd()]).errno as i32, libc::ENOTSOCK);
        let tcp = open(Domain::IPV4, Type::STREAM, None);
        assert_eq!(take(&[tcp.as_raw_fd()]).errno as i32, libc::EPROTONOSUPPORT);
        let unix = open(Domain::UNIX, Type::DGRAM, None);
        take(&[unix.as_raw_fd()]);
        let raw = open(Domain::IPV4, Type::RAW, Some(Protocol::UDP));
        take(&[raw.as_raw_fd()]);
        let unbound = open(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP));
        assert!(take(&[unbound.as_raw_fd()]).reason().contains("not bound"));
        let foreign = lab.pair.far.run(companion);
        let response = take(&[foreign.as_raw_fd()]);
        assert_eq!(response.errno as i32, libc::EXDEV);
        assert!(response.reason().contains("namespace"), "{}", response.reason());

        // What is no application end of this server, or no longer one.
        let good = companion();
        let carried = client.take_over(&good);
        for op in [op::ADOPT, op::COMPANION, op::REFRESH] {
            for fd in [file.as_raw_fd(), good.as_raw_fd(), carried.memory.file().as_raw_fd()] {
                let (response, fds) = client.call(&Request::new(op), &[fd]).expect("an answer");
                assert_eq!(response.errno as i32, libc::ENOENT, "{op}: {}", response.reason());
                assert!(fds.is_empty());
            }
        }
        // More descriptors than any request has: none is kept by the server.
        let many = vec![file.as_raw_fd(); 16];
        let before = descriptors(&victims.server);
        for _ in 0..50 {
            // The server may hang up on whoever does it.
            let client = Client::attached(&victims.server.control);
            let _ = client.call(&Request::of(op::TAKEOVER, 17), &many);
        }
        // The same socket again, under two names.
        let again = good.try_clone().expect("a copy");
        let request = Request::of(op::TAKEOVER, 17);
        client.call(&request, &[again.as_raw_fd()]).expect("an answer");
        // What it shares with the server, it can break for itself only.
        let _ = good.shutdown(std::net::Shutdown::Both);
        good.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 9)).into()).expect("connected");
        client.call(&Request::new(op::REFRESH), &[carried.end.as_raw_fd()]).expect("an answer");
        drop((carried, good, again, client));
        victims.server.wait_until("its sockets are gone with it", |status| {
            status["sockets"].as_array().is_some_and(|sockets| sockets.len() == 1)
        });
        let after = descriptors(&victims.server);
        assert!(after <= before + 5, "descriptors of the server: {before} before, {after} after");
        victims.end();
    });
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.program.pid())).expect("its descriptors").count()
}

/// Has the server look at the ring.
fn kick(carried: &Carried) {
    let _ = carried.end.send_with_flags(b"k", libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
}

#[test]
fn scribbling_over_the_memory_of_a_socket() {
    privileged("scribbling_over_the_memory_of_a_socket", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let client = Client::attached(&victims.server.control);
        let mut dice = Dice(0xbad);
        let tail = offset_of!(SocketPage, tx_tail);
        // Positions that cannot be.
        for position in [1, 63, 64, 512 << 10, (512 << 10) + 64, u64::MAX, u64::MAX - 63, 1 << 63] {
            let carried = client.take_over(&companion());
            carried.memory.scribble(tail, &position.to_le_bytes());
            kick(&carried);
            thread::sleep(Duration::from_millis(3));
        }
        victims.assert_well("after impossible positions");
        // Records that cannot be, at positions that can.
        for round in 0..200 {
            let carried = client.take_over(&companion());
            let mut record = dice.bytes(size_of::<Record>());
            if round % 2 == 0 {
                // A plausible length, so that the rest is looked at.
                record[..4].copy_from_slice(&(dice.roll(70_000) as u32).to_le_bytes());
            }
            if round % 4 == 0 {
                record[8..24]
                    .copy_from_slice(&FAR4.parse::<Ipv4Addr>().expect("v4").to_ipv6_mapped().octets());
            }
            for at in (0..8).map(|index| TX_OFFSET + 64 * index) {
                carried.memory.scribble(at, &record);
            }
            let published = 64 * (1 + dice.roll(2000) as u64);
            carried.memory.scribble(tail, &published.to_le_bytes());
            kick(&carried);
            if round % 20 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        victims.assert_well("after impossible records");
        // Everything at once, while the server works on it.
        let stop = AtomicBool::new(false);
        let carried: Vec<Carried> = (0..4).map(|_| client.take_over(&companion())).collect();
        thread::scope(|scope| {
            let (stop, carried) = (&stop, &carried);
            scope.spawn(move || {
                let mut dice = Dice(0xfeed);
                while !stop.load(Ordering::Relaxed) {
                    let victim = &carried[dice.roll(carried.len())];
                    let len = 1 + dice.roll(256);
                    // The page of cursors, and the start of the transmit ring.
                    let at = dice.roll(2 * TX_OFFSET - len);
                    let noise = dice.bytes(len);
                    victim.memory.scribble(at, &noise);
                    victim.memory.scribble(tail, &(64 * dice.roll(9000) as u64).to_le_bytes());
                    kick(victim);
                }
            });
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(40));
                victims.assert_well("while memory is scribbled over");
            }
            stop.store(true, Ordering::Relaxed);
        });
        victims.assert_well("after the scribbling");
        drop(carried);
        victims.end();
    });
}

/// A source address that is not the host's is not sent, whatever the record asks for.
#[test]
fn a_source_address_cannot_be_forged() {
    privileged("a_source_address_cannot_be_forged", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let client = Client::attached(&victims.server.control);
        let sink = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
        sink.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let carried = client.take_over(&companion());
        let mapped = |text: &str| text.parse::<Ipv4Addr>().expect("v4").to_ipv6_mapped().octets();
        let mut position = 0u64;
        // The last one is honest: it arrives, so that the others had their chance.
        for source in ["10.0.0.2", "10.0.0.99", "127.0.0.1", "224.0.0.1", "255.255.255.255", NEAR4] {
            let record = Record {
                len: 64,
                peer: mapped(FAR4),
                peer_port: sink.local_addr().expect("its name").port(),
                local: mapped(source),
                ..Record::default()
            };
            carried.memory.scribble(TX_OFFSET + position as usize, record.as_bytes());
            position += Record::footprint(64) as u64;
            carried.memory.scribble(offset_of!(SocketPage, tx_tail), &position.to_le_bytes());
            kick(&carried);
        }
        let mut buffer = [0; 100];
        let (len, from) = sink.recv_from(&mut buffer).expect("the honest one");
        assert_eq!((len, from.ip().to_string().as_str()), (64, NEAR4), "a forged source address was sent");
        victims.end();
    });
}

#[test]
fn sockets_and_connections_until_refused() {
    privileged("sockets_and_connections_until_refused", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &["--max-sockets", "50"]);
        let client = Client::attached(&victims.server.control);
        let mut held = Vec::new();
        let request = Request::of(op::TAKEOVER, 17);
        let mut fast = 0;
        for _ in 0..80 {
            let socket = companion();
            let (response, fds) = client.call(&request, &[socket.as_raw_fd()]).expect("an answer");
            match response.verdict {
                verdict::FAST => fast += 1,
                _ => assert!(response.reason().contains("limit"), "{}", response.reason()),
            }
            held.push((socket, fds));
        }
        // One is the well-behaved program's.
        assert_eq!(fast, 49);
        victims.assert_well("with all sockets taken");
        // Connections, as many as this process may have.
        let mut silent: Vec<Client> = Vec::new();
        while silent.len() < 700
            && let Ok(connection) = Client::silent(&victims.server.control)
        {
            silent.push(connection);
        }
        assert!(silent.len() > 100);
        victims.assert_well(&format!("with {} silent connections", silent.len()));
        drop((held, client, silent));
        // The places are free again.
        victims.server.wait_until("the places are free", |status| {
            status["sockets"].as_array().is_some_and(|sockets| sockets.len() == 1)
        });
        let client = Client::attached(&victims.server.control);
        drop(client.take_over(&companion()));
        victims.end();
    });
}

/// A server whose descriptors are all taken: sockets are refused in words before the last ones, connections beyond them are
/// closed at once, nobody waits, and the server does not spin.
#[test]
fn descriptors_until_none_are_left() {
    privileged("descriptors_until_none_are_left", || {
        const LIMIT: u64 = 96;
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let server = victims.server.program.pid();
        limit_descriptors(server, LIMIT);
        let client = Client::attached(&victims.server.control);
        let mut held = Vec::new();
        let refused = loop {
            assert!(held.len() < 96, "more sockets than descriptors");
            let socket = companion();
            let request = Request::of(op::TAKEOVER, 17);
            let (response, fds) = client.call(&request, &[socket.as_raw_fd()]).expect("an answer");
            assert_eq!(response.errno, 0, "{}", response.reason());
            if response.verdict != verdict::FAST {
                break response.reason().to_owned();
            }
            held.push((socket, fds));
        };
        assert_eq!(
            refused,
            format!("freena-stack has {LIMIT} descriptors (RLIMIT_NOFILE), of which 12 are not for sockets")
        );
        victims.assert_well("with all sockets taken");
        let status = victims.server.status();
        let told = status["kernel_sockets"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|left| left["reason"] == refused.as_str());
        assert!(told, "{status:#}");
        // Connections take the others.
        let mut silent = Vec::new();
        loop {
            assert!(silent.len() < 20, "more connections than descriptors");
            let client = Client::silent(&victims.server.control).expect("a connection");
            let request = Request::new(op::ATTACH);
            if client.send(request.as_bytes(), &[]).is_err() || client.receive().is_err() {
                break;
            }
            silent.push(client);
        }
        let used = || {
            let stat =
                std::fs::read_to_string(format!("/proc/{server}/schedstat")).expect("the control thread");
            Duration::from_nanos(
                stat.split(' ').next().and_then(|time| time.parse().ok()).expect("nanoseconds"),
            )
        };
        let before = used();
        thread::sleep(Duration::from_millis(300));
        assert!(used() - before < Duration::from_millis(100), "it spins");
        let waited = Instant::now();
        let client = Client::silent(&victims.server.control).expect("a connection");
        assert!(
            client.receive().is_err() && waited.elapsed() < Duration::from_secs(1),
            "nobody is turned away"
        );
        drop((held, silent));
        victims.server.wait_until("the places are free", |status| {
            status["sockets"].as_array().is_some_and(|sockets| sockets.len() == 1)
        });
        drop(Client::attached(&victims.server.control).take_over(&companion()));
        victims.end();
    });
}

/// Sets `RLIMIT_NOFILE` of a running process.
fn limit_descriptors(pid: i32, limit: u64) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: `limit` is readable; the old limit is not asked for.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "prlimit: {}", std::io::Error::last_os_error());
}

/// What is shared with the program at the other end of a connection on one host: garbage in it harms that connection alone.
#[test]
fn a_joint_memory_written_over() {
    privileged("a_joint_memory_written_over", || {
        let lab = Lab::new();
        let victims = Victims::new(&lab, &[]);
        let mut dice = Dice(0x5eed);
        let mut joined = 0;
        for _ in 0..12 {
            let mut command = victims.server.run_with("tcp", binaries::python());
            command.arg("-u").arg(binaries::script("local_streams.py")).args(["listen", "127.0.0.1", "0"]);
            let mut victim = Program::start(command);
            let port: u16 = victim.expect("ready ").parse().expect("a port");
            let client = Client::attached(&victims.server.control);
            let socket = lab.pair.near.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)));
            let peer = Endpoint::new(Ipv4Addr::LOCALHOST.into(), port, 0);
            let request = Request { peer, ..Request::of(op::CONNECT, 6) };
            let (response, fds) =
                client.call(&request, &[socket.expect("a socket").as_raw_fd()]).expect("an answer");
            assert_eq!(response.verdict, verdict::FAST, "{}", response.reason());
            let [end, _memory, joint, peer_end] = <[_; 4]>::try_from(fds).expect("four descriptors");
            joined += 1;
            victim.expect("connected");
            victim.tell("churn 0.5");
            let joint = File::from(joint);
            let until = Instant::now() + Duration::from_millis(600);
            while Instant::now() < until {
                // Both pages: words that look like something, and noise.
                let at = dice.roll(2 * size_of::<SocketPage>() / 8 - 1) as u64 * 8;
                let word = match dice.roll(4) {
                    0 => dice.roll(16) as u64,
                    1 => u64::MAX - dice.roll(70_000) as u64,
                    2 => dice.roll(4 << 20) as u64,
                    _ => dice.roll(usize::MAX) as u64,
                };
                joint.write_all_at(&word.to_ne_bytes(), at).expect("written");
                let len = 1 + dice.roll(100);
                let message = dice.bytes(len);
                for to in [&end, &peer_end] {
                    // SAFETY: the message is readable.
                    unsafe {
                        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                        libc::send(to.as_raw_fd(), message.as_ptr().cast(), message.len(), flags)
                    };
                }
            }
            drop((end, peer_end));
            victim.expect("ok");
            victim.tell("close");
            victim.expect("ok");
            victims.assert_well("after garbage");
        }
        assert_eq!(joined, 12);
        victims.end();
    });
}
