//! Streams of the scripted server: connections between its sockets, and to peers that a script plays.
//!
//! Whom a connection is with is decided by the address that is connected to: see [`Script`].

use super::{Ancillary, Shared, cvt, local_name, pair};
use freena_shm_abi::Endpoint;
use freena_shm_abi::control::{Request, Response, verdict};
use freena_shm_abi::stream::{Accepted, Asked, accepted, shut, state};
use freena_shm_ring::mapping::Sizes;
use freena_shm_ring::stream::{ReaderCursor, WriterCursor};
use freena_shm_ring::{SocketMapping, kick, wake};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, mem, ptr, thread};
use zerocopy::IntoBytes;

/// What the peer of a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// 127.0.0.7, and whatever is not one of the others: sends everything back.
    Echo,
    /// 127.0.0.6: refuses.
    Refuse,
    /// 127.0.0.5: does not answer while [`Shared::silent`] is set, then echoes.
    Silent,
    /// 127.0.0.4: resets with the first byte that it gets.
    Reset,
    /// 127.0.0.3: reads nothing while [`Shared::stalled`] is set, then echoes.
    Slow,
}

impl Script {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) if v4.octets()[..3] == [127, 0, 0] => match v4.octets()[3] {
                6 => Script::Refuse,
                5 => Script::Silent,
                4 => Script::Reset,
                3 => Script::Slow,
                _ => Script::Echo,
            },
            _ => Script::Echo,
        }
    }
}

/// A listener or a connection.
pub struct Flow {
    pub id: u64,
    mapping: SocketMapping,
    memory: OwnedFd,
    companion: Mutex<Option<OwnedFd>>,
    end: OwnedFd,
    local: Endpoint,
    peer: Endpoint,
    script: Script,
    other: Mutex<Option<Arc<Flow>>>,
    writer: Mutex<WriterCursor>,
    sent_end: AtomicBool,
    got_end: AtomicBool,
    over: AtomicBool,
}

fn fail(errno: i32) -> (Response, Vec<OwnedFd>) {
    (Response { errno: errno as u32, ..Response::new() }, vec![])
}

