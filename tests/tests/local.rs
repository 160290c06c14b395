//! Two programs on one host, both under freena: from ring to ring. What each sees is what the kernel's loopback would
//! have shown it; each check of that kind is also made with both programs on the kernel's sockets.

use freena_tests::lab::{FAR4, Lab, NEAR4, NEAR6, Server, number};
use freena_tests::netns::{Pair, privileged};
use freena_tests::program::Program;
use std::fmt::Display;

const SIZES: [usize; 14] = [0, 1, 63, 64, 65, 1472, 1473, 9000, 32_768, 65_000, 65_487, 65_506, 65_507, 1];
/// Each address of the near host, with the one that the kernel chooses as source for it.
const ADDRESSES: [(&str, &str); 5] =
    [("127.0.0.1", "127.0.0.1"), ("127.9.9.9", "127.0.0.1"), ("::1", "::1"), (NEAR4, NEAR4), (NEAR6, NEAR6)];

/// A program of the test's own that has sockets.
struct Sockets(Program);

impl Sockets {
    fn start(mut program: Program) -> Sockets {
        program.expect("ready");
        Sockets(program)
    }

    fn framework(server: &Server) -> Sockets {
        Sockets::start(server.script("local.py", &[]))
    }

    fn kernel(lab: &Lab) -> Sockets {
        Sockets::start(lab.near_script("local.py", &[]))
    }

    fn ask(&mut self, what: impl Display) -> String {
        self.0.tell(&what.to_string());
        self.0.line()
    }

    fn expect(&mut self, what: impl Display, answer: impl Display) {
        let what = what.to_string();
        assert_eq!(self.ask(&what), answer.to_string(), "{what}: {}", self.0.errors());
    }

    /// Does what is answered by a port.
    fn port(&mut self, what: impl Display) -> u16 {
        let answer = self.ask(&what);
        let port = answer.strip_prefix("ok ").and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{what}: {answer}: {}", self.0.errors()))
    }
}

/// What a socket of the server has sent and received from ring to ring, and through the kernel.
fn counts(server: &Server, port: u16) -> [u64; 4] {
    let socket = server.socket(port);
    ["tx_local", "rx_local", "tx_through_kernel", "rx_through_kernel"].map(|key| number(&socket, key))
}

fn with_server(name: &str, play: impl Fn(&Lab, &Server) + Send + Sync) {
    privileged(name, || {
        let lab = Lab::new();
        let server = lab.near_server();
        play(&lab, &server);
    });
}

#[test]
fn every_size_arrives_whole_at_every_address() {
    with_server("every_size_arrives_whole_at_every_address", |_, server| {
        let (mut asker, mut answerer) = (Sockets::framework(server), Sockets::framework(server));
        for (address, source) in ADDRESSES {
            let to = answerer.port(format!("open a {address} 0"));
            let any = if address.contains(':') { "::" } else { "0.0.0.0" };
            let from = asker.port(format!("open a {any} 0"));
            for size in SIZES {
                asker.expect(format!("send a {size} {address} {to}"), "ok");
                answerer.expect("recv a", format!("ok {size} {source} {from}"));
                answerer.expect(format!("send a {size} {source} {from}"), "ok");
                asker.expect("recv a", format!("ok {size} {address} {to}"));
            }
            let all = SIZES.len() as u64;
            assert_eq!(counts(server, from), [all, all, 0, 0], "{address}");
            assert_eq!(counts(server, to), [all, all, 0, 0], "{address}");
            asker.expect("close a", "ok");
            answerer.expect("close a", "ok");
        }
    });
}

#[test]
fn connected_sockets_hear_their_peer_only() {
    with_server("connected_sockets_hear_their_peer_only", |_, server| {
        let (mut asker, mut answerer) = (Sockets::framework(server), Sockets::framework(server));
        for (address, source) in ADDRESSES {
            let to = answerer.port(format!("open a {address} 0"));
            let from = asker.port(format!("connect a {address} {to}"));
            let stranger = asker.port(format!("connect b {address} {to}"));
            answerer.expect(format!("connect a {source} {from}"), format!("ok {to}"));
            // Nobody hears this one: the companions agree on that.
            asker.expect("send b 9", "ok");
            asker.expect("send a 100", "ok");
            answerer.expect("recv a", format!("ok 100 {source} {from}"));
            answerer.expect("send a 200", "ok");
            asker.expect("recv a", format!("ok 200 {address} {to}"));
            assert_eq!(counts(server, from), [1, 1, 0, 0], "{address}");
            assert_eq!(counts(server, to), [1, 1, 0, 0], "{address}");
            assert_eq!(counts(server, stranger)[0], 0, "{address}");
            let path = server.socket(from)["path"].clone();
            assert!(path.as_str().is_some_and(|path| path.contains("local")), "{path}");
            for name in ["close a", "close b"] {
                asker.expect(name, "ok");
            }
            answerer.expect("close a", "ok");
        }
    });
}

