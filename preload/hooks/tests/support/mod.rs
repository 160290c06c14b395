//! A scripted server for one test: it speaks the control protocol and moves datagrams between rings, without a network.
//!
//! A datagram to the port of another of its sockets is delivered there; any other comes back as if its destination had
//! sent it. What stays with the kernel is decided by address: [`KERNEL_ADDRESS`].

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod program;
pub mod stream;

use freena_shm_abi::control::{Request, Response, op, verdict};
use freena_shm_abi::record::Record;
use freena_shm_abi::server::ServerPage;
use freena_shm_abi::{ABI_VERSION, Endpoint, MAGIC};
use freena_shm_ring::cursor::{ConsumerCursor, ProducerCursor};
use freena_shm_ring::mapping::{Sizes, map_shared, memfd};
use freena_shm_ring::{Consumer, Producer, SocketMapping, kick, wake};
use std::collections::HashMap;
use std::io::Result;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::{io, mem, ptr, thread};
use stream::Flow;
use zerocopy::{FromBytes, IntoBytes};

/// Bound to it, or sent to it, the kernel keeps the traffic.
pub const KERNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// One socket that was taken over.
pub struct Carried {
    pub id: u64,
    mapping: SocketMapping,
    memory: OwnedFd,
    companion: OwnedFd,
    end: OwnedFd,
    local: Mutex<Endpoint>,
    producer: Mutex<ProducerCursor>,
}

/// State that the test can look at.
pub struct Shared {
    pub sockets: Mutex<HashMap<u64, Arc<Carried>>>,
    /// Listeners and connections.
    pub flows: Mutex<HashMap<u64, Arc<Flow>>>,
    pub requests: Mutex<HashMap<u16, u64>>,
    pub records: AtomicU64,
    /// While set, transmit rings are left alone.
    pub stalled: AtomicBool,
    /// While set, a silent peer does not answer.
    pub silent: AtomicBool,
    own: Weak<Shared>,
    page: *mut ServerPage,
    page_fd: OwnedFd,
    version: u32,
    next_id: AtomicU64,
    stop: AtomicBool,
}

// SAFETY: `page` is a shared mapping of atomics that lives as long as the process.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The server, stopped when dropped.
pub struct FakeServer {
    pub shared: Arc<Shared>,
    pub path: PathBuf,
    listener: RawFd,
    _folder: tempfile::TempDir,
}

impl FakeServer {
    pub fn start() -> Self {
        Self::with_version(ABI_VERSION)
    }

    pub fn with_version(version: u32) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("control");
        let page_fd = memfd(c"page", mem::size_of::<ServerPage>()).expect("memfd");
        let page: *mut ServerPage =
            map_shared(page_fd.as_raw_fd(), mem::size_of::<ServerPage>(), libc::PROT_READ | libc::PROT_WRITE)
                .expect("map")
                .cast();
        // SAFETY: just mapped, as long as it is.
        let words = unsafe { &*page };
        words.magic.store(MAGIC, Ordering::Relaxed);
        words.version.store(ABI_VERSION, Ordering::Relaxed);
        words.workers.store(2, Ordering::Relaxed);
        words.route_epoch.store(1, Ordering::Release);
        let shared = Arc::new_cyclic(|own| Shared {
            own: Weak::clone(own),
            flows: Mutex::default(),
            silent: AtomicBool::new(false),
            sockets: Mutex::default(),
            requests: Mutex::default(),
            records: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            page,
            page_fd,
            version,
            next_id: AtomicU64::new(1),
            stop: AtomicBool::new(false),
        });
        let listener = listen(&path).expect("listen");
        let fd = listener.as_raw_fd();
        let state = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &state));
        FakeServer { shared, path, listener: fd, _folder: folder }
    }

    /// How often a request of this kind came.
    pub fn count(&self, op: u16) -> u64 {
        self.shared.requests.lock().expect("lock").get(&op).copied().unwrap_or(0)
    }

    /// Sockets carried at this moment.
    pub fn carried(&self) -> usize {
        self.shared.sockets.lock().expect("lock").len() + self.shared.flows.lock().expect("lock").len()
    }

    /// Waits until no socket is carried any more.
    pub fn wait_until_empty(&self) {
        for _ in 0..200 {
            if self.carried() == 0 {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} sockets are still carried", self.carried());
    }

    /// Dies: every connection and every socket's server end is closed.
    pub fn die(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // SAFETY: wakes the accepting thread, which owns the descriptor.
        unsafe { libc::shutdown(self.listener, libc::SHUT_RDWR) };
        for carried in self.shared.sockets.lock().expect("lock").values() {
            // SAFETY: plain system call on an owned descriptor.
            unsafe { libc::shutdown(carried.end.as_raw_fd(), libc::SHUT_RDWR) };
        }
        self.shared.flows.lock().expect("lock").values().for_each(|flow| flow.hang_up());
    }

    /// Gives the only socket an error, as an ICMP message would.
    pub fn raise_error(&self, errno: i32) {
        for carried in self.shared.sockets.lock().expect("lock").values() {
            carried.mapping.page().error.0.store(errno as u32, Ordering::Relaxed);
            // SAFETY: mapped as long as the process lives.
            unsafe { &*self.shared.page }.errors.fetch_add(1, Ordering::Release);
            carried.send_token_if_wanted();
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.die();
    }
}

fn cvt(ret: i32) -> Result<i32> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn unix_address(path: &[u8]) -> (libc::sockaddr_un, u32) {
    // SAFETY: plain data.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as _;
    }
    (address, 2 + path.len() as u32)
}

