#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| freena_fuzz_targets::quic_streams(bytes));
