//! Why there is no service: each says what was got, what was expected, and where.

use freena_service_api::abi::*;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

use crate::library::{MAX_FILE_NAME, MAX_NAME, SYMBOL};

/// Why a library is refused.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words are beside each")]
pub enum LoadError {
    #[error(
        "found `{name}`, expected the name of a file in a service folder: without `/`, at most {MAX_FILE_NAME} bytes"
    )]
    FileName { name: String },
    #[error("no library `{name}` in the service folders ({})", words(.folders))]
    NotFound { name: String, folders: Vec<PathBuf> },
    #[error("cannot open {}: {error}", .path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is no regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} belongs to user {got}, expected root or user {own}", .path.display())]
    Owner { path: PathBuf, got: u32, own: u32 },
    #[error("{} has mode {mode:04o}: others than its owner can write to it, expected at most 0755", .path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} cannot be loaded: {error}", .path.display())]
    Load { path: PathBuf, error: String },
    #[error("{} does not export `{SYMBOL}`: it is no service library", .path.display())]
    Symbol { path: PathBuf },
    #[error("{} is made for version {got} of the service interface, expected {FREENA_SERVICE_ABI}", .path.display())]
    Version { path: PathBuf, got: u32 },
    #[error("{}: `{SYMBOL}` has {got} bytes, expected {}", .path.display(), size_of::<FreenaService>())]
    Size { path: PathBuf, got: u32 },
    #[error("{}: the service's name is {got}, expected 1 to {MAX_NAME} of a-z, 0-9, `-` and `_`", .path.display())]
    Name { path: PathBuf, got: String },
    #[error("{}: the kinds of flow are {got}, expected 1 (streams), 2 (datagrams) or 3", .path.display())]
    Kinds { path: PathBuf, got: u32 },
    #[error("{}: the function `{function}` is missing", .path.display())]
    Function { path: PathBuf, function: &'static str },
    #[error("{}: parameter {index} of its table: {what}", .path.display())]
    Table { path: PathBuf, index: usize, what: String },
}

fn words(folders: &[PathBuf]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    if names.is_empty() { "there are none".to_owned() } else { names.join(", ") }
}

/// What is wrong with a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("service `{service}`: {what}")]
pub struct ParameterError {
    /// The service's name.
    pub service: String,
    /// Which of the values that were given; `None` where one is missing.
    pub index: Option<usize>,
    /// Whether the name is wrong, and not the value.
    pub name: bool,
    /// What was found and expected.
    pub what: String,
}

/// Why a message or a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The message is not what the peer has sent, or was made with another key.
    Forged,
    /// It has been seen before, or is too old to tell.
    Replayed,
    /// It cannot have been made by the peer's service.
    Malformed,
    /// The peer has another key.
    Key,
    /// The peer's settings do not go with those of this end.
    Mismatch,
    /// A parameter is wrong, or what it names cannot be used.
    Parameter,
    /// The service has failed: the words say how.
    Fault,
}

impl Trouble {
    /// Of a status that is none of FREENA_SERVICE_OK, _NOTHING and _MORE.
    pub(crate) fn of(status: u32) -> Self {
        match status {
            FREENA_SERVICE_FORGED => Self::Forged,
            FREENA_SERVICE_REPLAYED => Self::Replayed,
            FREENA_SERVICE_MALFORMED => Self::Malformed,
            FREENA_SERVICE_KEY => Self::Key,
            FREENA_SERVICE_MISMATCH => Self::Mismatch,
            FREENA_SERVICE_PARAMETER => Self::Parameter,
            _ => Self::Fault,
        }
    }

    /// In words, for a log.
    pub fn words(self) -> &'static str {
        match self {
            Self::Forged => "a message was changed on its way, or made with another key",
            Self::Replayed => "a message was seen before",
            Self::Malformed => "a message cannot have been made by the peer's service",
            Self::Key => "the peer has another key",
            Self::Mismatch => "the peer's settings differ",
            Self::Parameter => "a parameter is wrong",
            Self::Fault => "the service has failed",
        }
    }
}

/// Why a service does not begin a flow, or does not go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("service `{service}`: {why}")]
pub struct OpenError {
    /// Its name.
    pub service: String,
    /// The kind of reason.
    pub trouble: Trouble,
    /// In words.
    pub why: String,
}
