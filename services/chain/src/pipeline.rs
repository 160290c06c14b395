//! A message's way through the services.
//!
//! It is copied as rarely as the services allow: those that only look get it where it is, those that rewrite it read it
//! there, and only the first that changes it in place has it copied. Rewriters take turns between the caller's buffer and
//! one of the pipeline's own, such that the last one writes to the caller's.

use crate::buffer::Buffer;
use crate::error::FlowError;
use crate::flow::{Flow, Resolved, Wishes};
use crate::offer::{MAX_ANNOUNCEMENT, MAX_SERVICES, Offered};
use freena_service_host::abi::{
    FREENA_SERVICE_IN_PLACE, FREENA_SERVICE_LOOK, FREENA_SERVICE_NEVER, FREENA_SERVICE_REWRITE,
};
use freena_service_host::{Context, Direction, Instance, OpenError, Outcome};
use std::ops::Range;

/// A figure of a service in a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The service's name.
    pub service: String,
    /// The figure's name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// Where a message is.
enum Place {
    /// Where it came from.
    Source,
    /// In the caller's buffer, behind its end.
    Out(Range<usize>),
    /// In the pipeline's.
    Spare(Range<usize>),
}

#[derive(Debug)]
pub(crate) struct Pipeline {
    instances: Vec<Instance>,
    spare: Vec<u8>,
    /// What services have of their own on its way.
    own: Vec<u8>,
    /// Whether a service has something of its own, for each direction.
    extra: [bool; 2],
}

impl Pipeline {
    /// Begins the flow in each service.
    pub(crate) fn new(
        services: &[Resolved],
        flow: &Flow,
        datagram: bool,
        most: usize,
        now: u64,
    ) -> Result<Self, FlowError> {
        if services.len() > MAX_SERVICES {
            let count = services.len();
            return Err(FlowError::Unfit(format!("{count} services, expected at most {MAX_SERVICES}")));
        }
        let mut instances = Vec::with_capacity(services.len());
        for it in services {
            let (fits, kind) = match datagram {
                true => (it.library.takes_datagrams(), "datagrams"),
                false => (it.library.takes_streams(), "streams"),
            };
            if !fits {
                let name = it.library.name();
                return Err(FlowError::Unfit(format!("service `{name}` cannot be inserted into {kind}")));
            }
            let instance = Instance::open(&it.library, &it.parameters, flow.raw(datagram), now);
            instances.push(instance.map_err(FlowError::Service)?);
        }
        let it = Self { instances, spare: Vec::new(), own: Vec::new(), extra: [false; 2] };
        let growth = it.growth();
        if growth > most {
            return Err(FlowError::Unfit(format!(
                "the services make a message longer by up to {growth} bytes, expected at most {most}"
            )));
        }
        Ok(it)
    }

    /// Most bytes that are added to a message on its way out.
    pub(crate) fn growth(&self) -> usize {
        self.instances.iter().map(|it| (it.promise().head + it.promise().tail) as usize).sum()
    }

    /// Whether one message from the peer may become several for the program.
    pub(crate) fn may_restore(&self) -> bool {
        self.instances.iter().any(Instance::may_restore)
    }

    /// Whether the program may get more bytes than the peer has sent.
    pub(crate) fn may_inflate(&self) -> bool {
        self.instances.iter().any(|it| it.promise().inflated > 0 || it.may_restore())
    }

    pub(crate) fn instances(&mut self) -> &mut [Instance] {
        &mut self.instances
    }

    /// What each service offers.
    pub(crate) fn offers(&mut self, services: &[Resolved]) -> Result<Vec<Offered>, FlowError> {
        let offer = |(instance, service): (&mut Instance, &Resolved)| {
            let announcement = instance.announce(MAX_ANNOUNCEMENT).map_err(FlowError::Service)?;
            Ok(Offered::new(service, announcement))
        };
        self.instances.iter_mut().zip(services).map(offer).collect()
    }

