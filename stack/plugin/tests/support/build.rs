//! Compiles libraries in C, from the public header alone.

use freena_plugin::{Library, LoadError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A folder that only its owner can write to.
///
/// It stays until the next run: the dynamic loader takes a new file for a loaded one if it has the inode of that, which the
/// file system gives away again as soon as the old file is removed.
pub fn folder() -> Folder {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let run = RUN.get_or_init(|| {
        // Runners that give each test a process of its own start several at once, each with the test's name.
        let asked: String = std::env::args().skip(1).collect();
        let asked: String = asked.chars().filter(|it| it.is_alphanumeric() || *it == '_').collect();
        let run = format!("{}-{asked}", env!("CARGO_CRATE_NAME"));
        let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join(run);
        let _ = std::fs::remove_dir_all(&run);
        run
    });
    let folder = run.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("its mode");
    Folder(folder)
}

/// See [`folder`].
pub struct Folder(PathBuf);

impl Folder {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Compiles `source` to `folder/name`.
pub fn compile(source: &Path, folder: &Path, name: &str) -> PathBuf {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let to = folder.join(name);
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done = Command::new(compiler)
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(include)
        .arg("-o")
        .args([&to, source])
        .output()
        .expect("a C compiler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).expect("its mode");
    to
}

pub fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/protocol/steady.c")
}

/// Loads what was compiled.
pub fn open(folder: &Path, name: &str) -> Result<Library, LoadError> {
    // SAFETY: the tests have just made it.
    unsafe { Library::open(&[folder.to_owned()], name) }
}

/// The example, compiled once.
pub fn steady() -> Arc<Library> {
    static LIBRARY: OnceLock<Arc<Library>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let folder = folder();
            compile(&example(), folder.path(), "libsteady.so");
            Arc::new(open(folder.path(), "libsteady.so").expect("the example loads"))
        })
        .clone()
}
