//! Rates as plain text, for scripts: a heading and columns with one space at least between them.

use super::sample::Rates;
use std::fmt::Write;

/// Prints the whole, with an empty line at its end.
pub(super) fn print(rates: &Rates) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "freena-stack pid {} control {} processes {} sockets {}",
        rates.pid,
        rates.control,
        rates.processes,
        rates.sockets.len()
    );
    let head = ["LINK", "QUEUE", "IN_PPS", "IN_BPS", "OUT_PPS", "OUT_BPS", "DROP_PPS"];
    let _ = writeln!(
        text,
        "{:<16} {:>5} {:>12} {:>14} {:>12} {:>14} {:>10}",
        head[0], head[1], head[2], head[3], head[4], head[5], head[6]
    );
    for link in &rates.links {
        let _ = writeln!(
            text,
            "{:<16} {:>5} {:>12.1} {:>14.0} {:>12.1} {:>14.0} {:>10.1}",
            link.interface,
            link.queue,
            link.in_frames,
            link.in_bits,
            link.out_frames,
            link.out_bits,
            link.dropped
        );
    }
    let _ = writeln!(
        text,
        "{:<6} {:>5} {:>6} {:>6} {:>12} {:>10}",
        "WORKER", "CORE", "CPU", "BUSY", "TURNS", "SLEEPS"
    );
    for worker in &rates.workers {
        let core = worker.core.map_or("-".to_owned(), |core| core.to_string());
        let _ = writeln!(
            text,
            "{:<6} {core:>5} {:>6.3} {:>6.3} {:>12.1} {:>10.1}",
            worker.index, worker.cpu, worker.busy, worker.turns, worker.sleeps
        );
    }
    let _ = writeln!(
        text,
        "{:<16} {:>8} {:<5} {:<12} {:<28} {:<28} {:>12} {:>12} {:>10}",
        "PROGRAM", "PID", "PROTO", "STATE", "LOCAL", "PEER", "IN", "OUT", "DROP"
    );
    for socket in &rates.sockets {
        let _ = writeln!(
            text,
            "{:<16} {:>8} {:<5} {:<12} {:<28} {:<28} {:>12.1} {:>12.1} {:>10.1}",
            // A program may call itself what it likes.
            socket.program.replace(char::is_whitespace, "_"),
            socket.pid,
            socket.protocol,
            socket.state,
            socket.local,
            socket.peer,
            socket.received,
            socket.sent,
            socket.dropped
        );
    }
    text.push('\n');
    text
}
