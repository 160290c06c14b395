//! The XML schema of the configuration, for editors.

use std::fs;

use crate::root;

/// Writes the schema that the types of the configuration give; with `check`, compares instead.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let path = root().join("config/freena.xsd");
    let schema = freena_config::xsd();
    if !check {
        fs::write(&path, &schema).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(format!("config/freena.xsd: {} bytes", schema.len()));
    }
    let committed = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match committed == schema {
        true => Ok("config/freena.xsd is what the types give".to_owned()),
        false => Err("config/freena.xsd is out of date: run `cargo xtask xsd`".to_owned()),
    }
}
