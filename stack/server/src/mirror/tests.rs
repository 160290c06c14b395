use super::*;
use netlink_packet_route::neighbour::NeighbourState;
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Runs `test` on a thread in a network namespace of its own, which the kernel removes with the thread. Programs that
/// the thread starts are in it too.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        // SAFETY: unshare touches no memory, and CLONE_NEWNET changes this thread only.
        let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "no network namespace (needs root): {}", io::Error::last_os_error());
        test();
    })
    .join()
    .unwrap();
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("needs iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A veth pair, both ends here; the first has addresses.
fn veth() {
    ip("link set lo up");
    ip("link add va type veth peer name vb");
    // No link-local addresses that would come up in the middle of a test.
    ip("link set va up addrgenmode none");
    ip("link set vb up addrgenmode none");
    ip("addr add 10.9.0.1/24 brd + dev va");
    ip("addr add fd09::1/64 dev va nodad");
}

fn hop(mirror: &mut Mirror, dst: &str) -> (Hop, u8) {
    let route = mirror.route(address(dst), None, None).unwrap();
    match route.kind {
        RouteKind::Unicast(hop) => (hop, route.prefix_len_safe),
        other => panic!("{dst}: {other:?}"),
    }
}

fn kind(mirror: &mut Mirror, dst: &str) -> RouteKind {
    mirror.route(address(dst), None, None).unwrap().kind
}

fn index(mirror: &Mirror, name: &str) -> u32 {
    mirror.links().find(|link| link.name == name).unwrap().ifindex
}

/// Takes changes in until `done`, five seconds at most.
fn until(mirror: &mut Mirror, done: impl Fn(&Mirror, Changes) -> bool) {
    let start = Instant::now();
    loop {
        let changes = mirror.process().unwrap();
        if done(mirror, changes) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the change did not arrive");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_there_is_read() {
    in_namespace(|| {
        veth();
        ip("route add default via 10.9.0.254 metric 7 mtu 1400");
        ip("route add 10.20.0.0/16 via 10.9.0.2");
        ip("route add blackhole 10.21.0.0/16");
        ip("route add unreachable 10.22.0.0/16");
        ip("route add prohibit 10.23.0.0/16");
        ip("route add fd20::/16 via fd09::2");
        let mut mirror = Mirror::open().unwrap();
        let a = index(&mirror, "va");
        let link = mirror.link(a).unwrap();
        assert!(link.up && link.mac.is_some() && link.mtu == 1500 && !link.loopback);
        let own = mirror.addresses().iter().find(|own| own.address == address("10.9.0.1")).unwrap();
        assert_eq!((own.ifindex, own.prefix_len, own.broadcast), (a, 24, Some([10, 9, 0, 255].into())));

        let (on_link, safe) = hop(&mut mirror, "10.9.0.77");
        let source = Some(address("10.9.0.1"));
        assert_eq!(on_link, Hop { ifindex: a, gateway: None, prefsrc: source, mtu: 1500 });
        // 10.9.0.64/26 holds neither 10.9.0.1 nor 10.9.0.255.
        assert_eq!(safe, 26);
        let (routed, safe) = hop(&mut mirror, "10.20.1.1");
        assert_eq!(
            routed,
            Hop { ifindex: a, gateway: Some(address("10.9.0.2")), prefsrc: source, mtu: 1500 }
        );
        assert_eq!(safe, 16);
        let (default, _) = hop(&mut mirror, "192.0.2.1");
        assert_eq!((default.gateway, default.mtu), (Some(address("10.9.0.254")), 1400));
        let (v6, _) = hop(&mut mirror, "fd20::5");
        assert_eq!((v6.gateway, v6.prefsrc), (Some(address("fd09::2")), Some(address("fd09::1"))));
        assert_eq!(kind(&mut mirror, "10.21.0.1"), RouteKind::Blackhole);
        assert_eq!(kind(&mut mirror, "10.22.0.1"), RouteKind::Unreachable);
        assert_eq!(kind(&mut mirror, "10.23.0.1"), RouteKind::Prohibit);
        assert_eq!(kind(&mut mirror, "fe00::1"), RouteKind::None);
        for local in ["10.9.0.1", "127.1.2.3", "fd09::1", "::1"] {
            assert!(matches!(kind(&mut mirror, local), RouteKind::Local(_)), "{local}");
            assert!(mirror.is_local(address(local)), "{local}");
        }
        assert!(!mirror.is_local(address("10.9.0.2")));
        assert!(matches!(kind(&mut mirror, "10.9.0.255"), RouteKind::Broadcast(hop) if hop.ifindex == a));
        let group = mirror.route(address("239.1.1.1"), None, Some(a)).unwrap();
        assert!(matches!(group.kind, RouteKind::Multicast(hop) if hop.ifindex == a), "{group:?}");
    });
}

/// What the mirrored tables say is what the kernel says, for destinations on every side of every prefix.
#[test]
fn agrees_with_the_kernel() {
    in_namespace(|| {
        veth();
        ip("addr add 10.9.8.1/24 dev va");
        ip("route add default via 10.9.0.254");
        ip("route add 10.20.0.0/16 via 10.9.0.2");
        ip("route add 10.20.0.0/16 via 10.9.0.3 metric 5");
        ip("route add 10.20.128.0/17 via 10.9.8.2");
        ip("route add 10.20.200.7 dev va");
        ip("route add throw 10.20.201.0/24");
        ip("route add 10.30.0.0/16 nexthop via 10.9.0.4 nexthop via 10.9.0.5");
        ip("route add unreachable 10.31.0.0/16");
        let mut mirror = Mirror::open().unwrap();
        let octets = [0u8, 1, 2, 7, 8, 9, 20, 30, 31, 127, 128, 200, 201, 255];
        let mut answered_here = 0;
        for b in octets {
            for c in octets {
                for d in [0, 1, 2, 7, 255] {
                    let dst = IpAddr::from([10, b, c, d]);
                    let here = mirror.route(dst, None, None).unwrap();
                    let there = mirror.ask(dst, None, None).unwrap();
                    assert_eq!(here.kind, there.kind, "{dst}");
                    answered_here += usize::from(here.prefix_len_safe < 32);
                }
            }
        }
        assert!(answered_here > 500, "{answered_here}");
    });
}

#[test]
fn changes_are_followed() {
    in_namespace(|| {
        veth();
        let mut mirror = Mirror::open().unwrap();
        let a = index(&mirror, "va");
        until(&mut mirror, |_, changes| changes == Changes::default());

        let before = mirror.epoch();
        ip("route add 10.40.0.0/16 via 10.9.0.9");
        until(&mut mirror, |_, changes| changes.routes);
        assert!(mirror.epoch() > before);
        assert_eq!(hop(&mut mirror, "10.40.0.1").0.gateway, Some(address("10.9.0.9")));
        ip("route replace 10.40.0.0/16 via 10.9.0.8");
        until(&mut mirror, |_, changes| changes.routes);
        assert_eq!(hop(&mut mirror, "10.40.0.1").0.gateway, Some(address("10.9.0.8")));
        ip("route del 10.40.0.0/16");
        until(&mut mirror, |_, changes| changes.routes);
        assert_eq!(kind(&mut mirror, "10.40.0.1"), RouteKind::None);

        ip("link set va mtu 1300");
        until(&mut mirror, |mirror, _| mirror.link(a).unwrap().mtu == 1300);
        assert_eq!(hop(&mut mirror, "10.9.0.2").0.mtu, 1300);

        // Routes by a link that goes down vanish without an event of their own.
        ip("link set va down");
        until(&mut mirror, |mirror, _| !mirror.link(a).unwrap().up);
        assert_eq!(kind(&mut mirror, "10.9.0.2"), RouteKind::None);
        ip("link set va up");
        until(&mut mirror, |mirror, _| mirror.link(a).unwrap().up);
        assert_eq!(hop(&mut mirror, "10.9.0.2").0.ifindex, a);

        ip("addr del 10.9.0.1/24 dev va");
        until(&mut mirror, |_, changes| changes.addresses);
        assert!(!mirror.is_local(address("10.9.0.1")));
        assert_eq!(kind(&mut mirror, "10.9.0.2"), RouteKind::None);

        ip("link del va");
        until(&mut mirror, |mirror, _| mirror.link(a).is_none());
        assert!(mirror.addresses().iter().all(|own| own.ifindex != a));
    });
}

#[test]
fn policy_rules_are_left_to_the_kernel() {
    in_namespace(|| {
        veth();
        let mut mirror = Mirror::open().unwrap();
        assert!(mirror.plain_rules);
        ip("route add 10.50.0.0/16 via 10.9.0.50 table 100");
        ip("rule add to 10.50.0.0/16 lookup 100");
        until(&mut mirror, |mirror, _| !mirror.plain_rules);
        let (by_rule, safe) = hop(&mut mirror, "10.50.1.1");
        assert_eq!((by_rule.gateway, safe), (Some(address("10.9.0.50")), 32));
        ip("rule del to 10.50.0.0/16 lookup 100");
        until(&mut mirror, |mirror, _| mirror.plain_rules);
        assert_eq!(kind(&mut mirror, "10.50.1.1"), RouteKind::None);
    });
}

#[test]
fn neighbours_are_followed_and_solicited() {
    in_namespace(|| {
        veth();
        let mut mirror = Mirror::open().unwrap();
        let a = index(&mirror, "va");
        until(&mut mirror, |_, changes| changes == Changes::default());
        ip("neigh add 10.9.0.5 lladdr 02:00:00:00:00:05 dev va nud permanent");
        until(&mut mirror, |_, changes| changes.neighbours);
        let known = mirror.neighbour(a, address("10.9.0.5")).unwrap();
        assert_eq!(known.usable(), Some([2, 0, 0, 0, 0, 5]));
        ip("neigh del 10.9.0.5 dev va");
        until(&mut mirror, |mirror, _| {
            mirror.neighbour(a, address("10.9.0.5")).is_none_or(|known| known.usable().is_none())
        });
        // Nobody answers for this one: the kernel asks three times and gives up.
        let before = mirror.epoch();
        mirror.solicit(a, address("10.9.0.6")).unwrap();
        until(&mut mirror, |mirror, _| {
            mirror
                .neighbour(a, address("10.9.0.6"))
                .is_some_and(|known| known.state == NeighbourState::Failed)
        });
        assert_eq!(mirror.neighbour(a, address("10.9.0.6")).unwrap().usable(), None);
        assert_eq!(mirror.epoch(), before);
        let error = mirror.solicit(9999, address("10.9.0.6")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    });
}

#[test]
fn an_overrun_is_repaired() {
    in_namespace(|| {
        veth();
        let mut mirror = Mirror::open().unwrap();
        mirror.events.set_rx_buf_sz(1i32).unwrap();
        for last in 1..60 {
            ip(&format!("route add 10.60.{last}.0/24 via 10.9.0.9"));
        }
        let changes = mirror.process().unwrap();
        assert_eq!(changes, Changes { links: true, addresses: true, routes: true, neighbours: true });
        for last in 1..60 {
            assert_eq!(hop(&mut mirror, &format!("10.60.{last}.1")).0.gateway, Some(address("10.9.0.9")));
        }
    });
}
