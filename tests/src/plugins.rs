//! The example of a protocol library, built with `cc` from the public header.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// IP protocol number of the example.
pub const STEADY: u8 = 253;

/// Makes `folder`, with the example in it.
///
/// # Panics
/// Without a C compiler, or if the example does not compile without a warning.
pub fn build(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = folder.join("libsteady.so");
    let done = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(root.join("stack/plugin/include"))
        .arg("-o")
        .args([&library, &root.join("examples/protocol/steady.c")])
        .status();
    assert!(done.expect("a C compiler").success());
    for path in [folder, &library] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
}
