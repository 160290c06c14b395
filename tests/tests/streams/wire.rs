//! Streams over the control protocol, spoken by hand: what the server does is tested apart from the library.

use crate::client::Client;
use freena_shm_abi::control::{Request, Response, op, verdict};
use freena_shm_abi::stream::{Accepted, accepted, shut, state};
use freena_shm_abi::{Endpoint, socket::SocketPage};
use freena_shm_ring::stream::{ReaderCursor, WriterCursor};
use freena_shm_ring::{SocketMapping, kick};
use freena_tests::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A carried stream.
pub struct Stream {
    /// The application end.
    pub end: Socket,
    /// The shared memory.
    pub memory: SocketMapping,
    file: File,
    tx: WriterCursor,
    rx: ReaderCursor,
}

/// Waits for a condition.
///
/// # Panics
/// If it does not become true.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not so after {PATIENCE:?}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// A kernel socket in a namespace.
pub fn kernel_socket(host: &Namespace, address: &SocketAddr) -> Socket {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    host.run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("a socket"))
}

/// Has a listener carried by TCP.
pub fn listen(client: &Client, host: &Namespace, address: SocketAddr, backlog: u32) -> Stream {
    listen_by(6, client, host, address, backlog)
}

/// Has a listener carried by an IP protocol.
pub fn listen_by(
    protocol: u8,
    client: &Client,
    host: &Namespace,
    address: SocketAddr,
    backlog: u32,
) -> Stream {
    let socket = kernel_socket(host, &address);
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).expect("bound");
    socket.listen(backlog as i32).expect("listening");
    let request = Request { backlog, ..Request::of(op::TAKEOVER, protocol) };
    let (response, fds) = client.call(&request, &[socket.as_raw_fd()]).expect("an answer");
    Stream::made(&response, fds)
}

/// Begins to connect; the names that the server gives.
pub fn begin_connect(client: &Client, host: &Namespace, peer: SocketAddr) -> (Stream, Response) {
    begin_connect_by(6, client, host, peer)
}

/// Begins to connect by an IP protocol.
pub fn begin_connect_by(
    protocol: u8,
    client: &Client,
    host: &Namespace,
    peer: SocketAddr,
) -> (Stream, Response) {
    let socket = kernel_socket(host, &peer);
    let request =
        Request { peer: Endpoint::new(peer.ip(), peer.port(), 0), ..Request::of(op::CONNECT, protocol) };
    let (response, fds) = client.call(&request, &[socket.as_raw_fd()]).expect("an answer");
    (Stream::made(&response, fds), response)
}

/// Connects.
pub fn connect(client: &Client, host: &Namespace, peer: SocketAddr) -> Stream {
    let (stream, _) = begin_connect(client, host, peer);
    stream.wait_state("connected", |now| !state::is_connecting(now));
    assert_eq!((stream.state(), stream.error()), (state::ESTABLISHED, 0));
    stream
}

impl Stream {
    fn made(response: &Response, mut fds: Vec<OwnedFd>) -> Stream {
        assert_eq!((response.errno, response.verdict), (0, verdict::FAST), "{}", response.reason());
        let memory = fds.pop().expect("the memory");
        let end = fds.pop().expect("the application end");
        Stream::new(end, memory)
    }

    fn new(end: OwnedFd, memory_fd: OwnedFd) -> Stream {
        let memory = SocketMapping::open(memory_fd.as_fd()).expect("the server's memory");
        Stream {
            end: end.into(),
            memory,
            file: memory_fd.into(),
            tx: WriterCursor::default(),
            rx: ReaderCursor::default(),
        }
    }

    /// The page.
    pub fn page(&self) -> &SocketPage {
        self.memory.page()
    }

    /// Bytes of its memory that exist.
    pub fn kept_bytes(&self) -> u64 {
        self.file.metadata().expect("a file").blocks() * 512
    }

    /// Where the server says it is.
    pub fn state(&self) -> u32 {
        self.page().stream.told.state.load(Ordering::Acquire)
    }

    /// The pending error.
    pub fn error(&self) -> u32 {
        self.page().error.0.load(Ordering::Acquire)
    }

    /// Waits for a state.
    pub fn wait_state(&self, what: &str, wanted: impl Fn(u32) -> bool) {
        wait_for(what, || wanted(self.state()));
    }

