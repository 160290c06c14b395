//! A flow of datagrams with services.

use crate::buffer::Buffer;
use crate::error::FlowError;
use crate::flow::{Flow, Resolved, Wishes};
use crate::offer::Offer;
use crate::pipeline::{Figure, Pipeline};
use crate::wire::{DATAGRAM_HEADER, DATAGRAM_MAGIC, VERSION};
use crate::{Blocked, Sealed};
use freena_service_host::abi::{FREENA_SERVICE_DATA, FREENA_SERVICE_NEVER};
use freena_service_host::{Context, Direction};

/// Most bytes of a datagram's payload: what UDP over IPv4 carries.
const MAX_DATAGRAM: usize = 65_507;
/// Most bytes that services add to a datagram.
const MAX_GROWTH: usize = 4096;
/// Kind of a datagram that passed the services.
const DATA: u8 = 1;
/// Kind of a datagram that tells what the sender has, since the other end's differed.
const OFFER: u8 = 2;
/// How often the peer is told what this end has, in nanoseconds.
const OFFER_EVERY: u64 = 1_000_000_000;

/// What has become of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A message of so many bytes for the program was appended.
    Message(usize),
    /// It was for the services alone.
    Nothing,
    /// The peer has no freena, and the rule allows it: the datagram is the message, as it is.
    Plain,
}

/// A flow of datagrams with services, sans-IO. Nothing is agreed before the first datagram: each says with which services it
/// was made, and carries what the peer's need to know.
#[derive(Debug)]
pub struct DatagramFlow {
    flow: Flow,
    pipeline: Pipeline,
    offer: Offer,
    header: [u8; DATAGRAM_HEADER],
    /// When the peer was told last what this end has, and whether it is to be told again.
    told: Option<u64>,
    tell: bool,
    mismatch: Option<FlowError>,
}

impl DatagramFlow {
    /// Begins a flow with `services`, in the order in which the program's messages pass them.
    ///
    /// # Errors
    /// A service refuses the flow or cannot be inserted into datagrams.
    pub fn new(services: &[Resolved], flow: Flow, now: u64) -> Result<Self, FlowError> {
        let mut pipeline = Pipeline::new(services, &flow, true, MAX_GROWTH, now)?;
        let offer = Offer { role: flow.role, nonce: [0; 32], services: pipeline.offers(services)? };
        let [high, low] = offer.digest();
        let header = [DATAGRAM_MAGIC, VERSION << 4 | DATA, high, low];
        Ok(Self { flow, pipeline, offer, header, told: None, tell: false, mismatch: None })
    }

    /// Most bytes of a message where the path takes datagrams of `room` bytes.
    pub fn max_message(&self, room: usize) -> usize {
        room.saturating_sub(DATAGRAM_HEADER + self.pipeline.growth())
    }

    /// Whether [`DatagramFlow::recover`] may have messages.
    pub fn may_restore(&self) -> bool {
        self.pipeline.may_restore()
    }

    /// What services wish for of the socket below.
    pub fn wishes(&self) -> Wishes {
        self.pipeline.wishes()
    }

    /// The figures of all services.
    pub fn figures(&mut self) -> Vec<Figure> {
        self.pipeline.figures()
    }

    /// What the peer's services were last seen to differ in, if they do.
    pub fn mismatch(&self) -> Option<&FlowError> {
        self.mismatch.as_ref()
    }

    /// Takes a message and appends the datagram to `out`, if there is one to be sent. [`Sealed::blocked`] when it must wait.
    ///
    /// # Errors
    /// The message is too long, or a service has failed: the message is not sent.
    pub fn seal(&mut self, now: u64, message: &[u8], out: &mut Buffer) -> Result<Sealed, FlowError> {
        let most = self.max_message(MAX_DATAGRAM);
        if message.len() > most {
            return Err(FlowError::TooLong { got: message.len(), most });
        }
        let at = self.pipeline.admit(now, message.len());
        if at > now {
            return Ok(Sealed { consumed: 0, blocked: Some(Blocked::Until(at)) });
        }
        let context = Context { kind: FREENA_SERVICE_DATA, now };
        let length = self.pipeline.outbound(context, message, DATAGRAM_HEADER, out);
        if let Some(length) = length.map_err(FlowError::of_message)? {
            self.datagram_around(length, out);
        }
        Ok(Sealed { consumed: message.len(), blocked: None })
    }

