//! A packet in one line, much as tcpdump(8) prints it.

use super::reader::Packet;
use freena_wire::{Malformed, Packet as Parsed, parse_frame, protocol};
use std::fmt::Write;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::time::Duration;

/// Appends the line.
pub(super) fn describe(packet: &Packet, to: &mut String) {
    let way = if packet.outbound { "Out" } else { "In " };
    let (time, interface) = (clock(packet.time), &packet.interface);
    // Writing to a string cannot fail.
    let _ = write!(to, "{time} {interface} {way} ");
    match parse_frame(&packet.data) {
        Ok(parsed) => upper(packet, &parsed, to),
        // Headers tell the length of the whole packet, of which only a part was kept.
        Err(_) if packet.data.len() < packet.original => cut(packet, to),
        Err(Malformed::NotIp { ethertype }) => {
            let _ = write!(to, "ethertype {ethertype:#06x}, length {}", packet.original);
        }
        Err(error) => {
            let _ = write!(to, "malformed: {error}, length {}", packet.original);
        }
    }
    if packet.segment != 0 {
        let _ = write!(to, " (super-packet, {} bytes per segment)", packet.segment);
    }
    to.push('\n');
}

/// Time of day in the local time zone, with microseconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs().cast_signed();
    let mut local = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid; where it fails nothing is read.
    let known = unsafe { !libc::localtime_r(&seconds, local.as_mut_ptr()).is_null() };
    if !known {
        return format!("{seconds}.{:06}", time.subsec_micros());
    }
    // SAFETY: localtime_r succeeded, so it has filled the structure.
    let local = unsafe { local.assume_init() };
    let (hour, minute, second) = (local.tm_hour, local.tm_min, local.tm_sec);
    format!("{hour:02}:{minute:02}:{second:02}.{:06}", time.subsec_micros())
}

/// What can be told of a packet of which a part was kept.
fn cut(packet: &Packet, to: &mut String) {
    use freena_link_middleware::filter::Sight;
    let sight = Sight::new(&packet.data, packet.outbound);
    let Some((src, dst)) = sight.addresses else {
        let _ = write!(to, "cut off, length {}", packet.original);
        return;
    };
    let _ = match sight.ports {
        Some((from, at)) => write!(to, "{} {src}.{from} > {dst}.{at}: ", version(src)),
        None => write!(to, "{} {src} > {dst}: ", version(src)),
    };
    let _ = write!(
        to,
        "{}, {} of {} bytes",
        name(sight.protocol.unwrap_or_default()),
        packet.data.len(),
        packet.original
    );
}

fn version(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IP" } else { "IP6" }
}

fn name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMP6".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}

fn upper(packet: &Packet, parsed: &Parsed<'_>, to: &mut String) {
    let Parsed { src, dst, payload, .. } = *parsed;
    let ends = |from: u16, at: u16| format!("{} {src}.{from} > {dst}.{at}: ", version(src));
    let word = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let ports = word(0).zip(word(2));
    let _ = match (parsed.fragment, parsed.protocol, ports) {
        (Some(fragment), number, _) => write!(
            to,
            "{} {src} > {dst}: {} fragment {} at {}, length {}{}",
            version(src),
            name(number),
            fragment.id,
            fragment.offset,
            payload.len(),
            if fragment.more { ", more follow" } else { "" }
        ),
        (None, protocol::UDP, Some((from, at))) => {
            write!(to, "{}UDP, length {}", ends(from, at), payload.len().saturating_sub(8))
        }
        (None, protocol::TCP, Some((from, at))) if payload.len() >= 20 => {
            write!(to, "{}{}", ends(from, at), tcp(payload))
        }
        (None, number, _) => {
            write!(to, "{} {src} > {dst}: {}, length {}", version(src), name(number), payload.len())
        }
    };
    debug_assert!(packet.data.len() <= packet.original);
}

/// Flags, numbers, window, options and length of a segment of at least 20 bytes.
fn tcp(segment: &[u8]) -> String {
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let double = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let flags = segment[13];
    let letters: String =
        [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, '.'), (32, 'U'), (64, 'E'), (128, 'W')]
            .into_iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
    let header = (usize::from(segment[12] >> 4) * 4).clamp(20, segment.len());
    let length = segment.len() - header;
    let mut text = format!("Flags [{letters}], seq {}", double(4));
    if length > 0 {
        let _ = write!(text, ":{}", double(4).wrapping_add(length as u32));
    }
    if flags & 16 != 0 {
        let _ = write!(text, ", ack {}", double(8));
    }
    let _ = write!(text, ", win {}", word(14));
    let options = options(&segment[20..header]);
    if !options.is_empty() {
        let _ = write!(text, ", options [{}]", options.join(","));
    }
    let _ = write!(text, ", length {length}");
    text
}

/// The options by their kinds (IANA, "TCP Option Kind Numbers").
fn options(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind == 0 {
            break;
        }
        if *kind == 1 {
            found.push("nop".to_owned());
            bytes = rest;
            continue;
        }
        let len = rest.first().map_or(0, |len| usize::from(*len));
        let Some(value) = bytes.get(2..len) else {
            found.push("bad".to_owned());
            break;
        };
        let double =
            |at: usize| value.get(at..at + 4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_be_bytes);
        found.push(match (kind, value) {
            (2, [a, b]) => format!("mss {}", u16::from_be_bytes([*a, *b])),
            (3, [scale]) => format!("wscale {scale}"),
            (4, []) => "sackOK".to_owned(),
            (5, blocks) => {
                let blocks =
                    (0..blocks.len() / 8).map(|i| format!("{{{}:{}}}", double(i * 8), double(i * 8 + 4)));
                format!("sack {}", blocks.collect::<String>())
            }
            (8, [_, _, _, _, _, _, _, _]) => format!("TS val {} ecr {}", double(0), double(4)),
            (34, cookie) => format!("tfo {} bytes", cookie.len()),
            (other, _) => format!("option {other}"),
        });
        bytes = &bytes[len..];
    }
    found
}

#[cfg(test)]
mod tests;
