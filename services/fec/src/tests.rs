//! Both halves over a wire that loses datagrams.

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::wire::{Header, REPAIR};

/// Random numbers, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Outcome {
    delivered: usize,
    overhead: f64,
    repairs: usize,
}

/// Sends `count` messages, a millisecond apart, of which `loss` in a thousand get lost on the way, repairs too.
fn run(count: u32, loss: u64, adaptive: bool, swap: bool) -> Outcome {
    let mut random = Random(count.into());
    let mut sender = Sender::new(10, 4, adaptive, 20_000_000, 0);
    let mut receiver = Receiver::new();
    let mut got = vec![0u8; count as usize];
    let mut buffer = vec![0; 4096];
    let body = |number: u32| -> Vec<u8> {
        let mut body = number.to_be_bytes().to_vec();
        body.resize(4 + number as usize % 700, number as u8);
        body
    };
    let mut held: Option<(u32, Vec<u8>)> = None;
    for index in 0..count {
        let now = u64::from(index) * 1_000_000;
        let message = body(index);
        let number = sender.add(now, &message);
        let mut arrives = vec![(number, message)];
        // Some overtake others.
        if swap && random.below(10) == 0 && held.is_none() {
            held = arrives.pop();
        } else {
            arrives.extend(held.take());
        }
        for (number, message) in arrives {
            if random.below(1000) >= loss && receiver.source(now, number, &message) {
                got[number as usize] += 1;
            }
        }
        while sender.has_repairs() {
            let length = sender.repair(&mut buffer);
            assert!(length > REPAIR);
            if random.below(1000) >= loss {
                let Some(Header::Repair(repair)) = Header::parse(&buffer[..length]) else {
                    panic!("a repair")
                };
                receiver.repair(&repair);
            }
        }
        while let Some(length) = receiver.restored(&mut buffer) {
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            assert_eq!(buffer[..length], body(number), "restored");
            got[number as usize] += 1;
        }
        let length = receiver.report(now, &mut buffer);
        if let Some(Header::Report(report)) = Header::parse(&buffer[..length]) {
            sender.heard(report);
        }
    }
    assert!(got.iter().all(|it| *it <= 1), "none twice");
    Outcome {
        delivered: got.iter().filter(|it| **it == 1).count(),
        overhead: sender.repair_bytes as f64 / sender.message_bytes as f64,
        repairs: sender.repairs(),
    }
}

#[test]
fn at_five_percent_loss_nearly_all_arrives() {
    for swap in [false, true] {
        let fixed = run(20_000, 50, false, swap);
        assert!(fixed.delivered > 19_980, "{} of 20000 with 4 repairs", fixed.delivered);
        let adaptive = run(20_000, 50, true, swap);
        assert!(adaptive.delivered > 19_980, "{} of 20000", adaptive.delivered);
        assert!((3..=6).contains(&adaptive.repairs), "{}", adaptive.repairs);
        println!("5 %: {} delivered, overhead {:.2}", adaptive.delivered, adaptive.overhead);
    }
}

#[test]
fn without_loss_there_are_no_repairs_once_that_is_known() {
    let outcome = run(20_000, 0, true, false);
    assert_eq!((outcome.delivered, outcome.repairs), (20_000, 0));
    assert!(outcome.overhead < 0.05, "only the first second's: {}", outcome.overhead);
}

#[test]
fn garbage_is_no_datagram_of_the_peers() {
    let mut random = Random(7);
    let mut receiver = Receiver::new();
    for _ in 0..20_000 {
        let length = random.below(40) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        if let Some(first) = bytes.first_mut() {
            *first %= 4;
        }
        match Header::parse(&bytes) {
            Some(Header::Source(number, body)) => {
                receiver.source(0, number % 64, body);
            }
            Some(Header::Repair(mut repair)) => {
                repair.first %= 64;
                receiver.repair(&repair);
            }
            _ => {}
        }
        while receiver.restored(&mut [0; 64]).is_some() {}
    }
}
