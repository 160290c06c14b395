//! What kind of program is about to be started, and whether a preload library reaches it.

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a program cannot be reached by a preload library.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// No dynamic loader runs in it.
    #[error("{0} is statically linked (as Go programs often are): no library can be preloaded into it")]
    Static(PathBuf),
    /// Go's runtime makes system calls itself, also where a C library is linked in.
    #[error(
        "{0} is a Go program: its system calls do not go through the C library, where libfreena_preload.so stands"
    )]
    Go(PathBuf),
    /// The loader ignores LD_PRELOAD (man 8 ld.so, secure-execution mode).
    #[error("{0} is setuid or setgid: the dynamic loader ignores preloaded libraries for it")]
    SetId(PathBuf),
    /// The library is built for glibc.
    #[error("{0} uses the dynamic loader {1}: libfreena_preload.so is built for glibc")]
    OtherLibc(PathBuf, String),
    /// The library has another word size or processor.
    #[error("{0} is built for another processor or word size than libfreena_preload.so")]
    OtherMachine(PathBuf),
    /// It has file capabilities.
    #[error("{0} has file capabilities: the dynamic loader ignores preloaded libraries for it")]
    Capabilities(PathBuf),
}

/// Finds what the shell would start for `name`.
///
/// # Errors
/// No such program in PATH, or it may not be executed.
pub(crate) fn locate(name: &OsStr) -> miette::Result<PathBuf> {
    let given = Path::new(name);
    if given.components().count() > 1 {
        return if given.exists() {
            Ok(given.to_owned())
        } else {
            Err(miette::miette!("{}: no such file", given.display()))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(given))
        .find(|file| {
            fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| miette::miette!("{}: not found in PATH", given.display()))
}

/// Looks at the program, through the interpreters of scripts.
///
/// # Errors
/// Each variant of [`Unreachable`].
pub(crate) fn examine(path: &Path) -> Result<(), Unreachable> {
    let mut path = path.to_owned();
    // The kernel follows four interpreters (fs/binfmt_script.c, BINPRM_MAX_RECURSION).
    for _ in 0..4 {
        let Ok(bytes) = fs::read(&path) else { return Ok(()) };
        match bytes.strip_prefix(b"#!") {
            Some(line) => {
                let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let Some(word) = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())
                else {
                    return Ok(());
                };
                path = PathBuf::from(OsStr::from_bytes(word));
            }
            None => return examine_elf(&path, &bytes),
        }
    }
    Ok(())
}

fn examine_elf(path: &Path, bytes: &[u8]) -> Result<(), Unreachable> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(());
    }
    if fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o6000 != 0) {
        return Err(Unreachable::SetId(path.to_owned()));
    }
    if has_capabilities(path) {
        return Err(Unreachable::Capabilities(path.to_owned()));
    }
    let header = elf::FileHeader64::<object::Endianness>::parse(bytes)
        .map_err(|_| Unreachable::OtherMachine(path.to_owned()))?;
    let endian = header.endian().map_err(|_| Unreachable::OtherMachine(path.to_owned()))?;
    let machine = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    if header.e_machine(endian) != machine {
        return Err(Unreachable::OtherMachine(path.to_owned()));
    }
    let segments = header.program_headers(endian, bytes).unwrap_or(&[]);
    let interpreter = segments.iter().find_map(|segment| segment.interpreter(endian, bytes).ok().flatten());
    match interpreter {
        None => Err(Unreachable::Static(path.to_owned())),
        Some(_) if segments.iter().any(|segment| is_of_go(segment, endian, bytes)) => {
            Err(Unreachable::Go(path.to_owned()))
        }
        Some(loader) => {
            let loader = String::from_utf8_lossy(loader).into_owned();
            if loader.contains("ld-linux") {
                Ok(())
            } else {
                Err(Unreachable::OtherLibc(path.to_owned(), loader))
            }
        }
    }
}

