use super::*;
use crate::loopback::datagram;

fn sight(source: &str, destination: &str, protocol: u8, outbound: bool) -> Sight {
    let parse = |text: &str| -> std::net::SocketAddr { text.parse().unwrap() };
    let (source, destination) = (parse(source), parse(destination));
    Sight {
        addresses: Some((source.ip(), destination.ip())),
        protocol: Some(protocol),
        ports: Some((source.port(), destination.port())),
        outbound,
    }
}

#[test]
fn packets_are_let_through_by_what_they_are() {
    let udp = sight("10.0.0.1:1000", "10.0.0.2:53", 17, true);
    let tcp6 = sight("[fd00::1]:443", "[fd00::2]:50000", 6, false);
    // Filter, whether it takes the first and the second packet.
    let table = [
        ("", true, true),
        ("udp", true, false),
        ("tcp", false, true),
        ("ip6", false, true),
        ("icmp or icmp6 or sctp", false, false),
        ("host 10.0.0.2", true, false),
        ("src host 10.0.0.2", false, false),
        ("dst host 10.0.0.2 and src port 1000", true, false),
        ("net 10.0.0.0/8", true, false),
        ("net 0.0.0.0/0", true, false),
        ("net fd00::/16 and dst portrange 49152-65535", false, true),
        ("host fd00::2", false, true),
        ("port 53 or port 443", true, true),
        ("not port 53", false, true),
        ("!udp && !(port 443)", false, false),
        ("udp port 53", true, false),
        ("tcp port 53", false, false),
        ("ip6 src host fd00::1", false, true),
        ("inbound", false, true),
        ("outbound and (tcp or udp)", true, false),
        // `and` binds more tightly than `or`.
        ("tcp or udp and port 9", false, true),
        ("(tcp or udp) and port 9", false, false),
    ];
    for (text, first, second) in table {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((filter.matches(&udp), filter.matches(&tcp6)), (first, second), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_told_with_its_column() {
    let table = [
        ("hots 10.0.0.1", 1, "hots", "host, net"),
        ("host", 5, "", "an IPv4 or IPv6 address"),
        ("host 10.0.0.300", 6, "10.0.0.300", "an IPv4 or IPv6 address"),
        ("udp and", 8, "", "host, net"),
        ("udp tcp", 5, "tcp", "and, or, or the end"),
        ("(udp", 5, "", "and, or, or )"),
        ("udp)", 4, ")", "and, or, or the end"),
        ("port 65536", 6, "65536", "a port from 0 to 65535"),
        ("src udp", 5, "udp", "host, net, port or portrange"),
        ("portrange 9-8", 11, "9-8", "a range of ports"),
        ("net 10.0.0.0/33", 5, "10.0.0.0/33", "a network"),
        ("port ä", 6, "ä", "a port"),
    ];
    for (text, column, found, expected) in table {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!((error.column, error.found.as_str()), (column, found), "{text}");
        assert!(error.expected.starts_with(expected), "{text}: {error}");
    }
    assert_eq!(
        Filter::parse("port http").unwrap_err().to_string(),
        "filter, column 6: found `http`, expected a port from 0 to 65535"
    );
    assert!(Filter::parse(&"(".repeat(100)).is_err());
    assert!(Filter::parse(&"not ".repeat(100)).is_err());
    assert!(Filter::parse(&" ".repeat(2000)).is_err());
}

#[test]
fn a_frame_is_looked_at_as_far_as_it_goes() {
    let frame = datagram(4);
    let whole = Sight::new(&frame, true);
    assert_eq!((whole.protocol, whole.outbound), (Some(17), true));
    assert!(whole.addresses.is_some() && whole.ports.is_some());
    for len in 0..frame.len() {
        // Any beginning of it tells less and breaks nothing.
        let part = Sight::new(&frame[..len], true);
        assert!(part.ports.is_none() || part == whole);
    }
    // A fragment that is not the first has no ports.
    let mut fragment = frame.clone();
    fragment[14 + 7] = 1;
    assert_eq!(Sight::new(&fragment, true), Sight { ports: None, ..whole });

    // IPv6 with destination options and a fragment header, then UDP.
    let mut six = vec![0; 12];
    six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 60, 64]);
    six.extend([0; 32]);
    six.extend([44, 0, 0, 0, 0, 0, 0, 0]);
    six.extend([17, 0, 0, 1, 0, 0, 0, 9]);
    six.extend([0, 7, 0, 9, 0, 8, 0, 0]);
    assert_eq!(Sight::new(&six, false).ports, Some((7, 9)));
    assert_eq!(Sight::new(&six, false).protocol, Some(17));
}
