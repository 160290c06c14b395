use super::super::tests::{fast, record};
use super::super::{Carriage, carriage};
use super::*;
use freena_ip::{Limits, Reassembler};
use freena_shm_abi::Record;
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor};
use freena_shm_ring::mapping::Sizes;
use freena_shm_ring::{Consumer, Producer, SocketMapping};
use freena_wire::{Packet, parse_frame};
use std::time::Instant;

/// Stages one record of `payload` as fragments, those from `offset` on.
fn stage(stage: &mut Stage, record: &Record, payload: &[u8], mtu: u32, from: Resume) {
    let (memory, _fd) = SocketMapping::create(Sizes::clamp(1 << 20, 1 << 20, 1), 1).unwrap();
    let mut producer_cursor = ProducerCursor::default();
    let mut producer = Producer::new(memory.tx(), &mut producer_cursor);
    producer.reserve(record).unwrap().write(0, payload);
    producer.publish();
    let mut consumer_cursor = ConsumerCursor::default();
    let message = Consumer::new(memory.tx(), &mut consumer_cursor).next().unwrap().unwrap();
    let fast = fast(ip_of(&record.peer).is_ipv6(), mtu);
    let Carriage::Fragments(pieces) = carriage(&fast, record) else { panic!("{record:?} is not cut") };
    stage.push_fragments(3, 4000, &message, &fast, pieces, from);
    // The payload must be a copy: here the ring goes, there a program may write on.
}

/// The staged frames.
fn frames(stage: &Stage) -> Vec<Vec<u8>> {
    let frame = |staged: &Staged| {
        let mut frame = stage.headers[staged.header.clone()].to_vec();
        for chunk in &stage.chunks[staged.chunks.clone()] {
            let at = frame.len();
            frame.resize(at + chunk.len(), 0);
            chunk.copy_to(&mut frame[at..]);
        }
        frame
    };
    stage.bursts.iter().map(frame).collect()
}

fn payload(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

const START: Resume = Resume { at: 0, id: 0x1234_5678, offset: 0 };

#[test]
fn a_receiver_gets_the_datagram_back() {
    for v6 in [false, true] {
        for (len, mtu) in [(1473, 1500), (9000, 1500), (65_507, 1500), (2000, 1280), (65_507, 9000)] {
            let mut staged = Stage::default();
            let payload = payload(len);
            let record = Record { tos: 0xb8, ttl: 9, ..record(v6, len) };
            stage(&mut staged, &record, &payload, mtu, START);
            let mut reassembler = Reassembler::new(Limits::default());
            let mut datagrams = 0;
            for frame in frames(&staged).iter().rev() {
                assert!(frame.len() <= mtu as usize + ethernet::HEADER_LEN);
                let packet = parse_frame(frame).unwrap();
                let Some(whole) = reassembler.handle_fragment(Instant::now(), &packet).unwrap() else {
                    continue;
                };
                assert_eq!((whole.protocol, whole.ttl, whole.tos), (protocol::UDP, 9, 0xb8));
                let header = udp::Header::parse(whole.payload).unwrap();
                assert_eq!((header.src_port(), header.dst_port()), (4000, 7));
                assert_eq!(header.verify(whole.src, whole.dst), Ok(udp::Verdict::Right));
                assert!(header.payload() == payload, "{len} bytes, MTU {mtu}, IPv6: {v6}");
                datagrams += 1;
            }
            assert_eq!(datagrams, 1);
            let counted: u32 = staged.bursts.iter().map(|burst| burst.datagrams).sum();
            assert_eq!(counted, 1, "the last fragment counts for the datagram");
        }
    }
}

#[test]
fn the_rest_of_a_datagram_continues_the_same_one() {
    let payload = payload(9000);
    let (mut first, mut rest) = (Stage::default(), Stage::default());
    stage(&mut first, &record(false, 9000), &payload, 1500, START);
    stage(&mut rest, &record(false, 9000), &payload, 1500, Resume { offset: 2960, ..START });
    assert_eq!((first.bursts.len(), rest.bursts.len()), (7, 5));
    assert_eq!(frames(&first)[2..], frames(&rest)[..]);
    let resume = rest.bursts[0].fragment.unwrap();
    assert_eq!(resume, Resume { offset: 2960, ..START });
    assert!(first.bursts[0].fragment.unwrap().is_start() && !resume.is_start());
}

#[test]
fn without_checksum_the_field_is_zero() {
    let record = Record { flags: flags::NO_CHECKSUM, ..record(false, 3000) };
    let mut staged = Stage::default();
    stage(&mut staged, &record, &payload(3000), 1500, START);
    let frames = frames(&staged);
    let packet: Packet<'_> = parse_frame(&frames[0]).unwrap();
    assert_eq!(packet.payload[udp::CHECKSUM_OFFSET..udp::HEADER_LEN], [0, 0]);
}
