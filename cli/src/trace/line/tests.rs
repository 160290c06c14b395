use super::*;

fn packet(data: Vec<u8>) -> Packet {
    Packet {
        link: 0,
        interface: "eth0".to_owned(),
        outbound: true,
        time: Duration::new(1_700_000_000, 123_456_000),
        segment: 0,
        original: data.len(),
        data,
        snap: 0,
    }
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2.
fn frame(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    let total = (20 + payload.len() as u16).to_be_bytes();
    frame.extend([
        0x08, 0x00, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    let sum = freena_wire::Sum::default().bytes(&frame[14..34]).checksum().to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame.extend(payload);
    frame
}

fn line(packet: &Packet) -> String {
    let mut text = String::new();
    describe(packet, &mut text);
    // The time depends on the zone; its fraction does not.
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(time.ends_with(".123456"), "{time}");
    rest.trim_end().to_owned()
}

#[test]
fn a_datagram() {
    let payload = [0x13, 0x88, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    let datagram = packet(frame(17, &payload));
    assert_eq!(line(&datagram), "eth0 Out IP 10.0.0.1.5000 > 10.0.0.2.53: UDP, length 4");
    let cut = Packet { data: datagram.data[..40].to_vec(), outbound: false, ..datagram.clone() };
    assert_eq!(line(&cut), "eth0 In  IP 10.0.0.1.5000 > 10.0.0.2.53: UDP, 40 of 46 bytes");
    let long = Packet { segment: 2, ..datagram };
    assert!(line(&long).ends_with("length 4 (super-packet, 2 bytes per segment)"));
}

#[test]
fn a_segment_with_options() {
    let mut segment = vec![0x13, 0x88, 0, 80, 0, 0, 0, 100, 0, 0, 0, 200, 0x80, 0x12, 0x10, 0, 0, 0, 0, 0];
    segment.extend([2, 4, 0x05, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0]);
    segment.extend([9; 5]);
    assert_eq!(
        line(&packet(frame(6, &segment))),
        "eth0 Out IP 10.0.0.1.5000 > 10.0.0.2.80: Flags [S.], seq 100:105, ack 200, win 4096, \
         options [mss 1460,nop,wscale 7,sackOK], length 5"
    );
    // An option that reaches beyond the header.
    segment[20..24].copy_from_slice(&[8, 40, 0, 0]);
    assert!(line(&packet(frame(6, &segment))).contains("options [bad]"));
}

#[test]
fn anything_else_is_told_too() {
    assert_eq!(line(&packet(frame(1, &[8, 0, 0, 0]))), "eth0 Out IP 10.0.0.1 > 10.0.0.2: ICMP, length 4");
    let mut arp = vec![0; 12];
    arp.extend([0x08, 0x06]);
    arp.extend([0; 28]);
    assert_eq!(line(&packet(arp)), "eth0 Out ethertype 0x0806, length 42");
    assert!(line(&packet(vec![1, 2, 3])).contains("malformed"));
    for len in 0..40 {
        line(&packet(frame(6, &[0xff; 40])[..len].to_vec()));
    }
}