    /// Whether select(2) and its like would call it writable.
    pub fn is_writable(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.end.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one structure, which outlives the call.
        unsafe { libc::poll(&mut poll, 1, 0) };
        poll.revents & libc::POLLOUT != 0
    }

    /// Events that the kernel shows on the descriptor now.
    pub fn events(&self) -> i16 {
        let mut poll =
            libc::pollfd { fd: self.end.as_raw_fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
        // SAFETY: one structure, which outlives the call.
        unsafe { libc::poll(&mut poll, 1, 0) };
        poll.revents
    }

    /// Tells the server to look.
    pub fn kick(&self) {
        let _ = self.end.send_with_flags(b"k", libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    }

    /// Writes what there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let pipe = self.memory.tx_pipe();
        self.tx.rebase(&pipe);
        let len = (self.tx.room(&pipe, bytes.len() as u64) as usize).min(bytes.len());
        if len > 0 {
            // SAFETY: readable bytes; there is room for them.
            unsafe { pipe.copy_in(self.tx.base, self.tx.tail, bytes.as_ptr(), len) };
            let tail = self.tx.tail + len as u64;
            self.tx.publish(&pipe, tail);
            if kick::needed(&self.page().tx_kick.0) {
                self.kick();
            }
        }
        len
    }

    /// Writes all.
    pub fn write_all(&mut self, mut bytes: &[u8]) {
        wait_for("room for what is written", || {
            bytes = &bytes[self.write(bytes)..];
            bytes.is_empty()
        });
    }

    /// Reads what is there; `None` at the end of file.
    pub fn read(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let end = state::is_end_of_file(self.state());
        let pipe = self.memory.rx_pipe();
        let len = (self.rx.available(&pipe).expect("an honest server") as usize).min(bytes.len());
        if len == 0 {
            return if end { None } else { Some(0) };
        }
        // SAFETY: writable bytes.
        unsafe { pipe.copy_out(self.rx.base, self.rx.head, bytes.as_mut_ptr(), len) };
        let head = self.rx.head + len as u64;
        self.rx.release(&pipe, head);
        if kick::needed(&self.page().stream.told.rx_kick) {
            self.kick();
        }
        Some(len)
    }

    /// Reads exactly so much.
    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        wait_for("what is to be read", || {
            at += self.read(&mut bytes[at..]).expect("no end of file");
            at == bytes.len()
        });
    }

    /// Waits for the end of file.
    pub fn read_end(&mut self) {
        wait_for("the end of file", || match self.read(&mut [0; 1]) {
            None => true,
            Some(len) => {
                assert_eq!(len, 0, "bytes before the end of file");
                false
            }
        });
    }

    /// Ends the own direction.
    pub fn shutdown(&self) {
        self.page().stream.asked.shut.fetch_or(shut::WRITE, Ordering::Release);
        if kick::needed(&self.page().tx_kick.0) {
            self.kick();
        }
    }

    /// A listener: the next connection, and whether it is a framework one.
    pub fn accept(&self) -> (Result<Stream, Socket>, Accepted) {
        self.end.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (message, mut fds) = receive(&self.end);
        let message = Accepted::read_from_bytes(&message).expect("a whole message");
        if message.kind == accepted::KERNEL {
            return (Err(fds.pop().expect("a kernel socket").into()), message);
        }
        let memory = fds.pop().expect("the memory");
        (Ok(Stream::new(fds.pop().expect("the application end"), memory)), message)
    }

    /// A listener: the next connection, which must be a framework one.
    pub fn accept_fast(&self) -> Stream {
        self.accept().0.unwrap_or_else(|_| panic!("a connection that came by the kernel"))
    }
}

#[repr(C, align(8))]
struct Ancillary([u8; 64]);

fn receive(from: &Socket) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0u8; size_of::<Accepted>()];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: `msghdr` is plain data, valid when zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    message.msg_controllen = ancillary.0.len();
    // SAFETY: everything that `message` points to lives in this function.
    let len = unsafe { libc::recvmsg(from.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    assert!(len > 0, "nothing to accept: {}", std::io::Error::last_os_error());
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the buffer with at most one well-formed message, whose descriptors are new.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
            let data = libc::CMSG_DATA(header).cast::<i32>();
            fds.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
        }
    }
    bytes.truncate(len as usize);
    (bytes, fds)
}
