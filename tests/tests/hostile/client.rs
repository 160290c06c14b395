//! The control protocol, spoken by hand: what a program without the library, or with a hostile one, can say.

use freena_shm_abi::control::{Request, Response, op, verdict};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// The most descriptors in one message here.
const MAX_FDS: usize = 16;

/// A connection to a server.
pub struct Client(Socket);

/// Room for [`MAX_FDS`] descriptors, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 128]);

impl Client {
    /// Connects and says nothing.
    pub fn silent(control: &Path) -> io::Result<Client> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(control)?)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Client(socket))
    }

    /// Connects and introduces itself.
    pub fn attached(control: &Path) -> Client {
        let client = Client::silent(control).expect("a connection");
        let (response, fds) = client.call(&Request::new(op::ATTACH), &[]).expect("an answer to ATTACH");
        assert_eq!((response.errno, fds.len()), (0, 1));
        client
    }

    /// Has a kernel socket carried.
    pub fn take_over(&self, companion: &Socket) -> Carried {
        let request = Request::of(op::TAKEOVER, 17);
        let (response, mut fds) = self.call(&request, &[companion.as_raw_fd()]).expect("an answer");
        assert_eq!((response.errno, response.verdict), (0, verdict::FAST), "{}", response.reason());
        let memory = fds.pop().expect("the memory");
        let end = fds.pop().expect("the application end");
        Carried { end: end.into(), memory: Memory::new(memory.into()) }
    }

    /// One request and its answer.
    pub fn call(&self, request: &Request, fds: &[RawFd]) -> io::Result<(Response, Vec<OwnedFd>)> {
        self.send(request.as_bytes(), fds)?;
        self.receive()
    }

    /// Any bytes and descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        assert!(fds.len() <= MAX_FDS);
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut ancillary = Ancillary([0; 128]);
        // SAFETY: `msghdr` is plain data, valid when zero.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = ancillary.0.as_mut_ptr().cast();
            // SAFETY: the buffer is aligned and has room for MAX_FDS descriptors, which were counted above.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as _;
                let header = libc::CMSG_FIRSTHDR(&message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as _;
                ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
            }
        }
        // SAFETY: everything that `message` points to lives in this function.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// An answer; `UnexpectedEof` where the server has hung up.
    pub fn receive(&self) -> io::Result<(Response, Vec<OwnedFd>)> {
        let mut bytes = [0u8; size_of::<Response>()];
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut ancillary = Ancillary([0; 128]);
        // SAFETY: `msghdr` is plain data, valid when zero.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = ancillary.0.len();
        // SAFETY: everything that `message` points to lives in this function.
        let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut fds = Vec::new();
        // SAFETY: the kernel has filled the buffer with at most one well-formed message, whose descriptors are new.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            if !header.is_null() {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                fds.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
            }
        }
        match Response::read_from_bytes(&bytes[..len.cast_unsigned()]) {
            Ok(response) => Ok((response, fds)),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A socket that the server carries, without a library that keeps the rules.
pub struct Carried {
    /// The application end.
    pub end: Socket,
    /// The memory.
    pub memory: Memory,
}

/// All of a socket's memory, to be written at will.
pub struct Memory {
    base: *mut u8,
    /// Bytes.
    pub len: usize,
    fd: File,
}

// SAFETY: plain shared memory, only accessed by volatile operations.
unsafe impl Send for Memory {}
// SAFETY: as above; races between writers are what the tests are about, and no value is read back.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(fd: File) -> Memory {
        let len = fd.metadata().expect("a length").len() as usize;
        let base =
            freena_shm_ring::mapping::map_shared(fd.as_raw_fd(), len, libc::PROT_READ | libc::PROT_WRITE);
        Memory { base: base.expect("mapped"), len, fd }
    }

    /// Writes anywhere.
    pub fn scribble(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, as asserted; a shared mapping that others write may only be accessed like this.
            unsafe { self.base.add(at + index).write_volatile(*byte) };
        }
    }

    /// The file behind it.
    pub fn file(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nobody borrows from it.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
