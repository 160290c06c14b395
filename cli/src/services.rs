//! `freena services`: what can be inserted into flows.

pub(crate) mod explain;
pub(crate) mod plan;

use freena_service_host::{DEFAULT_FOLDER, Library, load_all, reference};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// A folder with services of one's own, looked at first.
pub(crate) const ENV_FOLDER: &str = "FREENA_SERVICE_FOLDER";

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Name each service, where it is, and what it does
    List(Folder),
    /// Show a service's parameters: values, defaults, meaning
    Show {
        /// The service's name
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
}

/// Where else services are.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Folder {
    /// Folder with services of one's own, looked at before the installed ones
    #[arg(long = "service-folder", value_name = "FOLDER", env = ENV_FOLDER)]
    folder: Option<PathBuf>,
}

impl Folder {
    /// The folders that libraries of services are looked for in, and no others: one's own, that of this binary,
    /// `../lib/freena/services` beside it, the installed one.
    pub(crate) fn all(&self) -> Vec<PathBuf> {
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
        let mut folders: Vec<PathBuf> = self.folder.iter().filter_map(|it| it.canonicalize().ok()).collect();
        folders.push(beside.clone());
        folders.extend(beside.join("../lib/freena/services").canonicalize().ok());
        folders.push(PathBuf::from(DEFAULT_FOLDER));
        folders.dedup();
        folders
    }
}

/// Shows services.
///
/// # Errors
/// There is no service of that name.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    match &args.command {
        Command::List(folder) => {
            let libraries = load(folder);
            for it in &libraries {
                println!("{:<14} {}\n{:<14} {}", it.name(), it.about(), "", it.path().display());
            }
            Ok(if libraries.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Show { name, folder } => {
            let libraries = load(folder);
            let Some(library) = libraries.iter().find(|it| it.name() == name) else {
                let names: Vec<&str> = libraries.iter().map(|it| it.name()).collect();
                return Err(miette::miette!(
                    "found no service `{name}`, expected one of: {}",
                    names.join(", ")
                ));
            };
            print!("{}", reference(library));
            println!("\nLibrary: {}", library.path().display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// All services; what was refused is told.
fn load(folder: &Folder) -> Vec<Arc<Library>> {
    let folders = folder.all();
    // SAFETY: what is loaded is root's or this user's, in folders that nobody else can write to.
    let (loaded, refused) = unsafe { load_all(&folders) };
    for error in refused {
        eprintln!("refused: {error}");
    }
    loaded
}
