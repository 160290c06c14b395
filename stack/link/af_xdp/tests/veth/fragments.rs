//! Fragments of owned flows: the kernel's, unless the program is told otherwise.

use freena_link_af_xdp::{AttachOptions, Counter, FlowKey, Mode, XdpInterface};
use freena_stack_api::Link;
use freena_tests::netns::{Pair, privileged};

use crate::{FAR, FAR6, NEAR, NEAR6, OWNED, UDP, attach, expect, open, receive, socket};

#[test]
fn the_kernel_reassembles_for_the_companion_socket() {
    privileged("the_kernel_reassembles_for_the_companion_socket", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        let mut link = open(&pair, &interface);
        for (from, to) in [(NEAR, FAR), (NEAR6, FAR6)] {
            interface.own(FlowKey::new(to, OWNED, UDP)).unwrap();
            let companion = socket(&pair.far, (to, OWNED));
            socket(&pair.near, (from, 0)).send_to(&[7; 4000], (to, OWNED)).unwrap();
            let mut buffer = [0; 5000];
            assert_eq!(companion.recv(&mut buffer).unwrap(), 4000);
        }
        expect(&interface, Counter::PassFragment, 6);
        assert_eq!(link.receive(64, &mut |_| {}).unwrap(), 0);
    });
}

#[test]
fn all_fragments_follow_the_first_where_they_are_redirected() {
    privileged("all_fragments_follow_the_first_where_they_are_redirected", || {
        let pair = Pair::new();
        let options = AttachOptions { mode: Mode::Native, redirect_fragments: true };
        let interface = pair.far.run(|| XdpInterface::attach_with(Pair::FAR, options)).unwrap();
        let mut link = open(&pair, &interface);
        for (from, to) in [(NEAR, FAR), (NEAR6, FAR6)] {
            interface.own(FlowKey::new(to, OWNED, UDP)).unwrap();
            socket(&pair.near, (from, 0)).send_to(&[7; 4000], (to, OWNED)).unwrap();
            let payload: usize =
                receive(&mut link, 3).iter().map(|f| f.iter().filter(|byte| **byte == 7).count()).sum();
            assert!(payload >= 4000, "{payload}");
            // Those of another flow stay the kernel's.
            let other = socket(&pair.far, (to, OWNED + 1));
            socket(&pair.near, (from, 0)).send_to(&[8; 4000], (to, OWNED + 1)).unwrap();
            let mut buffer = [0; 5000];
            assert_eq!(other.recv(&mut buffer).unwrap(), 4000);
        }
        expect(&interface, Counter::RedirectedFragment, 6);
        expect(&interface, Counter::PassFragment, 6);
    });
}
