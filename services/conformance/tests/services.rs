//! The suite, run against every service of this workspace and the example in C; and services that break the interface.

use freena_service_chain::{Flow, FlowError, Resolved, Role, StreamFlow};
use freena_service_conformance::check;
use freena_service_host::{Checked, Library, LoadError, Trouble, load_all, reference};
use std::fs;
use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The folder that cargo builds the libraries into.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn own(name: &str) -> Arc<Library> {
    let path = Library::find(&[built()], name, None).unwrap();
    // SAFETY: it is of this workspace.
    Arc::new(unsafe { Library::open(&path) }.unwrap())
}

fn with(library: &Arc<Library>, parameters: &[(&str, &str)]) -> Resolved {
    let checked = Checked::new(library.name(), library.parameters(), parameters);
    Resolved { library: library.clone(), parameters: checked.unwrap_or_else(|error| panic!("{error}")) }
}

/// A folder that only its owner can write to, and stays until the next run: a loaded file must keep its inode.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("services").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

fn compile(source: &Path, to: &Path, options: &[&str]) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/include");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done = Command::new(compiler)
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(include)
        .args(options)
        .arg("-o")
        .args([to, source])
        .output()
        .expect("a C compiler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::set_permissions(to, PermissionsExt::from_mode(0o755)).unwrap();
}

fn key() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, format!("freena-key 1 shared {}\n", "5a".repeat(32))).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn trace() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let library = own("trace");
    check(&with(&library, &[]));
    check(&with(&library, &[("record", record.to_str().unwrap())]));
    let text = fs::read_to_string(record).unwrap();
    assert!(text.lines().count() > 1000 && text.lines().all(|it| it.split('\t').count() == 4));
}

#[test]
fn crypto() {
    let (_folder, key) = key();
    let library = own("crypto");
    check(&with(&library, &[("key", &key), ("algorithm", "ChaCha20")]));
    for mode in ["GCM", "CTR", "CBC"] {
        for size in ["128", "192", "256"] {
            check(&with(&library, &[("key", &key), ("mode", mode), ("key_size", size), ("rekey", "1")]));
        }
    }
}

#[test]
fn auth() {
    let (_folder, key) = key();
    let library = own("auth");
    for algorithm in ["HMAC-SHA-256", "BLAKE3"] {
        check(&with(&library, &[("key", &key), ("algorithm", algorithm)]));
    }
}

#[test]
fn compression() {
    let folder = tempfile::tempdir().unwrap();
    let dictionary = folder.path().join("words");
    fs::write(&dictionary, "some words that messages may have in them ".repeat(20)).unwrap();
    let library = own("compression");
    for algorithm in ["zstd", "lz4"] {
        check(&with(&library, &[("algorithm", algorithm), ("least", "0")]));
        check(&with(&library, &[("algorithm", algorithm), ("dictionary", dictionary.to_str().unwrap())]));
    }
    check(&with(&library, &[("level", "19")]));
}

#[test]
fn fec() {
    let library = own("fec");
    check(&with(&library, &[]));
    check(&with(&library, &[("adaptive", "false"), ("block", "3"), ("repairs", "2")]));
}

#[test]
fn qos() {
    let library = own("qos");
    check(&with(&library, &[]));
    check(&with(&library, &[("rate", "8000"), ("burst", "2000")]));
    check(&with(&library, &[("rate", "8000"), ("shared", "true"), ("priority", "3")]));
}

#[test]
fn the_example_in_c() {
    let path = folder("example").join("libveil.so");
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/service/veil.c"), &path, &[]);
    // SAFETY: this test has just made it.
    let library = Arc::new(unsafe { Library::open(&path) }.unwrap());
    check(&with(&library, &[]));
    check(&with(&library, &[("add", "200")]));
    assert!(reference(&library).contains("| `add` | a number from 0 to 255 | `13` |"));
}

/// Compiles faulty.c with a fault, and loads it.
fn faulty(number: u32) -> Result<Library, LoadError> {
    let path = folder(&format!("faulty-{number}")).join("libfaulty.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries/faulty.c");
    compile(&source, &path, &[&format!("-DFAULT={number}")]);
    // SAFETY: this test has just made it.
    unsafe { Library::open(&path) }
}