    /// Passes `source` to the peer: the result stands `header` bytes behind the end of `out`, and is not part of it yet.
    /// `None` if there is nothing to send.
    pub(crate) fn outbound(
        &mut self,
        context: Context,
        source: &[u8],
        header: usize,
        out: &mut Buffer,
    ) -> Result<Option<usize>, OpenError> {
        self.run(Direction::Outbound, 0, context, source, header, out)
    }

    /// Passes `source` to the program: the result stands behind the end of `out`.
    pub(crate) fn inbound(
        &mut self,
        context: Context,
        source: &[u8],
        out: &mut Buffer,
    ) -> Result<Option<usize>, OpenError> {
        self.run(Direction::Inbound, 0, context, source, 0, out)
    }

    /// Something of a service's own, passed on to the peer or the program. `None` if there is nothing more.
    pub(crate) fn extra(
        &mut self,
        direction: Direction,
        context: Context,
        header: usize,
        most: usize,
        out: &mut Buffer,
    ) -> Result<Option<usize>, OpenError> {
        if !std::mem::take(&mut self.extra[direction as usize]) {
            return Ok(None);
        }
        let mut own = std::mem::take(&mut self.own);
        own.resize(most, 0);
        let result = self.first_extra(direction, context, &mut own, header, out);
        self.own = own;
        // There may be more where this came from.
        self.extra[direction as usize] = matches!(result, Ok(Some(_)));
        result
    }

    fn first_extra(
        &mut self,
        direction: Direction,
        context: Context,
        own: &mut [u8],
        header: usize,
        out: &mut Buffer,
    ) -> Result<Option<usize>, OpenError> {
        for step in 0..self.instances.len() {
            let index = self.index(direction, step);
            while let Outcome::On(range) = self.instances[index].extra(direction, context, own, 0)? {
                let passed = self.run(direction, step + 1, context, &own[range], header, out)?;
                if passed.is_some() {
                    return Ok(passed);
                }
            }
        }
        Ok(None)
    }

    /// Messages to the peer pass the services in order; those from the peer in reverse.
    fn index(&self, direction: Direction, step: usize) -> usize {
        match direction {
            Direction::Outbound => step,
            Direction::Inbound => self.instances.len() - 1 - step,
        }
    }