/// One program after the other on the kernel's sockets and on those of the server: they must tell the same.
#[test]
fn receivers_are_told_what_the_kernel_tells() {
    with_server("receivers_are_told_what_the_kernel_tells", |lab, server| {
        let tell = |server: Option<&Server>| -> Vec<String> {
            let start = || server.map_or_else(|| Sockets::kernel(lab), Sockets::framework);
            let (mut sender, mut receiver) = (start(), start());
            let mut told = Vec::new();
            for (address, _) in ADDRESSES {
                let any = if address.contains(':') { "::" } else { "0.0.0.0" };
                for own in [any, address] {
                    let to = receiver.port(format!("open a {own} 0"));
                    let from = sender.port(format!("open a {any} 0"));
                    for option in ["", "set a 0 1 3", "set a 0 2 7", "set a 41 67 5", "set a 41 16 9"] {
                        if !option.is_empty() && sender.ask(option) != "ok" {
                            continue;
                        }
                        sender.expect(format!("send a 10 {address} {to}"), "ok");
                        let info = receiver.ask("info a").replace(&format!(" {from} "), " FROM ");
                        told.push(format!("{own} from {address}, {option}: {info}"));
                    }
                    if let Some(server) = server {
                        assert_eq!(counts(server, from)[2], 0, "{own} {address}");
                    }
                    sender.expect("close a", "ok");
                    receiver.expect("close a", "ok");
                }
            }
            // IPv4 at a dual-stack socket.
            let to = receiver.port("dual d");
            sender.port("open d 127.0.0.1 0");
            sender.expect(format!("send d 10 127.0.0.1 {to}"), "ok");
            let info = receiver.ask("info d");
            told.push(
                info.split_whitespace()
                    .enumerate()
                    .filter(|(at, _)| *at != 3)
                    .map(|(_, word)| word)
                    .collect(),
            );
            told
        };
        assert_eq!(tell(Some(server)), tell(None));
    });
}

#[test]
fn mapped_addresses_meet_ipv4_sockets() {
    with_server("mapped_addresses_meet_ipv4_sockets", |_, server| {
        let (mut six, mut four) = (Sockets::framework(server), Sockets::framework(server));
        let (dual, plain) = (six.port("dual a"), four.port("open a 127.0.0.1 0"));
        six.expect(format!("send a 50 ::ffff:127.0.0.1 {plain}"), "ok");
        four.expect("recv a", format!("ok 50 127.0.0.1 {dual}"));
        four.expect(format!("send a 60 127.0.0.1 {dual}"), "ok");
        six.expect("recv a", format!("ok 60 ::ffff:127.0.0.1 {plain}"));
        assert_eq!((counts(server, dual), counts(server, plain)), ([1, 1, 0, 0], [1, 1, 0, 0]));
    });
}

#[test]
fn a_socket_may_send_to_itself() {
    with_server("a_socket_may_send_to_itself", |_, server| {
        let mut own = Sockets::framework(server);
        let port = own.port("open a 127.0.0.1 0");
        for size in SIZES {
            own.expect(format!("send a {size} 127.0.0.1 {port}"), "ok");
            own.expect("recv a", format!("ok {size} 127.0.0.1 {port}"));
        }
        assert_eq!(counts(server, port), [SIZES.len() as u64, SIZES.len() as u64, 0, 0]);
    });
}

#[test]
fn kernel_programs_are_reached_and_heard() {
    with_server("kernel_programs_are_reached_and_heard", |lab, server| {
        let (mut ours, mut other) = (Sockets::framework(server), Sockets::kernel(lab));
        for (address, source) in ADDRESSES {
            let (mine, theirs) =
                (ours.port(format!("open a {address} 0")), other.port(format!("open a {address} 0")));
            for size in [0, 64, 9000, 65_507] {
                ours.expect(format!("send a {size} {address} {theirs}"), "ok");
                other.expect("recv a", format!("ok {size} {address} {mine}"));
                other.expect(format!("send a {size} {address} {mine}"), "ok");
                ours.expect("recv a", format!("ok {size} {address} {theirs}"));
            }
            assert_eq!(counts(server, mine)[..2], [0, 0], "{address}");
            // What is connected to one of them stays with the kernel.
            let connected = ours.port(format!("connect b {address} {theirs}"));
            ours.expect("send b 70", "ok");
            other.expect("recv a", format!("ok 70 {source} {connected}"));
            let status = server.status().to_string();
            let reason = "the peer is not a program under freena";
            assert!(freena_tests::lab::find_socket(&server.status(), connected).is_none());
            assert!(status.contains(reason), "{status}");
            for name in ["close a", "close b"] {
                ours.expect(name, "ok");
            }
            other.expect("close a", "ok");
        }
    });
}

