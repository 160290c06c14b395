//! A stream with services.

use crate::agreement::Agreement;
use crate::buffer::Buffer;
use crate::change::{Change, Pending};
use crate::error::{Alert, FlowError};
use crate::flow::{Flow, Resolved, Role, Wishes};
use crate::pipeline::{Figure, Pipeline};
use crate::wire::{Frame, HEADER, MAGIC, MAX_REST, VERSION, header, length, words};
use crate::{Blocked, MAX_CHUNK, PATIENCE, PLAIN_PATIENCE, Sealed};
use freena_service_host::abi::{FREENA_SERVICE_DATA, FREENA_SERVICE_END, FREENA_SERVICE_NEVER};
use freena_service_host::{Context, Direction};
use std::io::IoSlice;

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of the peer.
    Waiting,
    /// The peer has services; what they need to know of each other is on its way.
    Agreeing,
    /// The program's bytes pass.
    Open,
    /// The peer has no freena, and the rule allows it. A server goes on without this flow: nothing was sent, and what has
    /// arrived is the program's. A client has sent its offer already: it must open another connection.
    Plain,
    /// The flow is over by an error.
    Failed,
}

/// What [`StreamFlow::open`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Bytes of the program's that were appended.
    pub produced: usize,
    /// The peer has ended its direction; nothing follows.
    pub end: bool,
}

/// A stream with services, sans-IO.
///
/// - [`StreamFlow::transmit`] after each call gives what is to be sent besides the program's bytes; a client's offer at first.
/// - [`StreamFlow::open`] takes what has arrived, whole frames of it; [`StreamFlow::need`] tells how much must be there.
/// - [`StreamFlow::seal`] takes what the program sends, once the two ends agree.
/// - [`StreamFlow::timer`] is called when [`StreamFlow::deadline`] has passed.
/// - [`StreamFlow::propose`] and [`StreamFlow::answer`] change the services while bytes go on passing.
///
/// After an error the flow is over: every call gives the same error, and `transmit` what the peer is to know of it.
#[derive(Debug)]
pub struct StreamFlow {
    pub(crate) flow: Flow,
    /// What the two ends have agreed on last, and the services.
    pub(crate) agreement: Box<Agreement>,
    pub(crate) pending_change: Option<Pending>,
    pub(crate) change: Option<Change>,
    pub(crate) changes: u64,
    pub(crate) proposals: u32,
    /// What is to be sent besides the program's bytes.
    pub(crate) pending: Buffer,
    /// Where what the program sends in pieces is put together.
    gather: Vec<u8>,
    pub(crate) stage: Stage,
    begun: u64,
    pub(crate) ended: bool,
    pub(crate) peer_ended: bool,
    error: Option<FlowError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer's magic and offer are awaited.
    Hello,
    /// Handshakes of services, and the peer's proof of the key.
    Agreeing,
    Open,
    Plain,
}

impl StreamFlow {
    /// Begins a stream with `services`, in the order in which the program's bytes pass them.
    ///
    /// # Errors
    /// A service refuses the flow or cannot be inserted into streams, or there is no randomness.
    pub fn new(services: &[Resolved], flow: Flow, now: u64) -> Result<Self, FlowError> {
        let mut it = Self {
            flow,
            agreement: Box::new(Agreement::new(services, &flow, [0; 32], now)?),
            pending_change: None,
            change: None,
            changes: 0,
            proposals: 0,
            pending: Buffer::new(),
            gather: Vec::new(),
            stage: Stage::Hello,
            begun: now,
            ended: false,
            peer_ended: false,
            error: None,
        };
        if flow.role == Role::Client {
            it.agreement.offer();
            it.tell();
        }
        Ok(it)
    }

    /// How far it is.
    pub fn state(&self) -> State {
        match (self.stage, &self.error) {
            (_, Some(_)) => State::Failed,
            (Stage::Hello, _) => State::Waiting,
            (Stage::Agreeing, _) => State::Agreeing,
            (Stage::Open, _) => State::Open,
            (Stage::Plain, _) => State::Plain,
        }
    }

    /// Whether the program's bytes are taken: the peer has a part in it, and, for a client, has proved its key.
    pub fn can_seal(&self) -> bool {
        self.agreement.confirmed
            && self.error.is_none()
            && (self.stage == Stage::Open || self.flow.role == Role::Server)
    }

    /// Why it is over.
    pub fn error(&self) -> Option<&FlowError> {
        self.error.as_ref()
    }

    /// What services wish for of the socket below.
    pub fn wishes(&self) -> Wishes {
        self.out().wishes()
    }

