//! `freena bench` and `freena demo`.

use clap::{Subcommand, ValueEnum};
use freena_perf::bench::{self, Case, Hosts, Load, Options, PlotError, Report, Series};
use freena_perf::lab::{self, Access};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Received throughput against datagram size: bursts and a steady stream
    Throughput(MeasureArgs),
    /// Half round trips of a ping-pong
    Latency(MeasureArgs),
    /// Two programs on one host: a steady stream and a ping-pong, kernel loopback against ring to ring
    Local(MeasureArgs),
    /// TCP connections, kernel and framework: bulk, requests, opened and closed, a path that delays and loses
    Streams(StreamsArgs),
    /// One listener of nginx for the clients of kernel TCP, framework TCP, SCTP and QUIC, against listeners of one protocol each
    Mixed(RunsArgs),
    /// Services inserted into programs, against the same libraries called in their source; and TLS by openssl(1)
    Services(ServicesArgs),
}

#[derive(Debug, clap::Args)]
struct ServicesArgs {
    /// Sizes of messages in bytes, 1 to 65536 [default: 64 to 65536 in steps of four]
    #[arg(long, value_delimiter = ',', value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    sizes: Vec<u32>,

    /// What carries the messages [default: both]
    #[arg(long, value_name = "TRANSPORT")]
    transport: Option<TransportName>,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TransportName {
    Tcp,
    Udp,
}

/// What all benchmarks have.
#[derive(Debug, clap::Args)]
struct RunsArgs {
    /// Length of each run in seconds
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,

    /// Runs of each series, of which the median counts
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// Arguments for freena-stack, such as `--poll busy`
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    server: Option<String>,

    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What benchmarks with a plot have.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    runs: RunsArgs,

    /// Write a plot as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct StreamsArgs {
    /// What to do with connections [default: all]; `lossy` runs four times as long
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    cases: Option<Vec<CaseName>>,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CaseName {
    Bulk,
    Requests,
    Opens,
    Lossy,
}

#[derive(Debug, clap::Args)]
struct MeasureArgs {
    /// Payload sizes in bytes, 16 to 1472
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    sizes: Option<Vec<usize>>,

    /// Series to measure [default: all]
    #[arg(long, value_delimiter = ',', value_name = "SERIES")]
    series: Option<Vec<SeriesName>>,

    /// Offer steady streams only, or bursts only
    #[arg(long, value_name = "LOAD")]
    load: Option<LoadName>,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SeriesName {
    KernelSendto,
    KernelSendmmsg,
    KernelSegment,
    KernelSegmentGro,
    Framework,
    FrameworkXdp,
    RawAfXdp,
    RawGso,
    KernelStream,
    FrameworkStream,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LoadName {
    Burst,
    Steady,
}

/// The main job.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Folder for the table, the figures and the plots
    #[arg(long, value_name = "FOLDER", default_value = "freena-demo")]
    output: PathBuf,

    /// Length of each run in seconds
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
}

/// The series whose latency is measured, and those of two programs on one host.
const COMPARED: [Series; 4] =
    [Series::KernelSendto, Series::Framework, Series::KernelStream, Series::FrameworkStream];

/// Runs a benchmark.
///
/// # Errors
/// No hosts can be made, an option is out of bounds, or a file cannot be written.
pub(crate) fn bench(args: &BenchArgs) -> miette::Result<ExitCode> {
    enter()?;
    let options = options()?;
    match &args.what {
        What::Throughput(args) => {
            let report = measure_throughput(&args.apply(options))?;
            args.common.show(&report.table(), || report.to_json(), |path| report.write_svg(path))
        }
        What::Latency(args) => {
            let report = measure_latency(args.apply(options))?;
            args.common.show(&report.table(), || report.to_json(), |path| report.write_svg(path))
        }
        What::Local(args) => {
            let options = args.apply(Options {
                hosts: Hosts::One,
                sizes: vec![64],
                loads: vec![Load::Steady],
                series: COMPARED.to_vec(),
                ..options
            });
            let streams = measure_throughput(&options)?;
            let report = Report { latency: measure_latency(options)?.latency, ..streams };
            args.common.show(&report.table(), || report.to_json(), |path| report.write_svg(path))
        }
        What::Streams(args) => {
            let cases: Vec<Case> = match &args.cases {
                None => Case::ALL.to_vec(),
                Some(names) => names.iter().map(|name| case_of(*name)).collect(),
            };
            let report = bench::streams(&args.common.apply(options), &cases)
                .map_err(|error| miette::miette!("{error}"))?;
            args.common.show(&report.table(), || report.to_json(), |path| report.write_svg(path))
        }
        What::Mixed(args) => {
            let report = bench::mixed(&args.apply(options)).map_err(|error| miette::miette!("{error}"))?;
            args.show(&report.table(), || report.to_json())
        }
        What::Services(args) => {
            let transports = match args.transport {
                None => bench::Transport::ALL.to_vec(),
                Some(TransportName::Tcp) => vec![bench::Transport::Tcp],
                Some(TransportName::Udp) => vec![bench::Transport::Udp],
            };
            let sizes: Vec<usize> = args.sizes.iter().map(|size| *size as usize).collect();
            let report = bench::services(&args.common.apply(options), &transports, &sizes)
                .map_err(|error| miette::miette!("{error}"))?;
            args.common.show(&report.table(), || report.to_json(), |path| report.write_svg(path))
        }
    }
}

impl MeasureArgs {
    fn apply(&self, mut options: Options) -> Options {
        if let Some(sizes) = &self.sizes {
            options.sizes.clone_from(sizes);
        }
        if let Some(series) = &self.series {
            options.series = series.iter().map(|name| series_of(*name)).collect();
        }
        match self.load {
            Some(LoadName::Burst) => options.loads = vec![Load::Burst],
            Some(LoadName::Steady) => options.loads = vec![Load::Steady],
            None => {}
        }
        self.common.apply(options)
    }
}

impl RunsArgs {
    fn apply(&self, mut options: Options) -> Options {
        options.seconds = self.seconds.unwrap_or(options.seconds);
        options.rounds = self.rounds.unwrap_or(options.rounds);
        if let Some(server) = &self.server {
            options.server_arguments = server.split_whitespace().map(str::to_owned).collect();
        }
        options
    }

