//! Servers that stand in each other's way, and what lies at the path of the control socket.

use freena_shm_abi::control::{Request, op};
use freena_tests::lab::{FAR4, Lab, NEAR4, Server, command};
use freena_tests::netns::{Namespace, Pair, privileged};
use freena_tests::program::{Program, output};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use zerocopy::IntoBytes;

/// Starts a server that must refuse to run; returns what it said.
fn refused(host: &Namespace, interface: &str, control: &Path, arguments: &[&str]) -> String {
    let mut program = Program::start(command(host, interface, control, arguments));
    let status = program.wait();
    let said = program.errors();
    assert!(!status.success(), "it does not fail: {said}");
    said
}

/// Asserts that a program of the server's talks to the far host.
fn assert_works(lab: &Lab, server: &Server) {
    let mut echo = lab.far_script("echo.py", &[&FAR4, &0]);
    let port = echo.expect("ready");
    let mut ask = server.script("ask.py", &[&FAR4, &port, &"unconnected"]);
    let own: u16 = ask.expect("ready").parse().expect("a port");
    ask.tell("100");
    assert_eq!(ask.line(), "ok 100");
    server.socket(own);
}

#[test]
fn a_second_server_on_an_interface_is_told_who_holds_it() {
    privileged("a_second_server_on_an_interface_is_told_who_holds_it", || {
        let lab = Lab::new();
        let first = lab.near_server_with(&["--link", "xdp-native"]);
        for link in ["xdp-native", "xdp-skb"] {
            let said = refused(&lab.pair.near, Pair::NEAR, &lab.path("second"), &["--link", link]);
            let holder = format!("process {} (freena-stack)", first.program.pid());
            assert!(said.contains("interface near is taken by") && said.contains(&holder), "{link}: {said}");
            assert!(!lab.path("second").exists(), "a control socket is left");
        }
        assert_works(&lab, &first);
    });
}

/// Where the way is its own to choose, the second server works beside the first.
#[test]
fn a_second_server_works_beside_the_first() {
    for link in ["auto", "xdp-native"] {
        privileged(&format!("a_second_server_works_beside_the_first, {link}"), || {
            let lab = Lab::new();
            let first = lab.near_server_with(&["--link", link]);
            let second = Server::start(&lab.pair.near, Pair::NEAR, lab.path("second"), &[]);
            assert_works(&lab, &first);
            assert_works(&lab, &second);
            // Neither takes what is the other's.
            let (mut one, mut other) =
                (first.script("echo.py", &[&NEAR4, &7001]), second.script("echo.py", &[&NEAR4, &7002]));
            one.expect("ready");
            other.expect("ready");
            for port in [7001, 7002] {
                let mut ask = lab.far_script("ask.py", &[&NEAR4, &port, &"unconnected"]);
                ask.expect("ready");
                ask.tell("100");
                assert_eq!(ask.line(), "ok 100", "port {port}");
            }
        });
    }
}

#[test]
fn a_second_server_on_a_control_socket_is_refused() {
    privileged("a_second_server_on_a_control_socket_is_refused", || {
        let lab = Lab::new();
        let first = lab.near_server();
        let said = refused(&lab.pair.near, Pair::NEAR, &first.control, &["--link", "raw"]);
        let expected = format!("another freena-stack listens on {}", first.control.display());
        assert!(said.contains(&expected) && said.contains("--control"), "{said}");
        assert_works(&lab, &first);
    });
}

#[test]
fn the_socket_of_a_dead_server_is_replaced() {
    privileged("the_socket_of_a_dead_server_is_replaced", || {
        let lab = Lab::new();
        let mut first = lab.near_server();
        first.program.kill();
        let left = std::fs::symlink_metadata(&first.control).expect("a socket without a server");
        assert!(left.file_type().is_socket());
        let second = lab.near_server();
        assert_works(&lab, &second);
    });
}

#[test]
fn what_is_no_socket_is_left_alone() {
    privileged("what_is_no_socket_is_left_alone", || {
        let lab = Lab::new();
        let path = lab.path("precious");
        std::fs::write(&path, "data").expect("a file");
        let said = refused(&lab.pair.near, Pair::NEAR, &path, &[]);
        assert!(said.contains("precious exists and is no socket: it is left alone"), "{said}");
        assert_eq!(std::fs::read(&path).expect("still there"), b"data");

        let target = lab.path("link");
        std::os::unix::fs::symlink(&path, &target).expect("a link");
        refused(&lab.pair.near, Pair::NEAR, &target, &[]);
        assert_eq!(std::fs::read(&target).expect("still there"), b"data");

        std::fs::create_dir(lab.path("folder")).expect("a folder");
        refused(&lab.pair.near, Pair::NEAR, &lab.path("folder"), &[]);
        assert!(lab.path("folder").is_dir());
    });
}

