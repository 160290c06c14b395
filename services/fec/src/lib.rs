//! The service that repairs lost datagrams: forward error correction by Reed-Solomon codes, k of n.
//!
//! Messages go at once, each with its number before it. Every `block` of them, or what there is of it after `delay`, repair
//! datagrams follow; any k of the block and its repairs give the whole block. The receiver tells once a second how many it
//! has missed, and the sender makes as many repairs as that takes: none where nothing is lost.

mod adapt;
mod receiver;
mod sender;
mod wire;

use freena_service_api::abi::FREENA_SERVICE_DATAGRAM;
use freena_service_api::{
    Figures, Info, Message, Mode, Passed, Promise, Refusal, Service, Setup, Trouble, Verdict, parameter,
};
use receiver::Receiver;
use sender::Sender;
use wire::{Header, SOURCE};

struct Fec {
    sender: Sender,
    receiver: Receiver,
}

impl Service for Fec {
    const INFO: Info = Info {
        name: c"fec",
        about: c"Sends repair datagrams, from which the peer restores lost ones.",
        version: 1,
        kinds: FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::number(
                c"block",
                c"messages",
                1,
                wire::MAX_BLOCK as i64,
                c"10",
                c"Messages that repairs are made for together: more of them need fewer repairs in all, and wait longer for them.",
            ),
            parameter::number(
                c"repairs",
                c"datagrams",
                0,
                wire::MAX_REPAIRS as i64,
                c"4",
                c"Repairs for each block, as long as the loss is not known or `adaptive` is off: so many of block and repairs may be lost.",
            ),
            parameter::boolean(
                c"adaptive",
                c"true",
                c"Whether the number of repairs follows the loss that the peer measures, up to 32; none where nothing is lost.",
            ),
            parameter::number(
                c"delay",
                c"ms",
                1,
                1000,
                c"20",
                c"How long a block waits for more messages before its repairs go.",
            ),
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let number = |name| setup.number(name);
        let sender = Sender::new(
            number("block")? as usize,
            number("repairs")? as usize,
            setup.is("adaptive"),
            number("delay")? * 1_000_000,
            // A sender that begins anew goes on above what the receiver has seen, as long as it sends less than 15 messages a
            // millisecond.
            (setup.now() >> 16) as u32,
        );
        let promise = Promise {
            outbound: Mode::InPlace,
            inbound: Mode::InPlace,
            head: SOURCE as u32,
            // A repair is longer than the longest message of its block by this.
            tail: (wire::REPAIR + wire::LENGTH) as u32,
            ..Promise::LOOK
        };
        Ok((Fec { sender, receiver: Receiver::new() }, promise))
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let now = message.now();
        let number = self.sender.add(now, message.bytes());
        let Some((head, _, _)) = message.extend(SOURCE, 0) else { return Err(Trouble::Fault) };
        head.copy_from_slice(&wire::source(number));
        if self.sender.has_repairs() || self.receiver.has_report(now) {
            message.has_extra();
        }
        Ok(Passed::On)
    }

    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let now = message.now();
        match Header::parse(message.bytes()).ok_or(Trouble::Malformed)? {
            Header::Source(number, body) => {
                let new = self.receiver.source(now, number, body);
                if self.receiver.has_restored() {
                    message.has_extra();
                }
                if !new {
                    return Ok(Passed::Nothing);
                }
                message.shrink(SOURCE, 0);
                Ok(Passed::On)
            }
            Header::Repair(repair) => {
                self.receiver.repair(&repair);
                if self.receiver.has_restored() {
                    message.has_extra();
                }
                Ok(Passed::Nothing)
            }
            Header::Report(report) => {
                self.sender.heard(report);
                Ok(Passed::Nothing)
            }
        }
    }

    fn extra_outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let now = message.now();
        let mut written = 0;
        message.rewrite(|_, out| {
            written = match self.receiver.report(now, out) {
                0 => self.sender.repair(out),
                report => report,
            };
            Ok::<usize, Trouble>(written)
        })?;
        Ok(if written > 0 { Passed::On } else { Passed::Nothing })
    }

    const RESTORES: bool = true;

    fn extra_inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let mut found = false;
        message.rewrite(|_, out| {
            let restored = self.receiver.restored(out);
            found = restored.is_some();
            Ok::<usize, Trouble>(restored.unwrap_or(0))
        })?;
        Ok(if found { Passed::On } else { Passed::Nothing })
    }

    fn deadline(&self) -> u64 {
        self.sender.due().min(self.receiver.due())
    }

    fn timer(&mut self, now: u64) {
        self.sender.timer(now);
    }

    fn statistics(&self, figure: Figures<'_>) {
        figure(c"messages sent", self.sender.sent);
        figure(c"repairs sent", self.sender.repaired);
        figure(c"bytes of messages", self.sender.message_bytes);
        figure(c"bytes of repairs", self.sender.repair_bytes);
        figure(c"repairs for each block", self.sender.repairs() as u64);
        figure(c"loss at the peer in millionths", self.sender.loss_millionths());
        figure(c"messages received", self.receiver.received);
        figure(c"messages missed", self.receiver.missed());
        figure(c"messages restored", self.receiver.restored_count);
        figure(c"messages doubled", self.receiver.doubled);
    }
}

freena_service_api::export_service!(Fec);

#[cfg(test)]
mod tests;
