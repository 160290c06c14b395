//! TCP super-packets: the kernel takes them from a link as its own, and hands over what it would have cut.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use freena_link_raw::{FlowKey, Options, RawLink, SteeredInterface};
use freena_stack_api::{Burst, Chunk, Gso, Link, RxChecksum};
use freena_tests::netns::{Pair, privileged};
use freena_wire::{checksum, ethernet, ipv4, ipv6, protocol};

use crate::{FAR, FAR6, Got, NEAR, PORT, open, receive};

const NEAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const MSS: usize = 1448;
/// TCP header with a timestamp option.
const TCP: usize = 32;
const SEQUENCE: u32 = 0xffff_f000;

/// Headers of one super-packet from the near host to the far one.
fn header(src: IpAddr, dst: IpAddr, payload: usize) -> (Vec<u8>, usize, Gso) {
    let len = TCP + payload;
    let ip_len = if src.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    let l4 = ethernet::HEADER_LEN + ip_len;
    let mut out = vec![0; l4 + TCP];
    let ethertype = if src.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
    out[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let gso = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4::Repr {
                src,
                dst,
                protocol: protocol::TCP,
                ttl: 64,
                tos: 0,
                id: 7,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                payload_len: len as u16,
            }
            .emit(&mut out[14..]);
            Gso::Tcp4
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6::Repr {
                src,
                dst,
                next_header: protocol::TCP,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 0,
                payload_len: len as u16,
            }
            .emit(&mut out[14..]);
            Gso::Tcp6
        }
        _ => unreachable!("one IP version"),
    };
    let tcp = &mut out[l4..];
    tcp[..2].copy_from_slice(&9u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&PORT.to_be_bytes());
    tcp[4..8].copy_from_slice(&SEQUENCE.to_be_bytes());
    tcp[12] = (TCP as u8 / 4) << 4;
    tcp[13] = 0x18;
    tcp[20..24].copy_from_slice(&[1, 1, 8, 10]);
    let partial = checksum::pseudo(src, dst, protocol::TCP, len as u16).unwrap().partial();
    tcp[16..18].copy_from_slice(&partial.to_be_bytes());
    (out, l4, gso)
}

/// Receives frames to [`PORT`] until their payloads make up `want` bytes.
fn receive_bytes(link: &mut RawLink, l4: usize, want: usize) -> Vec<Got> {
    let payload = |frame: &Got| frame.data.len() - l4 - TCP;
    receive(link, |frames| frames.iter().map(payload).sum::<usize>() >= want)
}

#[test]
fn tcp_super_packets_are_sent_and_arrive() {
    privileged("tcp_super_packets_are_sent_and_arrive", || {
        let pair = Pair::new();
        let mut far = open(&pair);
        let mut near = pair.near.run(|| RawLink::open(Pair::NEAR, Options::default())).unwrap();
        let payload: Vec<u8> = (0..60_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (src, dst) in [(NEAR, FAR), (NEAR6, FAR6)] {
            let (mut header, l4, gso) = header(src, dst, payload.len());
            header[..6].copy_from_slice(&pair.far.run(|| mac(Pair::FAR)));
            let chunks = [Chunk::new(&payload[..5000]), Chunk::new(&payload[5000..])];
            let burst = Burst {
                header: &header,
                l3: 14,
                l4: l4 as u16,
                checksum: 16,
                payload: &chunks,
                payload_len: payload.len() as u32,
                segment: MSS as u16,
                gso,
            };
            assert_eq!(near.transmit(&[burst]).unwrap(), 1);
            let frames = receive_bytes(&mut far, l4, payload.len());
            assert_eq!(frames.len(), 1, "a veth pair carries it whole");
            assert_eq!((frames[0].segment, frames[0].checksum), (MSS as u16, RxChecksum::MayBePartial));
            assert!(frames[0].data[l4 + TCP..] == payload);
            assert_eq!(frames[0].data[l4 + 4..l4 + 8], SEQUENCE.to_be_bytes());
        }
        assert_eq!(near.stats().tx_frames, 2 * payload.len().div_ceil(MSS) as u64);
    });
}

fn mac(interface: &str) -> [u8; 6] {
    let output =
        std::process::Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = word.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What the kernel's TCP sends to an owned flow comes as the super-packets that it makes.
#[test]
fn a_kernel_connection_attempt_reaches_the_link() {
    privileged("a_kernel_connection_attempt_reaches_the_link", || {
        let pair = Pair::new();
        let (interface, mut link) = pair.far.run(|| {
            let interface = SteeredInterface::attach(Pair::FAR).unwrap();
            let options = Options { steering: Some(&interface), ..Options::default() };
            let link = RawLink::open(Pair::FAR, options).unwrap();
            (interface, link)
        });
        // Another port of the same address stays the kernel's.
        interface.own(FlowKey::new(FAR, PORT, protocol::TCP)).unwrap();
        let other = pair.far.run(|| TcpListener::bind((FAR, PORT + 1))).unwrap();
        let name: SocketAddr = (FAR, PORT + 1).into();
        let mut theirs = pair.near.run(|| TcpStream::connect(name)).unwrap();
        theirs.write_all(b"kernel").unwrap();
        let mut got = [0; 6];
        other.accept().unwrap().0.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"kernel");
        let limit = Duration::from_millis(300);
        let refused = pair.near.run(|| TcpStream::connect_timeout(&(FAR, PORT).into(), limit));
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "nobody has answered");
        let mut syns = 0;
        link.receive(64, &mut |frame| {
            assert_eq!(
                (frame.data[34 + 13], frame.checksum),
                (0x02 | (frame.data[34 + 13] & 0xc0), RxChecksum::MayBePartial)
            );
            syns += 1;
        })
        .unwrap();
        assert!(syns >= 1);
    });
}
