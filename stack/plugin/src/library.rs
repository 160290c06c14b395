//! Finding and loading protocol libraries.
//!
//! A library is found by its file's name, in the plug-in folders and nowhere else: names of protocols collide with those of
//! libraries that have nothing to do with us (`libsctp.so`). It becomes part of the server, with all the server's
//! privileges; so file and folder must be such that nobody could put it there who has fewer.

use crate::abi::{FREENA_MAX_HEADER, FREENA_NO_CHECKSUM, FREENA_PROTOCOL_ABI, FreenaProtocol};
use crate::guard::Range;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use thiserror::Error;

/// The symbol that a library must have.
pub const SYMBOL: &str = "freena_protocol";
/// Most bytes of a library's file name: what a request to the server has room for.
pub const MAX_FILE_NAME: usize = 63;
/// Most bytes of a protocol's name.
pub const MAX_NAME: usize = 31;
/// Where libraries are looked for unless other folders are named.
pub const DEFAULT_FOLDER: &str = "/usr/lib/freena/protocols";
/// Protocol numbers that the kernel or the stack needs: hop-by-hop, ICMP, IGMP, IPv4, TCP, UDP, IPv6 and its extension
/// headers, ESP, AH, ICMPv6, no next header, destination options.
const RESERVED: [u32; 15] = [0, 1, 2, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 136];

/// Why a library is refused. The words name what was got, what was expected, and where.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words are beside each")]
pub enum LoadError {
    #[error(
        "found `{name}`, expected the name of a file in a plug-in folder: without `/`, at most {MAX_FILE_NAME} bytes"
    )]
    FileName { name: String },
    #[error("no library `{name}` in the plug-in folders ({})", words(.folders))]
    NotFound { name: String, folders: Vec<PathBuf> },
    #[error("cannot open {}: {error}", .path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is no regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} belongs to user {got}, expected root{}", .path.display(), or(.own))]
    Owner { path: PathBuf, got: u32, own: Option<u32> },
    #[error("{} has mode {mode:04o}: others than its owner can write to it, expected at most 0755", .path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} cannot be loaded: {error}", .path.display())]
    Load { path: PathBuf, error: String },
    #[error("{} does not export `{SYMBOL}`: it is no protocol library", .path.display())]
    Symbol { path: PathBuf },
    #[error("{} is made for version {got} of the protocol interface, expected {FREENA_PROTOCOL_ABI}", .path.display())]
    Version { path: PathBuf, got: u32 },
    #[error("{}: `{SYMBOL}` has {got} bytes, expected {}", .path.display(), size_of::<FreenaProtocol>())]
    Size { path: PathBuf, got: u32 },
    #[error("{}: the protocol's name is {got}, expected 1 to {MAX_NAME} letters, digits, `-` and `_`", .path.display())]
    Name { path: PathBuf, got: String },
    #[error("{}: IP protocol number {got}, expected one of 1 to 255 that neither kernel nor stack needs, such as 253", .path.display())]
    IpProtocol { path: PathBuf, got: u32 },
    #[error("{}: the checksum is at offset {got}, expected an even one below {}, or FREENA_NO_CHECKSUM", .path.display(), FREENA_MAX_HEADER)]
    Checksum { path: PathBuf, got: u16 },
    #[error("{}: the function `{function}` is missing", .path.display())]
    Function { path: PathBuf, function: &'static str },
    #[error("{} has {what} {value}, which {} has already", .path.display(), .other.display())]
    Twice { path: PathBuf, other: PathBuf, what: &'static str, value: String },
}

fn words(folders: &[PathBuf]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    if names.is_empty() { "there are none".to_owned() } else { names.join(", ") }
}

fn or(own: &Option<u32>) -> String {
    own.map_or_else(String::new, |own| format!(" or the server's user {own}"))
}

/// A loaded library. It is never unloaded.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    file_name: String,
    name: String,
    protocol: FreenaProtocol,
    pub(crate) code: Vec<Range>,
    pub(crate) fault: OnceLock<String>,
    /// The file stays open: the loader takes another one that is opened under the same name, which has the number of the
    /// descriptor in it, for the one that it has.
    _loaded: Option<ManuallyDrop<(Handle, File)>>,
}

