//! Compiles what cannot be written in Rust: a function that returns twice.

fn main() {
    println!("cargo::rerun-if-changed=src/guard.c");
    // Fortified longjmp refuses to leave an alternate signal stack on some C libraries.
    cc::Build::new()
        .file("src/guard.c")
        .flag("-U_FORTIFY_SOURCE")
        .warnings(true)
        .extra_warnings(true)
        .compile("freena_guard");
}
