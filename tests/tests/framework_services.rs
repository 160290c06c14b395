//! Services in flows over the framework's own protocols, between two hosts; and with the kernel's at one end.

use freena_tests::binaries::{freena, python, script};
use freena_tests::lab::{Lab, NEAR4, Server, find_socket};
use freena_tests::netns::privileged;
use freena_tests::program::{Program, output};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Hosts<'l> {
    lab: &'l Lab,
    near: Server<'l>,
    far: Server<'l>,
    framework: PathBuf,
    kernel: PathBuf,
}

impl<'l> Hosts<'l> {
    fn new(lab: &'l Lab, before: &str) -> Self {
        let key = lab.path("key");
        let mut command = Command::new(freena("freena"));
        command.arg("keygen").arg(&key);
        assert!(output(command).status.success());
        let write = |name: &str, protocols: &str| {
            let path = lab.path(name);
            let text = format!(
                "<configuration application='x'><services>{before}<service name='crypto'><parameter name='key' \
                 value='{}'/></service><using-rules><rule use='true'/></using-rules></services>{protocols}\
                 </configuration>",
                key.display()
            );
            std::fs::write(&path, text).expect("a file");
            path
        };
        let both = "<protocols><default name='TCP'/><default name='UDP'/></protocols>";
        let (framework, kernel) = (write("framework.xml", both), write("kernel.xml", ""));
        Self { lab, near: lab.near_server(), far: lab.far_server(), framework, kernel }
    }

    fn start(&self, mut command: Command, file: &Path, server: &Server<'_>, part: &[&str]) -> Program {
        command.arg("run").arg("--config").arg(file).arg("--control").arg(&server.control).arg("--");
        command.arg(python()).arg("-u").arg(script(part[0])).args(&part[1..]);
        Program::start(command)
    }

    fn near(&self, file: &Path, part: &[&str]) -> Program {
        self.start(self.lab.near(freena("freena")), file, &self.near, part)
    }

    fn far(&self, file: &Path, part: &[&str]) -> Program {
        self.start(self.lab.far(freena("freena")), file, &self.far, part)
    }

    /// The files of the two ends: framework with framework, and with the kernel on either side.
    fn pairs(&self) -> [(&Path, &Path); 3] {
        let (framework, kernel) = (&self.framework, &self.kernel);
        [(framework, framework), (framework, kernel), (kernel, framework)]
    }
}

#[test]
fn what_was_written_before_a_close_arrives() {
    privileged("what_was_written_before_a_close_arrives", || {
        let lab = Lab::new();
        let hosts = Hosts::new(&lab, "");
        for (near, far) in hosts.pairs() {
            let mut server = hosts.near(near, &["stream_services.py", "serve", "7000", NEAR4]);
            server.expect("ready");
            let listens = |status: &Value| !status["listeners"].as_array().expect("a list").is_empty();
            assert_eq!(listens(&hosts.near.status()), near == hosts.framework);
            let mut client = hosts.far(far, &["stream_services.py", "hurry", "7000", NEAR4]);
            client.expect("said");
            for _ in 0..5 {
                assert_eq!(server.line(), "late 34");
            }
            client.succeed();
            server.succeed();
        }
    });
}

#[test]
fn datagrams_arrive_over_either_protocol() {
    for before in ["", "<service name='compression'/>"] {
        privileged("datagrams_arrive_over_either_protocol", || {
            let lab = Lab::new();
            let hosts = Hosts::new(&lab, before);
            for (near, far) in hosts.pairs() {
                let mut server = hosts.near(near, &["datagram_services.py", "serve", NEAR4, "7000"]);
                server.expect("ready");
                let over_framework = near == hosts.framework;
                assert_eq!(find_socket(&hosts.near.status(), 7000).is_some(), over_framework);
                let mut client = hosts.far(far, &["datagram_services.py", "ask", NEAR4, "7000"]);
                client.expect("all arrived");
                client.succeed();
                server.succeed();
            }
        });
    }
}
