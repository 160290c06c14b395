//! A flow with a key: what crypto and auth are made of.

use crate::cipher::Suite;
use crate::datagram::{self, Datagrams};
use crate::hidden::Hidden;
use crate::keys;
use crate::stream::Stream;
use freena_service_api::{
    Agreement, Figures, Kind, Message, Mode, Promise, Refusal, Role, Setup, Trouble, Verdict,
};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Parameters that both services have.
pub mod parameters {
    use freena_service_api::abi::FreenaServiceParameter;
    use freena_service_api::parameter::{agreed, file, number};

    /// The file with the key.
    pub const KEY: FreenaServiceParameter = file(
        c"key",
        Some(c"/etc/freena/service.key"),
        c"File with the key, as `freena keygen` makes it: the same at both ends. It must be readable for its owner only.",
    );
    /// When keys are replaced.
    pub const REKEY: FreenaServiceParameter = agreed(number(
        c"rekey",
        c"MiB",
        1,
        65_536,
        c"4096",
        c"After so much in one direction the key of that direction is replaced.",
    ));
    /// How much clocks may differ.
    pub const CLOCK_SKEW: FreenaServiceParameter = number(
        c"clock-skew",
        c"s",
        1,
        crate::datagram::MAX_SKEW as i64,
        c"120",
        c"Datagrams: how much the clocks of the two hosts may differ. What was recorded longer ago than this and a minute cannot be replayed even to a program that was started since.",
    );
}

/// A flow whose messages only the two ends can make.
pub struct Secured {
    suite: Suite,
    key: Arc<Hidden<keys::Secret>>,
    rekey: u64,
    client: bool,
    flow: State,
    sealed: u64,
    opened: u64,
    forged: u64,
    replayed: u64,
}

enum State {
    /// A stream whose ends have not agreed yet: this end's half of a Diffie-Hellman exchange (RFC 7748), which is for this
    /// stream alone. Who gets the key of the file later cannot read what was recorded before.
    Waiting(Option<EphemeralPrivateKey>),
    Stream(Box<Stream>),
    Datagrams(Box<Datagrams>),
}

impl Secured {
    /// Begins a flow with the parameters of [`parameters`].
    ///
    /// # Errors
    /// The key file cannot be used.
    pub fn open(suite: Suite, setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let path = setup.value("key").unwrap_or_default();
        let key =
            keys::read(path, keys::Kind::Shared).map_err(|why| Refusal::new(Trouble::Parameter, why))?;
        let rekey = setup.number("rekey")? << 20;
        let datagrams = setup.flow().kind() == Kind::Datagram;
        let flow = if datagrams {
            let skew = setup.number("clock-skew")?;
            let made = Datagrams::new(suite, key.clone(), rekey, skew, setup.wall(), setup.now());
            State::Datagrams(Box::new(made.map_err(|trouble| Refusal::new(trouble, "no random bytes"))?))
        } else {
            let made = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new());
            State::Waiting(Some(made.map_err(|_| Refusal::new(Trouble::Fault, "no random bytes"))?))
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

    /// What the peer is to know: this end's public half of the exchange.
    pub fn announce(&self, out: &mut [u8]) -> usize {
        let State::Waiting(Some(private)) = &self.flow else { return 0 };
        let Ok(public) = private.compute_public_key() else { return 0 };
        out[..public.as_ref().len()].copy_from_slice(public.as_ref());
        public.as_ref().len()
    }

    /// Makes the keys of a stream, of the key of the file and of what the exchange gives.
    ///
    /// # Errors
    /// The peer has announced no half of an exchange.
    pub fn agree(&mut self, agreement: &Agreement<'_>) -> Result<(), Refusal> {
        let private = match &mut self.flow {
            State::Waiting(private) => private.take(),
            _ => None,
        };
        let private = private.ok_or_else(|| Refusal::new(Trouble::Fault, "a second agreement"))?;
        let peer = UnparsedPublicKey::new(&X25519, agreement.announcement);
        // Also where the result is zero, whatever this end's half is (RFC 7748, section 6.1).
        let none = |_| Refusal::new(Trouble::Key, "the peer's half of the key exchange is none");
        let mut key = Zeroizing::new([0; 64]);
        key[..32].copy_from_slice(&***self.key);
        agree_ephemeral(private, &peer, |shared| key[32..].copy_from_slice(shared)).map_err(none)?;
        let stream = Stream::new(self.suite, &*key, agreement.transcript, self.client, self.rekey);
        self.flow = State::Stream(Box::new(stream));
        Ok(())
    }

    /// A message to the peer.
    ///
    /// # Errors
    /// The two ends have not agreed.
    pub fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.sealed += 1;
        match &mut self.flow {
            State::Stream(stream) => stream.seal(message),
            State::Datagrams(datagrams) => datagrams.seal(message),
            // Nothing leaves before there is a key.
            State::Waiting(_) => Err(Trouble::Fault),
        }
    }

    /// A message from the peer.
    ///
    /// # Errors
    /// It is not one, or has been seen.
    pub fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        let verdict = match &mut self.flow {
            State::Stream(stream) => stream.open(message),
            State::Datagrams(datagrams) => datagrams.open(message),
            State::Waiting(_) => Err(Trouble::Malformed),
        };
        match verdict {
            Ok(_) => self.opened += 1,
            Err(Trouble::Replayed) => self.replayed += 1,
            Err(_) => self.forged += 1,
        }
        verdict
    }

    /// Tells the figures.
    pub fn statistics(&self, figure: Figures<'_>) {
        figure(c"messages sealed", self.sealed);
        figure(c"messages opened", self.opened);
        figure(c"messages forged", self.forged);
        figure(c"messages replayed", self.replayed);
        match &self.flow {
            State::Stream(stream) => figure(c"keys replaced", stream.rekeys()),
            State::Datagrams(datagrams) => {
                figure(c"epochs", datagrams.epochs());
                figure(c"messages of another time", datagrams.stale);
            }
            State::Waiting(_) => {}
        }
    }
}
