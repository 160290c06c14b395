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

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        let folder = std::env::temp_dir().join(format!("freena-program-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let script = folder.join("script");
        fs::write(&script, "#! /bin/sh -e\nexit 0\n").unwrap();
        assert_eq!(examine(&script), Ok(()));
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let setid = folder.join("setid");
        fs::write(&setid, own).unwrap();
        fs::set_permissions(&setid, fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(examine(&setid), Err(Unreachable::SetId(setid.clone())));
        fs::write(&script, format!("#!{}\n", setid.display())).unwrap();
        assert_eq!(examine(&script), Err(Unreachable::SetId(setid)));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = locate(OsStr::new("no-such-program-anywhere")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-anywhere: not found in PATH"));
    }
}
