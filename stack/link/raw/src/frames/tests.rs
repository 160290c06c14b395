use freena_wire::Sum;
use proptest::prelude::*;

use super::*;

/// Ethernet, IPv4 and UDP headers for `payload` bytes, the UDP checksum that of the pseudo-header.
fn udp4(payload: usize) -> Vec<u8> {
    let mut h = vec![2; 12];
    h.extend([8, 0, 0x45, 0]);
    h.extend((28 + payload as u16).to_be_bytes());
    h.extend([0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = Sum::ZERO.bytes(&h[14..34]).checksum();
    h[24..26].copy_from_slice(&sum.to_be_bytes());
    h.extend([0x15, 0xb3, 0x1b, 0x58]);
    let len = 8 + payload as u16;
    h.extend(len.to_be_bytes());
    h.extend(Sum::ZERO.bytes(&h[26..34]).word(17).word(len).partial().to_be_bytes());
    h
}

fn burst<'a>(header: &'a [u8], payload: &'a [Chunk<'a>], segment: u16, gso: Gso) -> Burst<'a> {
    let payload_len = payload.iter().map(Chunk::len).sum::<usize>() as u32;
    Burst { header, l3: 14, l4: 34, checksum: 6, payload, payload_len, segment, gso }
}

/// All frames, each checked by the rules of IPv4 and UDP.
fn frames(burst: &Burst<'_>) -> Vec<Vec<u8>> {
    let mut frames = Frames::new(burst).unwrap();
    assert_eq!(frames.remaining(), burst.frames() as usize);
    let mut all = Vec::new();
    let mut out = vec![0xee; frames.longest()];
    while let Some(len) = frames.write(&mut out) {
        let frame = &out[..len];
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), len - 14);
        assert_eq!(usize::from(u16::from_be_bytes([frame[38], frame[39]])), len - 34);
        assert_eq!(Sum::ZERO.bytes(&frame[14..34]).checksum(), 0, "IPv4 checksum");
        let pseudo = Sum::ZERO.bytes(&frame[26..34]).word(17).word(len as u16 - 34);
        assert_eq!(pseudo.bytes(&frame[34..]).checksum(), 0, "UDP checksum");
        all.push(frame.to_vec());
    }
    assert_eq!(frames.remaining(), 0);
    all
}

#[test]
fn an_empty_datagram_is_one_frame() {
    let header = udp4(0);
    assert_eq!(frames(&burst(&header, &[], 0, Gso::None)).len(), 1);
    assert_eq!(frames(&burst(&header, &[], 1000, Gso::Udp)).len(), 1);
}

#[test]
fn a_fragment_is_left_as_it_is() {
    let header = vec![5; 34];
    let chunks = [Chunk::new(&[6; 100])];
    let fragment = Burst { l4: 0, ..burst(&header, &chunks, 0, Gso::None) };
    let mut out = vec![0; 134];
    assert_eq!(Frames::new(&fragment).unwrap().write(&mut out), Some(134));
    assert!(out[..34].iter().all(|b| *b == 5) && out[34..].iter().all(|b| *b == 6));
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    let (header, payload) = (udp4(3000), [7; 3000]);
    let chunks = [Chunk::new(&payload)];
    let good = burst(&header, &chunks, 1000, Gso::Udp);
    assert!(Frames::new(&good).is_some());
    let bad = [
        ("chunks of another length", Burst { payload_len: 2999, ..good }),
        ("no segment size", Burst { segment: 0, ..good }),
        ("more than 64 frames", Burst { segment: 46, ..good }),
        ("UDP taken for TCP", Burst { gso: Gso::Tcp4, ..good }),
        ("checksum outside the header", Burst { checksum: 8, gso: Gso::None, segment: 0, ..good }),
        ("no IP header", Burst { l3: 42, ..good }),
    ];
    for (what, burst) in bad {
        assert!(Frames::new(&burst).is_none(), "{what}");
    }
}

proptest! {
    #[test]
    fn frames_carry_the_payload_however_it_is_cut(
        payload in proptest::collection::vec(any::<u8>(), 1..4000),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        segment in 63u16..1500,
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.extend([0, payload.len()]);
        cuts.sort_unstable();
        let chunks: Vec<Chunk<'_>> = cuts.windows(2).map(|cut| Chunk::new(&payload[cut[0]..cut[1]])).collect();
        let header = udp4(payload.len());
        let frames = frames(&burst(&header, &chunks, segment, Gso::Udp));
        let (last, others) = frames.split_last().unwrap();
        prop_assert!(others.iter().all(|frame| frame.len() == 42 + usize::from(segment)));
        prop_assert!(last.len() <= 42 + usize::from(segment));
        let got: Vec<u8> = frames.iter().flat_map(|frame| frame[42..].to_vec()).collect();
        prop_assert_eq!(got, payload);
    }
}
