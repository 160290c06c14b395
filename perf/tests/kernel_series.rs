//! The kernel's series run for real, in a lab; the framework's is reported as missing and does not stop them.
//! Privileged: it says so, loudly, where it could not run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use freena_perf::bench::{self, Binaries, Load, Options, Outcome, Series, Wait};
use freena_perf::lab;

const PROGRAMS: [&str; 3] = [
    env!("CARGO_BIN_EXE_freena-perf-send"),
    env!("CARGO_BIN_EXE_freena-perf-recv"),
    env!("CARGO_BIN_EXE_freena-perf-pingpong"),
];

/// Short runs, with the programs alone in a folder: no server, no `freena`.
fn options(folder: &Path) -> Options {
    for program in PROGRAMS.map(Path::new) {
        symlink(program, folder.join(program.file_name().unwrap())).unwrap();
    }
    Options {
        sizes: vec![64, 1472],
        series: Series::ALL[..5].to_vec(),
        seconds: 0.2,
        burst: 200,
        rounds: 1,
        binaries: Binaries::in_folder(folder),
        progress: false,
        ..Options::new().unwrap()
    }
}

fn privileged(test: impl FnOnce(&Options)) {
    match lab::enter() {
        Ok(_) => {
            let folder = tempfile::tempdir().unwrap();
            test(&options(folder.path()));
        }
        Err(error) => eprintln!("PRIVILEGED TEST SKIPPED: {error}"),
    }
}

fn namespaces() -> Vec<String> {
    let own = format!("freena-{}", std::process::id());
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&own))
        .collect()
}

// One test: two labs at once would slow each other, and the check for what is left would see the other's.
#[test]
fn kernel_series_are_measured_and_nothing_is_left_behind() {
    privileged(|options| {
        let report = bench::throughput(options).unwrap();
        for load in [Load::Burst, Load::Steady] {
            for size in [64, 1472] {
                for series in &Series::ALL[..4] {
                    let run = report.throughput_of(load, size, *series);
                    let run = run.unwrap_or_else(|| panic!("{series}, {size} B: {}", report.table()));
                    assert_eq!(run.received + run.lost, run.sent, "{series}, {size} B: {run:?}");
                    assert_eq!((run.corrupt, run.duplicates), (0, 0), "{series}, {size} B: {run:?}");
                    assert!(run.datagrams_per_second > 1_000.0 && run.cost.programs_cpu_ns > 0.0, "{run:?}");
                    assert_eq!(run.cost.servers_cpu_ns, 0.0);
                }
            }
        }
        let failed = report.throughput.iter().filter(|point| point.series == Series::Framework);
        for point in failed {
            let Outcome::Failed(reason) = &point.outcome else { panic!("{point:?}") };
            assert!(reason.contains("freena-stack not found in"), "{reason}");
        }
        assert!(report.to_svg().unwrap().contains("UDP (kernel, sendto)"));

        let report = bench::latency(&Options { sizes: vec![64], ..options.clone() }).unwrap();
        for wait in Wait::ALL {
            let run = report.latency_of(64, wait, Series::KernelSendto);
            let run = run.unwrap_or_else(|| panic!("{wait}: {}", report.table()));
            assert!(run.p50_ns > 500 && run.p50_ns <= run.p99_ns && run.p99_ns <= run.max_ns, "{run:?}");
            assert_eq!(run.lost, 0);
        }
        assert_eq!(namespaces(), Vec::<String>::new());
    });
}
