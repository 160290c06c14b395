use super::*;
use crate::Pieces;
use freena_wire::Mac;
use proptest::prelude::*;

const SRC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const DST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn packet(src: IpAddr, id: u32, offset: usize, more: bool, payload: &[u8]) -> Packet<'_> {
    Packet {
        ether_src: Mac::default(),
        ether_dst: Mac::default(),
        src,
        dst: if src.is_ipv4() { DST } else { std::net::Ipv6Addr::LOCALHOST.into() },
        protocol: 17,
        ttl: 64,
        tos: 0,
        fragment: Some(Fragment { id, offset: offset as u16, more }),
        payload,
        l3: 14,
    }
}

fn v6(last: u8) -> IpAddr {
    IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn shuffled_and_duplicated_fragments_give_the_original(
        payload in proptest::collection::vec(any::<u8>(), 9..20_000), mtu in 68usize..3000, six: bool,
        order in proptest::collection::vec(any::<u32>(), 1..40),
    ) {
        let src = if six { v6(1) } else { SRC };
        let pieces: Vec<_> = if six { Pieces::v6(payload.len(), mtu) } else { Pieces::v4(payload.len(), mtu) }.unwrap().collect();
        prop_assume!(pieces.len() > 1);
        // Every piece twice, in an order that the case decides.
        let mut places: Vec<_> = (0..pieces.len() * 2).map(|n| n % pieces.len()).collect();
        for n in (1..places.len()).rev() {
            places.swap(n, order[n % order.len()].wrapping_mul(n as u32 | 1) as usize % (n + 1));
        }
        let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
        let (mut seen, mut whole) = (std::collections::HashSet::new(), 0);
        for place in places {
            let piece = pieces[place];
            let fragment = packet(src, 7, piece.offset, piece.more, &payload[piece.offset..piece.offset + piece.len]);
            let result = reassembler.handle_fragment(now, &fragment).unwrap();
            seen.insert(place);
            if seen.len() == pieces.len() {
                let got = result.expect("all have come");
                prop_assert_eq!((got.src, got.protocol), (src, 17));
                prop_assert!(got.payload == payload);
                whole += 1;
                seen.clear();
                // What is left of the duplicates begins a datagram of its own.
                break;
            }
            prop_assert!(result.is_none());
        }
        prop_assert_eq!(whole, 1);
        prop_assert_eq!(reassembler.memory(), 0);
        prop_assert!(reassembler.is_empty() && reassembler.poll_timeout().is_none());
    }

    #[test]
    fn any_fragments_keep_every_bound(
        fragments in proptest::collection::vec((0u8..6, 0u32..8, 0usize..40, 0usize..600, any::<bool>(), 0u64..3000), 1..400),
    ) {
        let limits = Limits { bytes: 6000, bytes_per_source: 2500, datagrams: 5, ..Limits::default() };
        let (mut reassembler, mut now) = (Reassembler::new(limits), Instant::now());
        let bytes = [7; 600];
        for (source, id, place, len, more, wait) in fragments {
            now += Duration::from_millis(wait);
            let src = if source % 2 == 0 { IpAddr::from([10, 0, 1, source]) } else { v6(source) };
            let _ = reassembler.handle_fragment(now, &packet(src, id, place * 8, more, &bytes[..len]));
            prop_assert!(reassembler.memory() <= 6000);
            prop_assert!(reassembler.len() <= 5);
            prop_assert!(reassembler.sources.values().all(|used| *used <= 2500));
            let stored: usize = reassembler.datagrams.values()
                .map(|d| DATAGRAM_COST + d.fragments.values().map(|bytes| bytes.len() + FRAGMENT_COST).sum::<usize>()).sum();
            prop_assert_eq!(stored, reassembler.memory());
            prop_assert_eq!(reassembler.ages.iter().map(BTreeMap::len).sum::<usize>(), reassembler.len());
        }
        reassembler.handle_timeout(now + Duration::from_secs(60));
        prop_assert!(reassembler.is_empty() && reassembler.sources.is_empty() && reassembler.memory() == 0);
    }
}

#[test]
fn overlap_discards_the_datagram_and_what_is_still_to_come() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    let mut take = |offset, more, payload: &[u8]| {
        reassembler.handle_fragment(now, &packet(SRC, 1, offset, more, payload)).map(|got| got.is_some())
    };
    assert_eq!(take(0, true, &[1; 16]), Ok(false));
    assert_eq!(take(0, true, &[1; 16]), Ok(false));
    assert_eq!(take(8, true, &[1; 16]), Err(Why::Overlap));
    assert_eq!(take(16, false, &[1; 16]), Err(Why::Discarded));
    let counters = reassembler.counters();
    assert_eq!((counters.overlaps, counters.duplicates, counters.late, counters.reassembled), (1, 1, 1, 0));
    // Each way to overlap, an altered duplicate included.
    for (offset, len, byte) in [(0, 16, 2), (0, 8, 1), (0, 24, 1), (8, 8, 1)] {
        let mut reassembler = Reassembler::new(Limits::default());
        reassembler.handle_fragment(now, &packet(SRC, 1, 0, true, &[1; 16])).unwrap();
        let bytes = vec![byte; len];
        let why = reassembler.handle_fragment(now, &packet(SRC, 1, offset, true, &bytes)).unwrap_err();
        assert_eq!(why, Why::Overlap, "{offset} {len}");
    }
    let mut reassembler = Reassembler::new(Limits::default());
    reassembler.handle_fragment(now, &packet(SRC, 1, 16, true, &[1; 16])).unwrap();
    let why = reassembler.handle_fragment(now, &packet(SRC, 1, 8, true, &[1; 16])).unwrap_err();
    assert_eq!(why, Why::Overlap);
}

