//! Talking to the control socket of a server.

use freena_shm_abi::control::{Request, Response, op};
use freena_shm_abi::trust;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{io, mem};
use zerocopy::{FromBytes, IntoBytes};

/// Asks the server for its status document.
///
/// # Errors
/// Nobody listens on the socket, or the answer cannot be understood.
pub(crate) fn status(path: &Path) -> miette::Result<String> {
    document(path, op::STATUS)
}

/// Asks the server for its counters, as Prometheus reads them.
///
/// # Errors
/// As for [`status`].
pub(crate) fn metrics(path: &Path) -> miette::Result<String> {
    document(path, op::METRICS)
}

fn document(path: &Path, op: u16) -> miette::Result<String> {
    let mut fds = request(path, &Request::new(op), None)?;
    let fd =
        fds.pop().ok_or_else(|| miette::miette!("freena-stack on {} sent no document", path.display()))?;
    let mut file = File::from(fd);
    let mut text = String::new();
    file.rewind()
        .and_then(|()| file.read_to_string(&mut text))
        .map_err(|error| miette::miette!("the document of freena-stack on {}: {error}", path.display()))?;
    Ok(text)
}

/// Asks the server for something, on a connection of its own; returns the descriptors that it sends.
///
/// # Errors
/// Nobody listens on the socket, or the server refuses, with its words.
pub(crate) fn request(
    path: &Path,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
) -> miette::Result<Vec<OwnedFd>> {
    let wrap = |error: io::Error| miette::miette!("cannot reach freena-stack on {}: {error}", path.display());
    let socket = connect(path).map_err(wrap)?;
    let (response, fds) = ask(&socket, request, fd).map_err(wrap)?;
    if response.errno != 0 {
        return Err(miette::miette!("freena-stack on {}: {}", path.display(), response.reason()));
    }
    Ok(fds)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    // SAFETY: plain data for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is longer than 107 bytes"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: no pointers; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is readable for `len` bytes.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    check_trust(&socket, path)?;
    Ok(socket)
}

/// An error where the process that listens is not to be trusted ([`trust`]).
fn check_trust(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut server = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&server) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: `server` is writable for `len` bytes.
    if unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut server).cast(), &raw mut len) }
        < 0
    {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no arguments.
    let own = unsafe { libc::geteuid() };
    let folder = |path: &[u8]| {
        let found = fs::metadata(std::ffi::OsStr::from_bytes(path)).ok()?;
        Some((found.uid(), found.mode()))
    };
    if trust::is_trusted(server.uid, own, std::path::absolute(path)?.as_os_str().as_bytes(), folder) {
        return Ok(());
    }
    let user = server.uid;
    Err(io::Error::other(format!(
        "user {user} listens there, where others than root may put sockets: it is not trusted"
    )))
}

/// One request, one response, with the descriptors beside them.
fn ask(
    socket: &OwnedFd,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<(Response, Vec<OwnedFd>)> {
    send(socket, request.as_bytes(), fd)?;
    let mut answer = [0u8; size_of::<Response>()];
    let mut ancillary = [0u64; 8];
    let mut iov = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
    // SAFETY: plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&ancillary);
    // SAFETY: all pointers in `message` refer to locals that live through the call.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    let response = Response::read_from_bytes(&answer[..len as usize])
        .map_err(|_| io::Error::other(format!("got an answer of {len} bytes, expected {}", answer.len())))?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer with well-formed headers; the descriptors are new.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            fds.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
        }
    }
    Ok((response, fds))
}

/// Sends a message, with a descriptor where there is one.
fn send(socket: &OwnedFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut ancillary = [0u64; 4];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        const LEN: u32 = size_of::<RawFd>() as u32;
        message.msg_control = ancillary.as_mut_ptr().cast();
        // SAFETY: arithmetic, and a header in a buffer that is aligned and large enough for one descriptor (24 bytes).
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(LEN) as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(LEN) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: all pointers in `message` refer to locals that live through the call.
    if unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
