//! The XDP program: builds the object that is committed, so that users need no compiler for eBPF.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectSymbol};

use crate::{root, run::output_of, toolchain::Toolchain};

const OBJECT: &str = "freena-xdp.o";
const SUMS: &str = "freena-xdp.sha256";
/// What the object is made of, besides the sources of `prog` and `abi`.
const MANIFESTS: [&str; 4] =
    ["abi/Cargo.toml", "prog/.cargo/config.toml", "prog/Cargo.lock", "prog/Cargo.toml"];

/// Builds the object and writes it with the checksums of its sources; with `check`, compares instead.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let folder = root().join("ebpf");
    let built = build(&folder)?;
    refuse_panics(&built)?;
    let committed = folder.join(OBJECT);
    if check {
        let bytes = read(&committed)?;
        if bytes != built {
            return Err(format!(
                "{} ({} bytes) differs from what its sources give ({} bytes): run `cargo xtask ebpf`",
                committed.display(),
                bytes.len(),
                built.len()
            ));
        }
        let (have, want) = (read(&folder.join(SUMS))?, sums(&folder)?.into_bytes());
        if have != want {
            return Err(format!("ebpf/{SUMS} is out of date: run `cargo xtask ebpf`"));
        }
        return Ok(format!("ebpf/{OBJECT} is what its sources give, byte for byte"));
    }
    write(&committed, &built)?;
    write(&folder.join(SUMS), sums(&folder)?.as_bytes())?;
    Ok(format!("ebpf/{OBJECT}: {} bytes", built.len()))
}

fn build(folder: &Path) -> Result<Vec<u8>, String> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let target = std::path::absolute(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let toolchain = Toolchain::prepare(&target.join("ebpf-toolchain"))?;
    let output = target.join("ebpf-build");
    let mut cargo = toolchain.cargo();
    cargo
        .args(["--release", "--locked", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&output)
        .current_dir(folder.join("prog"));
    output_of(&mut cargo)?;
    read(&output.join("bpfel-unknown-none/release/freena-xdp"))
}

/// The verifier would refuse such a program on every machine; here it is refused on one.
fn refuse_panics(object: &[u8]) -> Result<(), String> {
    let file = object::File::parse(object).map_err(|error| format!("the object is no ELF file: {error}"))?;
    let panics: Vec<&str> = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.contains("panic"))
        .collect();
    match panics.as_slice() {
        [] => Ok(()),
        names => Err(format!("the program can panic, which the verifier refuses: {}", names.join(", "))),
    }
}

/// Checksums of the object and of its sources, as `sha256sum --check` reads them.
fn sums(folder: &Path) -> Result<String, String> {
    let mut files: Vec<String> = MANIFESTS.map(str::to_owned).into();
    for sources in ["abi/src", "prog/src"] {
        find(folder, sources, &mut files)?;
    }
    files.sort();
    files.insert(0, OBJECT.to_owned());
    output_of(Command::new("sha256sum").args(files).current_dir(folder))
}

/// Adds the Rust files under `path`, tests excepted.
fn find(folder: &Path, path: &str, files: &mut Vec<String>) -> Result<(), String> {
    let entries = fs::read_dir(folder.join(path)).map_err(|error| format!("ebpf/{path}: {error}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{path}/{name}");
        if entry.path().is_dir() {
            find(folder, &path, files)?;
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