fn listen(path: &Path) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let (address, len) = unix_address(path.as_os_str().as_bytes());
    // SAFETY: plain system calls with a valid address.
    unsafe {
        let fd = cvt(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0))?;
        let fd = OwnedFd::from_raw_fd(fd);
        cvt(libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), len))?;
        cvt(libc::listen(fd.as_raw_fd(), 64))?;
        Ok(fd)
    }
}

fn accept(listener: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        // SAFETY: plain system call.
        let fd = unsafe {
            libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC)
        };
        if fd < 0 || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: just accepted.
        let connection = unsafe { OwnedFd::from_raw_fd(fd) };
        let state = Arc::clone(shared);
        thread::spawn(move || serve(&connection, &state));
    }
}

fn serve(connection: &OwnedFd, shared: &Arc<Shared>) {
    let mut attached = false;
    while let Ok(Some((bytes, fds))) = receive(connection.as_raw_fd()) {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let request = Request::read_from_bytes(&bytes).expect("a request of the right size");
        *shared.requests.lock().expect("lock").entry(request.op).or_default() += 1;
        assert!(attached || request.op == op::ATTACH, "ATTACH comes first, not {}", request.op);
        attached = true;
        let (mut response, send) = shared.answer(&request, fds);
        response.version = shared.version;
        let raw: Vec<RawFd> = send.iter().map(AsRawFd::as_raw_fd).collect();
        reply(connection.as_raw_fd(), response.as_bytes(), &raw);
    }
}

impl Shared {
    fn answer(self: &Arc<Self>, request: &Request, fds: Vec<OwnedFd>) -> (Response, Vec<OwnedFd>) {
        let refuse = |errno| (Response { errno: errno as u32, ..Response::new() }, vec![]);
        if self.version != ABI_VERSION {
            return refuse(libc::EPROTO);
        }
        let dup = |fd: &OwnedFd| fd.try_clone().expect("dup");
        match request.op {
            op::ATTACH => (Response::new(), vec![dup(&self.page_fd)]),
            op::TAKEOVER if request.protocols() == [6] => self.take_listener(fds),
            op::TAKEOVER => self.take_over(fds),
            op::CONNECT => self.connect(request, fds),
            op::ROUTE => {
                let ip = request.peer.ip();
                let kernel = ip == IpAddr::V4(KERNEL_ADDRESS) || ip.is_multicast();
                // SAFETY: mapped for the life of the process.
                let epoch = unsafe { &*self.page }.route_epoch.load(Ordering::Relaxed);
                let verdict = if kernel { verdict::KERNEL } else { verdict::FAST };
                (Response { verdict, prefix_len: 128, mtu: 1500, epoch, ..Response::new() }, vec![])
            }
            op::SYNC => (Response::new(), vec![]),
            op::ADOPT | op::COMPANION | op::REFRESH => {
                let id = fds.first().and_then(name);
                let flow = id.and_then(|id| self.flows.lock().expect("lock").get(&id).cloned());
                if let Some(flow) = flow {
                    let fds = match request.op {
                        op::ADOPT => vec![flow.memory()],
                        op::COMPANION => vec![flow.companion()],
                        _ => vec![],
                    };
                    return (Response::new(), fds);
                }
                let Some(carried) = id.and_then(|id| self.sockets.lock().expect("lock").get(&id).cloned())
                else {
                    return refuse(libc::ENOTSOCK);
                };
                let fds = match request.op {
                    op::ADOPT => vec![dup(&carried.memory)],
                    op::COMPANION => vec![dup(&carried.companion)],
                    _ => {
                        *carried.local.lock().expect("lock") = local_name(&carried.companion);
                        vec![]
                    }
                };
                (Response::new(), fds)
            }
            other => panic!("request {other}"),
        }
    }

