//! Other services on a stream that goes on.
//!
//! One end proposes, the other answers with what its own configuration says by now. Both agree as at the beginning, but inside
//! the stream: what they say passes the old services. When the proposer has seen the other's proof of the new keys, it sends
//! a last message through the old services, and from then on through the new ones; the other follows when it gets that.
//! Bytes of the program go on in both directions all the while.

use crate::agreement::Agreement;
use crate::buffer::Buffer;
use crate::error::FlowError;
use crate::flow::{Resolved, Role};
use crate::stream::{Stage, StreamFlow};
use crate::wire::{Frame, Reader, words};
use freena_service_host::Context;
use freena_service_host::abi::FREENA_SERVICE_CONTROL;

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The peer proposes one: [`StreamFlow::answer`] is to be called.
    Proposed,
    /// The two ends are about to agree.
    UnderWay,
    /// It is done: both directions have the new services.
    Done,
    /// It will not be; the services are what they were. Why, in words.
    Refused(String),
}

/// Names a change: the role of who has proposed it, and how many he had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u8, pub(crate) u32);

/// A message about a change: this, the change, more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The proposer's offer.
    Propose,
    /// Of the agreement.
    Agreement(Frame),
    /// What follows in this direction has passed the new services.
    Switch,
    /// It will not be: why, in words.
    Refuse,
}

const PROPOSE: u8 = 16;
const SWITCH: u8 = 17;
const REFUSE: u8 = 18;

impl Word {
    fn code(self) -> u8 {
        match self {
            Self::Propose => PROPOSE,
            Self::Agreement(frame) => frame as u8,
            Self::Switch => SWITCH,
            Self::Refuse => REFUSE,
        }
    }

    fn of(code: u8) -> Option<Self> {
        match code {
            PROPOSE => Some(Self::Propose),
            SWITCH => Some(Self::Switch),
            REFUSE => Some(Self::Refuse),
            code => Frame::of(code).filter(|it| *it as u8 <= Frame::Confirm as u8).map(Self::Agreement),
        }
    }
}

/// A change that is not done yet.
#[derive(Debug)]
pub(crate) enum Pending {
    /// The peer's offer, which waits for an answer.
    Asked(Id, Vec<u8>),
    /// This end takes part.
    Agreeing {
        id: Id,
        agreement: Box<Agreement>,
        /// Whether this end has proposed it.
        own: bool,
        /// This end's direction has the new services, and the peer's.
        switched: [bool; 2],
    },
}

impl StreamFlow {
    /// Proposes other services, also none, for both directions. Bytes go on passing the old ones until both ends have agreed and
    /// proved the keys of the new ones; then each direction goes over between two of its frames. What has become of it is told
    /// by [`StreamFlow::change`].
    ///
    /// If both ends propose at once, the client's proposal stands.
    ///
    /// # Errors
    /// [`FlowError::Unfit`]: the stream is not open in both directions, or a change is under way; or a service refuses the flow.
    /// The stream goes on as it is then. Other errors are of the flow.
    pub fn propose(&mut self, services: &[Resolved], now: u64) -> Result<(), FlowError> {
        self.alive()?;
        if self.stage != Stage::Open || self.ended || self.peer_ended || self.pending_change.is_some() {
            return Err(FlowError::Unfit(
                "services change on streams that are open in both directions, one change at a time"
                    .to_owned(),
            ));
        }
        let mut agreement = Box::new(Agreement::new(services, &self.flow, self.agreement.transcript, now)?);
        agreement.offer();
        let id = Id(self.flow.role as u8, self.proposals);
        self.proposals = self.proposals.wrapping_add(1);
        self.pending_change = Some(Pending::Agreeing { id, agreement, own: true, switched: [false; 2] });
        self.change = Some(Change::UnderWay);
        let result = self.speak(now);
        self.note(result)
    }

    /// Answers a proposal of the peer's, [`Change::Proposed`], with the services that this end has for the flow by now. If they
    /// are not the peer's, both go on as they are.
    ///
    /// # Errors
    /// The flow is over.
    pub fn answer(&mut self, services: &[Resolved], now: u64) -> Result<(), FlowError> {
        self.alive()?;
        let Some(Pending::Asked(id, offer)) = &mut self.pending_change else { return Ok(()) };
        let (id, offer) = (*id, std::mem::take(offer));
        self.pending_change = None;
        let result = match Agreement::new(services, &self.flow, self.agreement.transcript, now) {
            Ok(agreement) => {
                let agreement = Box::new(agreement);
                let pending = Pending::Agreeing { id, agreement, own: false, switched: [false; 2] };
                self.pending_change = Some(pending);
                self.change = Some(Change::UnderWay);
                self.agree_on_change(now, Frame::Hello, &offer)
            }
            Err(error) => self.refuse_change(now, id, &error),
        };
        self.note(result)
    }

