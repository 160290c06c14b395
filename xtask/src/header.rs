//! The C headers of what libraries implement: transport protocols, services.

use crate::root;
use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};
use std::fs;

/// A header, and the types that it is made from.
struct Header {
    path: &'static str,
    types: &'static str,
    guard: &'static str,
    /// The type that leads to all others.
    first: &'static str,
    about: &'static str,
}

const HEADERS: [Header; 2] = [
    Header {
        path: "stack/plugin/include/freena_protocol.h",
        types: "stack/plugin/src/abi.rs",
        guard: "FREENA_PROTOCOL_H",
        first: "FreenaProtocol",
        about: "A transport protocol as a library of freena-stack: docs/protocols.md leads from here to a running one.",
    },
    Header {
        path: "services/api/include/freena_service.h",
        types: "services/api/src/abi.rs",
        guard: "FREENA_SERVICE_H",
        first: "FreenaService",
        about: "A service as a library that freena inserts into programs' flows: docs/services.md.",
    },
];

/// Writes the headers that the types of the interfaces give; with `check`, compares instead.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let done: Result<Vec<String>, String> = HEADERS.iter().map(|header| one(header, check)).collect();
    Ok(done?.join("\n"))
}

fn one(header: &Header, check: bool) -> Result<String, String> {
    let path = root().join(header.path);
    let made = make(header)?;
    if !check {
        fs::write(&path, &made).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(format!("{}: {} bytes", header.path, made.len()));
    }
    let committed = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match committed == made {
        true => Ok(format!("{} is what the types give", header.path)),
        false => Err(format!("{} is out of date: run `cargo xtask header`", header.path)),
    }
}

fn make(header: &Header) -> Result<Vec<u8>, String> {
    let mut config = Config {
        language: Language::C,
        style: Style::Both,
        cpp_compat: true,
        include_guard: Some(header.guard.to_owned()),
        documentation_style: DocumentationStyle::C99,
        usize_is_size_t: true,
        header: Some(format!(
            "// {}\n// Made from {} by `cargo xtask header`.\n// SPDX-License-Identifier: MIT OR Apache-2.0",
            header.about, header.types
        )),
        ..Config::default()
    };
    config.export.include = vec![header.first.to_owned()];
    let bindings = Builder::new()
        .with_config(config)
        .with_src(root().join(header.types))
        .generate()
        .map_err(|error| format!("cbindgen: {error}"))?;
    let mut made = Vec::new();
    bindings.write(&mut made);
    Ok(made)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_headers_are_what_the_types_give() {
        super::run(true).expect("the headers are up to date");
    }
}
