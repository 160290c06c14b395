//! How two ends agree on services: each offers, both compare, services may exchange messages of their own, and each proves
//! that it has the keys. At the beginning of a stream it goes in the clear; for a change it goes inside the stream.

use crate::buffer::Buffer;
use crate::error::FlowError;
use crate::flow::{Flow, Resolved, Role};
use crate::offer::Offer;
use crate::pipeline::Pipeline;
use crate::wire::{Frame, MAGIC, MAX_REST};
use crate::{MAX_CHUNK, random};
use freena_service_host::Context;
use freena_service_host::abi::FREENA_SERVICE_CONFIRM;
use sha2::{Digest, Sha256};

/// Most bytes of a handshake message of a service.
const MAX_HANDSHAKE: usize = 4096;

/// One end's part in an agreement.
#[derive(Debug)]
pub(crate) struct Agreement {
    role: Role,
    pub(crate) pipeline: Pipeline,
    offer: Offer,
    /// The offer as it goes over the wire.
    encoded: Vec<u8>,
    /// What came before on this stream: keys are derived from it too.
    before: [u8; 32],
    /// Of all that both have offered, and of what came before; zeros until then.
    pub(crate) transcript: [u8; 32],
    offered: bool,
    heard: bool,
    /// Services whose handshake this end has not finished: a bit each.
    open_handshakes: u32,
    /// Own proof has been made.
    pub(crate) confirmed: bool,
    /// The peer's proof has been seen.
    pub(crate) proven: bool,
    /// What is to be told to the peer.
    pub(crate) outbox: Vec<(Frame, Vec<u8>)>,
}

impl Agreement {
    pub(crate) fn new(
        services: &[Resolved],
        flow: &Flow,
        before: [u8; 32],
        now: u64,
    ) -> Result<Self, FlowError> {
        let mut pipeline = Pipeline::new(services, flow, false, MAX_REST - MAX_CHUNK, now)?;
        let services = pipeline.offers(services)?;
        let nonce = random::nonce().map_err(|error| FlowError::Unfit(format!("no random bytes: {error}")))?;
        let offer = Offer { role: flow.role, nonce, services };
        let encoded = offer.encode();
        Ok(Self {
            role: flow.role,
            pipeline,
            offer,
            encoded,
            before,
            transcript: [0; 32],
            offered: false,
            heard: false,
            open_handshakes: 0,
            confirmed: false,
            proven: false,
            outbox: Vec::new(),
        })
    }

    /// Tells the peer what this end offers, unless that has been done.
    pub(crate) fn offer(&mut self) {
        if !std::mem::replace(&mut self.offered, true) {
            self.outbox.push((Frame::Hello, self.encoded.clone()));
        }
    }

    /// A message of the peer's agreement.
    pub(crate) fn receive(&mut self, now: u64, kind: Frame, message: &[u8]) -> Result<(), FlowError> {
        match kind {
            Frame::Hello if !self.heard => self.peer_offers(now, message),
            Frame::Handshake if self.heard => self.handshake(now, message),
            Frame::Confirm if self.heard && self.open_handshakes == 0 && !self.proven => {
                self.peer_confirms(now, message)
            }
            _ => Err(FlowError::Malformed(format!("{kind:?} at the wrong point of an agreement"))),
        }
    }

    fn peer_offers(&mut self, now: u64, message: &[u8]) -> Result<(), FlowError> {
        self.heard = true;
        self.offer();
        let peer = Offer::decode(message)
            .ok_or_else(|| FlowError::Malformed("an offer that cannot be read".to_owned()))?;
        if peer.role == self.role || peer.nonce == self.offer.nonce {
            return Err(FlowError::Malformed("an offer of this end's own kind came back".to_owned()));
        }
        self.offer.compare(&peer)?;
        let (first, second) = match self.role {
            Role::Client => (self.encoded.as_slice(), message),
            Role::Server => (message, self.encoded.as_slice()),
        };
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update(self.before);
        hash.update(first);
        hash.update(second);
        self.transcript = hash.finalize().into();
        for (index, (instance, peers)) in self.pipeline.instances().iter_mut().zip(&peer.services).enumerate()
        {
            let agreed = instance.agree(&peers.announcement, self.offer.nonce, peer.nonce, self.transcript);
            agreed.map_err(FlowError::of_agreement)?;
            self.open_handshakes |= u32::from(instance.has_handshake()) << index;
        }
        if self.role == Role::Client {
            for index in 0..self.offer.services.len() {
                if self.open_handshakes & 1 << index != 0 {
                    self.step(index, &[])?;
                }
            }
        }
        self.confirm(now)
    }

    fn handshake(&mut self, now: u64, message: &[u8]) -> Result<(), FlowError> {
        let (index, input) =
            message.split_first().ok_or_else(|| FlowError::Malformed("an empty handshake".to_owned()))?;
        let index = usize::from(*index);
        if index >= self.offer.services.len() || self.open_handshakes & 1 << index == 0 {
            return Err(FlowError::Malformed(format!("a handshake of service {index}, which has none open")));
        }
        self.step(index, input)?;
        self.confirm(now)
    }

    /// One step of a service's handshake.
    fn step(&mut self, index: usize, input: &[u8]) -> Result<(), FlowError> {
        let mut message = vec![index as u8];
        let instance = &mut self.pipeline.instances()[index];
        let done = instance.handshake(input, &mut message, MAX_HANDSHAKE).map_err(FlowError::of_agreement)?;
        if message.len() > 1 {
            self.outbox.push((Frame::Handshake, message));
        }
        if done {
            self.open_handshakes &= !(1 << index);
        }
        Ok(())
    }

    /// Proves the keys, once all handshakes are over.
    fn confirm(&mut self, now: u64) -> Result<(), FlowError> {
        if self.open_handshakes != 0 || self.confirmed {
            return Ok(());
        }
        let mut proof = Buffer::new();
        let context = Context { kind: FREENA_SERVICE_CONFIRM, now };
        let length = self.pipeline.outbound(context, &[], 0, &mut proof).map_err(FlowError::of_agreement)?;
        proof.commit(length.unwrap_or(0));
        self.outbox.push((Frame::Confirm, proof.as_slice().to_vec()));
        self.confirmed = true;
        Ok(())
    }

    fn peer_confirms(&mut self, now: u64, message: &[u8]) -> Result<(), FlowError> {
        let mut nothing = Buffer::new();
        let context = Context { kind: FREENA_SERVICE_CONFIRM, now };
        let length = self.pipeline.inbound(context, message, &mut nothing);
        match length.map_err(FlowError::of_agreement)? {
            Some(0) => self.proven = true,
            _ => return Err(FlowError::Malformed("a proof of the key that is not empty".to_owned())),
        }
        Ok(())
    }
}
