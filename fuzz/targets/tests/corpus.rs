//! Replays the committed corpus.

use freena_fuzz_targets::TARGETS;
use std::fs;
use std::path::Path;

#[test]
fn every_seed_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut total = 0;
    for (name, target) in TARGETS {
        let folder = corpus.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut seeds = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            total += bytes.len();
            seeds += 1;
            // Shown when the target panics.
            println!("{}", path.display());
            target(&bytes);
        }
        assert!(seeds > 0, "{} is empty", folder.display());
    }
    assert!(total < 200 << 10, "the corpus has grown to {total} bytes: minimise it");
}

#[test]
fn degenerate_inputs_pass() {
    for (_, target) in TARGETS {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for len in [0, 1, 8, 64, 256, 1500] {
                target(&vec![byte; len]);
            }
        }
    }
}