    fn itself(&self) -> Arc<Shared> {
        self.own.upgrade().expect("in use")
    }

    fn take_over(self: &Arc<Self>, mut fds: Vec<OwnedFd>) -> (Response, Vec<OwnedFd>) {
        let companion = fds.pop().expect("a companion");
        let local = local_name(&companion);
        if local.ip() == IpAddr::V4(KERNEL_ADDRESS) {
            let verdict = verdict::KERNEL;
            return (Response { verdict, ..Response::new() }.because("scripted to stay"), vec![]);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (mapping, memory) = SocketMapping::create(Sizes::clamp(0, 0, 2), id).expect("memory");
        let (end, application) = pair(id).expect("pair");
        let give = vec![application, memory.try_clone().expect("dup")];
        let carried = Arc::new(Carried {
            id,
            mapping,
            memory,
            companion,
            end,
            local: Mutex::new(local),
            producer: Mutex::default(),
        });
        self.sockets.lock().expect("lock").insert(id, Arc::clone(&carried));
        let state = Arc::clone(self);
        thread::spawn(move || carry(&carried, &state));
        (Response { verdict: verdict::FAST, socket_id: id, ..Response::new() }.because("scripted"), give)
    }

    fn at_port(&self, port: u16) -> Option<Arc<Carried>> {
        let sockets = self.sockets.lock().expect("lock");
        sockets.values().find(|s| s.local.lock().expect("lock").port == port).cloned()
    }
}

/// The socket's name, by its application end.
fn name(end: &OwnedFd) -> Option<u64> {
    let (mut address, _) = unix_address(&[]);
    let mut len = mem::size_of_val(&address) as u32;
    // SAFETY: the pointers are to locals.
    unsafe {
        cvt(libc::getpeername(end.as_raw_fd(), ptr::from_mut(&mut address).cast(), &mut len)).ok()?;
    }
    let text: String = address.sun_path[1..len as usize - 2].iter().map(|c| *c as u8 as char).collect();
    text.rsplit(':').next()?.parse().ok()
}

fn pair(id: u64) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let (address, len) =
        unix_address(format!("\0freena-socket:{:x}-{}:{id}", std::process::id(), nonce()).as_bytes());
    // SAFETY: plain system calls with valid arguments.
    unsafe {
        cvt(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()))?;
        let (end, application) = (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]));
        cvt(libc::bind(fds[0], ptr::from_ref(&address).cast(), len))?;
        Ok((end, application))
    }
}

fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn local_name(fd: &OwnedFd) -> Endpoint {
    // SAFETY: plain data; the pointers are to locals; the family says which type it is.
    unsafe {
        let mut storage: libc::sockaddr_in6 = mem::zeroed();
        let mut len = mem::size_of_val(&storage) as u32;
        libc::getsockname(fd.as_raw_fd(), ptr::from_mut(&mut storage).cast(), &mut len);
        let v4 = *ptr::from_ref(&storage).cast::<libc::sockaddr_in>();
        if i32::from(storage.sin6_family) == libc::AF_INET {
            let ip = IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into());
            Endpoint::new(ip, u16::from_be(v4.sin_port), 0)
        } else {
            let ip = IpAddr::V6(storage.sin6_addr.s6_addr.into());
            Endpoint { family: 6, ..Endpoint::new(ip, u16::from_be(storage.sin6_port), 0) }
        }
    }
}

