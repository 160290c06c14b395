//! Keys in files. A file is one line: `freena-key 1 KIND HEX`.
//!
//! A key never leaves the process, is wiped when it is not needed any more, and its file must be its owner's alone.

use crate::hidden::Hidden;
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use zeroize::{Zeroize, Zeroizing};

/// Most bytes of a key file.
const MAX_FILE: u64 = 4096;

/// 32 bytes that are wiped when they are dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Shared by both ends.
    Shared,
}

impl Kind {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shared => "shared",
        }
    }
}

type Stamp = (u64, u64, i64, i64);
type Cache = HashMap<(String, Kind), (Stamp, Arc<Hidden<Secret>>)>;

/// The key of `kind` in the file `path`. What was read once stays usable if the file cannot be reached any more: a program
/// may have given up its rights, or its root folder, since then.
///
/// # Errors
/// In words: the file cannot be read, others than its owner can read it, or it holds no such key.
pub fn read(path: &str, kind: Kind) -> Result<Arc<Hidden<Secret>>, String> {
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let name = (path.to_owned(), kind);
    let seen = fs::metadata(path).map(|it| (it.dev(), it.ino(), it.ctime(), it.ctime_nsec()));
    match (cache.get(&name), &seen) {
        (Some((stamp, key)), Ok(seen)) if stamp == seen => return Ok(key.clone()),
        (Some((_, key)), Err(_)) => return Ok(key.clone()),
        _ => {}
    }
    let key = Arc::new(Hidden::new(read_file(path, kind)?));
    if let Ok(stamp) = seen {
        cache.insert(name, (stamp, key.clone()));
    }
    Ok(key)
}

fn read_file(path: &str, kind: Kind) -> Result<Secret, String> {
    let failed = |error: io::Error| {
        let help = if error.kind() == io::ErrorKind::NotFound {
            format!(" (`freena keygen {path}` makes one)")
        } else {
            String::new()
        };
        format!("key file {path}: {error}{help}")
    };
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed)?;
    let seen = file.metadata().map_err(failed)?;
    if !seen.is_file() {
        return Err(format!("key file {path}: found no regular file"));
    }
    // SAFETY: tells a number.
    let own = unsafe { libc::geteuid() };
    if seen.uid() != own && seen.uid() != 0 {
        return Err(format!("key file {path}: belongs to user {}, expected {own} or root", seen.uid()));
    }
    if seen.mode() & 0o077 != 0 {
        let mode = seen.mode() & 0o7777;
        return Err(format!(
            "key file {path}: has mode {mode:04o}, expected 0600 or 0400: others can use the key"
        ));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    file.by_ref().take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    parse(&text, kind).map_err(|what| format!("key file {path}: {what}"))
}

/// The key in the text of a file.
///
/// # Errors
/// What is wrong with it, without anything of the key.
pub fn parse(text: &[u8], kind: Kind) -> Result<Secret, String> {
    let words: Vec<&[u8]> = text.split(u8::is_ascii_whitespace).filter(|it| !it.is_empty()).collect();
    let [b"freena-key", version, word, digits] = words.as_slice() else {
        return Err("found no key, expected `freena-key 1 KIND HEX`".to_owned());
    };
    if *version != b"1" {
        return Err("found another version of the format, expected 1".to_owned());
    }
    if *word != kind.word().as_bytes() {
        return Err(format!("found a key of another kind, expected `{}`", kind.word()));
    }
    if digits.len() != 64 {
        return Err(format!("found a key of {} digits, expected 64 (32 bytes)", digits.len()));
    }
    let mut key = Secret::default();
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
            _ => return Err("found a key with something else than hexadecimal digits".to_owned()),
        }
    }
    if key.iter().all(|it| *it == 0) {
        key.zeroize();
        return Err("found a key of zeros".to_owned());
    }
    Ok(key)
}
