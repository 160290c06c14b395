//! Which protocol carries the streams of unmodified programs: the one that was chosen, the one that the client speaks.

mod adaptive;
mod choosing;
mod free;
mod quic;
mod quinn_peer;

use freena_tests::binaries::installed;
use freena_tests::lab::{Lab, Server};
use freena_tests::netns::privileged;
use freena_tests::plugins;
use freena_tests::program::output;
use std::path::PathBuf;
use std::process::Command;

/// A port that servers listen on.
pub const PORT: u16 = 7000;

/// Two hosts, each with a server that has the example library.
pub fn with_steady(name: &str, test: impl FnOnce(&Lab, &Server<'_>, &Server<'_>) + Send) {
    privileged(name, || {
        let lab = Lab::new();
        let folder = lab.path("plugins");
        plugins::build(&folder);
        let arguments = ["--plugins", folder.to_str().expect("a name")];
        let (mut near, mut far) = (lab.near_server_with(&arguments), lab.far_server_with(&arguments));
        test(&lab, &near, &far);
        near.stop();
        far.stop();
    });
}

/// A program of others.
pub fn program(name: &str) -> PathBuf {
    installed(name)
        .unwrap_or_else(|| panic!("{name} is not installed: scripts/test installs what tests need"))
}

/// Waits until a program listens for the peers of these protocols.
pub fn listens(server: &Server<'_>, protocols: &str) {
    server.wait_until("it listens", |status| {
        status["listeners"].as_array().is_some_and(|all| all.iter().any(|it| it["protocol"] == protocols))
    });
}

/// What a command prints; it must succeed.
pub fn said(command: Command) -> String {
    let output = output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}