#[test]
fn each_refusal_is_named() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    let mut take = |id, offset, more, payload: &[u8]| {
        reassembler.handle_fragment(now, &packet(SRC, id, offset, more, payload)).map(|got| got.is_some())
    };
    assert_eq!(take(1, 0, true, &[]), Err(Why::Empty));
    assert_eq!(take(1, 0, true, &[0; 9]), Err(Why::Length(9)));
    assert_eq!(take(2, 16, false, &[0; 9]), Ok(false));
    assert_eq!(take(2, 32, true, &[0; 8]), Err(Why::End));
    assert_eq!(take(3, 32, true, &[0; 8]), Ok(false));
    assert_eq!(take(3, 16, false, &[0; 8]), Err(Why::End));
    let whole = Packet { fragment: None, ..packet(SRC, 1, 0, false, &[0]) };
    assert_eq!(reassembler.handle_fragment(now, &whole).unwrap_err(), Why::NotAFragment);
}

#[test]
fn time_runs_out_by_version() {
    let (mut reassembler, start) = (Reassembler::new(Limits::default()), Instant::now());
    reassembler.handle_fragment(start, &packet(v6(1), 1, 0, true, &[0; 8])).unwrap();
    reassembler.handle_fragment(start, &packet(SRC, 1, 0, true, &[0; 8])).unwrap();
    assert_eq!(reassembler.poll_timeout(), Some(start + Duration::from_secs(30)));
    reassembler.handle_timeout(start + Duration::from_secs(30));
    assert_eq!((reassembler.len(), reassembler.counters().timeouts), (1, 1));
    assert_eq!(reassembler.poll_timeout(), Some(start + Duration::from_secs(60)));
    // The rest, too late, begins anew.
    let late =
        reassembler.handle_fragment(start + Duration::from_secs(60), &packet(v6(1), 1, 8, false, &[0; 8]));
    assert!(late.unwrap().is_none());
    assert_eq!(reassembler.counters().timeouts, 2);
}

#[test]
fn a_flood_does_not_keep_others_out() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    for n in 0..100_000u32 {
        let src = IpAddr::from((0x0b00_0000 + n).to_be_bytes());
        reassembler.handle_fragment(now, &packet(src, n, 0, true, &[0; 1480])).unwrap();
    }
    reassembler.handle_fragment(now, &packet(SRC, 1, 0, true, &[5; 1480])).unwrap();
    for n in 0..500u32 {
        let src = IpAddr::from((0x0c00_0000 + n).to_be_bytes());
        reassembler.handle_fragment(now, &packet(src, n, 0, true, &[0; 1480])).unwrap();
    }
    let got = reassembler.handle_fragment(now, &packet(SRC, 1, 1480, false, &[6; 10])).unwrap();
    assert_eq!(got.map(|got| got.payload.len()), Some(1490));
    assert!(reassembler.memory() <= 4 << 20 && reassembler.len() <= 1024);
}

#[test]
fn one_source_cannot_take_all_memory() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    reassembler.handle_fragment(now, &packet(DST, 1, 0, true, &[5; 8])).unwrap();
    let bytes = [0; 60_000];
    for id in 0..200 {
        reassembler.handle_fragment(now, &packet(SRC, id, 0, true, &bytes)).unwrap();
    }
    assert!(reassembler.memory() <= 2 << 20 | 1 << 10, "{}", reassembler.memory());
    let got = reassembler.handle_fragment(now, &packet(DST, 1, 8, false, &[6; 10])).unwrap();
    assert!(got.is_some());
}

#[test]
fn extension_headers_behind_the_fragment_header_are_walked_at_last() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let mut first = packet(v6(1), 1, 0, true, &options);
    first.protocol = ipv6::DESTINATION;
    // Only the first fragment's protocol counts (RFC 8200 section 4.5).
    let last = packet(v6(1), 1, 8, false, b"data");
    assert!(reassembler.handle_fragment(now, &last).unwrap().is_none());
    let got = reassembler.handle_fragment(now, &first).unwrap().unwrap();
    assert_eq!((got.protocol, got.payload), (17, &b"data"[..]));

    let mut nested = packet(v6(1), 2, 0, true, &[17, 0, 0, 1, 0, 0, 0, 9]);
    nested.protocol = ipv6::FRAGMENT;
    reassembler.handle_fragment(now, &nested).unwrap();
    let why = reassembler.handle_fragment(now, &packet(v6(1), 2, 8, false, &[0; 8])).unwrap_err();
    assert_eq!(why, Why::Nested);
    assert!(reassembler.is_empty());
}

#[test]
fn congestion_marks_are_kept() {
    let (mut reassembler, now) = (Reassembler::new(Limits::default()), Instant::now());
    let with = |tos, id, offset, more| Packet { tos, ..packet(SRC, id, offset, more, &[0; 8]) };
    reassembler.handle_fragment(now, &with(0xb9, 1, 0, true)).unwrap();
    let got = reassembler.handle_fragment(now, &with(0x03, 1, 8, false)).unwrap().unwrap();
    assert_eq!(got.tos, 0xbb);
    reassembler.handle_fragment(now, &with(0, 2, 0, true)).unwrap();
    assert_eq!(reassembler.handle_fragment(now, &with(3, 2, 8, false)).unwrap_err(), Why::Ecn);
}
