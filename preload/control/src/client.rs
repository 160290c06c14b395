//! Requests to the server.
//!
//! One connection per process, made when first needed. Under the process's lock, one request at a time. A server that does not
//! answer within [`TIMEOUT_SECONDS`] is taken for gone: a program never hangs on it.

use crate::exclusive::{self, Exclusive};
use crate::{log, own, process, route, settings, sys};
use core::ffi::{CStr, c_int};
use core::mem::{size_of, zeroed};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};
use freena_shm_abi::control::{Request, Response, op};
use freena_shm_abi::server::ServerPage;
use freena_shm_abi::{ABI_VERSION, MAGIC, trust};
use zerocopy::IntoBytes;

/// How long an answer may take.
pub const TIMEOUT_SECONDS: i64 = 5;
/// The most descriptors that come with a response.
const MAX_DESCRIPTORS: usize = 4;

/// Why a request was not fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No server listens, or it does not let this process in; the errno of connect(2).
    Unreachable(c_int),
    /// This user's process listens, and is not trusted ([`trust`]).
    Untrusted(libc::uid_t),
    /// The server went away, or did not answer in time.
    Gone,
    /// The server speaks another version, given here.
    Version(u32),
    /// The server's answer is not one.
    Protocol,
    /// The server refused, with this errno.
    Refused(c_int),
    /// This process has no descriptor or memory for what it takes.
    Resources(c_int),
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Failure::Unreachable(errno) => write!(f, "the server cannot be reached (errno {errno})"),
            Failure::Untrusted(user) => {
                write!(
                    f,
                    "user {user} listens there, where others than root may put sockets: it is not trusted"
                )
            }
            Failure::Gone => write!(f, "the server is gone or does not answer"),
            Failure::Version(theirs) => {
                write!(f, "the server speaks version {theirs}, this library {ABI_VERSION}")
            }
            Failure::Protocol => write!(f, "the server's answer makes no sense"),
            Failure::Refused(errno) => write!(f, "the server refused (errno {errno})"),
            Failure::Resources(errno) => write!(f, "no descriptor or memory is free (errno {errno})"),
        }
    }
}

/// A response and the descriptors that came with it, which are the caller's to close.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The response; its `errno` is 0.
    pub response: Response,
    /// Descriptors, close-on-exec; -1 where none came.
    pub fds: [c_int; MAX_DESCRIPTORS],
}

static FD: AtomicI32 = AtomicI32::new(-1);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicPtr<ServerPage> = AtomicPtr::new(ptr::null_mut());
static TOLD: AtomicBool = AtomicBool::new(false);

/// The page that the server keeps for all programs, once attached.
#[inline]
pub fn server_page() -> Option<&'static ServerPage> {
    // SAFETY: null or a page that `attach` mapped and that is never unmapped; its fields are atomic.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// The connection, and with it the process's lock.
pub struct Connection {
    fd: c_int,
    _lock: Exclusive,
}

/// Takes the process's lock and connects where there is no connection.
///
/// # Errors
/// Those of [`attach`], told on stderr the first time.
pub fn open() -> Result<Connection, Failure> {
    let lock = exclusive::enter();
    let fd = FD.load(Ordering::Relaxed);
    // A program that closes every number it can think of may have closed this one, and opened something else there.
    if fd >= 0 && sys::identity(fd) == Ok((DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed))) {
        return Ok(Connection { fd, _lock: lock });
    }
    own::forget(fd);
    FD.store(-1, Ordering::Relaxed);
    match attach() {
        Ok(fd) => Ok(Connection { fd, _lock: lock }),
        Err(failure) => {
            let path = core::str::from_utf8(settings::get().control_path()).unwrap_or("?");
            log::warning(&TOLD, format_args!("{path}: {failure}; its sockets stay with the kernel"));
            Err(failure)
        }
    }
}