    /// Whether [`StreamFlow::open`] may append more bytes than it is given.
    pub fn may_inflate(&self) -> bool {
        let coming = match &self.pending_change {
            Some(Pending::Agreeing { agreement, .. }) => agreement.pipeline.may_inflate(),
            _ => false,
        };
        coming || self.agreement.pipeline.may_inflate()
    }

    /// The figures of all services.
    pub fn figures(&mut self) -> Vec<Figure> {
        self.out_mut().figures()
    }

    /// Appends what is to be sent besides the program's bytes to `out`; whether there was any. To be asked after every other
    /// call but `seal` and `end`, which do it themselves.
    pub fn transmit(&mut self, now: u64, out: &mut Buffer) -> bool {
        let before = out.len();
        if !self.pending.is_empty() {
            out.push(self.pending.as_slice());
            self.pending.clear();
        }
        if self.agreement.confirmed && self.error.is_none() {
            let result = self.own_messages(now, out);
            let _ = self.note(result);
        }
        out.len() > before
    }

    /// How many bytes must have arrived, of which `available` are the first, before [`StreamFlow::open`] gets any further.
    pub fn need(&self, available: &[u8]) -> usize {
        if self.stage == Stage::Hello {
            let known = available.len().min(MAGIC.len());
            if available.is_empty() || available[..known] != MAGIC[..known] {
                return 1;
            }
            let header = MAGIC.len() + HEADER;
            return available.get(MAGIC.len()..).and_then(length).map_or(header, |it| MAGIC.len() + it);
        }
        length(available).unwrap_or(HEADER)
    }

    /// Takes what has arrived, as far as there are whole frames, and appends the program's bytes in them to `out`. It stops
    /// when `out` has got `most` bytes or more, after the frame at hand.
    ///
    /// # Errors
    /// The flow is over. What is in `out` has arrived undamaged.
    pub fn open(
        &mut self,
        now: u64,
        input: &[u8],
        out: &mut Buffer,
        most: usize,
    ) -> Result<Opened, FlowError> {
        self.alive()?;
        let mut opened = Opened::default();
        let result = self.open_frames(now, input, out, most, &mut opened);
        self.note(result)?;
        opened.end = self.peer_ended;
        Ok(opened)
    }

    fn open_frames(
        &mut self,
        now: u64,
        input: &[u8],
        out: &mut Buffer,
        most: usize,
        opened: &mut Opened,
    ) -> Result<(), FlowError> {
        if self.stage == Stage::Hello && !self.begins_as_freena(input)? {
            return Ok(());
        }
        while self.stage != Stage::Plain && opened.produced < most {
            let skip = if self.stage == Stage::Hello { MAGIC.len() } else { 0 };
            let Some(rest) = input[opened.consumed..].get(skip..) else { break };
            let Some(end) = length(rest).filter(|end| *end <= rest.len()) else { break };
            let kind = Frame::of(rest[0]).filter(|_| rest[1] == 0);
            let kind = kind.ok_or_else(|| {
                FlowError::Malformed(format!("a frame of kind {} and {}", rest[0], rest[1]))
            })?;
            opened.produced += self.frame(now, kind, &rest[HEADER..end], out)?;
            opened.consumed += skip + end;
        }
        Ok(())
    }

    /// Whether the peer's offer may follow; `false` if more must be there to tell, or the peer is without freena.
    fn begins_as_freena(&mut self, input: &[u8]) -> Result<bool, FlowError> {
        let known = input.len().min(MAGIC.len());
        if input[..known] == MAGIC[..known] {
            return Ok(known == MAGIC.len());
        }
        if known == MAGIC.len() && input[..known - 1] == MAGIC[..known - 1] {
            return Err(FlowError::Version(input[known - 1]));
        }
        if self.flow.allow_plain {
            self.stage = Stage::Plain;
            self.pending.clear();
            return Ok(false);
        }
        Err(FlowError::NotFreena(format!("{:02x?}", &input[..input.len().min(16)])))
    }

