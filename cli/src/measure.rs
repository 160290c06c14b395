//! `freena bench` and `freena demo`.
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {}
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn bench(_: &BenchArgs) -> miette::Result<ExitCode> {
    Err(miette::miette!("not yet"))
}
pub(crate) fn demo(_: &DemoArgs) -> miette::Result<ExitCode> {
    Err(miette::miette!("not yet"))
}
