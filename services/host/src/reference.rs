//! The reference of a service, from its own table: for `freena services show` and docs/services-reference.md.

use crate::library::Library;
use crate::parameters::Parameter;

/// A part of the reference, in Markdown.
pub fn reference(library: &Library) -> String {
    let flows = match (library.takes_streams(), library.takes_datagrams()) {
        (true, true) => "streams and datagrams",
        (true, false) => "streams",
        _ => "datagrams",
    };
    let (name, about) = (library.name(), library.about());
    let mut text = format!("## {name}\n\n{about} For {flows}. Version {} on the wire.\n", library.version());
    if library.parameters().is_empty() {
        text.push_str("\nIt has no parameters.\n");
        return text;
    }
    text.push_str("\n| parameter | values | default | meaning |\n|---|---|---|---|\n");
    for it in library.parameters() {
        text.push_str(&row(it));
    }
    text
}

fn row(it: &Parameter) -> String {
    let unit = it.unit.as_deref().filter(|unit| !unit.is_empty());
    let unit = unit.map(|unit| format!(" {unit}")).unwrap_or_default();
    let preset = it.preset.as_ref().map_or("required".to_owned(), |preset| format!("`{preset}`{unit}"));
    let agreed = if it.agreed { " The same at both ends." } else { "" };
    format!("| `{}` | {}{unit} | {preset} | {}{agreed} |\n", it.name, it.kind.words(), it.meaning)
}
