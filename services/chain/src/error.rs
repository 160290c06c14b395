//! Why a flow ends, or a datagram is dropped.

use crate::wire::VERSION;
use freena_service_host::{OpenError, Trouble};
use thiserror::Error;

/// A reason, with its errno: [`FlowError::errno`]. Its words name what was found and expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlowError {
    /// The peer does not begin as freena does.
    #[error("the peer has no freena: its first bytes are {0}")]
    NotFreena(String),
    /// The peer has a freena that frames in another way.
    #[error("the peer has version {0} of the framing, expected {VERSION}")]
    Version(u8),
    /// The peer's services are not those of this end.
    #[error("the two ends do not agree: {0}")]
    Mismatch(String),
    /// The peer has another key.
    #[error("service `{service}`: wrong key: {why}")]
    Key {
        /// Of which service.
        service: String,
        /// In words.
        why: String,
    },
    /// A message is not what the peer has sent.
    #[error("service `{service}`: {why}")]
    Damaged {
        /// Which service has noticed.
        service: String,
        /// What it has noticed.
        trouble: Trouble,
        /// In words.
        why: String,
    },
    /// What has arrived cannot have been made by freena.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The transport has ended before the peer's services have.
    #[error("the connection ended before the peer had ended it: bytes may be missing")]
    Truncated,
    /// The peer has ended the flow, and says why.
    #[error("the peer has ended the flow: {alert}: {why}")]
    Alert {
        /// The kind of reason.
        alert: Alert,
        /// Its words.
        why: String,
    },
    /// A service does not begin the flow, or has failed.
    #[error("{0}")]
    Service(OpenError),
    /// The peer has not agreed in time.
    #[error("the peer has not answered within {0} s")]
    NoAgreement(u64),
    /// This end has ended its direction already.
    #[error("this end has ended the direction")]
    Ended,
    /// The datagram is longer than one can be.
    #[error("a datagram of {got} bytes, expected at most {most}")]
    TooLong {
        /// Its length.
        got: usize,
        /// What would do.
        most: usize,
    },
    /// The services cannot be those of such a flow.
    #[error("{0}")]
    Unfit(String),
}

impl FlowError {
    /// What the program gets to see.
    pub fn errno(&self) -> i32 {
        match self {
            // "Protocol error": the peer speaks another language.
            Self::NotFreena(_) | Self::Version(_) | Self::Mismatch(_) | Self::Malformed(_) => libc::EPROTO,
            // "Operation not permitted": who has another key may not talk to this program.
            Self::Key { .. } => libc::EPERM,
            // "Bad message", as kernels say of one whose checksum is wrong.
            Self::Damaged { .. } => libc::EBADMSG,
            // As a TCP connection that is gone without a FIN.
            Self::Truncated => libc::ECONNRESET,
            Self::Alert { alert, .. } => alert.errno(),
            Self::Service(OpenError { trouble, .. }) => match trouble {
                Trouble::Key => libc::EPERM,
                Trouble::Mismatch => libc::EPROTO,
                Trouble::Parameter => libc::EINVAL,
                Trouble::Forged | Trouble::Replayed | Trouble::Malformed => libc::EBADMSG,
                Trouble::Fault => libc::EIO,
            },
            Self::NoAgreement(_) => libc::ETIMEDOUT,
            Self::Ended => libc::EPIPE,
            Self::TooLong { .. } => libc::EMSGSIZE,
            Self::Unfit(_) => libc::EINVAL,
        }
    }

    /// Of what a service says of a message.
    pub(crate) fn of_message(error: OpenError) -> Self {
        match error.trouble {
            Trouble::Forged | Trouble::Replayed | Trouble::Malformed => {
                Self::Damaged { service: error.service, trouble: error.trouble, why: error.why }
            }
            _ => Self::of_agreement(error),
        }
    }

    /// Of what a service says before the first message.
    pub(crate) fn of_agreement(error: OpenError) -> Self {
        match error.trouble {
            // The first message proves the key.
            Trouble::Key | Trouble::Forged => Self::Key { service: error.service, why: error.why },
            Trouble::Mismatch => Self::Mismatch(error.to_string()),
            _ => Self::Service(error),
        }
    }

    /// What the peer is told; `None` if there is nobody to tell.
    pub(crate) fn alert(&self) -> Option<Alert> {
        Some(match self {
            Self::NotFreena(_)
            | Self::Alert { .. }
            | Self::Truncated
            | Self::Ended
            | Self::TooLong { .. } => {
                return None;
            }
            Self::Version(_) | Self::Mismatch(_) | Self::Unfit(_) => Alert::Mismatch,
            Self::Key { .. } => Alert::Key,
            Self::Damaged { .. } => Alert::Damaged,
            Self::Malformed(_) => Alert::Malformed,
            Self::Service(_) => Alert::Failed,
            Self::NoAgreement(_) => Alert::Late,
        })
    }
}

/// The kind of reason that is told to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u8)]
pub enum Alert {
    /// The services differ.
    #[error("the services of the two ends differ")]
    Mismatch = 1,
    /// The key is another one.
    #[error("wrong key")]
    Key = 2,
    /// A message was not what had been sent.
    #[error("a message was damaged")]
    Damaged = 3,
    /// What arrived was not freena's.
    #[error("malformed")]
    Malformed = 4,
    /// A service failed.
    #[error("a service has failed")]
    Failed = 5,
    /// The agreement took too long.
    #[error("too late")]
    Late = 6,
}

impl Alert {
    pub(crate) fn of(code: u8) -> Option<Self> {
        use Alert::*;
        [Mismatch, Key, Damaged, Malformed, Failed, Late].into_iter().find(|it| *it as u8 == code)
    }

    fn errno(self) -> i32 {
        match self {
            Self::Mismatch | Self::Malformed => libc::EPROTO,
            Self::Key => libc::EPERM,
            Self::Damaged => libc::EBADMSG,
            Self::Failed => libc::ECONNABORTED,
            Self::Late => libc::ETIMEDOUT,
        }
    }
}