    /// Prints the table, and writes the figures where that is asked for.
    fn show(&self, table: &str, json: impl FnOnce() -> String) -> miette::Result<ExitCode> {
        println!("{table}");
        if let Some(path) = &self.json {
            write(path, &json())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl CommonArgs {
    fn apply(&self, options: Options) -> Options {
        self.runs.apply(options)
    }

    /// As [`RunsArgs::show`], and the plot.
    fn show(
        &self,
        table: &str,
        json: impl FnOnce() -> String,
        plot: impl FnOnce(&Path) -> Result<(), PlotError>,
    ) -> miette::Result<ExitCode> {
        self.runs.show(table, json)?;
        if let Some(path) = &self.plot {
            plot(path).map_err(|error| miette::miette!("{}: {error}", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Two hosts, a server on each, unmodified programs between them, table and plots.
///
/// # Errors
/// As for [`bench`].
pub(crate) fn demo(args: &DemoArgs) -> miette::Result<ExitCode> {
    let access = enter()?;
    println!(
        "Two hosts: network namespaces joined by a veth pair; on each a freena-stack; between them unmodified programs."
    );
    let mut options = options()?;
    options.seconds = args.seconds;
    if access == Access::UserNamespace {
        println!(
            "Left out, since this is a user without root: AF_XDP (it needs CAP_BPF in the first user namespace). \
             The servers use packet sockets inside a user namespace instead."
        );
        options
            .series
            .retain(|series| !matches!(series, Series::FrameworkXdp | Series::RawAfXdp | Series::RawGso));
    }
    fs::create_dir_all(&args.output)
        .map_err(|error| miette::miette!("{}: {error}", args.output.display()))?;
    let throughput = measure_throughput(&options)?;
    save(&throughput, &args.output, "throughput")?;
    options.sizes = vec![64];
    let latency = measure_latency(options)?;
    save(&latency, &args.output, "latency")?;
    println!("Tables, figures and plots are in {}", args.output.display());
    Ok(ExitCode::SUCCESS)
}

fn enter() -> miette::Result<Access> {
    lab::enter().map_err(|error| miette::miette!("cannot make the hosts: {error}"))
}

fn options() -> miette::Result<Options> {
    Options::new().map_err(|error| miette::miette!("{error}"))
}

fn measure_throughput(options: &Options) -> miette::Result<Report> {
    bench::throughput(options).map_err(|error| miette::miette!("{error}"))
}

fn measure_latency(mut options: Options) -> miette::Result<Report> {
    options.series.retain(|series| COMPARED.contains(series));
    bench::latency(&options).map_err(|error| miette::miette!("{error}"))
}

fn save(report: &Report, folder: &Path, name: &str) -> miette::Result<()> {
    let table = report.table();
    println!("{table}");
    write(&folder.join(format!("{name}.txt")), &table)?;
    write(&folder.join(format!("{name}.json")), &report.to_json())?;
    let plot = folder.join(format!("{name}.svg"));
    report.write_svg(&plot).map_err(|error| miette::miette!("{}: {error}", plot.display()))
}

fn write(path: &Path, text: &str) -> miette::Result<()> {
    fs::write(path, text).map_err(|error| miette::miette!("{}: {error}", path.display()))
}

fn series_of(name: SeriesName) -> Series {
    match name {
        SeriesName::KernelSendto => Series::KernelSendto,
        SeriesName::KernelSendmmsg => Series::KernelSendmmsg,
        SeriesName::KernelSegment => Series::KernelSegment,
        SeriesName::KernelSegmentGro => Series::KernelSegmentGro,
        SeriesName::Framework => Series::Framework,
        SeriesName::FrameworkXdp => Series::FrameworkXdp,
        SeriesName::RawAfXdp => Series::RawAfXdp,
        SeriesName::RawGso => Series::RawGso,
        SeriesName::KernelStream => Series::KernelStream,
        SeriesName::FrameworkStream => Series::FrameworkStream,
    }
}

fn case_of(name: CaseName) -> Case {
    match name {
        CaseName::Bulk => Case::Bulk,
        CaseName::Requests => Case::Requests,
        CaseName::Opens => Case::Opens,
        CaseName::Lossy => Case::Lossy,
    }
}