impl Connection {
    /// Sends a request with descriptors and waits for the response.
    ///
    /// # Errors
    /// See [`Failure`]. Where the server is gone the connection is closed; the next [`open`] makes a new one.
    pub fn call(&self, request: &Request, fds: &[c_int]) -> Result<Reply, Failure> {
        let reply = exchange(self.fd, request, fds);
        if matches!(reply, Err(Failure::Gone | Failure::Protocol)) {
            FD.store(-1, Ordering::Relaxed);
            own::release(self.fd);
        }
        reply
    }
}

/// Makes one request on the process's connection; makes the connection anew once if the server was restarted.
///
/// # Errors
/// See [`Failure`].
pub fn call(request: &Request, fds: &[c_int]) -> Result<Reply, Failure> {
    match open()?.call(request, fds) {
        Err(Failure::Gone) => open()?.call(request, fds),
        other => other,
    }
}

/// Connects while the server can be found, where the program's settings need it and there is no connection yet.
pub fn prepare() {
    if settings::get().is_active() && !process::is_vfork_child() {
        // Told by `open`; what needs the server later fails as it would without this.
        let _ = open();
    }
}

/// Makes one request on a connection of its own: for a vfork child, which must not touch the parent's.
///
/// # Errors
/// See [`Failure`].
pub fn call_apart(request: &Request, fds: &[c_int]) -> Result<Reply, Failure> {
    let fd = connect()?;
    let reply = exchange(fd, &Request::new(op::ATTACH), &[]).and_then(|attached| {
        close_all(&attached.fds);
        exchange(fd, request, fds)
    });
    let _ = sys::close(fd);
    reply
}

/// Whether the server has ended since the connection to it was made. Asks nothing, and is `false` where there is none.
pub fn is_gone() -> bool {
    let fd = FD.load(Ordering::Relaxed);
    fd >= 0 && sys::recv(fd, &mut [0], libc::MSG_PEEK | libc::MSG_DONTWAIT) == Ok(0)
}

/// In a fork child: the connection is the parent's.
pub(crate) fn forget() {
    own::release(FD.swap(-1, Ordering::Relaxed));
}

/// Connects and introduces this process.
fn attach() -> Result<c_int, Failure> {
    let fd = own::keep(connect()?).map_err(|errno| Failure::Resources(errno.0))?;
    match introduce(fd) {
        Ok(()) => {
            let (device, inode) = sys::identity(fd).unwrap_or((0, 0));
            DEVICE.store(device, Ordering::Relaxed);
            INODE.store(inode, Ordering::Relaxed);
            FD.store(fd, Ordering::Relaxed);
            Ok(fd)
        }
        Err(failure) => {
            own::release(fd);
            Err(failure)
        }
    }
}

fn introduce(fd: c_int) -> Result<(), Failure> {
    let reply = exchange(fd, &Request::new(op::ATTACH), &[])?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory. A page that cannot be
    // mapped (no descriptor came) is an error below.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<ServerPage>(),
            libc::PROT_READ,
            libc::MAP_SHARED,
            reply.fds[0],
            0,
        )
    };
    close_all(&reply.fds);
    if page == libc::MAP_FAILED {
        return Err(Failure::Protocol);
    }
    let page = page.cast::<ServerPage>();
    // SAFETY: just mapped; the fields are atomic. The library trusts the server not to shrink the file.
    let words = unsafe { &*page };
    if words.magic.load(Ordering::Relaxed) != MAGIC {
        return Err(Failure::Protocol);
    }
    // An earlier server's page stays mapped: some thread may be looking at it.
    PAGE.store(page, Ordering::Release);
    route::clear();
    Ok(())
}

fn connect() -> Result<c_int, Failure> {
    let path = settings::get().control_path();
    if path.is_empty() {
        return Err(Failure::Unreachable(libc::ENAMETOOLONG));
    }
    // SAFETY: `sockaddr_un` is plain data, valid when zero.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let fd = sys::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0)
        .map_err(|errno| Failure::Resources(errno.0))?;
    let timeout = libc::timeval { tv_sec: TIMEOUT_SECONDS, tv_usec: 0 };
    let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout);
    let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &timeout);
    sys::connect(fd, &address, size_of::<libc::sockaddr_un>()).map_err(|errno| {
        let _ = sys::close(fd);
        Failure::Unreachable(errno.0)
    })?;
    let unknown = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let server = sys::get_option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, unknown).unwrap_or(unknown).uid;
    if !trust::is_trusted(server, sys::effective_user(), path, folder) {
        let _ = sys::close(fd);
        return Err(Failure::Untrusted(server));
    }
    Ok(fd)
}

