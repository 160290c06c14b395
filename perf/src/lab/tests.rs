//! Privileged: they say so, loudly, where they could not run.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

/// Runs the test with the privileges to make a lab, or says why not.
fn privileged(name: &str, test: impl FnOnce()) {
    // Bypasses the harness's capture, which would hide it.
    let mut terminal = std::io::stderr();
    // A user namespace cannot be entered from a test's thread; so root, or nothing.
    match enter() {
        Ok(_) => {
            let _ = writeln!(terminal, "privileged test runs: {name}");
            test();
        }
        Err(error) => {
            let _ = writeln!(terminal, "PRIVILEGED TEST SKIPPED: {name}: {error}");
        }
    }
}

fn namespaces_of(lab: &Lab) -> [std::path::PathBuf; 2] {
    [lab.a(), lab.b()].map(|host| Path::new("/run/netns").join(host.name()))
}

#[test]
fn hosts_reach_each_other_and_nothing_is_left_behind() {
    privileged("hosts_reach_each_other_and_nothing_is_left_behind", || {
        let lab = Lab::new().unwrap();
        let (paths, directory) = (namespaces_of(&lab), lab.directory().to_owned());
        assert!(paths.iter().all(|path| path.exists()) && directory.exists());
        for address in [lab.b().v4().to_string(), lab.b().v6().to_string()] {
            let route = lab.a().command("ip").args(["route", "get", &address]).output().unwrap();
            assert!(String::from_utf8_lossy(&route.stdout).contains("dev veth0"), "{route:?}");
        }
        let queues = lab.b().command("ls").arg("/sys/class/net/veth0/queues").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&queues.stdout), "rx-0\ntx-0\n", "{queues:?}");
        drop(lab);
        assert!(paths.iter().all(|path| !path.exists()) && !directory.exists());
    });
}

#[test]
fn a_panic_leaves_nothing_behind() {
    privileged("a_panic_leaves_nothing_behind", || {
        let (send, names) = std::sync::mpsc::channel();
        let panicked = thread::spawn(move || {
            let lab = Lab::new().unwrap();
            send.send(namespaces_of(&lab)).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert!(names.recv().unwrap().iter().all(|path| !path.exists()));
    });
}

#[test]
fn what_a_killed_process_left_is_swept() {
    privileged("what_a_killed_process_left_is_swept", || {
        let stale = "freena-4194306-a";
        ip(&["netns", "add", stale]).unwrap();
        let directory = std::env::temp_dir().join("freena-4194306-left.lab");
        let foreign = std::env::temp_dir().join("freena-4194306-notes");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::create_dir_all(&foreign).unwrap();
        drop(Lab::new().unwrap());
        assert!(!Path::new("/run/netns").join(stale).exists() && !directory.exists());
        std::fs::remove_dir(foreign).unwrap();
    });
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    privileged("a_child_dies_with_the_thread_that_started_it", || {
        let lab = Lab::new().unwrap();
        let mut child = thread::scope(|scope| {
            scope.spawn(|| lab.a().command("sleep").arg("60").spawn().unwrap()).join().unwrap()
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the child still runs");
            thread::sleep(Duration::from_millis(10));
        }
    });
}