/// Whether a segment holds the note with a build's name that Go's linker writes (`.note.go.buildid`), stripped or not.
fn is_of_go<H: ProgramHeader>(segment: &H, endian: H::Endian, bytes: &[u8]) -> bool {
    let Ok(Some(mut notes)) = segment.notes(endian, bytes) else { return false };
    std::iter::from_fn(|| notes.next().ok().flatten()).any(|note| note.name() == b"Go")
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: two NUL-terminated strings; a null buffer of size 0 asks for the length only (man 2 getxattr).
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_program_can_be_reached() {
        assert_eq!(examine(&std::env::current_exe().unwrap()), Ok(()));
    }

    /// This test's own program with `change` made to it, in a folder of its own.
    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf) {
        let mut bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        change(&mut bytes);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// Writes `new` over the only place with `old` in the first page, which has the headers, the loader's name and the notes.
    fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
        let page = &bytes[..4096];
        let places: Vec<_> = (0..page.len()).filter(|at| page[*at..].starts_with(old)).collect();
        assert_eq!(places.len(), 1, "{}", String::from_utf8_lossy(old));
        bytes[places[0]..places[0] + new.len()].copy_from_slice(new);
    }

    /// Offset of the program header of a type, in a file of 64 bits (elf(5)).
    fn segment(bytes: &[u8], kind: u32) -> usize {
        let header = elf::FileHeader64::<object::Endianness>::parse(bytes).unwrap();
        let endian = header.endian().unwrap();
        let segments = header.program_headers(endian, bytes).unwrap();
        let index = segments.iter().position(|segment| segment.p_type(endian) == kind).unwrap();
        usize::try_from(header.e_phoff(endian)).unwrap() + index * size_of_val(&segments[0])
    }

    #[test]
    fn a_program_without_a_loader_is_static() {
        let (_folder, path) = changed(|bytes| {
            let header = segment(bytes, elf::PT_INTERP);
            bytes[header..header + 4].copy_from_slice(&elf::PT_NULL.to_ne_bytes());
        });
        let found = examine(&path).unwrap_err();
        assert_eq!(found, Unreachable::Static(path.clone()));
        assert!(found.to_string().starts_with(&format!("{} is statically linked", path.display())));
    }

    #[test]
    fn another_library_is_known_by_its_loader() {
        let musl = b"/lib/ld-musl-x86_64.so.1";
        let (_folder, path) = changed(|bytes| {
            let at = segment(bytes, elf::PT_INTERP) + 8;
            let offset = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + musl.len()].copy_from_slice(musl);
            bytes[at + musl.len()] = 0;
        });
        let found = examine(&path).unwrap_err();
        assert_eq!(found, Unreachable::OtherLibc(path, String::from_utf8(musl.to_vec()).unwrap()));
        assert!(
            found.to_string().contains("/lib/ld-musl-x86_64.so.1: libfreena_preload.so is built for glibc")
        );
    }

    #[test]
    fn another_machine_or_word_size_is_told() {
        let changes: [fn(&mut Vec<u8>); 2] = [
            |bytes| bytes[18..20].copy_from_slice(&elf::EM_RISCV.to_ne_bytes()),
            |bytes| bytes[4] = elf::ELFCLASS32,
        ];
        for change in changes {
            let (_folder, path) = changed(change);
            assert_eq!(examine(&path), Err(Unreachable::OtherMachine(path)));
        }
    }

    #[test]
    fn go_is_known_by_its_note() {
        // The note of the build's name, type 3 of GNU (elf(5)), becomes what Go's linker writes.
        let (_folder, path) = changed(|bytes| replace(bytes, b"\x03\0\0\0GNU\0", b"\x04\0\0\0Go\0\0"));
        assert_eq!(examine(&path), Err(Unreachable::Go(path)));
    }

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        let (folder, program) = changed(|_| ());
        let script = folder.path().join("script");
        fs::write(&script, "#! /bin/sh -e\nexit 0\n").unwrap();
        assert_eq!(examine(&script), Ok(()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(examine(&program), Err(Unreachable::SetId(program.clone())));
        // Also where the interpreter is a script itself.
        let inner = folder.path().join("inner");
        fs::write(&inner, format!("#!{} -x\n", program.display())).unwrap();
        fs::write(&script, format!("#!{}\n", inner.display())).unwrap();
        assert_eq!(examine(&script), Err(Unreachable::SetId(program)));
    }

    #[test]
    fn what_cannot_be_read_or_is_no_program_is_left_to_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("empty", &b""[..]), ("short", b"\x7fELF"), ("line", b"#!"), ("text", b"text")]
        {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let expected =
                if name == "short" { Err(Unreachable::OtherMachine(path.clone())) } else { Ok(()) };
            assert_eq!(examine(&path), expected, "{name}");
        }
        assert_eq!(examine(&folder.path().join("nothing")), Ok(()));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = locate(OsStr::new("no-such-program-anywhere")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-anywhere: not found in PATH"));
    }
}