    /// A frame; how many of the program's bytes were in it.
    fn frame(&mut self, now: u64, kind: Frame, rest: &[u8], out: &mut Buffer) -> Result<usize, FlowError> {
        match (kind, self.stage) {
            (Frame::Alert, _) => {
                let alert = rest.first().and_then(|code| Alert::of(*code)).unwrap_or(Alert::Malformed);
                Err(FlowError::Alert { alert, why: words(rest.get(1..).unwrap_or_default()) })
            }
            (Frame::Hello, Stage::Hello) | (Frame::Handshake | Frame::Confirm, Stage::Agreeing) => {
                self.stage = Stage::Agreeing;
                let result = self.agreement.receive(now, kind, rest);
                self.tell();
                if self.agreement.proven {
                    self.stage = Stage::Open;
                }
                result.map(|()| 0)
            }
            (Frame::Control, Stage::Open) => self.control(now, rest).map(|()| 0),
            (Frame::Data, Stage::Open) if !self.peer_ended => {
                let context = Context { kind: FREENA_SERVICE_DATA, now };
                let length = self.inward().inbound(context, rest, out);
                let mut produced = length.map_err(FlowError::of_message)?.unwrap_or(0);
                out.commit(produced);
                while let Some(length) = self
                    .inward()
                    .extra(Direction::Inbound, context, 0, MAX_REST, out)
                    .map_err(FlowError::of_message)?
                {
                    out.commit(length);
                    produced += length;
                }
                Ok(produced)
            }
            (Frame::End, Stage::Open) if !self.peer_ended => {
                let context = Context { kind: FREENA_SERVICE_END, now };
                let length = self.inward().inbound(context, rest, out).map_err(FlowError::of_message)?;
                if length.unwrap_or(0) != 0 {
                    return Err(FlowError::Malformed("an end that is not empty".into()));
                }
                self.peer_ended = true;
                Ok(0)
            }
            (kind, stage) => Err(FlowError::Malformed(format!("a frame {kind:?} while {stage:?}"))),
        }
    }

    /// Moves what the agreement has to say to the peer to what is to be sent.
    fn tell(&mut self) {
        for (frame, message) in std::mem::take(&mut self.agreement.outbox) {
            if frame == Frame::Hello {
                self.pending.push(&MAGIC);
            }
            self.pending.push(&header(frame, message.len()));
            self.pending.push(&message);
        }
    }

    /// The services of this end's direction.
    fn out(&self) -> &Pipeline {
        match &self.pending_change {
            Some(Pending::Agreeing { agreement, switched: [true, _], .. }) => &agreement.pipeline,
            _ => &self.agreement.pipeline,
        }
    }

    fn out_mut(&mut self) -> &mut Pipeline {
        match &mut self.pending_change {
            Some(Pending::Agreeing { agreement, switched: [true, _], .. }) => &mut agreement.pipeline,
            _ => &mut self.agreement.pipeline,
        }
    }

    /// The services of the peer's direction.
    pub(crate) fn inward(&mut self) -> &mut Pipeline {
        match &mut self.pending_change {
            Some(Pending::Agreeing { agreement, switched: [_, true], .. }) => &mut agreement.pipeline,
            _ => &mut self.agreement.pipeline,
        }
    }

    pub(crate) fn seal_frame(
        &mut self,
        now: u64,
        frame: Frame,
        kind: u32,
        plain: &[u8],
        out: &mut Buffer,
    ) -> Result<(), FlowError> {
        let length = self.out_mut().outbound(Context { kind, now }, plain, HEADER, out);
        let Some(length) = length.map_err(FlowError::of_message)? else { return Ok(()) };
        frame_around(frame, length, out);
        Ok(())
    }

    /// What services have of their own.
    pub(crate) fn own_messages(&mut self, now: u64, out: &mut Buffer) -> Result<(), FlowError> {
        let context = Context { kind: FREENA_SERVICE_DATA, now };
        while let Some(length) = self
            .out_mut()
            .extra(Direction::Outbound, context, HEADER, MAX_CHUNK, out)
            .map_err(FlowError::of_message)?
        {
            frame_around(Frame::Data, length, out);
        }
        Ok(())
    }

