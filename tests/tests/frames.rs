//! Garbage on the wire: it does no harm, is counted, and what is well formed goes on meanwhile.

use freena_tests::lab::{FAR4, Lab, NEAR4, NEAR6, Server, number};
use freena_tests::netns::{Pair, privileged};
use serde_json::Value;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::net::UdpSocket;
use std::time::Duration;

const PORT: u16 = 7001;

/// A packet socket on the far host's interface.
struct Wire {
    socket: Socket,
    header: [u8; 14],
}

impl Wire {
    fn new(lab: &Lab) -> Wire {
        let near = mac(&lab.pair.near.run(|| link("near")));
        lab.pair.far.run(|| {
            let shown = link("far");
            let index: i32 = shown.split(':').next().and_then(|word| word.parse().ok()).expect("an index");
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("a packet socket");
            let mut storage = SockAddrStorage::zeroed();
            // SAFETY: a storage has room for every kind of address, and zero is a valid `sockaddr_ll`.
            let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index;
            // SAFETY: the first `len` bytes hold a `sockaddr_ll`.
            let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) };
            socket.bind(&address).expect("bound to the interface");
            let mut header = [0; 14];
            header[..6].copy_from_slice(&near);
            header[6..12].copy_from_slice(&mac(&shown));
            header[12] = 8;
            Wire { socket, header }
        })
    }

    /// Sends bytes as they are; what the kernel refuses (too short for a header) is no frame.
    fn raw(&self, frame: &[u8]) {
        let _ = self.socket.send(frame);
    }

    /// Sends an IPv4 packet of UDP to the program's port.
    fn ipv4(&self, id: u16, more: bool, offset: usize, payload: &[u8]) {
        let mut frame = self.header.to_vec();
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[6..8].copy_from_slice(&((offset / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend_from_slice(&ip);
        frame.extend_from_slice(payload);
        self.raw(&frame);
    }
}

fn link(name: &str) -> String {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", name]).output().expect("ip");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mac(shown: &str) -> [u8; 6] {
    let text = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

/// A UDP header without a checksum, and a payload.
fn udp(length: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes[..2].copy_from_slice(&4000u16.to_be_bytes());
    bytes[2..4].copy_from_slice(&PORT.to_be_bytes());
    bytes[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
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

fn assert_echo(socket: &UdpSocket, size: usize, when: &str) {
    let (sent, mut got) = (vec![7; size], vec![0; 65_536]);
    socket.send_to(&sent, (NEAR4, PORT)).expect("sent");
    loop {
        let len = socket.recv(&mut got).unwrap_or_else(|error| panic!("{size} bytes {when}: {error}"));
        if got[..len] == sent {
            return;
        }
    }
}

/// Everything that the server counts as bad.
fn bad(status: &Value) -> u64 {
    let worker = &status["workers"][0];
    let steering = &status["interfaces"][0]["steering"];
    number(worker, "malformed_frames")
        + number(&worker["udp"], "malformed")
        + number(&worker["udp"], "bad_checksum")
        + steering["pass-malformed"].as_u64().unwrap_or(0)
}

fn under_garbage(link: &str, play: impl Fn(&Wire, &UdpSocket, &Server) + Send + Sync) {
    privileged(&format!("garbage on a link of kind {link}"), || {
        let lab = Lab::new();
        let mut server = Server::start(&lab.pair.near, Pair::NEAR, lab.path("near"), &["--link", link]);
        let mut echo = server.script("echo.py", &[&NEAR4, &PORT]);
        echo.expect("ready");
        let mut six = server.script("echo.py", &[&NEAR6, &PORT]);
        six.expect("ready");
        let far = lab.pair.far.run(|| UdpSocket::bind((FAR4, 0)).expect("a kernel socket"));
        far.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        assert_echo(&far, 100, "before");
        play(&Wire::new(&lab), &far, &server);
        assert_echo(&far, 100, "after");
        assert!(server.program.is_running());
        server.stop();
    });
}

fn garbage(wire: &Wire, far: &UdpSocket, server: &Server) {
    let mut dice = Dice(0x5eed);
    let before = bad(&server.status());
    let good = udp(8 + 100, &[9; 100]);
    // Nothing but noise, of every kind of packet by its EtherType.
    for round in 0..4000 {
        let mut frame = wire.header.to_vec();
        match round % 4 {
            0 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
            1 => frame[12..14].copy_from_slice(&[0x81, 0]),
            2 => frame.copy_from_slice(&dice.bytes(14)),
            _ => {}
        }
        let noise = dice.roll(1400);
        frame.extend(dice.bytes(noise));
        wire.raw(&frame);
    }
    assert_echo(far, 200, "after noise");
    // To the program's port, but with lengths that lie, and cut short at every byte.
    for length in [0, 1, 7, 8 + 101, 2000, 65_535] {
        wire.ipv4(1, false, 0, &udp(length, &[9; 100]));
    }
    for cut in 0..good.len() {
        wire.ipv4(1, false, 0, &good[..cut]);
    }
    // A wrong checksum (0 means none).
    for _ in 0..50 {
        let mut wrong = good.clone();
        wrong[6..8].copy_from_slice(&[0x12, 0x34]);
        wire.ipv4(1, false, 0, &wrong);
    }
    assert_echo(far, 300, "after wrong lengths");
    // A good packet with some bytes changed.
    for _ in 0..4000 {
        let mut frame = wire.header.to_vec();
        frame.extend([0x45, 0, 0, 128, 0, 1, 0, 0, 64, 17, 0x66, 0x67, 10, 0, 0, 2, 10, 0, 0, 1]);
        frame.extend_from_slice(&good);
        for _ in 0..=dice.roll(3) {
            let at = 12 + dice.roll(frame.len() - 12);
            frame[at] = dice.roll(256) as u8;
        }
        frame.truncate(14 + dice.roll(frame.len()));
        wire.raw(&frame);
    }
    assert_echo(far, 400, "after changed packets");
    let counted = bad(&server.status()) - before;
    assert!(counted > 150, "only {counted} of thousands of bad frames are counted: {:#}", server.status());
}

#[test]
fn garbage_does_no_harm_and_is_counted() {
    under_garbage("xdp-native", garbage);
}

#[test]
fn garbage_does_no_harm_on_a_raw_link() {
    under_garbage("raw", garbage);
}

#[test]
fn fragments_that_overlap_or_never_complete_do_no_harm() {
    under_garbage("xdp-native", fragments);
    under_garbage("raw", fragments);
}

fn fragments(wire: &Wire, far: &UdpSocket, _server: &Server) {
    let mut dice = Dice(0xf4a6);
    // First fragments without an end, and ends without a first.
    for id in 0..300 {
        wire.ipv4(id, true, 0, &udp(8 + 1000, &[1; 64]));
        wire.ipv4(1000 + id, false, 1024, &[2; 64]);
    }
    assert_echo(far, 100, "after fragments without an end");
    // Overlaps: ahead, behind, inside, and twice the same.
    for id in 0..100u16 {
        let id = 2000 + id;
        let first = udp(8 + 512, &[3; 64]);
        wire.ipv4(id, true, 0, &first);
        wire.ipv4(id, true, 8 * dice.roll(9), &[4; 128]);
        wire.ipv4(id, true, 0, &first);
        wire.ipv4(id, false, 8 * dice.roll(70), &[5; 64]);
    }
    // Beyond what a packet can hold (RFC 791: the ping of death), and pieces of no length.
    for id in 0..50 {
        wire.ipv4(3000 + id, false, 65_528, &[6; 1000]);
        wire.ipv4(3000 + id, true, 0, &[]);
        wire.ipv4(4000 + id, true, 0, &udp(100, &[])[..id as usize % 8]);
    }
    assert_echo(far, 100, "after fragments that overlap");
    assert_echo(far, 20_000, "in good fragments after bad ones");
}
