//! Finding and loading service libraries.
//!
//! A library is found by its file's name, in the service folders and nowhere else: names of services collide with those of
//! libraries that have nothing to do with us (`libcrypto.so`). It becomes part of the program, with all its privileges; so
//! file and folder must be such that nobody could put it there who has fewer.

use crate::error::LoadError;
use crate::parameters::{self, Parameter};
use freena_service_api::abi::*;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsStr, c_char};
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The symbol that a library must have.
pub const SYMBOL: &str = "freena_service";
/// Most bytes of a library's file name.
pub const MAX_FILE_NAME: usize = 255;
/// Most bytes of a service's name.
pub const MAX_NAME: usize = 31;
/// Where libraries are looked for beside the folder of the programs.
pub const DEFAULT_FOLDER: &str = "/usr/lib/freena/services";
/// What the files of the framework's own services begin with.
const PREFIX: &str = "libfreena_service_";
/// Names that FreeNA's figure 2 gives to libraries of services, and the services that they stand for here.
const PAPER: [(&str, &str); 2] = [("libcrypto.so", "crypto"), ("libcomp.so", "compression")];

/// A loaded library. It is never unloaded.
pub struct Library {
    path: PathBuf,
    name: String,
    about: String,
    service: FreenaService,
    parameters: Vec<Parameter>,
    /// The file stays open: the loader takes another one that is opened under the same name, which has the number of the
    /// descriptor in it, for the one that it has.
    _loaded: Option<ManuallyDrop<(Handle, File)>>,
}

// SAFETY: the description is constant data of the library, which stays loaded.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Library({})", self.path.display())
    }
}

impl Library {
    /// Where the library of a service is: `library` if the configuration names one, else the framework's own of that name.
    ///
    /// `libcrypto.so` and `libcomp.so`, the names in FreeNA's figure 2, stand for the framework's own if no folder has such a
    /// file: they are never looked for elsewhere.
    ///
    /// # Errors
    /// [`LoadError::FileName`], [`LoadError::NotFound`], [`LoadError::Open`].
    pub fn find(folders: &[PathBuf], service: &str, library: Option<&str>) -> Result<PathBuf, LoadError> {
        let own = |name: &str| format!("{PREFIX}{name}.so");
        let named = library.map_or_else(|| own(service), str::to_owned);
        let plain = !named.is_empty()
            && named.len() <= MAX_FILE_NAME
            && Path::new(&named).file_name() == Some(OsStr::new(&named));
        if !plain {
            return Err(LoadError::FileName { name: named });
        }
        let paper = PAPER.iter().find(|(file, _)| *file == named).map(|(_, service)| own(service));
        for name in std::iter::once(&named).chain(&paper) {
            for folder in folders {
                let path = folder.join(name);
                match fs::symlink_metadata(&path) {
                    Ok(_) => return Ok(path),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(LoadError::Open { path, error }),
                }
            }
        }
        Err(LoadError::NotFound { name: named, folders: folders.to_vec() })
    }

    /// Loads the library at `path`, an absolute one.
    ///
    /// # Errors
    /// By variant.
    ///
    /// # Safety
    /// The library's constructors run, and what it exports is believed: it must be what it says. The checks see to it that
    /// only root or the user of this process could have put it there.
    pub unsafe fn open(path: &Path) -> Result<Library, LoadError> {
        let failed = |error| LoadError::Open { path: path.to_owned(), error };
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        check_rights(folder, &fs::metadata(folder).map_err(failed)?)?;
        let seen = file.metadata().map_err(failed)?;
        if !seen.is_file() {
            return Err(LoadError::NotAFile { path: path.to_owned() });
        }
        check_rights(path, &seen)?;
        // The file that was looked at, whatever is under the name by now.
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: as the caller promises.
        let handle = unsafe { Handle::open(Some(&opened), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
            LoadError::Load { path: path.to_owned(), error: error.to_string().replace(&opened, "it") }
        })?;
        // SAFETY: the type is a pointer, whatever the symbol is; what it points to is looked at below.
        let symbol = unsafe { handle.get::<*const FreenaService>(SYMBOL.as_bytes()) };
        let Ok(symbol) = symbol else { return Err(LoadError::Symbol { path: path.to_owned() }) };
        let described: *const FreenaService = symbol.as_raw_ptr().cast();
        // SAFETY: the symbol is data of at least the two numbers that every version begins with.
        let (version, size) =
            unsafe { ((&raw const (*described).abi).read(), (&raw const (*described).size).read()) };
        if version != FREENA_SERVICE_ABI {
            return Err(LoadError::Version { path: path.to_owned(), got: version });
        }
        if size as usize != size_of::<FreenaService>() {
            return Err(LoadError::Size { path: path.to_owned(), got: size });
        }
        // SAFETY: the library says that it has as many bytes, and what it leads to is of the library that says so.
        unsafe { Library::new(path, described.read(), Some((handle, file))) }
    }