#[test]
fn impossible_arguments_are_refused_in_words() {
    privileged("impossible_arguments_are_refused_in_words", || {
        let lab = Lab::new();
        let try_with = |interface: &str, arguments: &[&str]| {
            let said = refused(&lab.pair.near, interface, &lab.path("c"), arguments);
            assert!(!lab.path("c").exists(), "a control socket is left");
            said
        };
        let said = try_with("nothing0", &[]);
        assert!(said.contains("nothing0") && said.contains("No such device"), "{said}");
        let said = try_with("near", &["--poll", "sometimes"]);
        assert!(said.contains("sometimes") && said.contains("adaptive"), "{said}");
        let said = try_with("near", &["--cores", "one"]);
        assert!(said.contains("one") && said.contains("0-3"), "{said}");
    });
}

/// `--allow` decides by the user of the other end, whatever the file's mode is.
#[test]
fn a_user_who_may_not_is_told() {
    privileged("a_user_who_may_not_is_told", || {
        let lab = Lab::new();
        let server = Server::start(&lab.pair.near, Pair::NEAR, lab.path("near"), &["--allow", "4711"]);
        // Root may always.
        assert_works(&lab, &server);
        let Some(setpriv) = freena_tests::binaries::installed("setpriv") else {
            panic!("setpriv (Debian package util-linux) is missing");
        };
        let folder = server.control.parent().expect("a folder");
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a mode");
        let request = Request::new(op::ATTACH);
        let attach: String = request.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        for (user, allowed) in [("4711", true), ("4712", false)] {
            let mut status = lab.near(&setpriv);
            status.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]);
            status.arg(freena_tests::binaries::python()).args(["-c", CONNECT]).arg(&server.control);
            status.arg(attach.clone());
            let output = output(status);
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(said, if allowed { "0" } else { "13" }, "user {user}: {errors}");
        }
    });
}

/// Somebody else listens at a path that anybody could have taken: he gets nothing of a program, which goes on with the
/// kernel's sockets, and both the library and the command line say so.
#[test]
fn a_stranger_at_the_control_socket_is_not_trusted() {
    privileged("a_stranger_at_the_control_socket_is_not_trusted", || {
        let lab = Lab::new();
        let folder = lab.path("open");
        std::fs::create_dir(&folder).expect("a folder");
        for folder in [folder.parent().expect("a folder"), &folder] {
            std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .expect("a mode");
        }
        let path = folder.join("control");
        let mut stranger =
            lab.near(freena_tests::binaries::installed("setpriv").expect("setpriv (util-linux)"));
        stranger.args(["--reuid=4711", "--regid=4711", "--clear-groups", "--"]);
        stranger.arg(freena_tests::binaries::python()).args(["-u", "-c", STRANGER]).arg(&path);
        let mut stranger = Program::start(stranger);
        stranger.expect("ready");

        let mut run = lab.near(freena_tests::binaries::freena("freena"));
        run.args(["run", "--protocol", "udp", "--control"]).arg(&path).arg("--");
        run.arg(freena_tests::binaries::python()).arg("-u").arg(freena_tests::binaries::script("echo.py"));
        run.args([NEAR4, "7001"]);
        let mut echo = Program::start(run);
        echo.expect("ready");
        echo.expect_error("user 4711 listens there");
        assert!(
            echo.errors().contains("it is not trusted; its sockets stay with the kernel"),
            "{}",
            echo.errors()
        );
        let mut ask = lab.far_script("ask.py", &[&NEAR4, &7001, &"unconnected"]);
        ask.expect("ready");
        ask.tell("100");
        assert_eq!(ask.line(), "ok 100");
        assert_eq!(stranger.line(), "got 0 bytes");

        let mut status = lab.near(freena_tests::binaries::freena("freena"));
        status.args(["status", "--control"]).arg(&path);
        let output = output(status);
        // The words are set in lines, each behind a bar.
        let said = String::from_utf8_lossy(&output.stderr).replace('│', " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!output.status.success() && said.contains("user 4711 listens there"), "{said}");
        assert_eq!(stranger.line(), "got 0 bytes");
    });
}

/// Listens as a server would, and prints how much each client says first.
const STRANGER: &str = "import socket,sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
s.listen()
__import__('os').chmod(sys.argv[1], 0o777)
print('ready')
while True:
    print('got', len(s.accept()[0].recv(300)), 'bytes')";

/// Sends an `ATTACH` by hand (the binaries may lie where another user cannot read) and prints the errno of the answer.
const CONNECT: &str = "import socket,struct,sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(bytes.fromhex(sys.argv[2]))
print(struct.unpack_from('<II', s.recv(300))[1])";