    /// How far the last change is; `None` if there was none.
    pub fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }

    /// Changes that are done.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A message about a change.
    pub(crate) fn control(&mut self, now: u64, rest: &[u8]) -> Result<(), FlowError> {
        let mut message = Buffer::new();
        let context = Context { kind: FREENA_SERVICE_CONTROL, now };
        let length = self.inward().inbound(context, rest, &mut message).map_err(FlowError::of_message)?;
        message.commit(length.unwrap_or(0));
        let mut reader = Reader(message.as_slice());
        let mut read = || {
            let (word, role) = (Word::of(reader.byte()?)?, reader.byte()?);
            Some((word, Id(role, u32::from_be_bytes(reader.array()?))))
        };
        let (word, id) = read()
            .ok_or_else(|| FlowError::Malformed("a message about a change that cannot be read".to_owned()))?;
        let body = reader.0;
        let server = self.flow.role == Role::Server;
        match (word, &mut self.pending_change) {
            // Both have proposed: the client's stands, the server gives its own up.
            (Word::Propose, Some(Pending::Agreeing { own: true, switched: [false, false], .. }))
                if !server =>
            {
                Ok(())
            }
            (Word::Propose, None)
            | (Word::Propose, Some(Pending::Agreeing { own: true, switched: [false, false], .. })) => {
                self.pending_change = Some(Pending::Asked(id, body.to_vec()));
                self.change = Some(Change::Proposed);
                Ok(())
            }
            (Word::Agreement(frame), Some(Pending::Agreeing { id: known, .. })) if *known == id => {
                self.agree_on_change(now, frame, body)
            }
            (Word::Switch, Some(Pending::Agreeing { id: known, agreement, switched, own }))
                if *known == id && agreement.proven && !switched[1] =>
            {
                switched[1] = true;
                if !*own {
                    self.switch(now, id)?;
                }
                self.finish_change();
                Ok(())
            }
            (Word::Refuse, Some(Pending::Agreeing { id: known, switched: [false, false], .. }))
                if *known == id =>
            {
                self.pending_change = None;
                self.change = Some(Change::Refused(format!("by the peer: {}", words(body))));
                Ok(())
            }
            // Of a change that one end has given up since.
            (Word::Agreement(_) | Word::Refuse, Some(Pending::Agreeing { id: known, .. }))
                if *known != id =>
            {
                Ok(())
            }
            (Word::Agreement(_) | Word::Refuse, None | Some(Pending::Asked(..))) => Ok(()),
            _ => Err(FlowError::Malformed("a message about a change at the wrong point".to_owned())),
        }
    }

    fn agree_on_change(&mut self, now: u64, frame: Frame, body: &[u8]) -> Result<(), FlowError> {
        let Some(Pending::Agreeing { id, agreement, own, switched }) = &mut self.pending_change else {
            return Ok(());
        };
        let (id, own) = (*id, *own);
        if let Err(error) = agreement.receive(now, frame, body) {
            if switched[0] {
                return Err(error);
            }
            return self.refuse_change(now, id, &error);
        }
        let ready = own && agreement.proven && agreement.confirmed && !switched[0];
        self.speak(now)?;
        if ready { self.switch(now, id) } else { Ok(()) }
    }

    /// The last message through the old services of this direction.
    fn switch(&mut self, now: u64, id: Id) -> Result<(), FlowError> {
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.own_messages(now, &mut pending);
        self.pending = pending;
        result?;
        self.say(now, Word::Switch, id, &[])?;
        if let Some(Pending::Agreeing { switched, .. }) = &mut self.pending_change {
            switched[0] = true;
        }
        Ok(())
    }

    fn finish_change(&mut self) {
        match self.pending_change.take() {
            Some(Pending::Agreeing { agreement, switched: [true, true], .. }) => {
                self.agreement = agreement;
                self.change = Some(Change::Done);
                self.changes += 1;
            }
            other => self.pending_change = other,
        }
    }

    fn refuse_change(&mut self, now: u64, id: Id, error: &FlowError) -> Result<(), FlowError> {
        let why = error.to_string();
        self.pending_change = None;
        self.change = Some(Change::Refused(why.clone()));
        self.say(now, Word::Refuse, id, &why.as_bytes()[..why.floor_char_boundary(200)])
    }

    /// Says what the agreement has to say. The first offer of it is the proposal.
    fn speak(&mut self, now: u64) -> Result<(), FlowError> {
        let Some(Pending::Agreeing { id, agreement, own, .. }) = &mut self.pending_change else {
            return Ok(());
        };
        let (id, own) = (*id, *own);
        for (frame, message) in std::mem::take(&mut agreement.outbox) {
            let propose = own && frame == Frame::Hello;
            let word = if propose { Word::Propose } else { Word::Agreement(frame) };
            self.say(now, word, id, &message)?;
        }
        Ok(())
    }

    fn say(&mut self, now: u64, word: Word, id: Id, body: &[u8]) -> Result<(), FlowError> {
        let mut message = vec![word.code(), id.0];
        message.extend(id.1.to_be_bytes());
        message.extend(body);
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.seal_frame(now, Frame::Control, FREENA_SERVICE_CONTROL, &message, &mut pending);
        self.pending = pending;
        result
    }
}
