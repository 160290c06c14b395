//! The committed object is that of the committed sources. `cargo xtask ebpf --check` proves it by building; this notices
//! with nothing but sha256sum that somebody forgot `cargo xtask ebpf`.

use std::{fs, path::Path, process::Command};

fn ebpf() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn rust_files(path: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(path).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path.strip_prefix(ebpf()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn the_object_is_not_stale() {
    let check = ["--check", "--strict", "--quiet", "freena-xdp.sha256"];
    let output =
        Command::new("sha256sum").args(check).current_dir(ebpf()).output().expect("sha256sum (coreutils)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "the sources of ebpf/freena-xdp.o changed: run `cargo xtask ebpf`\n{text}"
    );
}

#[test]
fn every_source_is_among_the_checksums() {
    let sums = fs::read_to_string(ebpf().join("freena-xdp.sha256")).unwrap();
    let mut sources = Vec::new();
    rust_files(&ebpf().join("abi/src"), &mut sources);
    rust_files(&ebpf().join("prog/src"), &mut sources);
    assert!(sources.len() >= 3, "{sources:?}");
    for source in sources {
        let listed = sums.lines().any(|line| line.ends_with(&format!("  {source}")));
        assert!(listed, "ebpf/{source} is new: run `cargo xtask ebpf`");
    }
}
