//! Flows with services, as the programs show them: files in a folder of the user's, one for each `freena run`.
//!
//! Root's are in `/run/freena/flows`, others' in `$XDG_RUNTIME_DIR/freena/flows`, or else `/tmp/freena-UID/flows`. Root sees
//! everybody's, others their own. A file whose processes are gone is removed, but an error that ended a flow is kept for
//! [`KEPT`].

mod print;
mod read;

pub(crate) use print::print;

use freena_shm_abi::MAGIC;
use freena_shm_abi::flows::{FLOWS_VERSION, Head, MAX_SOURCE, SIZE, Told, state};
use serde_json::{Value, json};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the errors of programs that are gone are told.
const KEPT: Duration = Duration::from_secs(600);

/// A file that a program and its children show their flows in. `source` is the configuration's file.
///
/// # Errors
/// The folder or the file cannot be made, or another user could write to it.
pub(crate) fn create(source: &Path) -> io::Result<PathBuf> {
    let folder = own_folder()?;
    all();
    let path = folder.join(format!("{}-{}", std::process::id(), monotonic()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut head = Vec::with_capacity(size_of::<Head>());
    let name = source.to_string_lossy();
    let name = &name.as_bytes()[..name.floor_char_boundary(MAX_SOURCE)];
    head.extend(MAGIC.to_ne_bytes());
    head.extend(FLOWS_VERSION.to_ne_bytes());
    head.extend((name.len() as u32).to_ne_bytes());
    head.extend(name);
    let made = allocate(&file).and_then(|()| file.write_all_at(&head, 0));
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made.map(|()| path)
}

/// Has all of the file's memory there: a program that writes to memory that there is none for is killed.
fn allocate(file: &File) -> io::Result<()> {
    // SAFETY: a descriptor and numbers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, SIZE as libc::off_t) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn own_folder() -> io::Result<PathBuf> {
    let own = uid();
    let base = match std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty()) {
        _ if own == 0 => PathBuf::from("/run/freena"),
        Some(folder) => PathBuf::from(folder).join("freena"),
        None => {
            let base = PathBuf::from(format!("/tmp/freena-{own}"));
            private(&base)?;
            base
        }
    };
    let folder = base.join("flows");
    fs::create_dir_all(&base)?;
    private(&folder)?;
    Ok(folder)
}

/// Makes a folder that nobody else can write to, or makes sure that it is one.
fn private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != uid() || found.mode() & 0o022 != 0 {
        let why = format!("{}: others may write to it; expected a folder of one's own", folder.display());
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// All folders that this user may look into.
fn folders() -> Vec<PathBuf> {
    if uid() != 0 {
        return own_folder().into_iter().collect();
    }
    let users = fs::read_dir("/run/user").into_iter().flatten().flatten().map(|it| it.path().join("freena"));
    let others = fs::read_dir("/tmp").into_iter().flatten().flatten();
    let others = others.filter(|it| it.file_name().as_encoded_bytes().starts_with(b"freena-"));
    let bases = [PathBuf::from("/run/freena")].into_iter().chain(users).chain(others.map(|it| it.path()));
    bases.map(|it| it.join("flows")).collect()
}

/// A `freena run` and what came of it.
pub(crate) struct Programs {
    /// The configuration's file.
    source: String,
    /// Processes that live.
    processes: Vec<u32>,
    /// Flows that had no room.
    lost: u32,
    flows: Vec<Flow>,
}

/// A flow.
struct Flow {
    pid: u32,
    /// Whether the process lives.
    lives: bool,
    told: Told,
}

/// What all programs show. Files that nobody needs any more are removed.
pub(crate) fn all() -> Vec<Programs> {
    let mut all = Vec::new();
    for path in folders().iter().filter_map(|it| fs::read_dir(it).ok()).flatten().flatten() {
        let Ok(programs) = read::file(&path.path()) else { continue };
        let recent = |it: &Flow| monotonic().saturating_sub(it.told.ended) < KEPT.as_nanos() as u64;
        if programs.processes.is_empty() && !programs.flows.iter().any(recent) {
            // Nobody can begin to use it: who was started with it is gone.
            let _ = fs::remove_file(path.path());
        } else {
            all.push(programs);
        }
    }
    all
}

/// What is told of them, as `freena status --json` does.
pub(crate) fn as_json(all: &[Programs]) -> Value {
    let programs = all.iter().map(|it| {
        json!({
            "configuration": it.source,
            "processes": it.processes,
            "flows_without_room": it.lost,
            "flows": it.flows.iter().map(Flow::as_json).collect::<Vec<_>>(),
        })
    });
    programs.collect()
}

impl Flow {
    fn as_json(&self) -> Value {
        let told = &self.told;
        let figures: serde_json::Map<String, Value> = self
            .figures()
            .split("; ")
            .filter_map(|it| it.split_once(": "))
            .filter_map(|(service, it)| Some((service, it.split_once(' ')?)))
            .filter_map(|(service, (value, name))| {
                Some((format!("{service}: {name}"), value.parse::<u64>().ok()?.into()))
            })
            .collect();
        json!({
            "pid": self.pid,
            "program": self.program(),
            "process_lives": self.lives,
            "transport": self.transport(),
            "role": self.role(),
            "local": self.local().to_string(),
            "peer": self.peer().to_string(),
            "services": self.services(),
            "state": self.state(),
            "errno": told.errno,
            "reason": self.reason(),
            "refused": told.refused,
            "figures": figures,
            "age_seconds": seconds_since(told.begun),
            "ended_seconds_ago": (told.ended != 0).then(|| seconds_since(told.ended)),
        })
    }

    fn transport(&self) -> &'static str {
        if self.told.transport == 6 { "TCP" } else { "UDP" }
    }

    fn role(&self) -> &'static str {
        if self.told.role == 0 { "client" } else { "server" }
    }

    fn state(&self) -> &'static str {
        match self.told.state {
            state::WAITING => "waiting",
            state::AGREEING => "agreeing",
            state::OPEN => "open",
            state::PLAIN => "plain",
            state::FAILED => "failed",
            _ => "unknown",
        }
    }

    fn local(&self) -> SocketAddr {
        address(self.told.local, self.told.local_port)
    }

    fn peer(&self) -> SocketAddr {
        address(self.told.peer, self.told.peer_port)
    }

    fn program(&self) -> String {
        let name = &self.told.program;
        text(name, name.iter().position(|it| *it == 0).unwrap_or(name.len()))
    }

    fn services(&self) -> String {
        text(&self.told.services, self.told.lengths[0].into())
    }

    fn reason(&self) -> String {
        text(&self.told.reason, self.told.lengths[1].into())
    }

    fn figures(&self) -> String {
        text(&self.told.figures, self.told.lengths[2].into())
    }
}

/// What a program has written, for a terminal: control characters are not passed on.
fn text(bytes: &[u8], length: usize) -> String {
    let words = String::from_utf8_lossy(&bytes[..length.min(bytes.len())]);
    words.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

fn address(ip: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), port)
}

fn uid() -> u32 {
    // SAFETY: it has no preconditions.
    unsafe { libc::geteuid() }
}

/// Nanoseconds of the clock that programs tell times by.
fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn seconds_since(time: u64) -> u64 {
    monotonic().saturating_sub(time) / 1_000_000_000
}

#[cfg(test)]
mod tests;