/// A sender that knows the way already follows a receiver that comes and goes, be it of the kernel or of the server.
#[test]
fn receivers_come_and_go_under_a_sender() {
    with_server("receivers_come_and_go_under_a_sender", |lab, server| {
        let mut sender = Sockets::framework(server);
        let from = sender.port("open a 127.0.0.1 0");
        for round in 0..3 {
            let mut other = Sockets::kernel(lab);
            let to = other.port("open a 127.0.0.1 4600");
            sender.expect(format!("send a 10 127.0.0.1 {to}"), "ok");
            other.expect("recv a", format!("ok 10 127.0.0.1 {from}"));
            other.expect("close a", "ok");
            drop(other);
            let before = counts(server, from);
            let mut other = Sockets::framework(server);
            other.expect("open a 127.0.0.1 4600", "ok 4600");
            sender.expect(format!("send a 20 127.0.0.1 {to}"), "ok");
            other.expect("recv a", format!("ok 20 127.0.0.1 {from}"));
            assert_eq!(counts(server, from)[0], before[0] + 1, "round {round}");
            other.0.kill();
            server.wait_until("the port is free", |status| {
                freena_tests::lab::find_socket(status, 4600).is_none()
            });
        }
    });
}

#[test]
fn a_closed_port_is_told_as_by_the_kernel() {
    with_server("a_closed_port_is_told_as_by_the_kernel", |lab, server| {
        let play = |mut sockets: Sockets, settle: &dyn Fn()| {
            let to = sockets.port("open a 127.0.0.1 0");
            sockets.port(format!("connect b 127.0.0.1 {to}"));
            sockets.expect("send b 10", "ok");
            sockets.expect("close a", "ok");
            settle();
            sockets.expect("send b 10", "ok");
            sockets.expect("recv b", "ECONNREFUSED");
            // Unconnected senders are told nothing.
            sockets.port("open c 127.0.0.1 0");
            sockets.expect(format!("send c 10 127.0.0.1 {to}"), "ok");
            sockets.expect(format!("send c 10 127.0.0.1 {to}"), "ok");
        };
        play(Sockets::kernel(lab), &|| ());
        play(Sockets::framework(server), &|| {
            // Closing is complete for the kernel at once, for the server a moment later.
            server.wait_until("one socket is left", |status| {
                status["sockets"].as_array().is_some_and(|sockets| sockets.len() == 1)
            });
        });
    });
}

#[test]
fn sharers_of_a_port_split_flows() {
    with_server("sharers_of_a_port_split_flows", |_, server| {
        let (mut sender, mut receiver) = (Sockets::framework(server), Sockets::framework(server));
        let port = receiver.port("open r0 127.0.0.1 0 reuse");
        for index in 1..4 {
            receiver.expect(format!("open r{index} 127.0.0.1 {port} reuse"), format!("ok {port}"));
        }
        let flows = 32;
        for flow in 0..flows {
            sender.port(format!("open s{flow} 127.0.0.1 0"));
            // Both datagrams of a flow reach the same socket.
            for size in [flow, flow] {
                sender.expect(format!("send s{flow} {size} 127.0.0.1 {port}"), "ok");
            }
        }
        server.wait_until("all are delivered", |status| {
            let sockets = status["sockets"].as_array().into_iter().flatten();
            sockets.map(|socket| number(socket, "rx_local")).sum::<u64>() == 2 * flows
        });
        let mut shares = Vec::new();
        for index in 0..4 {
            let all = (0..=2 * flows).map(|_| receiver.ask(format!("now r{index}")));
            let got: Vec<String> = all.take_while(|answer| answer != "EAGAIN").collect();
            assert!(got.chunks(2).all(|pair| pair[0] == pair[1]), "{got:?}");
            shares.push(got.len());
        }
        assert_eq!(shares.iter().sum::<usize>() as u64, 2 * flows);
        assert!(shares.iter().filter(|share| **share > 0).count() > 1, "{shares:?}");
    });
}

