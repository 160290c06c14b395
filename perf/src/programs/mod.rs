//! What the benchmark programs have in common: the datagrams they exchange, the lines they print, the calls they make.
//!
//! A program reports on its standard output, one JSON object a line (see [`report`]), and keeps standard error for
//! messages to people.

pub mod histogram;
pub mod packet;
pub mod path;
pub mod payload;
pub mod ready;
pub mod report;
pub mod stream;
pub mod sys;
pub mod tally;
pub mod waiting;

use std::io::Write;
use std::process::ExitCode;

/// Prints one report line and flushes it, so that a reader at the other end of a pipe sees it at once.
///
/// # Errors
/// Whatever writing to standard output gives, such as `EPIPE` when the reader is gone.
pub fn print_line(line: &report::Line) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Waits until a line, or the end of file, arrives on standard input.
///
/// # Errors
/// Whatever reading standard input gives.
pub fn wait_for_start() -> std::io::Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map(drop)
}

/// Ends a program: success, or its name and the error on standard error.
#[must_use]
pub fn finish<E: std::fmt::Display>(name: &str, outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
