//! A compiler for `bpfel-unknown-none` and its linker: those that are installed, or Debian's, unpacked privately.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::{output_of, succeeds};

/// Debian's compiler for web browsers, which it builds for this target too, and what it links to.
const PACKAGES: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev",
    "libstd-rust-web-dev-bpf",
    "libllvm22",
    "libz3-4",
];
const LINKER: &str = "bpf-linker@0.13.0";
const LLVM: &str = "libLLVM.so.22.1";

/// How to build for the target.
pub(crate) enum Toolchain {
    /// rustup's nightly with `rust-src`, and a bpf-linker in the path.
    Nightly,
    /// Debian's packages, unpacked in this folder.
    Debian(PathBuf),
}

impl Toolchain {
    /// Finds what is installed; else prepares Debian's in `folder`, once.
    pub(crate) fn prepare(folder: &Path) -> Result<Toolchain, String> {
        if nightly_is_installed() {
            return Ok(Toolchain::Nightly);
        }
        let debian = folder.to_owned();
        if debian.join("bl/bin/bpf-linker").exists() {
            return Ok(Toolchain::Debian(debian));
        }
        if !succeeds(Command::new("apt-get").arg("--version")) {
            let message = "no compiler for eBPF: install one with `rustup toolchain install nightly --component rust-src` \
                and `cargo install bpf-linker`";
            return Err(message.to_owned());
        }
        unpack(&debian)?;
        Ok(Toolchain::Debian(debian))
    }

    /// `cargo build` with this toolchain, to be completed by the caller.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        // What the cargo that runs this program set is for the host.
        for name in ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        match self {
            Toolchain::Nightly => cargo.args(["+nightly", "build", "-Z", "build-std=core"]),
            Toolchain::Debian(folder) => {
                let path = std::env::var("PATH").unwrap_or_default();
                cargo
                    .arg("build")
                    .env("RUSTC", folder.join("rw/usr/bin/rustc"))
                    .env("LD_LIBRARY_PATH", libraries(folder))
                    // The target has no stable compiler.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("PATH", format!("{}:{path}", folder.join("bl/bin").display()))
            }
        };
        cargo
    }
}

fn nightly_is_installed() -> bool {
    let sysroot = output_of(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    sysroot.is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core").exists())
        && succeeds(Command::new("bpf-linker").arg("--version"))
}

fn libraries(folder: &Path) -> PathBuf {
    folder.join("rw/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
}

/// Downloads and unpacks the packages, and builds the linker against their LLVM.
fn unpack(folder: &Path) -> Result<(), String> {
    let packages = folder.join("deb");
    make(&packages)?;
    println!("downloading {} (120 MB) into {}", PACKAGES.join(", "), packages.display());
    output_of(Command::new("apt-get").arg("download").args(PACKAGES).current_dir(&packages))
        .map_err(|error| format!("{error}; `apt-get update` may help"))?;
    let entries = fs::read_dir(&packages).map_err(|error| format!("{}: {error}", packages.display()))?;
    for package in entries.flatten() {
        output_of(Command::new("dpkg").arg("-x").arg(package.path()).arg(folder.join("rw")))?;
    }
    // The linker's build looks for `libLLVM.so` in the `lib` of a prefix.
    let llvm = folder.join("llvm/lib");
    make(&llvm)?;
    for name in ["libLLVM.so", LLVM] {
        let link = llvm.join(name);
        let _ = fs::remove_file(&link);
        symlink(libraries(folder).join(LLVM), &link)
            .map_err(|error| format!("{}: {error}", link.display()))?;
    }
    println!("building {LINKER}");
    let mut install = Command::new("cargo");
    for name in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        install.env_remove(name);
    }
    install
        .args(["install", LINKER, "--locked", "--no-default-features", "--features", "llvm-22", "--root"])
        .arg(folder.join("bl"))
        .arg("--target-dir")
        .arg(folder.join("bl-build"))
        .env("LLVM_PREFIX", folder.join("llvm"));
    output_of(&mut install).map(drop)
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}
