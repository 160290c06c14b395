//! Where the release binaries are, and the programs of others that tests run.

use std::path::{Path, PathBuf};

/// Names the folder with the release binaries; by default it is the `release` folder of the target folder that this test
/// was built into.
pub const FOLDER: &str = "FREENA_BIN_DIR";

/// One of the project's binaries.
///
/// # Panics
/// If it has not been built, with the command that builds it.
pub fn freena(name: &str) -> PathBuf {
    let folder = std::env::var_os(FOLDER).map_or_else(release, PathBuf::from);
    let folder = std::path::absolute(folder).expect("a folder with a name");
    for part in [name, "freena", "freena-stack", "libfreena_preload.so"] {
        assert!(
            folder.join(part).is_file(),
            "{part} is not in {}: run `cargo build --release --workspace` first, or set {FOLDER}",
            folder.display()
        );
    }
    folder.join(name)
}

/// A test runs as `TARGET/PROFILE/deps/NAME`.
fn release() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let target = own.ancestors().nth(3).expect("a target folder");
    target.join("release")
}

/// A program that the machine may have: its path.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// CPython: Debian's own before a version manager's wrapper script of the same name.
///
/// # Panics
/// If there is none: most tests need it.
pub fn python() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    if debian.is_file() { debian } else { installed("python3").expect("python3 (Debian package python3)") }
}

/// A program of the tests' own, in `tests/programs`: it knows nothing of freena.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}