#[test]
fn segments_arrive_as_the_receiver_wants_them() {
    with_server("segments_arrive_as_the_receiver_wants_them", |_, server| {
        let (mut sender, mut receiver) = (Sockets::framework(server), Sockets::framework(server));
        let from = sender.port("open a 127.0.0.1 0");
        let (single, joined) = (receiver.port("open a 127.0.0.1 0"), receiver.port("open b 127.0.0.1 0"));
        receiver.expect("gro b", "ok");
        // 251 is the period of the pattern, so that each part is a pattern too, of another size.
        sender.expect("segment a 1000", "ok");
        sender.expect(format!("send a 3500 127.0.0.1 {joined}"), "ok");
        receiver.expect("recv b", format!("ok 3500 127.0.0.1 {from}"));
        sender.expect(format!("send a 3500 127.0.0.1 {single}"), "ok");
        for size in [1000, 1000, 1000, 500] {
            let got = receiver.ask("recv a");
            let whole = got == format!("ok {size} 127.0.0.1 {from}");
            let part = got == format!("ok other bytes, {size} of them 127.0.0.1 {from}");
            assert!(whole || part, "{got}");
        }
        assert_eq!(number(&server.socket(single), "rx_local"), 4);
        assert_eq!(number(&server.socket(joined), "rx_local"), 4);
    });
}

/// A receiver that does not read loses datagrams, as with the kernel, and holds up nobody.
#[test]
fn a_full_receiver_holds_up_nobody() {
    with_server("a_full_receiver_holds_up_nobody", |_, server| {
        let (mut sender, mut receiver) = (Sockets::framework(server), Sockets::framework(server));
        sender.port("open a 127.0.0.1 0");
        let (stuck, reading) = (receiver.port("open a 127.0.0.1 0"), receiver.port("open b 127.0.0.1 0"));
        for _ in 0..300 {
            sender.expect(format!("send a 60000 127.0.0.1 {stuck}"), "ok");
        }
        sender.expect(format!("send a 77 127.0.0.1 {reading}"), "ok");
        assert!(receiver.ask("recv b").starts_with("ok 77 "));
        let socket = server.wait_until("all are counted", |status| {
            freena_tests::lab::find_socket(status, stuck)
                .is_some_and(|socket| number(&socket, "rx_local") + number(&socket, "rx_dropped") == 300)
        });
        let socket = freena_tests::lab::find_socket(&socket, stuck).expect("it is there");
        assert!(number(&socket, "rx_dropped") > 0 && number(&socket, "rx_local") > 100, "{socket:#}");
        // What it has is whole and in order.
        assert!(receiver.ask("recv a").starts_with("ok 60000 "));
    });
}

/// The same socket talks to this host and to another one.
#[test]
fn local_and_remote_peers_are_served_in_turn() {
    with_server("local_and_remote_peers_are_served_in_turn", |lab, server| {
        let mut far = lab.far_script("echo.py", &[&FAR4, &0]);
        let remote: u16 = far.expect("ready").parse().expect("a port");
        let (mut sender, mut receiver) = (Sockets::framework(server), Sockets::framework(server));
        let from = sender.port("open a 0.0.0.0 0");
        let local = receiver.port("open a 0.0.0.0 0");
        for round in 0..50 {
            sender.expect(format!("send a {round} {FAR4} {remote}"), "ok");
            sender.expect(format!("send a {round} {NEAR4} {local}"), "ok");
        }
        for round in 0..50 {
            assert!(receiver.ask("recv a").starts_with(&format!("ok {round} ")));
            assert!(sender.ask("recv a").starts_with(&format!("ok {round} {FAR4}")));
        }
        assert_eq!(counts(server, from)[0], 50);
        assert_eq!(counts(server, local), [0, 50, 0, 0]);
    });
}

/// On a link that shows the server a copy of everything nothing arrives twice.
#[test]
fn without_steering_nothing_arrives_twice() {
    privileged("without_steering_nothing_arrives_twice", || {
        let lab = Lab::new();
        let server = Server::start_unsteered(&lab.pair.near, Pair::NEAR, lab.path("near"));
        assert_eq!(server.status()["interfaces"][0]["steered_by"], "none");
        let (mut one, mut other) = (Sockets::framework(&server), Sockets::framework(&server));
        let (mut kernel, port) = (Sockets::kernel(&lab), one.port("open a 0.0.0.0 0"));
        for sender in [&mut other, &mut kernel] {
            let from = sender.port("open a 127.0.0.1 0");
            sender.expect(format!("send a 33 127.0.0.1 {port}"), "ok");
            one.expect("recv a", format!("ok 33 127.0.0.1 {from}"));
            sender.expect(format!("send a 34 127.0.0.1 {port}"), "ok");
            one.expect("recv a", format!("ok 34 127.0.0.1 {from}"));
            one.expect("now a", "EAGAIN");
        }
        assert_eq!(counts(&server, port)[1..], [2, 0, 2]);
    });
}
