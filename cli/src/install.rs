//! Where the parts of freena are: beside the running binary, or where an install put them.

use std::path::{Path, PathBuf};

/// The preload library.
pub(crate) const PRELOAD: &str = "libfreena_preload.so";

/// Finds a part by its file name.
///
/// Looked at in this order: the folder of this binary, `../lib/freena` and `../lib` beside it.
///
/// # Errors
/// It is in none of them; the message names them all.
pub(crate) fn find(name: &str) -> miette::Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| miette::miette!("cannot tell where this program is: {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places = [folder.to_owned(), folder.join("../lib/freena"), folder.join("../lib")];
    places.iter().map(|place| place.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        miette::miette!("{name} is in none of {}; build it with `cargo build --release`", places.join(", "))
    })
}