// SAFETY: the description is constant data of the library, which stays loaded.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Loads `name` from the first of `folders` that has it.
    ///
    /// # Errors
    /// By variant.
    ///
    /// # Safety
    /// The library's constructors run, and what it exports is believed: it must be what it says. The checks see to it that
    /// only the server's administrator could have put it there.
    pub unsafe fn open(folders: &[PathBuf], name: &str) -> Result<Library, LoadError> {
        let plain = !name.is_empty()
            && name.len() <= MAX_FILE_NAME
            && Path::new(name).file_name() == Some(OsStr::new(name));
        if !plain {
            return Err(LoadError::FileName { name: name.to_owned() });
        }
        for folder in folders {
            let path = folder.join(name);
            let opened = fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
                .open(&path);
            match opened {
                Ok(file) => {
                    let seen = fs::metadata(folder)
                        .map_err(|error| LoadError::Open { path: folder.clone(), error })?;
                    check_rights(folder, &seen)?;
                    // SAFETY: as the caller promises.
                    return unsafe { Library::load(path, name, file) };
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LoadError::Open { path, error }),
            }
        }
        Err(LoadError::NotFound { name: name.to_owned(), folders: folders.to_vec() })
    }

    /// # Safety
    /// As [`Library::open`].
    unsafe fn load(path: PathBuf, name: &str, file: File) -> Result<Library, LoadError> {
        let seen = file.metadata().map_err(|error| LoadError::Open { path: path.clone(), error })?;
        if !seen.is_file() {
            return Err(LoadError::NotAFile { path });
        }
        check_rights(&path, &seen)?;
        // The file that was looked at, whatever is under the name by now.
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: as the caller promises.
        let handle = unsafe { Handle::open(Some(&opened), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
            LoadError::Load { path: path.clone(), error: error.to_string().replace(&opened, "it") }
        })?;
        // SAFETY: the type is a pointer, whatever the symbol is; what it points to is looked at below.
        let symbol = unsafe { handle.get::<*const FreenaProtocol>(SYMBOL.as_bytes()) };
        let Ok(symbol) = symbol else { return Err(LoadError::Symbol { path }) };
        let described: *const FreenaProtocol = symbol.as_raw_ptr().cast();
        // SAFETY: the symbol is data of at least the two numbers that every version begins with.
        let (version, size) =
            unsafe { ((&raw const (*described).abi).read(), (&raw const (*described).size).read()) };
        if version != FREENA_PROTOCOL_ABI {
            return Err(LoadError::Version { path, got: version });
        }
        if size as usize != size_of::<FreenaProtocol>() {
            return Err(LoadError::Size { path, got: size });
        }
        // SAFETY: the library says that it has as many bytes.
        let protocol = unsafe { described.read() };
        let code = code_around(described.cast());
        // SAFETY: the name is of the library that says so.
        unsafe { Library::new(path, name, protocol, code, Some((handle, file))) }
    }

    /// A protocol that is part of this program: for tests.
    ///
    /// # Errors
    /// As [`Library::open`].
    ///
    /// # Safety
    /// `protocol.name` is null or a string that lives on, and the functions keep to the interface.
    pub unsafe fn built_in(protocol: FreenaProtocol) -> Result<Library, LoadError> {
        // SAFETY: as the caller promises.
        unsafe { Library::new("built in".into(), "built-in", protocol, Vec::new(), None) }
    }

    /// # Safety
    /// `protocol.name` is null or a string that lives on.
    unsafe fn new(
        path: PathBuf,
        file_name: &str,
        protocol: FreenaProtocol,
        code: Vec<Range>,
        loaded: Option<(Handle, File)>,
    ) -> Result<Library, LoadError> {
        let name = if protocol.name.is_null() {
            None
        } else {
            // SAFETY: as the caller promises.
            Some(unsafe { CStr::from_ptr(protocol.name) }.to_string_lossy().into_owned())
        };
        let good = |name: &String| {
            (1..=MAX_NAME).contains(&name.len())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        };
        let name = match name {
            Some(name) if good(&name) => name,
            Some(name) => {
                let shown: String = name.chars().take(64).collect();
                return Err(LoadError::Name { path, got: format!("`{}`", shown.escape_debug()) });
            }
            None => return Err(LoadError::Name { path, got: "null".to_owned() }),
        };
        if protocol.ip_protocol > 255
            || RESERVED.contains(&protocol.ip_protocol)
            || protocol.ip_protocol == 255
        {
            return Err(LoadError::IpProtocol { path, got: protocol.ip_protocol });
        }
        let offset = protocol.checksum_offset;
        if offset != FREENA_NO_CHECKSUM
            && (!offset.is_multiple_of(2) || usize::from(offset) + 2 > FREENA_MAX_HEADER)
        {
            return Err(LoadError::Checksum { path, got: offset });
        }
        if let Some(function) = missing(&protocol) {
            return Err(LoadError::Function { path, function });
        }
        Ok(Library {
            path,
            file_name: file_name.to_owned(),
            name,
            protocol,
            code,
            fault: OnceLock::new(),
            _loaded: loaded.map(ManuallyDrop::new),
        })
    }

    /// The protocol's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The library's file name.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its IP protocol number.
    pub fn ip_protocol(&self) -> u8 {
        self.protocol.ip_protocol as u8
    }

    /// Where the Internet checksum is in its header, if it uses that.
    pub fn checksum_offset(&self) -> Option<u16> {
        (self.protocol.checksum_offset != FREENA_NO_CHECKSUM).then_some(self.protocol.checksum_offset)
    }

    /// Why it is not used any more, if it has broken the contract.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    pub(crate) fn protocol(&self) -> &FreenaProtocol {
        &self.protocol
    }
}

