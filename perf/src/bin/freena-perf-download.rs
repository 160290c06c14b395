//! Gets a file by HTTP again and again over one connection, and tells how fast its bytes come.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use freena_perf::programs::report::{Downloaded, Line, megabits, per_second};
use freena_perf::programs::{self, sys};

/// Gets a file by HTTP/1.1 again and again over one connection. When it has it once, it waits for a line on standard input, then
/// measures.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Address of the server.
    address: IpAddr,
    /// Its port.
    port: u16,
    /// What to get.
    #[arg(default_value = "/")]
    path: String,
    /// Measure for so long.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// A server that is silent for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is asked for at a time; the head of an answer is no longer.
const CHUNK: usize = 256 << 10;

fn main() -> ExitCode {
    programs::finish("freena-perf-download", run(&Options::parse()))
}

fn run(options: &Options) -> io::Result<()> {
    let mut stream = TcpStream::connect(SocketAddr::new(options.address, options.port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", options.path, options.address);
    let mut buffer = vec![0; CHUNK];
    get(&mut stream, &request, &mut buffer, |_| false)?;
    programs::print_line(&Line::Ready { port: stream.local_addr()?.port() })?;
    programs::wait_for_start()?;
    let (before, first_ns) = (sys::usage(), sys::now_ns());
    let end_ns = first_ns + (options.seconds * 1e9) as u64;
    let (mut bytes, mut last_ns) = (0, first_ns);
    while last_ns < end_ns {
        get(&mut stream, &request, &mut buffer, |more| {
            bytes += more as u64;
            last_ns = sys::now_ns();
            last_ns >= end_ns
        })?;
    }
    let megabits_per_second = megabits(per_second(bytes, last_ns - first_ns), 1);
    let usage = sys::usage() - before;
    programs::print_line(&Line::Downloaded(Downloaded { bytes, megabits_per_second, usage }))
}

/// Gets the file. `enough` is told how many bytes of it have come each time, and may end it.
fn get(
    stream: &mut TcpStream,
    request: &str,
    buffer: &mut [u8],
    mut enough: impl FnMut(usize) -> bool,
) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    let mut filled = 0;
    let (head, length) = loop {
        filled += read(stream, &mut buffer[filled..])?;
        if let Some(found) = parse(&buffer[..filled])? {
            break found;
        }
    };
    let (mut left, mut more) = (length, filled - head);
    loop {
        left = left.checked_sub(more).ok_or_else(|| invalid("more bytes than the head says"))?;
        if enough(more) || left == 0 {
            return Ok(());
        }
        more = read(stream, buffer)?;
    }
}

/// Some bytes, of which there must be some.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        more => Ok(more),
    }
}

/// Length of the head of an answer, and of the body that it tells; `None` while the head is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() < CHUNK { Ok(None) } else { Err(invalid("a head that does not end")) };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let first = head.lines().next().unwrap_or_default();
    if !first.starts_with("http/1.1 200") {
        return Err(invalid(&format!("{first:?}, expected \"HTTP/1.1 200\"")));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let length = length.ok_or_else(|| invalid("no Content-Length"))?;
    Ok(Some((end + 4, length)))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server's answer: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_understood_or_refused() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-length: 12\r\n\r\nabc";
        assert_eq!(parse(whole).unwrap(), Some((whole.len() - 3, 12)));
        assert_eq!(parse(&whole[..30]).unwrap(), None);
        let refused = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert!(refused(b"HTTP/1.1 404 Not Found\r\n\r\n").contains("404 not found"));
        assert!(refused(b"HTTP/1.1 200 OK\r\n\r\n").contains("no Content-Length"));
    }
}
