//! `freena keygen`: keys for services, and for QUIC.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use zeroize::Zeroizing;

/// What to make.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File for the key; both ends need the same one. It must not exist yet
    #[arg(value_name = "FILE", default_value = "/etc/freena/service.key")]
    file: PathBuf,

    /// Instead: make a host's key and self-signed certificate for QUIC in this folder, where there is none yet, and show the
    /// fingerprint by which other hosts trust it
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    quic: Option<PathBuf>,
}

/// Makes a key that its owner alone can read. Nothing of it is shown.
///
/// # Errors
/// The file exists, or cannot be written.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    if let Some(folder) = &args.quic {
        let host = freena_quic_keys::Host::open(folder).map_err(|error| miette::miette!("{error}"))?;
        println!("{}", host.fingerprint);
        return Ok(ExitCode::SUCCESS);
    }
    make(args).map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        let help = if exists { ": found a file, expected none: keys are not overwritten" } else { "" };
        miette::miette!("{}: {error}{help}", args.file.display())
    })?;
    println!(
        "{}: a new key, for its owner alone. Bring it to the other end over a safe way.",
        args.file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn make(args: &Args) -> io::Result<()> {
    let mut key = Zeroizing::new([0u8; 32]);
    File::open("/dev/urandom")?.read_exact(&mut *key)?;
    let mut text = Zeroizing::new(String::with_capacity(128));
    text.push_str("freena-key 1 shared ");
    for byte in *key {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    if let Some(folder) = args.file.parent().filter(|it| !it.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_for_its_owner_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let args = Args { file: folder.path().join("new/key"), quic: None };
        make(&args).unwrap();
        assert_eq!(fs::metadata(&args.file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&args.file).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!((words[..3].join(" ").as_str(), words[3].len()), ("freena-key 1 shared", 64));
        assert_eq!(make(&args).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&args.file).unwrap(), text);
    }
}