    /// A service that is part of this program: for tests.
    ///
    /// # Errors
    /// As [`Library::open`].
    ///
    /// # Safety
    /// The strings of `service` and its table live on, and its functions keep to the interface.
    pub unsafe fn built_in(service: &FreenaService) -> Result<Library, LoadError> {
        // SAFETY: as the caller promises.
        unsafe { Library::new(Path::new("built in"), *service, None) }
    }

    /// # Safety
    /// What `service` points to lives on.
    unsafe fn new(
        path: &Path,
        service: FreenaService,
        loaded: Option<(Handle, File)>,
    ) -> Result<Library, LoadError> {
        let path = path.to_owned();
        // SAFETY: as the caller promises.
        let name = unsafe { string(service.name) };
        let good = |name: &String| {
            (1..=MAX_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'))
        };
        let name = match name {
            Some(name) if good(&name) => name,
            Some(name) => {
                let shown: String = name.chars().take(64).collect();
                return Err(LoadError::Name { path, got: format!("`{}`", shown.escape_debug()) });
            }
            None => return Err(LoadError::Name { path, got: "null".to_owned() }),
        };
        if !(1..=3).contains(&service.kinds) {
            return Err(LoadError::Kinds { path, got: service.kinds });
        }
        let there = [
            ("open", service.open.is_some()),
            ("close", service.close.is_some()),
            ("outbound", service.outbound.is_some()),
            ("inbound", service.inbound.is_some()),
        ];
        if let Some((function, _)) = there.into_iter().find(|(_, there)| !there) {
            return Err(LoadError::Function { path, function });
        }
        // SAFETY: as the caller promises.
        let parameters = unsafe { parameters::read(&service) }.map_err(|(index, what)| LoadError::Table {
            path: path.clone(),
            index,
            what,
        })?;
        // SAFETY: as the caller promises.
        let about = unsafe { string(service.about) }.unwrap_or_default();
        Ok(Library { path, name, about, service, parameters, _loaded: loaded.map(ManuallyDrop::new) })
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Version of what goes over the wire.
    pub fn version(&self) -> u32 {
        self.service.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can be inserted into streams.
    pub fn takes_streams(&self) -> bool {
        self.service.kinds & FREENA_SERVICE_STREAM != 0
    }

    /// Whether it can be inserted into flows of datagrams.
    pub fn takes_datagrams(&self) -> bool {
        self.service.kinds & FREENA_SERVICE_DATAGRAM != 0
    }

    /// Its parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    pub(crate) fn service(&self) -> &FreenaService {
        &self.service
    }
}

/// # Safety
/// Null, or a string that ends with 0.
pub(crate) unsafe fn string(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// Root's, or the process's own, and nobody else can write to it.
fn check_rights(path: &Path, seen: &Metadata) -> Result<(), LoadError> {
    // SAFETY: tells a number.
    let own = unsafe { libc::geteuid() };
    if seen.uid() != 0 && seen.uid() != own {
        return Err(LoadError::Owner { path: path.to_owned(), got: seen.uid(), own });
    }
    if seen.mode() & 0o022 != 0 {
        return Err(LoadError::Writable { path: path.to_owned(), mode: seen.mode() & 0o7777 });
    }
    Ok(())
}

/// All service libraries of the folders, in the order of their names, and what was refused. Of the folder of this program
/// those files are tried that are named as the framework's own services are; of others all `*.so`.
///
/// # Safety
/// As [`Library::open`].
pub unsafe fn load_all(folders: &[PathBuf]) -> (Vec<Arc<Library>>, Vec<LoadError>) {
    let (mut loaded, mut refused): (Vec<Arc<Library>>, Vec<LoadError>) = (Vec::new(), Vec::new());
    let own = std::env::current_exe().ok().and_then(|it| it.parent().map(Path::to_owned));
    for folder in folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let mut found: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                let tried = name.starts_with(PREFIX) || own.as_ref() != Some(folder);
                tried && name.ends_with(".so")
            })
            .collect();
        found.sort_unstable();
        for name in found {
            // SAFETY: as the caller promises.
            match unsafe { Library::open(&folder.join(name)) } {
                Ok(library) if loaded.iter().any(|it| it.name == library.name) => {}
                Ok(library) => loaded.push(Arc::new(library)),
                Err(error) => refused.push(error),
            }
        }
    }
    loaded.sort_by(|a, b| a.name.cmp(&b.name));
    (loaded, refused)
}
