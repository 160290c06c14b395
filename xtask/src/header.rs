//! The C header of protocol libraries.

use crate::root;
use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};
use std::fs;

/// Writes the header that the types of the interface give; with `check`, compares instead.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let path = root().join("stack/plugin/include/freena_protocol.h");
    let header = make()?;
    if !check {
        fs::write(&path, &header).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(format!("stack/plugin/include/freena_protocol.h: {} bytes", header.len()));
    }
    let committed = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match committed == header {
        true => Ok("stack/plugin/include/freena_protocol.h is what the types give".to_owned()),
        false => {
            Err("stack/plugin/include/freena_protocol.h is out of date: run `cargo xtask header`".to_owned())
        }
    }
}

fn make() -> Result<Vec<u8>, String> {
    let mut config = Config {
        language: Language::C,
        style: Style::Both,
        cpp_compat: true,
        include_guard: Some("FREENA_PROTOCOL_H".to_owned()),
        documentation_style: DocumentationStyle::C99,
        usize_is_size_t: true,
        header: Some(
            "// A transport protocol as a library of freena-stack: docs/protocols.md leads from here to a running one.\n\
             // Made from stack/plugin/src/abi.rs by `cargo xtask header`.\n\
             // SPDX-License-Identifier: MIT OR Apache-2.0"
                .to_owned(),
        ),
        ..Config::default()
    };
    config.export.include = vec!["FreenaProtocol".to_owned()];
    let bindings = Builder::new()
        .with_config(config)
        .with_src(root().join("stack/plugin/src/abi.rs"))
        .generate()
        .map_err(|error| format!("cbindgen: {error}"))?;
    let mut header = Vec::new();
    bindings.write(&mut header);
    Ok(header)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_header_is_what_the_types_give() {
        super::run(true).expect("the header is up to date");
    }
}
