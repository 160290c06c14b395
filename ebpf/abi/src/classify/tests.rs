extern crate std;

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;

const V4: [u8; 4] = [10, 0, 0, 2];
const V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const PORTS: [u8; 4] = [0x15, 0xb3, 0x1b, 0x58];

fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IPv4 packet with `options` (a multiple of four bytes).
fn v4(protocol: u8, flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = (20 + options.len() + payload.len()) as u16;
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1]);
    packet.extend(V4);
    packet.extend(options);
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// An IPv6 packet with extension headers, each given as its number and its bytes; the next-header bytes are filled in.
fn v6(extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, (_, bytes)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(protocol, |(number, _)| *number);
        body.push(next);
        body.extend(&bytes[1..]);
    }
    body.extend(payload);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([extensions.first().map_or(protocol, |(number, _)| *number), 64]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend(V6);
    packet.extend(body);
    ethernet(0x86dd, &packet)
}

/// An extension header of `units` times eight bytes beyond its first eight.
fn options(number: u8, units: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; 8 + usize::from(units) * 8];
    bytes[1] = units;
    (number, bytes)
}

fn fragment(field: u16) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 0];
    bytes.extend(field.to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    (FRAGMENT, bytes)
}

fn key(addr: [u8; 16], protocol: u8) -> FlowKey {
    FlowKey { addr, port: [PORTS[2], PORTS[3]], protocol, pad: 0 }
}

fn v6_fragment_key() -> FragmentKey {
    let mut source = V6;
    source[15] = 1;
    FragmentKey { source, destination: V6, id: [1, 2, 3, 4], protocol: FRAGMENT, pad: [0; 3] }
}

fn v4_fragment_key(protocol: u8) -> FragmentKey {
    FragmentKey {
        source: mapped([10, 0, 0, 1]),
        destination: mapped(V4),
        id: [0x12, 0x34, 0, 0],
        protocol,
        pad: [0; 3],
    }
}

fn verdict(frame: &[u8]) -> Verdict {
    classify(frame)
}

#[test]
fn every_protocol_with_ports_has_them_at_the_same_place() {
    for protocol in [TCP, UDP, DCCP, SCTP, UDP_LITE] {
        assert_eq!(verdict(&v4(protocol, 0x4000, &[], &PORTS)), Verdict::Flow(key(mapped(V4), protocol)));
        assert_eq!(verdict(&v6(&[], protocol, &PORTS)), Verdict::Flow(key(V6, protocol)));
    }
}

#[test]
fn a_protocol_without_ports_has_port_0() {
    for protocol in [1, 47, 50, 58, 59, 253] {
        let want = |addr| Verdict::Flow(FlowKey { addr, port: [0; 2], protocol, pad: 0 });
        assert_eq!(verdict(&v4(protocol, 0, &[], &[])), want(mapped(V4)));
        assert_eq!(verdict(&v6(&[], protocol, &[])), want(V6));
    }
}

#[test]
fn ipv4_options_are_skipped() {
    for words in 0..=10 {
        let frame = v4(UDP, 0, &vec![1; words * 4], &PORTS);
        assert_eq!(verdict(&frame), Verdict::Flow(key(mapped(V4), UDP)), "{words} words of options");
    }
}

#[test]
fn ipv4_fragments() {
    // RFC 791: more fragments is bit 13, the offset counts 8 bytes.
    let key = key(mapped(V4), UDP);
    assert_eq!(verdict(&v4(UDP, 0x2000, &[], &PORTS)), Verdict::First(key, v4_fragment_key(UDP)));
    for flags in [0x2001, 0x0001, 0x1fff] {
        assert_eq!(verdict(&v4(UDP, flags, &[], &PORTS)), Verdict::Later(v4_fragment_key(UDP)));
    }
}

#[test]
fn ipv6_extension_headers_are_followed() {
    let mut ah = vec![0; 24];
    ah[1] = 4; // RFC 4302 section 2.2: length in words of four bytes, less two.
    let chain =
        [options(HOP_BY_HOP, 0), options(DESTINATION_OPTIONS, 3), options(ROUTING, 2), (AUTHENTICATION, ah)];
    assert_eq!(verdict(&v6(&chain, UDP, &PORTS)), Verdict::Flow(key(V6, UDP)));
    let longest = [options(DESTINATION_OPTIONS, 255)];
    assert_eq!(verdict(&v6(&longest, UDP, &PORTS)), Verdict::Flow(key(V6, UDP)));
}

#[test]
fn ipv6_fragments() {
    let key = key(V6, UDP);
    assert_eq!(verdict(&v6(&[fragment(1)], UDP, &PORTS)), Verdict::First(key, v6_fragment_key()));
    let behind_options = [options(HOP_BY_HOP, 0), fragment(1), options(DESTINATION_OPTIONS, 0)];
    assert_eq!(verdict(&v6(&behind_options, UDP, &PORTS)), Verdict::First(key, v6_fragment_key()));
    for field in [8, 9, 0xfff8] {
        assert_eq!(verdict(&v6(&[fragment(field)], UDP, &[])), Verdict::Later(v6_fragment_key()));
    }
    // RFC 6946: an atomic fragment is processed on its own.
    assert_eq!(verdict(&v6(&[fragment(0)], UDP, &PORTS)), Verdict::Flow(key));
}

