//! Datagrams: each carries the sender's epoch, which its key is derived from, and a number.
//!
//! An epoch is the sender's time in seconds, 4 random bytes that name the flow and end, and 8 more random bytes. It makes keys fresh for each flow without a handshake, and
//! a number is used once in it. A sender takes a new one every minute; a receiver believes in an epoch only if its time is
//! near its own clock, so what was recorded long ago is refused even by a receiver that was started since. What was seen is
//! remembered for the whole process: a datagram replayed to another of its flows is refused too.

use crate::cipher::{Cipher, NONCE, Suite, extract};
use crate::hidden::Hidden;
use crate::keys::Secret;
use crate::window::Window;
use freena_service_api::{Message, Passed, Trouble, Verdict};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Bytes of an epoch.
const EPOCH: usize = 16;
/// Bytes before the message: epoch, number.
pub const HEAD: usize = EPOCH + 4;
/// Bytes of an epoch that name the flow and end.
const NAME: std::ops::Range<usize> = 4..8;
/// Most seconds that clocks may be said to differ.
pub const MAX_SKEW: u64 = 3600;
/// How long a sender uses an epoch, in seconds.
const LIFE: u64 = 60;
/// Most messages of an epoch.
const MAX_MESSAGES: u32 = 1 << 31;
/// Epochs of the peer whose keys a flow keeps.
const KEPT: usize = 4;
/// Most epochs that a process remembers; more are refused until some are too old to be believed.
const MAX_REMEMBERED: usize = 65_536;

type Epoch = [u8; EPOCH];
type Seen = Arc<Mutex<Window>>;

/// What was seen of each epoch, in the whole process.
static REMEMBERED: LazyLock<Mutex<HashMap<Epoch, Seen>>> = LazyLock::new(Mutex::default);

fn remembered() -> MutexGuard<'static, HashMap<Epoch, Seen>> {
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds(epoch: &Epoch) -> u64 {
    u32::from_be_bytes([epoch[0], epoch[1], epoch[2], epoch[3]]).into()
}

struct Sender {
    epoch: Epoch,
    cipher: Hidden<Cipher>,
    number: u32,
    bytes: u64,
}

struct Receiver {
    epoch: Epoch,
    cipher: Hidden<Cipher>,
    seen: Seen,
}

/// A flow of datagrams.
pub struct Datagrams {
    suite: Suite,
    key: Arc<Hidden<Secret>>,
    rekey: u64,
    /// Most seconds that the clocks of the two hosts may differ.
    skew: u64,
    /// Seconds since 1970 at the monotonic nanosecond 0.
    wall: u64,
    /// What names this flow and end in its epochs: what comes back to it is not the peer's.
    name: [u8; 4],
    sender: Option<Sender>,
    receivers: Vec<Receiver>,
    epochs: u64,
    pub stale: u64,
}

impl Datagrams {
    pub fn new(
        suite: Suite,
        key: Arc<Hidden<Secret>>,
        rekey: u64,
        skew: u64,
        wall: u64,
        now: u64,
    ) -> Result<Self, Trouble> {
        let wall = wall.saturating_sub(now / 1_000_000_000);
        let mut name = [0; 4];
        random(&mut name)?;
        Ok(Self {
            suite,
            key,
            rekey,
            skew,
            wall,
            name,
            sender: None,
            receivers: Vec::new(),
            epochs: 0,
            stale: 0,
        })
    }

    fn cipher(&self, epoch: &Epoch) -> Hidden<Cipher> {
        let name = self.suite.name();
        Hidden::new(Cipher::new(
            self.suite,
            &extract(epoch, &***self.key, &[b"freena crypto 1 datagram ", name.as_bytes()]),
        ))
    }

    fn seconds(&self, now: u64) -> u64 {
        self.wall + now / 1_000_000_000
    }

    /// The sender's state, with a new epoch if the old one has done enough.
    fn sender(&mut self, now: u64) -> Result<&mut Sender, Trouble> {
        let time = self.seconds(now);
        let good = self.sender.as_ref().is_some_and(|it| {
            let young = time < seconds(&it.epoch) + LIFE && time >= seconds(&it.epoch);
            young && it.number < MAX_MESSAGES && it.bytes < self.rekey
        });
        if !good {
            let mut epoch = Epoch::default();
            epoch[..4].copy_from_slice(&(time as u32).to_be_bytes());
            random(&mut epoch[NAME.end..])?;
            epoch[NAME].copy_from_slice(&self.name);
            self.sender = Some(Sender { cipher: self.cipher(&epoch), epoch, number: 0, bytes: 0 });
            self.epochs += 1;
        }
        self.sender.as_mut().ok_or(Trouble::Fault)
    }

