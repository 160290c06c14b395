//! What a program and a server find around them: programs that no library reaches, other preloaded libraries, small limits.

use freena_tests::binaries;
use freena_tests::host;
use freena_tests::lab::{Lab, NEAR4};
use freena_tests::netns::{Pair, privileged};
use freena_tests::program::{Program, output};
use std::path::PathBuf;
use std::process::Command;

fn setpriv() -> PathBuf {
    binaries::installed("setpriv").expect("setpriv (Debian package util-linux)")
}

/// What it wrote to the standard error, without the bars and breaks of set lines.
fn said(output: &std::process::Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr).replace('│', " ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_program_that_cannot_be_reached_is_told() {
    privileged("a_program_that_cannot_be_reached_is_told", || {
        let lab = Lab::new();
        let server = lab.near_server();
        let (source, program) = (lab.path("static.c"), lab.path("static"));
        std::fs::write(&source, "#include <unistd.h>\nint main() { return write(1, \"ran\\n\", 4) != 4; }\n")
            .expect("a file");
        let mut cc = Command::new("cc");
        cc.arg("-static").arg(&source).arg("-o").arg(&program);
        let built = output(cc);
        assert!(built.status.success(), "cc: {}", said(&built));
        let run = |arguments: &[&str]| {
            let mut command = lab.near(binaries::freena("freena"));
            command.args(["run", "--protocol", "udp", "--control"]).arg(&server.control).args(arguments);
            command.arg("--").arg(&program);
            output(command)
        };
        let refused = run(&[]);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "it was started");
        let reason =
            "static is statically linked (as Go programs often are): no library can be preloaded into it";
        let words = said(&refused);
        assert!(words.contains(reason) && words.contains("--allow-unreachable"), "{words}");
        let allowed = run(&["--allow-unreachable"]);
        assert_eq!(String::from_utf8_lossy(&allowed.stdout), "ran\n");
        let words = said(&allowed);
        assert!(words.contains(reason) && words.ends_with("its sockets are the kernel's"), "{words}");
    });
}

/// A library that the user preloads is loaded too, behind freena's.
#[test]
fn another_preloaded_library_keeps_its_place() {
    privileged("another_preloaded_library_keeps_its_place", || {
        let lab = Lab::new();
        let server = lab.near_server();
        // An allocator: the library of freena must get along with any malloc, also before it is set up.
        let allocator = "libjemalloc.so.2";
        let mut command = server.run_with("udp,tcp", binaries::python());
        command.env("LD_PRELOAD", allocator).args(["-u", "-c", ALLOCATES, NEAR4]);
        let mut program = Program::start(command);
        let port: u16 = program.expect("bound").parse().expect("a port");
        assert_eq!(program.line(), "b'datagram' b'stream'");
        server.socket(port);
        let preloaded = program.expect("LD_PRELOAD");
        let expected = format!(
            "{}:{allocator}",
            binaries::freena("libfreena_preload.so").canonicalize().expect("it is there").display()
        );
        assert_eq!(preloaded, expected);
        assert_eq!(program.expect("maps"), "True True");
        program.succeed();
    });
}

const ALLOCATES: &str = "import os, socket, sys, threading
here = sys.argv[1]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((here, 0))
print('bound', datagrams.getsockname()[1])
datagrams.sendto(b'datagram', datagrams.getsockname())
listener = socket.create_server((here, 0))
client = socket.create_connection(listener.getsockname())
stream = listener.accept()[0]
stream.sendall(b'stream')
print(datagrams.recv(99), client.recv(99))
print('LD_PRELOAD', os.environ['LD_PRELOAD'])
maps = open('/proc/self/maps').read()
print('maps', 'libjemalloc' in maps, 'libfreena_preload' in maps)
sys.stdin.readline()";

/// Without `CAP_IPC_LOCK` the memory of AF_XDP counts against a limit, which the message names.
#[test]
fn a_server_that_may_lock_no_memory_says_so() {
    privileged("a_server_that_may_lock_no_memory_says_so", || {
        let lab = Lab::new();
        let start = |arguments: &[&str]| {
            let mut command =
                host::command(&lab.pair.near, binaries::installed("prlimit").expect("prlimit (util-linux)"));
            command.args(["--memlock=65536:65536", "--"]).arg(setpriv());
            command.args(["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock", "--"]);
            command.arg(binaries::freena("freena-stack"));
            command.args(["--iface", Pair::NEAR, "--control"]).arg(lab.path("near")).args(arguments);
            command
        };
        let refused = output(start(&["--link", "xdp-native"]));
        let words = said(&refused);
        assert!(!refused.status.success(), "it runs: {words}");
        assert!(
            words.contains("interface near, queue 0: UMEM registration") && words.contains("RLIMIT_MEMLOCK"),
            "{words}"
        );
        // What needs no such memory works.
        let mut server = Program::start(start(&[]));
        server.expect("freena-stack: ready on ");
        server.signal(libc::SIGTERM);
        server.succeed();
    });
}