impl Shared {
    /// TAKEOVER of a listener.
    pub(super) fn take_listener(self: &Arc<Self>, mut fds: Vec<OwnedFd>) -> (Response, Vec<OwnedFd>) {
        let companion = fds.pop().expect("a companion");
        let local = local_name(&companion);
        if local.ip() == IpAddr::V4(super::KERNEL_ADDRESS) {
            let verdict = verdict::KERNEL;
            return (Response { verdict, ..Response::new() }.because("scripted to stay"), vec![]);
        }
        let (flow, end) = self.make(local, Endpoint::NONE, Script::Echo, Sizes::clamp(0, 0, 1));
        load_options(&flow.mapping.page().stream.asked, &companion);
        // As the server, which accepts what reaches the kernel.
        // SAFETY: plain system call on an owned descriptor.
        unsafe { libc::fcntl(companion.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
        *flow.companion.lock().expect("lock") = Some(companion);
        flow.set_state(state::LISTEN);
        let give = vec![end, dup(&flow.memory)];
        let id = flow.id;
        let shared = Arc::clone(self);
        thread::spawn(move || serve_listener(&flow, &shared));
        (Response { verdict: verdict::FAST, socket_id: id, ..Response::new() }.because("scripted"), give)
    }

    /// CONNECT.
    pub(super) fn connect(
        self: &Arc<Self>,
        request: &Request,
        mut fds: Vec<OwnedFd>,
    ) -> (Response, Vec<OwnedFd>) {
        let companion = fds.pop().expect("a companion");
        let ip = request.peer.ip();
        if ip == IpAddr::V4(super::KERNEL_ADDRESS) {
            let verdict = verdict::KERNEL;
            return (Response { verdict, ..Response::new() }.because("scripted to stay"), vec![]);
        }
        if local_name(&companion).port == 0 && !bind_any(&companion, ip.is_ipv4() && request.peer.family == 4)
        {
            return fail(libc::EADDRNOTAVAIL);
        }
        let local = local_name(&companion);
        let listener = self.listener_at(&request.peer);
        let script = if listener.is_some() { Script::Echo } else { Script::of(ip) };
        let sizes = Sizes::clamp(request.tx_size, request.rx_size, 1);
        let (flow, end) = self.make(local, request.peer, script, sizes);
        load_options(&flow.mapping.page().stream.asked, &companion);
        *flow.companion.lock().expect("lock") = Some(companion);
        flow.set_state(state::SYN_SENT);
        flow.make_unwritable(&end);
        let give = vec![end, dup(&flow.memory)];
        let response = Response {
            verdict: verdict::FAST,
            socket_id: flow.id,
            local,
            peer: request.peer,
            ..Response::new()
        };
        let shared = Arc::clone(self);
        thread::spawn(move || {
            if let Some(listener) = listener {
                shared.hand_out(&listener, &flow);
            }
            serve_connection(&flow, &shared);
        });
        (response.because("scripted"), give)
    }

    fn make(&self, local: Endpoint, peer: Endpoint, script: Script, sizes: Sizes) -> (Arc<Flow>, OwnedFd) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (mapping, memory) = SocketMapping::create(sizes, id).expect("memory");
        mapping.page().stream.asked.linger.store(-1, Ordering::Relaxed);
        let (end, application) = pair(id).expect("pair");
        let flow = Arc::new(Flow {
            id,
            mapping,
            memory,
            companion: Mutex::default(),
            end,
            local,
            peer,
            script,
            other: Mutex::default(),
            writer: Mutex::default(),
            sent_end: AtomicBool::new(false),
            got_end: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        self.flows.lock().expect("lock").insert(id, Arc::clone(&flow));
        (flow, application)
    }

    fn listener_at(&self, peer: &Endpoint) -> Option<Arc<Flow>> {
        let flows = self.flows.lock().expect("lock");
        let listens = |flow: &&Arc<Flow>| {
            flow.state() == state::LISTEN
                && flow.local.port == peer.port
                && (flow.local.ip().is_unspecified() || flow.local.ip() == peer.ip())
        };
        flows.values().find(listens).cloned()
    }

    /// Makes the other side of a connection and puts it into the listener's queue.
    fn hand_out(&self, listener: &Arc<Flow>, from: &Arc<Flow>) {
        let (flow, end) = self.make(from.peer, from.local, Script::Echo, Sizes::clamp(0, 0, 1));
        copy_asked(&listener.mapping.page().stream.asked, &flow.mapping.page().stream.asked);
        *flow.other.lock().expect("lock") = Some(Arc::clone(from));
        *from.other.lock().expect("lock") = Some(Arc::clone(&flow));
        flow.set_state(state::ESTABLISHED);
        let message = Accepted {
            kind: accepted::FRAMEWORK,
            pad: 0,
            socket_id: flow.id,
            local: flow.local,
            peer: flow.peer,
        };
        send_accepted(listener, &message, &[end.as_raw_fd(), flow.memory.as_raw_fd()]);
        let shared = self.itself();
        thread::spawn(move || serve_connection(&flow, &shared));
    }

    /// Resets every connection.
    pub fn reset_all(&self) {
        for flow in self.flows.lock().expect("lock").values() {
            if flow.state() != state::LISTEN {
                flow.fail(libc::ECONNRESET);
            }
        }
    }
}

fn dup(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().expect("dup")
}

/// Sends a connection to who listens; waits while the queue is full.
fn send_accepted(listener: &Flow, message: &Accepted, fds: &[RawFd]) {
    let bytes = message.as_bytes();
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: everything the message points to is local, and the control buffer holds up to eight descriptors.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        header.msg_control = ancillary.0.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(mem::size_of_val(fds) as u32) as _;
        let control = libc::CMSG_FIRSTHDR(&header);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = libc::CMSG_LEN(mem::size_of_val(fds) as u32) as _;
        ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(control).cast(), fds.len());
        libc::sendmsg(listener.end.as_raw_fd(), &header, libc::MSG_NOSIGNAL);
    }
}

fn int_option(fd: &OwnedFd, level: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0i32, 4u32);
    // SAFETY: the pointers are to locals.
    unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &mut len) };
    value
}