    pub fn seal(&mut self, message: &mut Message<'_>) -> Verdict {
        let length = message.bytes().len();
        let kind = message.kind();
        let sender = self.sender(message.now())?;
        let tail = sender.cipher.suite().tail(length);
        let Some((head, body, tail)) = message.extend(HEAD, tail) else { return Err(Trouble::Fault) };
        head[..EPOCH].copy_from_slice(&sender.epoch);
        head[EPOCH..].copy_from_slice(&sender.number.to_be_bytes());
        let (nonce, aad) = bound(head, kind);
        sender.cipher.seal(nonce, &aad, body, tail);
        sender.number += 1;
        sender.bytes += length as u64;
        Ok(Passed::On)
    }

    pub fn open(&mut self, message: &mut Message<'_>) -> Verdict {
        let (kind, now) = (message.kind(), message.now());
        let Some((head, body)) = message.bytes().split_at_mut_checked(HEAD) else {
            return Err(Trouble::Malformed);
        };
        let (nonce, aad) = bound(head, kind);
        let number = u32::from_be_bytes([head[EPOCH], head[EPOCH + 1], head[EPOCH + 2], head[EPOCH + 3]]);
        let mut epoch = Epoch::default();
        epoch.copy_from_slice(&head[..EPOCH]);
        if epoch[NAME] == self.name {
            return Err(Trouble::Replayed);
        }
        let known = self.receivers.iter().position(|it| it.epoch == epoch);
        let (length, seen) = match known {
            Some(index) => {
                let receiver = &self.receivers[index];
                (receiver.cipher.open(nonce, &aad, body).ok_or(Trouble::Forged)?, receiver.seen.clone())
            }
            None => {
                let time = self.seconds(now);
                let oldest = if self.receivers.len() < KEPT { None } else { self.receivers.first() };
                let passed = oldest.is_some_and(|it| seconds(&epoch) < seconds(&it.epoch));
                if passed || seconds(&epoch).abs_diff(time) > self.skew + LIFE {
                    self.stale += 1;
                    return Err(Trouble::Replayed);
                }
                let cipher = self.cipher(&epoch);
                let length = cipher.open(nonce, &aad, body).ok_or(Trouble::Forged)?;
                let seen = self.remember(epoch, time)?;
                self.keep(Receiver { epoch, cipher, seen: seen.clone() });
                (length, seen)
            }
        };
        // Only what is authentic moves the window.
        if !seen.lock().unwrap_or_else(PoisonError::into_inner).see(number) {
            return Err(Trouble::Replayed);
        }
        let tail = body.len() - length;
        message.shrink(HEAD, tail);
        Ok(Passed::On)
    }

    fn remember(&mut self, epoch: Epoch, time: u64) -> Result<Seen, Trouble> {
        let mut remembered = remembered();
        if !remembered.contains_key(&epoch) {
            make_room(&mut remembered, time, self.skew);
            if remembered.len() >= MAX_REMEMBERED {
                return Err(Trouble::Replayed);
            }
        }
        Ok(remembered.entry(epoch).or_insert_with(|| Arc::new(Mutex::new(Window::new()))).clone())
    }

    fn keep(&mut self, receiver: Receiver) {
        if self.receivers.len() == KEPT {
            self.receivers.remove(0);
        }
        let at = self.receivers.partition_point(|it| seconds(&it.epoch) <= seconds(&receiver.epoch));
        self.receivers.insert(at, receiver);
    }

    pub fn epochs(&self) -> u64 {
        self.epochs
    }
}

fn random(bytes: &mut [u8]) -> Result<(), Trouble> {
    SystemRandom::new().fill(bytes).map_err(|_| Trouble::Fault)
}

/// Forgets epochs that nobody believes in any more, if there are many.
fn make_room(remembered: &mut HashMap<Epoch, Seen>, time: u64, skew: u64) {
    if remembered.len() >= MAX_REMEMBERED / 2 {
        // The widest skew that the table of parameters allows counts, since flows differ.
        let widest = skew.max(MAX_SKEW) + LIFE;
        remembered.retain(|epoch, _| seconds(epoch).abs_diff(time) <= widest);
    }
}

/// Nonce and associated data: the head, and what of the flow the message is.
fn bound(head: &[u8], kind: u32) -> ([u8; NONCE], [u8; HEAD + 4]) {
    let (mut nonce, mut aad) = ([0; NONCE], [0; HEAD + 4]);
    nonce[NONCE - 4..].copy_from_slice(&head[EPOCH..]);
    aad[..HEAD].copy_from_slice(head);
    aad[HEAD..].copy_from_slice(&kind.to_be_bytes());
    (nonce, aad)
}
