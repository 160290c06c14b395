//! The reference of the services' parameters.

use crate::root;
use std::process::Command;

/// Has the test that compares docs/services-reference.md with the tables of the services write it; with `check`, compare.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["test", "--quiet", "--package", "freena-service-conformance"]);
    cargo.args(["--test", "services", "the_reference_is_what_the_tables_give"]);
    if !check {
        cargo.env("FREENA_WRITE", "1");
    }
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    let done = if check { "is what the tables give" } else { "written" };
    status
        .success()
        .then(|| format!("docs/services-reference.md: {done}"))
        .ok_or("the test has failed".to_owned())
}