/// What of the options the tests look at.
fn load_options(asked: &Asked, companion: &OwnedFd) {
    use freena_shm_abi::stream::ask;
    let mut flags = 0;
    if int_option(companion, libc::IPPROTO_TCP, libc::TCP_NODELAY) != 0 {
        flags |= ask::NO_DELAY;
    }
    if int_option(companion, libc::SOL_SOCKET, libc::SO_KEEPALIVE) != 0 {
        flags |= ask::KEEP_ALIVE;
    }
    asked.flags.store(flags, Ordering::Relaxed);
    let idle = int_option(companion, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
    asked.keep_idle.store(idle as u32, Ordering::Relaxed);
    let (ttl, tos) = (
        int_option(companion, libc::IPPROTO_IP, libc::IP_TTL),
        int_option(companion, libc::IPPROTO_IP, libc::IP_TOS),
    );
    asked.header_fields.store((ttl as u32 & 0xff) << 8 | tos as u32 & 0xff, Ordering::Relaxed);
    let mut linger = libc::linger { l_onoff: 0, l_linger: 0 };
    let mut len = mem::size_of_val(&linger) as u32;
    // SAFETY: the pointers are to locals.
    unsafe {
        libc::getsockopt(
            companion.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw mut linger).cast(),
            &mut len,
        )
    };
    asked.linger.store(if linger.l_onoff != 0 { linger.l_linger } else { -1 }, Ordering::Relaxed);
}

