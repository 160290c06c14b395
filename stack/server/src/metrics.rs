//! Metrics for Prometheus over HTTP/1.1 (RFC 9112): one resource, `GET /metrics`.
//!
//! A thread of its own, which asks the control thread as any client does, so that a slow or hostile scraper stops nobody.
//! Requests are bounded in size, connections in time and number; there is no keep-alive.

use crate::sys;
use freena_shm_abi::control::{Request, Response, op};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// The longest request head in bytes.
const MAX_REQUEST: usize = 8 << 10;
/// The most connections at a time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// How long one connection may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a Unix stream socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("expected a path behind `unix:`".into())
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        // A port alone is on the loopback: what is told here is not for everybody.
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            return Ok(Address::Tcp((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()));
        }
        text.parse().map(Address::Tcp).map_err(|_| {
            format!(
                "found `{text}`, expected a port, an address and port such as 127.0.0.1:9464, or unix:PATH"
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A running server of metrics. Its thread ends with the process, the file of its socket with this.
#[derive(Debug)]
pub struct Metrics {
    path: Option<PathBuf>,
    /// Where it listens: the port that was chosen where 0 was asked for.
    pub address: Address,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: Read + Write + Send {
    fn set_limits(&self, limit: Duration) -> io::Result<()>;
    fn end(&self);
}

macro_rules! stream {
    ($name:ty) => {
        impl Stream for $name {
            fn set_limits(&self, limit: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(limit))?;
                self.set_write_timeout(Some(limit))
            }
            fn end(&self) {
                let _ = self.shutdown(std::net::Shutdown::Write);
            }
        }
    };
}
stream!(TcpStream);
stream!(UnixStream);

impl Metrics {
    /// Listens and serves; `control` is the other end of a client's connection to the control thread.
    ///
    /// # Errors
    /// The address is in use, or not this host's.
    pub fn serve(address: &Address, control: OwnedFd) -> io::Result<Metrics> {
        let wrap = |error: io::Error| io::Error::new(error.kind(), format!("metrics on {address}: {error}"));
        let (listener, path, bound) = match address {
            Address::Tcp(at) => {
                let listener = TcpListener::bind(at).map_err(wrap)?;
                let bound = listener.local_addr().map_err(wrap)?;
                (Listener::Tcp(listener), None, Address::Tcp(bound))
            }
            Address::Unix(path) => {
                remove_abandoned(path).map_err(wrap)?;
                let listener = UnixListener::bind(path).map_err(wrap)?;
                (Listener::Unix(listener), Some(path.clone()), address.clone())
            }
        };
        let source = Arc::new(Mutex::new(control));
        thread::Builder::new().name("freena-metrics".to_owned()).spawn(move || accept(&listener, &source))?;
        Ok(Metrics { path, address: bound })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens on any more. Anything else stays, and makes bind(2) fail.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn accept(listener: &Listener, source: &Arc<Mutex<OwnedFd>>) {
    let open = Arc::new(());
    loop {
        let accepted: io::Result<Box<dyn Stream>> = match listener {
            Listener::Tcp(listener) => {
                listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>)
            }
            Listener::Unix(listener) => {
                listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>)
            }
        };
        let Ok(stream) = accepted else {
            // No descriptors, or the like: it passes, and must not be spun on.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if Arc::strong_count(&open) > MAX_CONNECTIONS {
            continue;
        }
        let (guard, source) = (open.clone(), source.clone());
        // Where there is no thread to be had, the connection is closed.
        let _ = thread::Builder::new().name("freena-scrape".to_owned()).spawn(move || {
            let _guard = guard;
            let _ = answer(stream, &source);
        });
    }
}

fn answer(mut stream: Box<dyn Stream>, source: &Mutex<OwnedFd>) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    let wanted = loop {
        if let Some(wanted) = Wanted::read(&head) {
            break wanted;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Wanted::Refused("408 Request Timeout");
        }
        stream.set_limits(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => head.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    };
    let (status, kind, body) = match wanted {
        Wanted::Metrics { .. } => match fetch(source) {
            Ok(text) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => ("503 Service Unavailable", "text/plain; charset=utf-8", format!("{error}\n")),
        },
        Wanted::Refused(status) => (status, "text/plain; charset=utf-8", format!("{status}\n")),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    if !matches!(wanted, Wanted::Metrics { head_only: true }) {
        response.push_str(&body);
    }
    stream.set_limits(LIMIT)?;
    stream.write_all(response.as_bytes())?;
    stream.end();
    // What was not read would turn the end into a reset, and the answer might be lost (RFC 9112 section 9.6).
    while Instant::now() < deadline && stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Metrics {
        head_only: bool,
    },
    /// Nothing that there is: status code and reason.
    Refused(&'static str),
}

impl Wanted {
    /// Reads the head of a request; `None` while it is not complete.
    fn read(bytes: &[u8]) -> Option<Wanted> {
        let complete =
            bytes.windows(4).any(|four| four == b"\r\n\r\n") || bytes.windows(2).any(|two| two == b"\n\n");
        if !complete {
            return (bytes.len() > MAX_REQUEST)
                .then_some(Wanted::Refused("431 Request Header Fields Too Large"));
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let bad = Some(Wanted::Refused("400 Bad Request"));
        let Ok(line) = std::str::from_utf8(line) else { return bad };
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let [method, target, version] = words[..] else { return bad };
        if !version.starts_with("HTTP/1.") {
            return Some(Wanted::Refused("505 HTTP Version Not Supported"));
        }
        // Absolute form too (RFC 9112 section 3.2.2).
        let target = target
            .strip_prefix("http://")
            .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
            .unwrap_or(target);
        Some(match (method, target.split('?').next()) {
            ("GET" | "HEAD", Some("/metrics")) => Wanted::Metrics { head_only: method == "HEAD" },
            (_, Some("/metrics")) => Wanted::Refused("405 Method Not Allowed"),
            _ => Wanted::Refused("404 Not Found"),
        })
    }
}

/// Asks the control thread.
fn fetch(source: &Mutex<OwnedFd>) -> io::Result<String> {
    let control = source.lock().unwrap_or_else(PoisonError::into_inner);
    // The answer to a question that nobody waited for any more.
    while sys::receive_with_fds(control.as_fd(), &mut [0; size_of::<Response>()])
        .is_ok_and(|(len, _)| len > 0)
    {}
    sys::send(control.as_fd(), Request::new(op::METRICS).as_bytes())?;
    let mut bytes = [0; size_of::<Response>()];
    let deadline = Instant::now() + LIMIT;
    let (len, mut fds) = loop {
        match sys::receive_with_fds(control.as_fd(), &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            other => break other?,
        }
    };
    let response = Response::read_from_bytes(&bytes[..len]).map_err(|_| io::Error::other("no answer"))?;
    if response.errno != 0 {
        return Err(io::Error::other(response.reason().to_owned()));
    }
    let mut file = File::from(fds.pop().ok_or_else(|| io::Error::other("no document"))?);
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
        assert_eq!("9464".parse(), tcp("127.0.0.1:9464"));
        assert_eq!(":9464".parse(), tcp("127.0.0.1:9464"));
        assert_eq!("0.0.0.0:1".parse(), tcp("0.0.0.0:1"));
        assert_eq!("[::1]:1".parse(), tcp("[::1]:1"));
        assert_eq!("unix:/run/m".parse(), Ok(Address::Unix("/run/m".into())));
        for wrong in ["", "unix:", "host:1", "99999", "1.2.3.4"] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn requests() {
        let read = |text: &str| Wanted::read(text.as_bytes());
        let metrics = |head_only| Some(Wanted::Metrics { head_only });
        assert_eq!(read("GET /metrics HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(read("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), metrics(false));
        assert_eq!(read("HEAD /metrics?a=b HTTP/1.0\n\n"), metrics(true));
        assert_eq!(read("GET http://a:1/metrics HTTP/1.1\r\n\r\n"), metrics(false));
        let refused = [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
        ];
        for (text, code) in refused {
            assert!(
                matches!(read(text), Some(Wanted::Refused(status)) if status.starts_with(code)),
                "{text}"
            );
        }
        assert!(
            matches!(read(&"x".repeat(9000)), Some(Wanted::Refused(status)) if status.starts_with("431"))
        );
        assert_eq!(Wanted::read(b"\xff\r\n\r\n"), Some(Wanted::Refused("400 Bad Request")));
    }
}