    /// Takes bytes of the program and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// The flow is over, or [`FlowError::Ended`] by this end.
    pub fn seal(&mut self, now: u64, plain: &[IoSlice<'_>], out: &mut Buffer) -> Result<Sealed, FlowError> {
        self.alive()?;
        if self.ended {
            return Err(FlowError::Ended);
        }
        if !self.can_seal() {
            return Ok(Sealed { consumed: 0, blocked: Some(Blocked::Agreement) });
        }
        self.transmit(now, out);
        let mut sealed = Sealed { consumed: 0, blocked: None };
        let mut gather = std::mem::take(&mut self.gather);
        let result = self.seal_chunks(now, plain, &mut gather, out, &mut sealed);
        self.gather = gather;
        self.note(result)?;
        self.transmit(now, out);
        Ok(sealed)
    }

    fn seal_chunks(
        &mut self,
        now: u64,
        plain: &[IoSlice<'_>],
        gather: &mut Vec<u8>,
        out: &mut Buffer,
        sealed: &mut Sealed,
    ) -> Result<(), FlowError> {
        let (mut index, mut offset) = (0, 0);
        while let Some(slice) = plain.get(index) {
            let rest = &slice[offset..];
            // A chunk of one slice is read where it is; one that continues in the next is gathered first.
            let chunk = if rest.len() >= MAX_CHUNK || index + 1 == plain.len() {
                &rest[..rest.len().min(MAX_CHUNK)]
            } else {
                gather.clear();
                let (mut index, mut offset) = (index, offset);
                while let Some(slice) = plain.get(index).filter(|_| gather.len() < MAX_CHUNK) {
                    let rest = &slice[offset..];
                    gather.extend_from_slice(&rest[..rest.len().min(MAX_CHUNK - gather.len())]);
                    (index, offset) = (index + 1, 0);
                }
                &gather[..]
            };
            if chunk.is_empty() {
                break;
            }
            let at = self.out_mut().admit(now, chunk.len());
            if at > now {
                sealed.blocked = Some(Blocked::Until(at));
                break;
            }
            self.seal_frame(now, Frame::Data, FREENA_SERVICE_DATA, chunk, out)?;
            sealed.consumed += chunk.len();
            let mut step = chunk.len();
            while let Some(slice) = plain.get(index)
                && step >= slice.len() - offset
            {
                step -= slice.len() - offset;
                (index, offset) = (index + 1, 0);
            }
            offset += step;
        }
        Ok(())
    }

    /// Ends this direction: the peer's program gets an end of file, and knows that nothing is missing.
    ///
    /// # Errors
    /// The flow is over. [`FlowError::NoAgreement`] while the two ends do not agree: there is nothing to end yet.
    pub fn end(&mut self, now: u64, out: &mut Buffer) -> Result<(), FlowError> {
        self.alive()?;
        if !self.can_seal() {
            return Err(FlowError::NoAgreement(now.saturating_sub(self.begun) / 1_000_000_000));
        }
        if !std::mem::replace(&mut self.ended, true) {
            self.transmit(now, out);
            let result = self.seal_frame(now, Frame::End, FREENA_SERVICE_END, &[], out);
            self.note(result)?;
        }
        Ok(())
    }

    /// The transport has ended: nothing arrives any more, and there is no whole frame left.
    ///
    /// # Errors
    /// The peer had not ended its direction.
    pub fn eof(&mut self) -> Result<(), FlowError> {
        self.alive()?;
        if self.peer_ended || self.stage == Stage::Plain {
            return Ok(());
        }
        self.note(Err(FlowError::Truncated))
    }

    /// When [`StreamFlow::timer`] is to be called, in nanoseconds; `u64::MAX` for never.
    pub fn deadline(&mut self) -> u64 {
        match self.stage {
            _ if self.error.is_some() => FREENA_SERVICE_NEVER,
            Stage::Hello | Stage::Agreeing => self.begun.saturating_add(self.patience()),
            Stage::Open => self.out_mut().deadline(),
            Stage::Plain => FREENA_SERVICE_NEVER,
        }
    }

    fn patience(&self) -> u64 {
        let may_be_plain = self.stage == Stage::Hello && self.flow.allow_plain;
        if may_be_plain && self.flow.role == Role::Server { PLAIN_PATIENCE } else { PATIENCE }
    }

    /// The deadline has passed.
    ///
    /// # Errors
    /// The flow is over: the peer has not answered in time.
    pub fn timer(&mut self, now: u64) -> Result<(), FlowError> {
        self.alive()?;
        if now < self.deadline() {
            return Ok(());
        }
        match self.stage {
            Stage::Hello if self.patience() == PLAIN_PATIENCE => self.stage = Stage::Plain,
            Stage::Hello | Stage::Agreeing => {
                return self.note(Err(FlowError::NoAgreement(PATIENCE / 1_000_000_000)));
            }
            Stage::Open => self.out_mut().timer(now),
            Stage::Plain => {}
        }
        Ok(())
    }

    pub(crate) fn alive(&self) -> Result<(), FlowError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Remembers an error, and what the peer is to know of it.
    pub(crate) fn note<T>(&mut self, result: Result<T, FlowError>) -> Result<T, FlowError> {
        if let Err(error) = &result {
            let known =
                self.stage != Stage::Hello || self.flow.role == Role::Client || !self.pending.is_empty();
            if let Some(alert) = error.alert().filter(|_| known) {
                let why = error.to_string();
                let why = &why.as_bytes()[..why.floor_char_boundary(200)];
                self.pending.push(&header(Frame::Alert, 1 + why.len()));
                self.pending.push(&[alert as u8]);
                self.pending.push(why);
            }
            self.error = Some(error.clone());
        }
        result
    }
}

/// Makes the `length` bytes behind the header's room, behind the end of `out`, a frame.
fn frame_around(frame: Frame, length: usize, out: &mut Buffer) {
    out.room(HEADER + length)[..HEADER].copy_from_slice(&header(frame, length));
    out.commit(HEADER + length);
}

const _: () = assert!(MAGIC[7] == VERSION);
