//! Which libraries are loaded, and what is said of those that are not.

mod support;

use freena_plugin::{Libraries, Library, LoadError};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use support::build::{compile, example, folder, open};

fn faulty() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries/faulty.c")
}

/// Compiles the faulty library with definitions, and tells why it is refused.
fn refused(definitions: &[&str]) -> String {
    let folder = folder();
    let source = folder.path().join("made.c");
    let mut text = String::from("#define FAULT 0\n");
    for definition in definitions {
        text += &format!("#define {definition}\n");
    }
    text += &std::fs::read_to_string(faulty()).expect("the source");
    std::fs::write(&source, text).expect("room");
    compile(&source, folder.path(), "libfaulty.so");
    let error = open(folder.path(), "libfaulty.so").expect_err("it is refused").to_string();
    assert!(error.contains("libfaulty.so"), "where: {error}");
    error
}

#[test]
fn what_is_wrong_with_a_library_is_told_in_words() {
    let expected: [(&[&str], &str); 8] = [
        (&["ABI 7"], "made for version 7 of the protocol interface, expected 1"),
        (&["SIZE 8"], "has 8 bytes, expected 176"),
        (&["SYMBOL something_else"], "does not export `freena_protocol`"),
        (&["NAME \"a b\""], "the protocol's name is `a b`, expected 1 to 31 letters"),
        (&["NAME NULL"], "the protocol's name is null"),
        (&["NUMBER 6"], "IP protocol number 6, expected one of"),
        (&["NUMBER 300"], "IP protocol number 300"),
        (&["CLOSE NULL"], "the function `close` is missing"),
    ];
    for (definitions, words) in expected {
        let error = refused(definitions);
        assert!(error.contains(words), "{definitions:?}: {error}");
    }
}

#[test]
fn only_plain_names_in_the_folders_are_looked_for() {
    let folder = folder();
    for name in ["", "../libsteady.so", "/lib/libc.so.6", "a/b", "..", &"x".repeat(64)] {
        assert!(matches!(open(folder.path(), name), Err(LoadError::FileName { .. })), "{name}");
    }
    // The system has this one; the folder has not.
    let error = open(folder.path(), "libm.so.6").expect_err("not there").to_string();
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
}

#[test]
fn what_others_can_write_to_is_refused() {
    let folder = folder();
    let path = compile(&example(), folder.path(), "libsteady.so");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("its mode")
    };
    assert!(open(folder.path(), "libsteady.so").is_ok());
    for wrong in [0o775, 0o757] {
        mode(&path, wrong);
        let error = open(folder.path(), "libsteady.so").expect_err("the file").to_string();
        assert!(error.contains(&format!("mode {wrong:04o}")), "{error}");
    }
    mode(&path, 0o755);
    mode(folder.path(), 0o777);
    let error = open(folder.path(), "libsteady.so").expect_err("the folder").to_string();
    assert!(error.contains("mode 0777"), "{error}");
    mode(folder.path(), 0o755);
    std::fs::create_dir(folder.path().join("folder.so")).expect("a folder");
    assert!(matches!(open(folder.path(), "folder.so"), Err(LoadError::NotAFile { .. })));
    std::fs::write(folder.path().join("text.so"), "no library").expect("a file");
    assert!(matches!(open(folder.path(), "text.so"), Err(LoadError::Load { .. })));
    if chown(&path, Some(12_345), None).is_err() {
        eprintln!("SKIPPED: owners cannot be changed without root");
        return;
    }
    let error = open(folder.path(), "libsteady.so").expect_err("the owner").to_string();
    assert!(error.contains("belongs to user 12345, expected root"), "{error}");
    // Through a link the rights of what it leads to count.
    symlink(&path, folder.path().join("link.so")).expect("a link");
    assert!(matches!(open(folder.path(), "link.so"), Err(LoadError::Owner { .. })));
}

#[test]
fn a_folder_is_loaded_and_what_cannot_be_is_told() {
    let folder = folder();
    compile(&example(), folder.path(), "libone.so");
    compile(&example(), folder.path(), "libtwo.so");
    std::fs::write(folder.path().join("broken.so"), "no library").expect("a file");
    std::fs::write(folder.path().join("README"), "no library").expect("a file");
    // SAFETY: the test has just made them.
    let libraries = unsafe { Libraries::load_all(&[folder.path().to_owned(), "/nonexistent".into()]) };
    let loaded: Vec<&str> = libraries.loaded.iter().map(|it| it.file_name()).collect();
    assert_eq!(loaded, ["libone.so"]);
    let refused: Vec<String> =
        libraries.refused.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    assert!(refused.iter().any(|it| it.starts_with("broken.so")), "{refused:?}");
    assert!(
        refused.iter().any(|it| it.starts_with("libtwo.so") && it.contains("libone.so has already")),
        "{refused:?}"
    );
}

#[test]
fn the_example_is_what_it_says() {
    let library: &Library = &support::build::steady();
    assert_eq!((library.name(), library.ip_protocol(), library.checksum_offset()), ("steady", 253, Some(30)));
}
