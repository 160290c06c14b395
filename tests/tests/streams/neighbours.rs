//! The first connection to a neighbour whose address is not known.

use super::wire::connect;
use super::{kernel_listener, on_each_link};
use freena_tests::lab::{FAR4, FAR6};
use freena_tests::netns::ip;
use std::thread;
use std::time::{Duration, Instant};

/// Far below a retransmission (RFC 6298: 1 s), which would hide that nothing was sent before.
const SOON: Duration = Duration::from_millis(200);

/// An address that was given while the cable was not ready, even without duplicate address detection, does not answer for up
/// to a second after it is (addrconf_dad_kick of Linux).
const READY: Duration = Duration::from_millis(1200);

#[test]
fn a_connection_to_an_unknown_neighbour_is_opened_as_soon_as_that_is_known() {
    on_each_link("a_connection_to_an_unknown_neighbour", |lab, _, client| {
        thread::sleep(READY);
        for far in [FAR4, FAR6] {
            let (listener, name) = kernel_listener(lab, far);
            for round in 0..5 {
                lab.pair.near.run(|| ip("neighbour flush dev near"));
                let start = Instant::now();
                let ours = connect(client, &lab.pair.near, name);
                let took = start.elapsed();
                assert!(took < SOON, "{far}, round {round}: {took:?}");
                drop((ours, listener.accept().expect("accepted")));
            }
        }
    });
}

/// A link that has just come up has no link-local address of its own to ask from, for as long as that is looked for twice
/// (RFC 4862: a second and more).
#[test]
fn a_neighbour_is_found_while_the_link_local_address_is_tentative() {
    on_each_link("a_neighbour_is_found_while_the_link_local_address_is_tentative", |lab, _, client| {
        thread::sleep(READY);
        let (listener, name) = kernel_listener(lab, FAR6);
        lab.pair.near.run(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/near/accept_dad", "1").expect("a setting");
            ip("address flush dev near scope link");
            ip("address add fe80::abcd/64 dev near");
            ip("neighbour flush dev near");
        });
        let start = Instant::now();
        let ours = connect(client, &lab.pair.near, name);
        let took = start.elapsed();
        assert!(took < SOON, "{took:?}");
        drop((ours, listener.accept().expect("accepted")));
    });
}
