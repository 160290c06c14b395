//! Runs a benchmark without the command line tool: `cargo run --release --example compare [throughput|latency]`.

use freena_perf::{bench, lab};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    eprintln!("privileges: {:?}", lab::enter()?);
    let mut options = bench::Options { rounds: 1, seconds: 0.5, ..bench::Options::new()? };
    let folder = std::env::current_exe()?.ancestors().nth(2).map(std::path::Path::to_owned);
    options.binaries = bench::Binaries::in_folder(folder.unwrap_or_default());
    let report = match std::env::args().nth(1).as_deref() {
        Some("latency") => bench::latency(&bench::Options { sizes: vec![64, 1024], ..options })?,
        Some("raw") => {
            let series = vec![
                bench::Series::KernelSendto,
                bench::Series::KernelSegment,
                bench::Series::RawAfXdp,
                bench::Series::RawGso,
            ];
            bench::throughput(&bench::Options { sizes: vec![64, 512, 1472], series, ..options })?
        }
        _ => bench::throughput(&options)?,
    };
    print!("{}", report.table());
    report.write_svg("/tmp/freena-compare.svg")?;
    std::fs::write("/tmp/freena-compare.json", report.to_json())?;
    Ok(())
}