    fn run(
        &mut self,
        direction: Direction,
        from: usize,
        context: Context,
        source: &[u8],
        header: usize,
        out: &mut Buffer,
    ) -> Result<Option<usize>, OpenError> {
        let count = self.instances.len();
        let index = |step: usize| match direction {
            Direction::Outbound => step,
            Direction::Inbound => count - 1 - step,
        };
        let mut rewrites = 0;
        let mut total = source.len();
        for step in from..count {
            let instance = &self.instances[index(step)];
            rewrites += usize::from(instance.mode(direction) == FREENA_SERVICE_REWRITE);
            total = instance.most(direction, total);
        }
        total += header;
        if rewrites > 0 && self.spare.len() < total {
            self.spare.resize(total, 0);
        }
        let (spare, instances) = (&mut self.spare[..], &mut self.instances);
        let memory = &mut out.room(total)[..total];
        let mut place = Place::Source;
        for step in from..count {
            // Where a message is to begin such that the next services can make it longer at its beginning without moving it.
            let begin = |instances: &[Instance], from: usize| {
                let next = (from..count).map(|step| &instances[index(step)]);
                let next = next.take_while(|it| it.mode(direction) != FREENA_SERVICE_REWRITE);
                header + next.map(|it| it.head(direction)).sum::<usize>()
            };
            let mode = instances[index(step)].mode(direction);
            rewrites -= usize::from(mode == FREENA_SERVICE_REWRITE);
            if mode == FREENA_SERVICE_IN_PLACE && matches!(place, Place::Source) {
                let start = begin(instances, step);
                let at = start..start + source.len();
                let in_spare = rewrites % 2 == 1;
                let target = if in_spare { &mut *spare } else { &mut *memory };
                target[at.clone()].copy_from_slice(source);
                place = if in_spare { Place::Spare(at) } else { Place::Out(at) };
            }
            let start = begin(instances, step + 1);
            let instance = &mut instances[index(step)];
            let outcome = match (mode, &place) {
                (FREENA_SERVICE_LOOK, Place::Source) => instance.look(direction, context, source),
                (FREENA_SERVICE_LOOK, Place::Out(at)) => {
                    instance.look(direction, context, &memory[at.clone()])
                }
                (FREENA_SERVICE_LOOK, Place::Spare(at)) => {
                    instance.look(direction, context, &spare[at.clone()])
                }
                (FREENA_SERVICE_IN_PLACE, Place::Spare(at)) => {
                    instance.in_place(direction, context, spare, at.clone())
                }
                (FREENA_SERVICE_IN_PLACE, Place::Out(at)) => {
                    instance.in_place(direction, context, memory, at.clone())
                }
                (_, Place::Source) => {
                    let target = if rewrites % 2 == 1 { &mut *spare } else { &mut *memory };
                    instance.rewrite(direction, context, source, target, start)
                }
                (_, Place::Out(at)) => {
                    instance.rewrite(direction, context, &memory[at.clone()], spare, start)
                }
                (_, Place::Spare(at)) => {
                    instance.rewrite(direction, context, &spare[at.clone()], memory, start)
                }
            }?;
            self.extra[direction as usize] |= instance.take_extra();
            place = match (outcome, mode, place) {
                (Outcome::Nothing, _, _) => return Ok(None),
                (Outcome::On(_), FREENA_SERVICE_LOOK, place) => place,
                (Outcome::On(at), FREENA_SERVICE_IN_PLACE, Place::Spare(_)) => Place::Spare(at),
                (Outcome::On(at), FREENA_SERVICE_IN_PLACE, _) => Place::Out(at),
                (Outcome::On(at), _, _) if rewrites % 2 == 1 => Place::Spare(at),
                (Outcome::On(at), _, _) => Place::Out(at),
            };
        }
        let length = match place {
            Place::Source => {
                memory[header..header + source.len()].copy_from_slice(source);
                source.len()
            }
            // Services that have used less room before the message than they had promised.
            Place::Out(at) => {
                let length = at.len();
                if at.start != header {
                    memory.copy_within(at, header);
                }
                length
            }
            Place::Spare(_) => {
                unreachable!("the number of rewriters that follow is even in the caller's buffer")
            }
        };
        Ok(Some(length))
    }

    /// When a message of `length` bytes may go: the latest that a service says.
    pub(crate) fn admit(&mut self, now: u64, length: usize) -> u64 {
        self.instances.iter_mut().map(|it| it.admit(now, length)).max().unwrap_or(0)
    }

    /// When [`Pipeline::timer`] is to be called.
    pub(crate) fn deadline(&mut self) -> u64 {
        self.instances.iter_mut().map(Instance::deadline).min().unwrap_or(FREENA_SERVICE_NEVER)
    }

    /// Tells the services whose deadline has passed.
    pub(crate) fn timer(&mut self, now: u64) {
        for it in &mut self.instances {
            if it.deadline() <= now {
                it.timer(now);
                self.extra = [true; 2];
            }
        }
    }

    pub(crate) fn figures(&mut self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for it in &mut self.instances {
            let service = it.library().name().to_owned();
            it.statistics(|name, value| {
                figures.push(Figure { service: service.clone(), name: name.to_owned(), value });
            });
        }
        figures
    }

    pub(crate) fn wishes(&self) -> Wishes {
        let mut wishes = Wishes::default();
        for promise in self.instances.iter().map(Instance::promise) {
            wishes.dscp = wishes.dscp.or(u8::try_from(promise.dscp).ok().filter(|it| *it < 64));
            wishes.priority = wishes.priority.or(u8::try_from(promise.priority).ok().filter(|it| *it < 7));
            wishes.pacing = wishes.pacing.or((promise.pacing > 0).then_some(promise.pacing));
        }
        wishes
    }
}
