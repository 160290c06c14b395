//! Whether the kernel's own network works between two hosts, whatever a server does.

use crate::netns::Namespace;
use std::io;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

/// Asserts that a kernel socket of one host gets a datagram to one of the other and back, three times.
///
/// # Panics
/// If a datagram is lost; `when` is in the message.
pub fn assert_kernel_udp(hosts: (&Namespace, &Namespace), addresses: (&str, &str), when: &str) {
    let bind = |(host, address): (&Namespace, &str)| {
        let socket = host.run(|| UdpSocket::bind((address, 0)).expect("a kernel socket"));
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        socket
    };
    let (one, other) = (bind((hosts.0, addresses.0)), bind((hosts.1, addresses.1)));
    let to = |socket: &UdpSocket| socket.local_addr().expect("its name");
    let mut buffer = [0; 16];
    for round in 0..3u8 {
        for (from, at) in [(&one, &other), (&other, &one)] {
            from.send_to(&[round; 9], to(at)).unwrap_or_else(|error| panic!("kernel UDP {when}: {error}"));
            let got = at.recv(&mut buffer).unwrap_or_else(|error| panic!("kernel UDP {when}: {error}"));
            assert_eq!(buffer[..got], [round; 9], "kernel UDP {when}");
        }
    }
}

/// Asserts that the host answers an ICMP echo request (RFC 792), which a raw socket of the other sends.
///
/// # Panics
/// If no answer comes within a second; `when` is in the message.
pub fn assert_ping(from: &Namespace, to: &str, when: &str) {
    from.run(|| {
        let socket = ping_socket().expect("a raw ICMP socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        // Type 8, code 0, checksum, identifier, sequence number 1.
        let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        request[2..4].copy_from_slice(&(!(0x0800u16 + 0x1234 + 1)).to_be_bytes());
        socket.send_to(&request, (to, 0)).unwrap_or_else(|error| panic!("ping {when}: {error}"));
        let mut packet = [0; 256];
        loop {
            let len = socket.recv(&mut packet).unwrap_or_else(|error| panic!("ping {to} {when}: {error}"));
            let header = usize::from(packet[0] & 15) * 4;
            // The socket sees all ICMP of the host: other hosts' requests, too.
            if packet[header..len].starts_with(&[0, 0]) && packet[header + 4..len].starts_with(&[0x12, 0x34])
            {
                return;
            }
        }
    });
}

fn ping_socket() -> io::Result<UdpSocket> {
    use std::os::fd::FromRawFd;
    // SAFETY: takes integers only.
    let descriptor =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns. `UdpSocket` makes the same calls for sending and receiving that a
    // raw socket wants.
    Ok(unsafe { UdpSocket::from_raw_fd(descriptor) })
}

/// Whether an XDP program is on the interface.
pub fn has_xdp(host: &Namespace, interface: &str) -> bool {
    host.run(|| {
        let output = Command::new("ip").args(["-d", "link", "show", "dev", interface]).output();
        let output = output.expect("ip (package iproute2)");
        String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
    })
}