fn copy_asked(from: &Asked, to: &Asked) {
    to.flags.store(from.flags.load(Ordering::Relaxed), Ordering::Relaxed);
    to.keep_idle.store(from.keep_idle.load(Ordering::Relaxed), Ordering::Relaxed);
    to.linger.store(from.linger.load(Ordering::Relaxed), Ordering::Relaxed);
    to.header_fields.store(from.header_fields.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Binds to a port that the kernel chooses.
fn bind_any(fd: &OwnedFd, v4: bool) -> bool {
    // SAFETY: plain data, valid when zero.
    unsafe {
        let mut any: libc::sockaddr_in6 = mem::zeroed();
        let result = if v4 {
            let mut any: libc::sockaddr_in = mem::zeroed();
            any.sin_family = libc::AF_INET as _;
            any.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
            libc::bind(fd.as_raw_fd(), ptr::from_ref(&any).cast(), mem::size_of_val(&any) as u32)
        } else {
            any.sin6_family = libc::AF_INET6 as _;
            any.sin6_addr.s6_addr[15] = 1;
            libc::bind(fd.as_raw_fd(), ptr::from_ref(&any).cast(), mem::size_of_val(&any) as u32)
        };
        result == 0
    }
}

impl Flow {
    pub(super) fn memory(&self) -> OwnedFd {
        dup(&self.memory)
    }

    /// The companion; a socket made for the purpose where there is none.
    pub(super) fn companion(&self) -> OwnedFd {
        let mut place = self.companion.lock().expect("lock");
        dup(place.get_or_insert_with(|| {
            let domain = if self.local.ip().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            // SAFETY: plain system call; the descriptor is new.
            unsafe { OwnedFd::from_raw_fd(cvt(libc::socket(domain, libc::SOCK_STREAM, 0)).expect("socket")) }
        }))
    }

    pub(super) fn hang_up(&self) {
        self.shut_down(libc::SHUT_RDWR);
    }

    fn state(&self) -> u32 {
        self.mapping.page().stream.told.state.load(Ordering::Acquire)
    }

    fn set_state(&self, state: u32) {
        self.mapping.page().stream.told.state.store(state, Ordering::Release);
    }

    fn shut_down(&self, how: i32) {
        // SAFETY: plain system call on an owned descriptor.
        unsafe { libc::shutdown(self.end.as_raw_fd(), how) };
    }

    /// As `freena_preload_interface::token::fill`, from the other side of the process boundary.
    fn make_unwritable(&self, application: &OwnedFd) {
        let size = 8192i32;
        let bytes = [b'f'; 8192];
        // SAFETY: the pointers are to locals.
        unsafe {
            libc::setsockopt(
                application.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw const size).cast(),
                4,
            );
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            while libc::send(application.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) > 0 {}
        }
    }

    fn token(&self) {
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

    fn has_unread(&self) -> bool {
        let ring = &self.mapping.page().rx[0];
        ring.produced.0.tail.load(Ordering::Relaxed) != ring.head.0.load(Ordering::Acquire)
    }

    /// Room in the receive ring.
    fn room(&self) -> usize {
        self.writer.lock().expect("lock").room(&self.mapping.rx_pipe(), u64::MAX) as usize
    }

    /// Puts bytes that fit into the receive ring; `urgent` is a position as in `Told::rx_urgent`.
    fn deliver(&self, bytes: &[u8], urgent: u64) {
        let told = &self.mapping.page().stream.told;
        {
            let pipe = self.mapping.rx_pipe();
            let mut writer = self.writer.lock().expect("lock");
            writer.rebase(&pipe);
            if urgent != 0 {
                told.rx_urgent.store(urgent, Ordering::Release);
            }
            // SAFETY: the slice is readable; the room was asked for by the caller.
            unsafe { pipe.copy_in(writer.base, writer.tail, bytes.as_ptr(), bytes.len()) };
            let tail = writer.tail + bytes.len() as u64;
            writer.publish(&pipe, tail);
        }
        self.token();
    }

    /// The peer has ended its direction.
    fn end(&self) {
        self.got_end.store(true, Ordering::Relaxed);
        self.update_state();
        self.token();
        self.shut_down(libc::SHUT_WR);
    }

    fn update_state(&self) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        let now = match (self.sent_end.load(Ordering::Relaxed), self.got_end.load(Ordering::Relaxed)) {
            (false, false) => state::ESTABLISHED,
            (true, false) => state::FIN_WAIT_2,
            (false, true) => state::CLOSE_WAIT,
            (true, true) => state::TIME_WAIT,
        };
        self.set_state(now);
        if now == state::TIME_WAIT {
            self.token();
            self.shut_down(libc::SHUT_RDWR);
        }
    }

    /// The connection is over by an error.
    fn fail(&self, errno: i32) {
        if self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        self.mapping.page().error.0.store(errno as u32, Ordering::Relaxed);
        self.set_state(state::CLOSED);
        self.token();
        self.shut_down(libc::SHUT_RDWR);
    }
}

fn serve_listener(flow: &Arc<Flow>, shared: &Arc<Shared>) {
    let kernel = flow.companion();
    // SAFETY: plain system calls on owned descriptors, with pointers to locals.
    unsafe {
        loop {
            let mut entries = [
                libc::pollfd { fd: flow.end.as_raw_fd(), events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: kernel.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            ];
            libc::poll(entries.as_mut_ptr(), 2, 50);
            let mut buffer = [0u8; 9000];
            let got = libc::recv(
                flow.end.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            );
            if got == 0 {
                shared.flows.lock().expect("lock").remove(&flow.id);
                return;
            }
            let mut address: libc::sockaddr_in = mem::zeroed();
            let mut len = mem::size_of_val(&address) as u32;
            let new = libc::accept4(
                kernel.as_raw_fd(),
                ptr::from_mut(&mut address).cast(),
                &mut len,
                libc::SOCK_CLOEXEC,
            );
            if new >= 0 {
                let new = OwnedFd::from_raw_fd(new);
                let ip = IpAddr::V4(u32::from_be(address.sin_addr.s_addr).into());
                let peer = Endpoint::new(ip, u16::from_be(address.sin_port), 0);
                let message =
                    Accepted { kind: accepted::KERNEL, pad: 0, socket_id: 0, local: local_name(&new), peer };
                send_accepted(flow, &message, &[new.as_raw_fd()]);
            }
        }
    }
}

/// What a worker of the real server, and the peer, do for one connection.
fn serve_connection(flow: &Arc<Flow>, shared: &Arc<Shared>) {
    let page = flow.mapping.page();
    let half = u64::from(flow.mapping.sizes().tx) / 2;
    let mut reader = ReaderCursor::default();
    let mut urgent = 0;
    let mut closed = false;
    loop {
        let mut moved = false;
        if flow.state() == state::SYN_SENT {
            match flow.script {
                Script::Silent if shared.silent.load(Ordering::Relaxed) => {}
                Script::Refuse => flow.fail(libc::ECONNREFUSED),
                _ => flow.set_state(state::ESTABLISHED),
            }
        }
        let connecting = flow.state() == state::SYN_SENT;
        let stalled = flow.script == Script::Slow && shared.stalled.load(Ordering::Relaxed);
        if !connecting && !stalled {
            moved |= pump(flow, &mut reader, &mut urgent);
        }
        let used =
            page.tx_tail.0.load(Ordering::Acquire).wrapping_sub(page.tx_head.0.load(Ordering::Relaxed));
        if !connecting && used <= half && !closed {
            moved |= read_messages(flow, &mut closed);
        }
        if flow.over.load(Ordering::Relaxed) || flow.state() == state::TIME_WAIT {
            if flow.script != Script::Refuse {
                shared.flows.lock().expect("lock").remove(&flow.id);
            }
            return;
        }
        if closed {
            if finish(flow, used) || shared.stop.load(Ordering::Relaxed) {
                shared.flows.lock().expect("lock").remove(&flow.id);
                return;
            }
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        if moved {
            continue;
        }
        kick::suspend(&page.tx_kick.0);
        let more = page.tx_tail.0.load(Ordering::Acquire) != reader.head;
        if more && !stalled && !connecting && flow.target().room() > 0 {
            kick::resume(&page.tx_kick.0);
            continue;
        }
        let listen = u64::from(used <= half && !connecting);
        let mut entry = libc::pollfd { fd: flow.end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry. A full ring leaves messages unread on purpose: then the pause is a sleep.
        unsafe { libc::poll(&mut entry, listen, 5) };
    }
}

impl Flow {
    /// Who gets what this one sends.
    fn target(self: &Arc<Self>) -> Arc<Flow> {
        self.other.lock().expect("lock").clone().unwrap_or_else(|| Arc::clone(self))
    }
}

/// Moves bytes to the other side.
fn pump(flow: &Arc<Flow>, reader: &mut ReaderCursor, urgent: &mut u64) -> bool {
    let page = flow.mapping.page();
    let asked = &page.stream.asked;
    let target = flow.target();
    let ending = asked.shut.load(Ordering::Acquire) & shut::WRITE != 0;
    let pipe = flow.mapping.tx_pipe();
    let have = reader.available(&pipe).expect("an honest program") as usize;
    if have > 0 && flow.script == Script::Reset {
        flow.fail(libc::ECONNRESET);
        return false;
    }
    if flow.over.load(Ordering::Relaxed) {
        return false;
    }
    let mut len = have.min(target.room());
    if have > 0 && len == 0 {
        let kick = &target.mapping.page().stream.told.rx_kick;
        kick.store(1, Ordering::SeqCst);
        len = have.min(target.room());
    }
    if len > 0 {
        let mut bytes = vec![0; len];
        // SAFETY: `bytes` is writable for `len`.
        unsafe { pipe.copy_out(reader.base, reader.head, bytes.as_mut_ptr(), len) };
        let marked = asked.tx_urgent.load(Ordering::Relaxed);
        target.deliver(&bytes, if marked == *urgent { 0 } else { marked });
        *urgent = marked;
        page.stream.told.info.bytes_acked.fetch_add(len as u64, Ordering::Relaxed);
        page.stream.told.sent.store(reader.head + len as u64, Ordering::Relaxed);
        let head = reader.head + len as u64;
        reader.release(&pipe, head);
        return true;
    }
    if ending && have == 0 && !flow.sent_end.swap(true, Ordering::Relaxed) {
        flow.update_state();
        target.end();
        return true;
    }
    false
}

/// Reads what the program has to say; whether there was something.
fn read_messages(flow: &Arc<Flow>, closed: &mut bool) -> bool {
    let page = flow.mapping.page();
    let mut moved = false;
    let mut buffer = [0u8; 9000];
    loop {
        // SAFETY: the buffer is a local.
        let got = unsafe {
            libc::recv(flow.end.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        match got {
            0 => {
                *closed = true;
                return moved;
            }
            1.. => {
                moved = true;
                kick::resume(&page.tx_kick.0);
                if buffer[0] == b't' {
                    flow.send_token();
                } else if flow.has_unread() || flow.got_end.load(Ordering::Relaxed) {
                    flow.token();
                }
            }
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::ECONNRESET) => {}
            _ => return moved,
        }
    }
}

/// The program has closed: sends the rest and the end, or a reset. Whether everything is done.
fn finish(flow: &Arc<Flow>, used: u64) -> bool {
    let asked = &flow.mapping.page().stream.asked;
    let target = flow.target();
    if Arc::ptr_eq(&target, flow) {
        return true;
    }
    if flow.has_unread() || asked.linger.load(Ordering::Relaxed) == 0 {
        target.fail(libc::ECONNRESET);
        return true;
    }
    asked.shut.fetch_or(shut::WRITE, Ordering::Release);
    flow.set_state(if used > 0 { state::FIN_WAIT_1 } else { state::FIN_WAIT_2 });
    used == 0 && flow.sent_end.load(Ordering::Relaxed)
}
