//! The service that encrypts.
//!
//! The key schedule of streams binds role, direction, cipher and both ends' random numbers; that of datagrams binds the
//! sender's epoch. docs/threat-model.md says what that holds against, and what not.

mod cipher;
mod datagram;
mod keys;
mod stream;
mod window;

use cipher::Suite;
use datagram::Datagrams;
use freena_service_api::abi::{FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Agreement, Figures, Info, Kind, Message, Mode, Promise, Refusal, Role, Service, Setup, Trouble, Verdict,
    parameter,
};
use std::sync::Arc;
use stream::Stream;

/// Where the key is unless a parameter names another file.
pub const KEY_FILE: &str = "/etc/freena/service.key";
/// Greatest value of `clock-skew`, in seconds.
pub(crate) const MAX_SKEW: u64 = 3600;

struct Crypto {
    suite: Suite,
    key: Arc<keys::Secret>,
    rekey: u64,
    client: bool,
    flow: State,
    sealed: u64,
    opened: u64,
    forged: u64,
    replayed: u64,
}

enum State {
    /// A stream whose ends have not agreed yet.
    Waiting,
    Stream(Box<Stream>),
    Datagrams(Box<Datagrams>),
}

fn suite(setup: &Setup<'_>) -> Result<Suite, Refusal> {
    if setup.value("algorithm") == Some("ChaCha20") {
        return Ok(Suite::ChaCha);
    }
    let bits = match setup.value("key_size") {
        Some("128") => 128,
        Some("192") => 192,
        _ => 256,
    };
    Ok(match setup.value("mode") {
        Some("CTR") => Suite::Ctr(bits),
        Some("CBC") => Suite::Cbc(bits),
        _ => Suite::Gcm(bits),
    })
}

impl Service for Crypto {
    const INFO: Info = Info {
        name: c"crypto",
        about: c"Encrypts and authenticates what the program sends, with a key that both ends have.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::agreed(parameter::choice(
                c"algorithm",
                c"AES|ChaCha20",
                c"AES",
                c"The cipher. ChaCha20 always comes with Poly1305 and a key of 256 bits, whatever `key_size` and `mode` say.",
            )),
            parameter::agreed(parameter::choice(
                c"key_size",
                c"128|192|256",
                c"256",
                c"Bits of the key of AES. 128 is faster, and good enough for anything that no quantum computer will be turned on.",
            )),
            parameter::agreed(parameter::choice(
                c"mode",
                c"GCM|CTR|CBC",
                c"GCM",
                c"The mode of AES. CTR and CBC come with HMAC-SHA-256 and are slower.",
            )),
            parameter::file(
                c"key",
                Some(c"/etc/freena/service.key"),
                c"File with the key, as `freena keygen` makes it: the same at both ends. It must be readable for its owner only.",
            ),
            parameter::agreed(parameter::number(
                c"rekey",
                c"MiB",
                1,
                65_536,
                c"4096",
                c"After so much in one direction the key of that direction is replaced.",
            )),
            parameter::number(
                c"clock-skew",
                c"s",
                1,
                3600,
                c"120",
                c"Datagrams: how much the clocks of the two hosts may differ. What was recorded longer ago than this and a minute cannot be replayed even to a program that was started since.",
            ),
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let suite = suite(setup)?;
        let path = setup.value("key").unwrap_or(KEY_FILE);
        let key =
            keys::read(path, keys::Kind::Shared).map_err(|why| Refusal::new(Trouble::Parameter, why))?;
        let rekey = setup.number("rekey")? << 20;
        let datagrams = setup.flow().kind() == Kind::Datagram;
        let flow = if datagrams {
            let skew = setup.number("clock-skew")?;
            let made = Datagrams::new(suite, key.clone(), rekey, skew, setup.wall(), setup.now());
            State::Datagrams(Box::new(made.map_err(|trouble| Refusal::new(trouble, "no random bytes"))?))
        } else {
            State::Waiting
        };
        let promise = Promise {
            outbound: Mode::InPlace,
            inbound: Mode::InPlace,
            head: if datagrams { datagram::HEAD as u32 } else { 0 },
            tail: suite.growth() as u32,
            ..Promise::LOOK
        };
        let client = setup.flow().role() == Role::Client;
        Ok((Self { suite, key, rekey, client, flow, sealed: 0, opened: 0, forged: 0, replayed: 0 }, promise))
    }

    fn agree(&mut self, agreement: &Agreement<'_>) -> Result<(), Refusal> {
        let stream = Stream::new(self.suite, &**self.key, agreement.transcript, self.client, self.rekey);
        self.flow = State::Stream(Box::new(stream));
        Ok(())
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.sealed += 1;
        match &mut self.flow {
            State::Stream(stream) => stream.seal(message),
            State::Datagrams(datagrams) => datagrams.seal(message),
            // Nothing leaves before there is a key.
            State::Waiting => Err(Trouble::Fault),
        }
    }

    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let verdict = match &mut self.flow {
            State::Stream(stream) => stream.open(message),
            State::Datagrams(datagrams) => datagrams.open(message),
            State::Waiting => Err(Trouble::Malformed),
        };
        match verdict {
            Ok(_) => self.opened += 1,
            Err(Trouble::Replayed) => self.replayed += 1,
            Err(_) => self.forged += 1,
        }
        verdict
    }

    fn statistics(&self, figure: Figures<'_>) {
        figure(c"messages encrypted", self.sealed);
        figure(c"messages decrypted", self.opened);
        figure(c"messages forged", self.forged);
        figure(c"messages replayed", self.replayed);
        match &self.flow {
            State::Stream(stream) => figure(c"keys replaced", stream.rekeys()),
            State::Datagrams(datagrams) => {
                figure(c"epochs", datagrams.epochs());
                figure(c"messages of another time", datagrams.stale);
            }
            State::Waiting => {}
        }
    }
}

freena_service_api::export_service!(Crypto);

#[cfg(test)]
mod tests;