fn missing(protocol: &FreenaProtocol) -> Option<&'static str> {
    let there = [
        ("create", protocol.create.is_some()),
        ("destroy", protocol.destroy.is_some()),
        ("connect", protocol.connect.is_some()),
        ("handle_packet", protocol.handle_packet.is_some()),
        ("handle_timeout", protocol.handle_timeout.is_some()),
        ("written", protocol.written.is_some()),
        ("read", protocol.read.is_some()),
        ("shutdown", protocol.shutdown.is_some()),
        ("close", protocol.close.is_some()),
        ("abort", protocol.abort.is_some()),
        ("poll_events", protocol.poll_events.is_some()),
        ("poll_transmit", protocol.poll_transmit.is_some()),
        ("poll_timeout", protocol.poll_timeout.is_some()),
    ];
    there.into_iter().find(|(_, there)| !there).map(|(name, _)| name)
}

/// Root's, or the server's own if that is not root, and nobody else can write to it.
fn check_rights(path: &Path, seen: &Metadata) -> Result<(), LoadError> {
    // SAFETY: tells a number.
    let own = unsafe { libc::geteuid() };
    if seen.uid() != 0 && seen.uid() != own {
        let own = (own != 0).then_some(own);
        return Err(LoadError::Owner { path: path.to_owned(), got: seen.uid(), own });
    }
    if seen.mode() & 0o022 != 0 {
        return Err(LoadError::Writable { path: path.to_owned(), mode: seen.mode() & 0o7777 });
    }
    Ok(())
}

/// The code segments of the object that `within` lies in.
fn code_around(within: *const c_void) -> Vec<Range> {
    struct Search {
        within: usize,
        found: Vec<Range>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: the C library lends the description of an object for the call, and hands `search` through.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: the object has so many headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let ranges = |flag: u32| {
            headers.iter().filter(move |it| it.p_type == libc::PT_LOAD && it.p_flags & flag != 0).map(|it| {
                let start = (info.dlpi_addr + it.p_vaddr) as usize;
                Range { start, end: start + it.p_memsz as usize }
            })
        };
        if !ranges(libc::PF_R).any(|range| (range.start..range.end).contains(&search.within)) {
            return 0;
        }
        search.found = ranges(libc::PF_X).collect();
        1
    }
    let mut search = Search { within: within as usize, found: Vec::new() };
    // SAFETY: the callback gets what it expects.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

/// All libraries of the plug-in folders, and what was refused.
#[derive(Debug, Default)]
pub struct Libraries {
    /// Those that can be used.
    pub loaded: Vec<std::sync::Arc<Library>>,
    /// Those that cannot: file name and reason.
    pub refused: Vec<(String, LoadError)>,
}

impl Libraries {
    /// Loads every `*.so` of the folders. Of two with one file name the first counts.
    ///
    /// # Safety
    /// As [`Library::open`].
    pub unsafe fn load_all(folders: &[PathBuf]) -> Libraries {
        let mut names: Vec<String> = Vec::new();
        for folder in folders {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let mut found: Vec<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.ends_with(".so"))
                .collect();
            found.sort_unstable();
            names.extend(found);
        }
        let mut libraries = Libraries::default();
        for name in names {
            if libraries.knows(&name) {
                continue;
            }
            // SAFETY: as the caller promises.
            match unsafe { Library::open(folders, &name) }.and_then(|library| libraries.unique(library)) {
                Ok(library) => libraries.loaded.push(std::sync::Arc::new(library)),
                Err(error) => libraries.refused.push((name, error)),
            }
        }
        libraries
    }

    fn knows(&self, name: &str) -> bool {
        self.loaded.iter().any(|it| it.file_name == name) || self.refused.iter().any(|(it, _)| it == name)
    }

    fn unique(&self, new: Library) -> Result<Library, LoadError> {
        for it in &self.loaded {
            let same = if it.name.eq_ignore_ascii_case(&new.name) {
                ("the name", new.name.clone())
            } else if it.ip_protocol() == new.ip_protocol() {
                ("IP protocol number", new.ip_protocol().to_string())
            } else {
                continue;
            };
            let (what, value) = same;
            return Err(LoadError::Twice { path: new.path, other: it.path.clone(), what, value });
        }
        Ok(new)
    }
}
