//! Others on the interface, a dead process, an interface that vanishes.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use freena_link_af_xdp::{AfXdpLink, AttachError, FlowKey, Mode, Options, XdpInterface};
use freena_stack_api::Link;
use freena_tests::netns::{Pair, ip, privileged};

use crate::{FAR, NEAR, OWNED, UDP, attach, open, socket};

#[test]
fn a_second_program_is_told_who_holds_the_interface() {
    privileged("a_second_program_is_told_who_holds_the_interface", || {
        let pair = Pair::new();
        let first = attach(&pair, Mode::Native);
        for mode in [Mode::Auto, Mode::Native, Mode::Skb] {
            let error = pair.far.run(|| XdpInterface::attach(Pair::FAR, mode)).err().expect("it is taken");
            let text = error.to_string();
            let this = format!("of process {} (", std::process::id());
            assert!(text.contains("'freena_xdp'") && text.contains(&this), "{text}");
        }
        drop(first);
        attach(&pair, Mode::Skb);
    });
}

#[test]
fn a_second_link_on_the_queue_is_refused() {
    privileged("a_second_link_on_the_queue_is_refused", || {
        let pair = Pair::new();
        let interface = attach(&pair, Mode::Native);
        assert_eq!(interface.queues(), 1);
        let first = open(&pair, &interface);
        let error =
            pair.far.run(|| AfXdpLink::open(&interface, 0, Options::default())).err().expect("it is taken");
        assert!(error.to_string().contains("interface far, queue 0: bind: "), "{error}");
        drop(first);
        open(&pair, &interface);
        let error = AfXdpLink::open(&interface, 1, Options::default()).err().expect("there is no queue 1");
        assert_eq!(error.to_string(), "interface far has 1 queues, there is no queue 1");
    });
}

#[test]
fn a_vanished_interface_is_an_error() {
    privileged("a_vanished_interface_is_an_error", || {
        let pair = Pair::new();
        let mut link = open(&pair, &attach(&pair, Mode::Native));
        ip("link delete near");
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = loop {
            match link.receive(64, &mut |_| {}) {
                Ok(_) => assert!(Instant::now() < deadline, "no error"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
        assert!(link.receive(64, &mut |_| {}).is_err(), "and it stays one");
    });
}

/// Names the interface that [`holds_the_interface_until_killed`] attaches to, in a process of its own.
const HOLD: &str = "FREENA_TEST_HOLD";

/// Does nothing, except in the process that `the_death_of_the_process_frees_the_interface` starts.
#[test]
fn holds_the_interface_until_killed() {
    let Ok(name) = env::var(HOLD) else { return };
    let interface = XdpInterface::attach(&name, Mode::Native).unwrap();
    interface.own(FlowKey::new(FAR, OWNED, UDP)).unwrap();
    let _link = AfXdpLink::open(&interface, 0, Options::default()).unwrap();
    println!("attached");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_death_of_the_process_frees_the_interface() {
    privileged("the_death_of_the_process_frees_the_interface", || {
        let pair = Pair::new();
        let mut child = pair.far.run(|| {
            let arguments = ["--exact", "faults::holds_the_interface_until_killed", "--nocapture"];
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(arguments).env(HOLD, Pair::FAR).stdout(Stdio::piped()).spawn().unwrap()
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let attached = output.lines().map_while(Result::ok).any(|line| line.ends_with("attached"));
        assert!(attached, "the other process attaches");
        let error = pair.far.run(|| XdpInterface::attach(Pair::FAR, Mode::Auto)).err().expect("it is taken");
        let AttachError::Held { holder: Some(holder), .. } = &error else { panic!("{error}") };
        assert_eq!(holder.processes.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [child.id()], "{error}");

        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel's traffic goes on at once, on the port that was owned too.
        let kernel = socket(&pair.far, (FAR, OWNED));
        kernel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let near = socket(&pair.near, (NEAR, 0));
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            near.send_to(b"alive", (FAR, OWNED)).unwrap();
            if kernel.recv(&mut [0; 16]).is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "the program outlived its process");
        }
        attach(&pair, Mode::Native);
    });
}
