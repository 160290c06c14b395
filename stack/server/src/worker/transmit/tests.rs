use super::*;
use freena_shm_abi::endpoint::octets_of;
use freena_wire::Mac;

pub(super) fn fast(v6: bool, mtu: u32) -> Fast {
    Fast {
        port: 0,
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
        src: if v6 { "fd00::1".parse().unwrap() } else { "10.0.0.1".parse().unwrap() },
        mtu,
        max_segments: 64,
        max_burst: 65_507,
    }
}

pub(super) fn record(v6: bool, len: u32) -> Record {
    let peer: IpAddr = if v6 { "fd00::2".parse().unwrap() } else { "10.0.0.2".parse().unwrap() };
    Record { len, peer: octets_of(peer), peer_port: 7, ..Record::default() }
}

/// The number of packets, 0 for what the companion carries.
fn packets(mtu: u32, record: &Record) -> usize {
    match carriage(&fast(ip_of(&record.peer).is_ipv6(), mtu), record) {
        Carriage::Whole => 1,
        Carriage::Fragments(pieces) => pieces.len(),
        Carriage::Kernel => 0,
    }
}

#[test]
fn what_exceeds_the_path_mtu_is_cut() {
    for (v6, len, expected) in [
        (false, 0, 1),
        (false, 1472, 1),
        (false, 1473, 2),
        (false, 65_507, 45),
        (false, 65_508, 0),
        (true, 1452, 1),
        (true, 1453, 2),
        (true, 65_527, 46),
    ] {
        assert_eq!(packets(1500, &record(v6, len)), expected, "{len} bytes, IPv6: {v6}");
    }
}

#[test]
fn what_must_not_be_cut_is_left_to_the_kernel() {
    let whole = Record { flags: flags::DONT_FRAGMENT, ..record(false, 1472) };
    assert_eq!(packets(1500, &whole), 1);
    assert_eq!(packets(1499, &whole), 0);
    assert_eq!(packets(27, &record(false, 100)), 0, "no room for a fragment");
}

#[test]
fn routers_may_cut_what_the_program_or_the_path_lets_them() {
    assert!(is_whole_only(1500, 0), "IP_PMTUDISC_WANT");
    assert!(!is_whole_only(1500, flags::MAY_FRAGMENT), "IP_PMTUDISC_DONT");
    assert!(!is_whole_only(MIN_V4, 0), "a path that is narrower than is believed");
    assert!(is_whole_only(MIN_V4, flags::DONT_FRAGMENT), "IP_PMTUDISC_DO");
    assert_ne!(
        header_of(&Record { flags: flags::MAY_FRAGMENT, ..record(false, 1) }),
        header_of(&record(false, 1))
    );
}

#[test]
fn segments_are_whole_datagrams() {
    let segments = |len, segment| Record { segment, ..record(false, len) };
    assert_eq!(packets(1500, &segments(64 * 1000, 1000)), 1);
    assert_eq!(packets(1500, &segments(65_507, 1000)), 0, "more than the link cuts");
    assert_eq!(packets(1500, &segments(3000, 1473)), 0, "larger than the path takes");
    assert_eq!(packets(1500, &segments(3000, 3000)), 3, "one datagram");
}

#[test]
fn other_versions_and_no_port_are_left_to_the_kernel() {
    assert!(matches!(carriage(&fast(true, 1500), &record(false, 10)), Carriage::Kernel));
    assert_eq!(packets(1500, &Record { peer_port: 0, ..record(false, 10) }), 0);
}