/// Owner and mode of a folder.
fn folder(path: &[u8]) -> Option<(u32, u32)> {
    let mut terminated = [0; settings::MAX_PATH + 1];
    terminated.get_mut(..path.len())?.copy_from_slice(path);
    sys::owner_and_mode(CStr::from_bytes_until_nul(&terminated).ok()?).ok()
}

/// Room for a control message with [`MAX_DESCRIPTORS`] descriptors, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

fn exchange(fd: c_int, request: &Request, fds: &[c_int]) -> Result<Reply, Failure> {
    send_request(fd, request, fds)?;
    let reply = receive_response(fd)?;
    let failure = if reply.response.version != ABI_VERSION {
        Some(Failure::Version(reply.response.version))
    } else if reply.response.errno != 0 {
        Some(Failure::Refused(reply.response.errno as c_int))
    } else {
        None
    };
    match failure {
        Some(failure) => {
            close_all(&reply.fds);
            Err(failure)
        }
        None => Ok(reply),
    }
}

fn send_request(fd: c_int, request: &Request, fds: &[c_int]) -> Result<(), Failure> {
    let bytes = request.as_bytes();
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: `msghdr` is plain data, valid when zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = size_of_val(fds) as u32;
        // SAFETY: arithmetic only.
        let (space, len) = unsafe { (libc::CMSG_SPACE(payload), libc::CMSG_LEN(payload)) };
        if fds.len() > MAX_DESCRIPTORS {
            return Err(Failure::Protocol);
        }
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = space as _;
        // SAFETY: `ancillary` is aligned and long enough for a header and `MAX_DESCRIPTORS` descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = len as _;
            ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload as usize);
        }
    }
    // SAFETY: everything `message` points to lives in this function.
    match unsafe { sys::sendmsg(fd, &message, libc::MSG_NOSIGNAL) } {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Err(sys::Errno(errno @ (libc::ETOOMANYREFS | libc::EBADF))) => Err(Failure::Resources(errno)),
        _ => Err(Failure::Gone),
    }
}

fn receive_response(fd: c_int) -> Result<Reply, Failure> {
    let mut response = Response::new();
    let bytes = response.as_mut_bytes();
    let expected = bytes.len();
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: expected };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: `msghdr` is plain data, valid when zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<c_int>()) as u32) } as _;
    // SAFETY: everything `message` points to lives in this function.
    let received = unsafe { sys::recvmsg(fd, &mut message, libc::MSG_CMSG_CLOEXEC) };
    let mut fds = [-1; MAX_DESCRIPTORS];
    if received.is_ok() {
        take_descriptors(&message, &mut fds);
    }
    match received {
        Ok(len) if len == expected && message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0 => {
            Ok(Reply { response, fds })
        }
        received => {
            close_all(&fds);
            match received {
                Ok(_) if message.msg_flags & libc::MSG_CTRUNC != 0 => Err(Failure::Resources(libc::EMFILE)),
                Ok(0) | Err(_) => Err(Failure::Gone),
                Ok(_) => Err(Failure::Protocol),
            }
        }
    }
}

fn take_descriptors(message: &libc::msghdr, fds: &mut [c_int; MAX_DESCRIPTORS]) {
    // SAFETY: the kernel filled the buffer that `message` describes; the macros stay within it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_RIGHTS
        {
            return;
        }
        let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
        let count = (bytes / size_of::<c_int>()).min(MAX_DESCRIPTORS);
        ptr::copy_nonoverlapping(libc::CMSG_DATA(header).cast::<c_int>(), fds.as_mut_ptr(), count);
    }
}

/// Closes those that are descriptors.
pub fn close_all(fds: &[c_int]) {
    for fd in fds.iter().filter(|fd| **fd >= 0) {
        let _ = sys::close(*fd);
    }
}