/// What a worker of the real server does for one socket.
fn carry(carried: &Arc<Carried>, shared: &Arc<Shared>) {
    let mut cursor = ConsumerCursor::default();
    let page = carried.mapping.page();
    let fd = carried.end.as_raw_fd();
    loop {
        let mut moved = false;
        if !shared.stalled.load(Ordering::Relaxed) {
            let mut consumer = Consumer::new(carried.mapping.tx(), &mut cursor);
            while let Some(message) = consumer.next().expect("an honest program") {
                let mut payload = vec![0; message.record.len as usize];
                message.read(0, &mut payload);
                consumer.release();
                shared.records.fetch_add(1, Ordering::Relaxed);
                shared.route(carried, &message.record, &payload);
                moved = true;
            }
        }
        let used = page.tx_tail.0.load(Ordering::Acquire) - cursor.head;
        if used <= u64::from(carried.mapping.sizes().tx) / 2 {
            let mut buffer = [0u8; 9000];
            loop {
                // SAFETY: the buffer is a local.
                let got =
                    unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
                match got {
                    0 => {
                        shared.sockets.lock().expect("lock").remove(&carried.id);
                        return;
                    }
                    1.. => {
                        moved = true;
                        kick::resume(&page.tx_kick.0);
                        if buffer[0] == b't' {
                            carried.send_token();
                        } else if carried.has_unread() {
                            carried.send_token_if_wanted();
                        }
                    }
                    _ if io::Error::last_os_error().raw_os_error() == Some(libc::ECONNRESET) => {}
                    _ => break,
                }
            }
        }
        if moved {
            continue;
        }
        kick::suspend(&page.tx_kick.0);
        if carried.mapping.tx().has_data(cursor.head) && !shared.stalled.load(Ordering::Relaxed) {
            kick::resume(&page.tx_kick.0);
            continue;
        }
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry. A full ring leaves messages unread on purpose: then the pause is a sleep.
        unsafe { libc::poll(&mut entry, u64::from(used <= u64::from(carried.mapping.sizes().tx) / 2), 20) };
    }
}

impl Shared {
    fn route(&self, from: &Carried, record: &Record, payload: &[u8]) {
        let local = *from.local.lock().expect("lock");
        let loopback = Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, 0).addr;
        let own = if local.ip().is_unspecified() { loopback } else { local.addr };
        match self.at_port(record.peer_port) {
            Some(to) if to.id != from.id => {
                to.deliver(record, payload, own, local.port, record.peer);
            }
            _ => from.deliver(record, payload, record.peer, record.peer_port, own),
        }
    }
}

impl Carried {
    fn deliver(&self, record: &Record, payload: &[u8], peer: [u8; 16], peer_port: u16, local: [u8; 16]) {
        let arrived = Record {
            flags: 0,
            peer,
            peer_port,
            local,
            ifindex: 1,
            timestamp: 1_700_000_000_123_456_789,
            ..*record
        };
        {
            let mut cursor = self.producer.lock().expect("lock");
            let mut producer = Producer::new(self.mapping.rx(1), &mut cursor);
            // A full ring loses the datagram, as a full socket buffer does.
            if let Ok(mut slot) = producer.reserve(&arrived) {
                slot.write(0, payload);
            }
            producer.publish();
        }
        let wake = &self.mapping.page().rx_wake.0;
        if wake::take_request(&wake.token) {
            self.send_token();
        } else if wake.eager.load(Ordering::Relaxed) != 0 && wake::is_sent(&wake.token) {
            wake.edges.fetch_add(1, Ordering::Relaxed);
            self.send_token();
        }
    }

    fn has_unread(&self) -> bool {
        let page = self.mapping.page();
        page.rx[1].produced.0.tail.load(Ordering::Relaxed) != page.rx[1].head.0.load(Ordering::Acquire)
    }

    fn send_token_if_wanted(&self) {
        if wake::take_request(&self.mapping.page().rx_wake.0.token) {
            self.send_token();
        }
    }

    fn send_token(&self) {
        // SAFETY: one byte is readable.
        unsafe {
            libc::send(self.end.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
    }
}

#[repr(C, align(8))]
struct Ancillary([u8; 64]);

fn receive(fd: RawFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; 4096];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    let mut fds = vec![];
    // SAFETY: everything the message points to is local; the kernel fills the control buffer in.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = 64;
        let len = cvt(libc::recvmsg(fd, &mut message, libc::MSG_CMSG_CLOEXEC) as i32)?;
        if len == 0 {
            return Ok(None);
        }
        bytes.truncate(len as usize);
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / 4;
            for index in 0..count {
                let fd = libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned();
                fds.push(OwnedFd::from_raw_fd(fd));
            }
        }
    }
    Ok(Some((bytes, fds)))
}

fn reply(fd: RawFd, bytes: &[u8], fds: &[RawFd]) {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: everything the message points to is local, and the control buffer holds up to eight descriptors.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = ancillary.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(mem::size_of_val(fds) as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(mem::size_of_val(fds) as u32) as _;
            ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        }
        libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL);
    }
}
