//! A control connection.

use crate::sys::{self, Credentials};
use freena_shm_abi::control::{Request, Response};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::{fs, io};
use zerocopy::{FromBytes, IntoBytes};

/// The most verdicts remembered for `freena status`.
const MAX_VERDICTS: usize = 32;

/// A socket that stayed with the kernel.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) local: String,
    pub(super) peer: Option<String>,
    pub(super) reason: String,
}

/// A connected process.
pub(super) struct Client {
    fd: OwnedFd,
    pub(super) credentials: Credentials,
    /// Name of the program (`/proc/PID/comm`).
    pub(super) name: String,
    /// Whether it said `ATTACH` in the right version.
    pub(super) attached: bool,
    /// Whether its user may use the server.
    pub(super) allowed: bool,
    /// The last sockets that stayed with the kernel.
    pub(super) verdicts: VecDeque<Verdict>,
}

/// What is sent back.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) fds: Vec<OwnedFd>,
}

impl Client {
    pub(super) fn new(fd: OwnedFd, credentials: Credentials, allowed: bool) -> Self {
        let name = fs::read_to_string(format!("/proc/{}/comm", credentials.pid)).unwrap_or_default();
        let name = name.trim().to_owned();
        Client { fd, credentials, name, attached: false, allowed, verdicts: VecDeque::new() }
    }

    /// The next request and its descriptors; `None` when there is none yet.
    ///
    /// # Errors
    /// The connection is closed, or what came is no request: it cannot be served any further.
    pub(super) fn receive(&mut self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        // One byte more than a request, so that a longer message is noticed.
        let mut bytes = [0u8; size_of::<Request>() + 1];
        let (len, fds) = match sys::receive_with_fds(self.fd.as_fd(), &mut bytes) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Request::read_from_bytes(&bytes[..len]) {
            Ok(request) => Ok(Some((request, fds))),
            Err(_) => {
                let expected = size_of::<Request>();
                let pid = self.credentials.pid;
                tracing::warn!(
                    pid,
                    len,
                    expected,
                    "a control message of the wrong length: the connection is closed"
                );
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    pub(super) fn send(&self, answer: &Answer) -> io::Result<()> {
        let fds: Vec<_> = answer.fds.iter().map(AsFd::as_fd).collect();
        sys::send_with_fds(self.fd.as_fd(), answer.response.as_bytes(), &fds).map(drop)
    }

    pub(super) fn remember(&mut self, verdict: Verdict) {
        if self.verdicts.len() == MAX_VERDICTS {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back(verdict);
    }
}