/// A stream with a faulty service at the client: the error in which it ends.
fn ends(number: u32) -> FlowError {
    let services = [with(&Arc::new(faulty(number).unwrap()), &[])];
    let flow = |role| Flow {
        transport: 6,
        role,
        local: ([127, 0, 0, 1], 1).into(),
        peer: ([127, 0, 0, 1], 2).into(),
        allow_plain: false,
    };
    let mut client = match StreamFlow::new(&services, flow(Role::Client), 0) {
        Ok(client) => client,
        Err(error) => return error,
    };
    let mut server = StreamFlow::new(&services, flow(Role::Server), 0).unwrap();
    let mut wires = [freena_service_chain::Buffer::new(), freena_service_chain::Buffer::new()];
    let mut plain = freena_service_chain::Buffer::new();
    for _ in 0..3 {
        client.transmit(0, &mut wires[0]);
        server.open(0, wires[0].as_slice(), &mut plain, 1).unwrap();
        wires[0].clear();
        server.transmit(0, &mut wires[1]);
        client.open(0, wires[1].as_slice(), &mut plain, 1).unwrap();
        wires[1].clear();
    }
    let error = match client.seal(0, &[IoSlice::new(b"message")], &mut wires[0]) {
        Err(error) => {
            assert!(wires[0].is_empty(), "nothing of it leaves");
            error
        }
        Ok(_) => server.open(0, wires[0].as_slice(), &mut plain, 1).unwrap_err(),
    };
    assert!(plain.is_empty());
    error
}

#[test]
fn services_that_break_their_promises_end_the_flow_and_nothing_else() {
    for (number, words) in [
        (1, "it returns 12 bytes at 4, expected them within 4..15 as promised"),
        (2, "expected them within"),
        (3, "without a handle"),
        (4, "out of bounds"),
        (5, "it returns 8 bytes"),
        (6, "it announces 1025 bytes, expected at most 1024"),
        (7, "it has failed"),
    ] {
        let error = ends(number);
        assert!(
            matches!(&error, FlowError::Service(it) if it.trouble == Trouble::Fault),
            "{number}: {error}"
        );
        assert!(error.to_string().contains(words), "{number}: {error}");
        assert_eq!(error.errno(), libc::EIO);
    }
}

#[test]
fn libraries_that_are_none_are_refused_in_words() {
    for (number, words) in [
        (8, "is made for version 2 of the service interface, expected 1"),
        (9, "has 151 bytes, expected 152"),
        (10, "the function `inbound` is missing"),
        (11, "parameter 0 of its table: its preset `9` is not a number from 0 to 8"),
        (12, "the service's name is `Not A Name`, expected 1 to 31"),
    ] {
        let error = faulty(number).expect_err("refused").to_string();
        assert!(error.contains(words), "{number}: {error}");
    }
    let folder = folder("others");
    let path = folder.join("libempty.so");
    let source = folder.join("empty.c");
    fs::write(&source, "int nothing;\n").unwrap();
    compile(&source, &path, &[]);
    // SAFETY: this test has just made it, and it has no code.
    let open = || unsafe { Library::open(&path) }.expect_err("refused").to_string();
    assert!(open().contains("does not export `freena_service`"), "{}", open());
    fs::set_permissions(&path, PermissionsExt::from_mode(0o775)).unwrap();
    assert!(open().contains("mode 0775"), "{}", open());
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(open().contains("mode 0777"), "{}", open());
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["../libempty.so", "", "a/b.so"] {
        let error = Library::find(std::slice::from_ref(&folder), "x", Some(name)).unwrap_err().to_string();
        assert!(error.contains("without `/`"), "{error}");
    }
    // Never the system's: libcrypto.so of OpenSSL is no service, and not looked for.
    let error = Library::find(&[folder], "x", Some("libcrypto.so")).unwrap_err().to_string();
    assert!(error.contains("no library `libcrypto.so` in the service folders"), "{error}");
}

/// docs/services-reference.md, from the services' own tables. `FREENA_WRITE=1` writes it.
#[test]
fn the_reference_is_what_the_tables_give() {
    // SAFETY: they are of this workspace.
    let (libraries, refused) = unsafe { load_all(&[built()]) };
    assert!(refused.is_empty(), "{refused:?}");
    let mut text = "# Services: parameters\n\nMade from the tables of the services by `cargo xtask services`; `freena services show NAME` tells the same.\n".to_owned();
    for library in &libraries {
        text.push('\n');
        text.push_str(&reference(library));
    }
    let names: Vec<&str> = libraries.iter().map(|it| it.name()).collect();
    assert_eq!(names, ["auth", "compression", "crypto", "fec", "qos", "trace"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/services-reference.md");
    if std::env::var_os("FREENA_WRITE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/services-reference.md is out of date: run `cargo xtask services`");
}