#[test]
fn headers_beyond_the_limit_are_the_kernels() {
    let chain = vec![options(DESTINATION_OPTIONS, 0); MAX_EXTENSIONS];
    assert_eq!(verdict(&v6(&chain, UDP, &PORTS)), Verdict::Flow(key(V6, UDP)));
    let chain = vec![options(DESTINATION_OPTIONS, 0); MAX_EXTENSIONS + 1];
    assert_eq!(verdict(&v6(&chain, UDP, &PORTS)), Verdict::Pass(Counter::PassTooManyHeaders));
}

#[test]
fn what_is_not_ip_is_the_kernels() {
    // ARP, VLAN (802.1Q and 802.1ad), LLDP, an IEEE 802.3 length.
    for ethertype in [0x0806, 0x8100, 0x88a8, 0x88cc, 100] {
        assert_eq!(verdict(&ethernet(ethertype, &[0; 46])), Verdict::Pass(Counter::PassNotIp));
    }
}

#[test]
fn group_addresses_are_the_kernels() {
    for first in [0x01, 0x33, 0xff] {
        let mut frame = v4(UDP, 0, &[], &PORTS);
        frame[0] = first;
        assert_eq!(verdict(&frame), Verdict::Pass(Counter::PassNotOwned));
    }
}

#[test]
fn a_mapped_destination_in_ipv6_is_not_taken_for_ipv4() {
    let mut frame = v6(&[], UDP, &PORTS);
    frame[38..54].copy_from_slice(&mapped(V4));
    assert_eq!(verdict(&frame), Verdict::Pass(Counter::PassNotOwned));
}

#[test]
fn a_packet_on_its_way_to_another_segment_is_the_kernels() {
    let mut routing = options(ROUTING, 2);
    routing.1[3] = 1;
    assert_eq!(verdict(&v6(&[routing], UDP, &PORTS)), Verdict::Pass(Counter::PassNotOwned));
}

#[test]
fn contradictions_are_the_kernels() {
    let good = v4(UDP, 0, &[], &PORTS);
    for (at, value, what) in [
        (14, 0x44, "header of 16 bytes"),
        (14, 0x55, "version 5"),
        (17, 19, "total length below the header's"),
        (17, 23, "total length that cuts the ports"),
    ] {
        let mut frame = good.clone();
        frame[at] = value;
        assert_eq!(verdict(&frame), Verdict::Pass(Counter::PassMalformed), "{what}");
    }
    let mut frame = v6(&[], UDP, &PORTS);
    frame[19] = 3;
    assert_eq!(verdict(&frame), Verdict::Pass(Counter::PassMalformed), "payload length that cuts the ports");
    frame[14] = 0x50;
    assert_eq!(verdict(&frame), Verdict::Pass(Counter::PassMalformed), "version 5");
}

#[test]
fn keys_have_the_layout_of_the_map() {
    let key = FlowKey::new("10.0.0.2".parse().unwrap(), 7000, UDP);
    let want = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2, 0x1b, 0x58, 17, 0];
    assert_eq!(key.to_bytes(), want);
    assert_eq!(verdict(&v4(UDP, 0, &[], &PORTS)), Verdict::Flow(key));
}

#[test]
fn counters_are_in_the_order_of_their_indices() {
    for (index, counter) in Counter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, index);
    }
}

/// A chain of extension headers without fragments or segments left.
fn chain() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let number = prop_oneof![Just(HOP_BY_HOP), Just(DESTINATION_OPTIONS), Just(ROUTING)];
    let extension = (number, 0u8..5).prop_map(|(number, units)| options(number, units));
    proptest::collection::vec(extension, 0..=MAX_EXTENSIONS)
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        classify(bytes.as_slice());
    }

    /// Random bytes rarely look like IP: here they do, and one byte is wrong.
    #[test]
    fn no_damage_makes_it_panic_or_invent_a_flow(
        chain in chain(), atomic: bool, at: prop::sample::Index, value: u8, keep: prop::sample::Index,
    ) {
        let mut chain = chain;
        if atomic {
            chain.push(fragment(1));
        }
        let mut frame = v6(&chain, UDP, &PORTS);
        let at = at.index(frame.len());
        frame[at] = value;
        frame.truncate(keep.index(frame.len()) + 1);
        if let Verdict::Flow(flow) | Verdict::First(flow, _) = classify(frame.as_slice()) {
            // Whatever it says is in the frame.
            prop_assert!(flow.addr == mapped(V4) || frame.windows(16).any(|window| window == flow.addr));
            prop_assert!(flow.port == [0; 2] || frame.windows(2).any(|window| window == flow.port));
        }
    }

    #[test]
    fn any_chain_leads_to_the_ports(chain in chain()) {
        let frame = v6(&chain, UDP, &PORTS);
        prop_assert_eq!(classify(frame.as_slice()), Verdict::Flow(key(V6, UDP)));
        // And one byte less does not.
        prop_assert_eq!(classify(&frame[..frame.len() - 1]), Verdict::Pass(Counter::PassMalformed));
    }

    #[test]
    fn a_truncated_frame_is_malformed(options in 0usize..=10, keep: prop::sample::Index) {
        let frame = v4(UDP, 0, &vec![1; options * 4], &PORTS);
        let frame = &frame[..keep.index(frame.len())];
        prop_assert_eq!(classify(frame), Verdict::Pass(Counter::PassMalformed));
    }
}