    fn datagram_around(&self, length: usize, out: &mut Buffer) {
        out.room(DATAGRAM_HEADER + length)[..DATAGRAM_HEADER].copy_from_slice(&self.header);
        out.commit(DATAGRAM_HEADER + length);
    }

    /// Takes a datagram that has arrived and appends the message in it to `out`.
    ///
    /// # Errors
    /// Why it is dropped. The flow goes on: anybody can send a datagram.
    pub fn open(&mut self, now: u64, datagram: &[u8], out: &mut Buffer) -> Result<Arrived, FlowError> {
        let Some((header, rest)) = datagram.split_at_checked(DATAGRAM_HEADER) else {
            return self.plain(datagram);
        };
        let (version, kind) = (header[1] >> 4, header[1] & 15);
        if header[0] != DATAGRAM_MAGIC || !(kind == DATA || kind == OFFER) {
            return self.plain(datagram);
        }
        if version != VERSION {
            return Err(FlowError::Version(version));
        }
        if kind == OFFER {
            return self.peer_offers(rest).map(|()| Arrived::Nothing);
        }
        if header[2..] != self.header[2..] {
            // No more is answered than was sent, and not often: nobody can have this end send for him.
            let due = self.told.is_none_or(|told| now >= told.saturating_add(OFFER_EVERY));
            self.tell = due && datagram.len() >= DATAGRAM_HEADER + self.offer.encode().len();
            let what =
                || FlowError::Mismatch("the peer has other services, or other parameters of them".into());
            return Err(self.mismatch.get_or_insert_with(what).clone());
        }
        let context = Context { kind: FREENA_SERVICE_DATA, now };
        let length = self.pipeline.inbound(context, rest, out).map_err(FlowError::of_message)?;
        // One that the services have taken for good proves that the two ends agree.
        self.mismatch = None;
        Ok(length.map_or(Arrived::Nothing, |length| {
            out.commit(length);
            Arrived::Message(length)
        }))
    }

    fn plain(&self, datagram: &[u8]) -> Result<Arrived, FlowError> {
        if self.flow.allow_plain {
            return Ok(Arrived::Plain);
        }
        Err(FlowError::NotFreena(format!("{:02x?}", &datagram[..datagram.len().min(16)])))
    }

    fn peer_offers(&mut self, rest: &[u8]) -> Result<(), FlowError> {
        let peer = Offer::decode(rest)
            .ok_or_else(|| FlowError::Malformed("an offer that cannot be read".to_owned()))?;
        let result = self.offer.compare(&peer);
        if let Err(error) = &result {
            self.mismatch = Some(error.clone());
        }
        result
    }

    /// A further datagram to send, appended to `out`; `false` if there is none. To be asked after every other call until there
    /// is none.
    ///
    /// # Errors
    /// A service has failed.
    pub fn transmit(&mut self, now: u64, out: &mut Buffer) -> Result<bool, FlowError> {
        if std::mem::take(&mut self.tell) {
            self.told = Some(now);
            let [magic, _, high, low] = self.header;
            out.push(&[magic, VERSION << 4 | OFFER, high, low]);
            out.push(&self.offer.encode());
            return Ok(true);
        }
        let context = Context { kind: FREENA_SERVICE_DATA, now };
        let length = self.pipeline.extra(Direction::Outbound, context, DATAGRAM_HEADER, MAX_DATAGRAM, out);
        let Some(length) = length.map_err(FlowError::of_message)? else { return Ok(false) };
        self.datagram_around(length, out);
        Ok(true)
    }

    /// A further message for the program, appended to `out`, and its length. To be asked after `open` and `timer` until there is
    /// none.
    ///
    /// # Errors
    /// A service has failed.
    pub fn recover(&mut self, now: u64, out: &mut Buffer) -> Result<Option<usize>, FlowError> {
        let context = Context { kind: FREENA_SERVICE_DATA, now };
        let length = self.pipeline.extra(Direction::Inbound, context, 0, MAX_DATAGRAM, out);
        let length = length.map_err(FlowError::of_message)?;
        out.commit(length.unwrap_or(0));
        Ok(length)
    }

    /// When [`DatagramFlow::timer`] is to be called, in nanoseconds; `u64::MAX` for never.
    pub fn deadline(&mut self) -> u64 {
        self.pipeline.deadline()
    }

    /// The deadline has passed.
    pub fn timer(&mut self, now: u64) {
        if now != FREENA_SERVICE_NEVER {
            self.pipeline.timer(now);
        }
    }
}
