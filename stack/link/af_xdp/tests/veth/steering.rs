//! What reaches the link, and what the kernel.

use std::{io::ErrorKind, net::Ipv6Addr, thread, time::Duration};

use freena_link_af_xdp::{AfXdpLink, Counter, FlowKey, Mode, Options};
use freena_stack_api::Link;
use freena_tests::netns::{Pair, privileged};

use crate::{FAR, FAR6, KERNEL, NEAR, NEAR6, OWNED, UDP, attach, expect, open, receive, socket};

/// The owned flow reaches the link; another port, ARP, neighbour discovery and ICMP reach the kernel.
fn steers(mode: Mode) {
    let pair = Pair::new();
    let interface = attach(&pair, mode);
    let mut link = open(&pair, &interface);
    interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    interface.own(FlowKey::new(FAR6, OWNED, UDP)).unwrap();
    let near = socket(&pair.near, (NEAR, 0));
    let near6 = socket(&pair.near, (Ipv6Addr::UNSPECIFIED, 0));
    let kernel = socket(&pair.far, (FAR, KERNEL));

    near.send_to(b"for the stack", (FAR, OWNED)).unwrap();
    near.send_to(b"for the kernel", (FAR, KERNEL)).unwrap();
    near6.send_to(b"for the stack, 6", (FAR6, OWNED)).unwrap();
    let mut frames = receive(&mut link, 2);
    frames.sort_by_key(Vec::len);
    assert!(frames[0].ends_with(b"for the stack") && frames[1].ends_with(b"for the stack, 6"));
    let mut buffer = [0; 64];
    let len = kernel.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"for the kernel");
    expect(&interface, Counter::Redirected, 2);
    expect(&interface, Counter::PassNotOwned, 1);
    expect(&interface, Counter::PassNotIp, 1);

    // The far kernel still answers for itself: a port that nobody has is unreachable.
    for target in [FAR, FAR6] {
        let probe = socket(&pair.near, (if target.is_ipv4() { NEAR } else { NEAR6 }, 0));
        probe.connect((target, 9)).unwrap();
        probe.send(b"anyone?").unwrap();
        assert_eq!(probe.recv(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{target}");
    }

    // Given back, the flow is the kernel's; without a link, so is an owned one.
    interface.disown(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    interface.disown(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    let released = socket(&pair.far, (FAR, OWNED));
    near.send_to(b"released", (FAR, OWNED)).unwrap();
    assert_eq!(released.recv(&mut buffer).unwrap(), 8);
    drop(link);
    near6.send_to(b"no link", (FAR6, OWNED)).unwrap();
    expect(&interface, Counter::NoSocket, 1);
}

#[test]
fn steers_in_native_mode() {
    privileged("steers_in_native_mode", || steers(Mode::Native));
}

#[test]
fn steers_in_skb_mode() {
    privileged("steers_in_skb_mode", || steers(Mode::Skb));
}

#[test]
fn the_descriptor_polls_readable() {
    privileged("the_descriptor_polls_readable", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        let mut link = open(&pair, &interface);
        interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
        let near = socket(&pair.near, (NEAR, 0));
        let sender = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            near.send_to(b"wake up", (FAR, OWNED)).unwrap();
        });
        let mut poll = libc::pollfd { fd: link.wait_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one `pollfd`, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 5000) };
        sender.join().unwrap();
        assert_eq!((ready, poll.revents), (1, libc::POLLIN));
        assert_eq!(receive(&mut link, 1).len(), 1);
    });
}

#[test]
fn every_queue_has_its_link() {
    privileged("every_queue_has_its_link", || {
        let pair = Pair::with_queues(2);
        let interface = attach(&pair, Mode::Native);
        assert_eq!(interface.queues(), 2);
        interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
        let mut links: Vec<AfXdpLink> = (0..2)
            .map(|queue| pair.far.run(|| AfXdpLink::open(&interface, queue, Options::default())).unwrap())
            .collect();
        // Whichever queue a flow is hashed to, its frame is found.
        for _ in 0..16 {
            socket(&pair.near, (NEAR, 0)).send_to(b"somewhere", (FAR, OWNED)).unwrap();
        }
        expect(&interface, Counter::Redirected, 16);
        let found: usize = links.iter_mut().map(|link| link.receive(64, &mut |_| {}).unwrap()).sum();
        assert_eq!(found, 16);
    });
}

#[test]
fn frames_come_back_into_use() {
    privileged("frames_come_back_into_use", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        let options = Options { frames: 64, ..Options::default() };
        let mut link = pair.far.run(|| AfXdpLink::open(&interface, 0, options)).unwrap();
        interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
        let near = socket(&pair.near, (NEAR, 0));
        for round in 0..100u8 {
            for _ in 0..32 {
                near.send_to(&[round; 100], (FAR, OWNED)).unwrap();
            }
            let frames = receive(&mut link, 32);
            assert!(frames.iter().all(|frame| frame.ends_with(&[round; 100])), "round {round}");
        }
        // What does not fit while nobody looks is counted.
        for _ in 0..100 {
            near.send_to(b"too many", (FAR, OWNED)).unwrap();
        }
        expect(&interface, Counter::Redirected, 3300);
        assert_eq!(receive(&mut link, 64).len(), 64);
        assert_eq!((link.stats().rx_frames, link.stats().rx_dropped), (3264, 36));
        near.send_to(b"and on", (FAR, OWNED)).unwrap();
        assert!(receive(&mut link, 1)[0].ends_with(b"and on"));
    });
}
