//! A service in one flow: calls into the library, and what is believed of the answers.

use crate::error::{OpenError, Trouble};
use crate::library::Library;
use crate::parameters::Checked;
use freena_service_api::abi::*;
use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bytes by which a service may make a message longer, at each end.
const MAX_GROWTH: u32 = 16 * 1024;
/// Most bytes that a message is made of on its way in.
const MAX_INFLATED: u32 = 64 * 1024;
/// Most bytes of a reason.
const MAX_WHY: usize = 256;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the peer.
    Outbound,
    /// From the peer.
    Inbound,
}

/// What of a flow a message is, and when.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// FREENA_SERVICE_DATA and others.
    pub kind: u32,
    /// Nanoseconds.
    pub now: u64,
}

/// What a service has made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, and stands there now. With `look` the range means nothing.
    On(Range<usize>),
    /// There is nothing to pass on.
    Nothing,
}

/// A service in one flow.
#[derive(Debug)]
pub struct Instance {
    library: Arc<Library>,
    handle: NonNull<c_void>,
    promise: FreenaServicePromise,
    /// How it has failed: it is not called any more.
    fault: Option<String>,
    extra: bool,
}

// SAFETY: the interface says that calls may come from different threads, one at a time; all but `deadline` and `statistics`
// take `&mut self`, and those are `&mut self` here too.
unsafe impl Send for Instance {}

impl Instance {
    /// Begins a flow.
    ///
    /// # Errors
    /// What the service says against it, or how it has broken the interface.
    pub fn open(
        library: &Arc<Library>,
        parameters: &Checked,
        flow: FreenaServiceFlow,
        now: u64,
    ) -> Result<Self, OpenError> {
        let values: Vec<FreenaServiceValue> = parameters
            .values
            .iter()
            .map(|(name, value)| FreenaServiceValue { name: name.as_ptr(), value: value.as_ptr() })
            .collect();
        let mut setup = FreenaServiceSetup {
            size: size_of::<FreenaServiceSetup>() as u32,
            value_count: values.len() as u32,
            values: values.as_ptr(),
            flow,
            now,
            wall: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs()),
            promise: FreenaServicePromise {
                outbound: FREENA_SERVICE_LOOK,
                inbound: FREENA_SERVICE_LOOK,
                head: 0,
                tail: 0,
                inflated: 0,
                dscp: u32::MAX,
                priority: u32::MAX,
                pacing: 0,
            },
        };
        let failed = |trouble, why: String| OpenError { service: library.name().to_owned(), trouble, why };
        let mut handle = ptr::null_mut();
        let mut why = Why::default();
        let open = library.service().open.expect("checked when it was loaded");
        // SAFETY: all pointers are valid during the call, with the lengths that stand beside them.
        let status = unsafe { open(&raw mut setup, &raw mut handle, why.text()) };
        if status != FREENA_SERVICE_OK {
            let trouble = Trouble::of(status);
            return Err(failed(trouble, why.words(trouble)));
        }
        let Some(handle) = NonNull::new(handle) else {
            return Err(failed(Trouble::Fault, "it has opened a flow without a handle".to_owned()));
        };
        let mut it =
            Self { library: library.clone(), handle, promise: setup.promise, fault: None, extra: false };
        let promise = setup.promise;
        let modes = [promise.outbound, promise.inbound];
        if modes.iter().any(|mode| *mode > FREENA_SERVICE_REWRITE)
            || promise.head > MAX_GROWTH
            || promise.tail > MAX_GROWTH
            || promise.inflated > MAX_INFLATED
        {
            it.fault = Some("its promise is out of bounds".to_owned());
            return Err(failed(Trouble::Fault, format!("{promise:?} is out of bounds")));
        }
        Ok(it)
    }

    /// The library.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// What it has promised.
    pub fn promise(&self) -> &FreenaServicePromise {
        &self.promise
    }

    /// How it works on messages: FREENA_SERVICE_LOOK and others.
    pub fn mode(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Outbound => self.promise.outbound,
            Direction::Inbound => self.promise.inbound,
        }
    }

    /// Most bytes by which it makes a message longer at its beginning.
    pub fn head(&self, direction: Direction) -> usize {
        match direction {
            Direction::Outbound => self.promise.head as usize,
            Direction::Inbound => 0,
        }
    }

    /// Whether it has said since the last question that [`Instance::extra`] has something.
    pub fn take_extra(&mut self) -> bool {
        std::mem::take(&mut self.extra)
    }

    /// Whether it may have messages for the program that have not arrived as such.
    pub fn may_restore(&self) -> bool {
        self.library.service().extra_inbound.is_some()
    }

    /// What the peer is to know, at most `most` bytes.
    ///
    /// # Errors
    /// A fault.
    pub fn announce(&mut self, most: usize) -> Result<Vec<u8>, OpenError> {
        self.alive()?;
        let Some(announce) = self.library.service().announce else { return Ok(Vec::new()) };
        let mut out = vec![0; most];
        // SAFETY: the handle is of this library, and `out` has so many bytes.
        let length = unsafe { announce(self.handle.as_ptr(), out.as_mut_ptr(), most) };
        if length > most {
            return Err(self.broken(format!("it announces {length} bytes, expected at most {most}")));
        }
        out.truncate(length);
        Ok(out)
    }

    /// What both ends have told each other.
    ///
    /// # Errors
    /// What the service says against it, or a fault.
    pub fn agree(
        &mut self,
        announcement: &[u8],
        own_nonce: [u8; 32],
        peer_nonce: [u8; 32],
        transcript: [u8; 32],
    ) -> Result<(), OpenError> {
        self.alive()?;
        let Some(agree) = self.library.service().agree else { return Ok(()) };
        let agreement = FreenaServiceAgreement {
            size: size_of::<FreenaServiceAgreement>() as u32,
            announcement_length: announcement.len() as u32,
            announcement: announcement.as_ptr(),
            own_nonce,
            peer_nonce,
            transcript,
        };
        let mut why = Why::default();
        // SAFETY: the handle is of this library, all else is valid during the call.
        let status = unsafe { agree(self.handle.as_ptr(), &raw const agreement, why.text()) };
        if status == FREENA_SERVICE_OK { Ok(()) } else { Err(self.refused(status, &why)) }
    }

    /// Whether it takes part in a handshake.
    pub fn has_handshake(&self) -> bool {
        self.library.service().handshake.is_some()
    }

    /// A step of the handshake: what the peer is to get is appended to `out`; `true` when this end needs no more.
    ///
    /// # Errors
    /// Why it has failed.
    pub fn handshake(&mut self, input: &[u8], out: &mut Vec<u8>, most: usize) -> Result<bool, OpenError> {
        self.alive()?;
        let Some(handshake) = self.library.service().handshake else { return Ok(true) };
        let at = out.len();
        out.resize(at + most, 0);
        let (mut length, mut why) = (0, Why::default());
        // SAFETY: the handle is of this library, all else is valid during the call and as long as it says.
        let status = unsafe {
            handshake(
                self.handle.as_ptr(),
                input.as_ptr(),
                input.len(),
                out[at..].as_mut_ptr(),
                most,
                &raw mut length,
                why.text(),
            )
        };
        if length > most {
            out.truncate(at);
            return Err(self.broken(format!("its handshake has {length} bytes, expected at most {most}")));
        }
        out.truncate(at + length);
        match status {
            FREENA_SERVICE_OK => Ok(true),
            FREENA_SERVICE_MORE => Ok(false),
            status => Err(self.refused(status, &why)),
        }
    }

    /// Shows it a message.
    ///
    /// # Errors
    /// What is wrong with the message, or with the service.
    pub fn look(
        &mut self,
        direction: Direction,
        context: Context,
        input: &[u8],
    ) -> Result<Outcome, OpenError> {
        let message = message(context, input, &mut [], 0..0);
        self.pass(direction, message, 0..usize::MAX)
    }

    /// Has it change the message at `at` of `memory`.
    ///
    /// # Errors
    /// What is wrong with the message, or with the service; it has made it longer than promised, for instance.
    pub fn in_place(
        &mut self,
        direction: Direction,
        context: Context,
        memory: &mut [u8],
        at: Range<usize>,
    ) -> Result<Outcome, OpenError> {
        let allowed = match direction {
            Direction::Outbound => {
                let (head, tail) = (self.promise.head as usize, self.promise.tail as usize);
                at.start.saturating_sub(head)..memory.len().min(at.end + tail)
            }
            Direction::Inbound => at.clone(),
        };
        let message = message(context, &[], memory, at);
        self.pass(direction, message, allowed)
    }

    /// Has it write what it makes of `input` to `memory`, from `start` on.
    ///
    /// # Errors
    /// What is wrong with the message, or with the service.
    pub fn rewrite(
        &mut self,
        direction: Direction,
        context: Context,
        input: &[u8],
        memory: &mut [u8],
        start: usize,
    ) -> Result<Outcome, OpenError> {
        let most = start + self.most(direction, input.len());
        let allowed = start..memory.len().min(most);
        let message = message(context, input, memory, start..start);
        self.pass(direction, message, allowed)
    }

    /// Most bytes that become of `length` bytes.
    pub fn most(&self, direction: Direction, length: usize) -> usize {
        match direction {
            Direction::Outbound => length + self.promise.head as usize + self.promise.tail as usize,
            Direction::Inbound => length.max(self.promise.inflated as usize),
        }
    }

    /// A message that the service has of its own, written to `memory` from `start` on; at most `most` bytes.
    ///
    /// # Errors
    /// A fault.
    pub fn extra(
        &mut self,
        direction: Direction,
        context: Context,
        memory: &mut [u8],
        start: usize,
    ) -> Result<Outcome, OpenError> {
        self.alive()?;
        let service = self.library.service();
        let extra = match direction {
            Direction::Outbound => service.extra_outbound,
            Direction::Inbound => service.extra_inbound,
        };
        let Some(extra) = extra else { return Ok(Outcome::Nothing) };
        let allowed = start..memory.len();
        let message = message(context, &[], memory, start..start);
        self.call(extra, message, allowed)
    }

    /// When a message of `length` bytes may go.
    pub fn admit(&mut self, now: u64, length: usize) -> u64 {
        match (self.library.service().admit, &self.fault) {
            // SAFETY: the handle is of this library.
            (Some(admit), None) => unsafe { admit(self.handle.as_ptr(), now, length) },
            _ => 0,
        }
    }

    /// When [`Instance::timer`] is to be called.
    pub fn deadline(&mut self) -> u64 {
        match (self.library.service().deadline, &self.fault) {
            // SAFETY: the handle is of this library.
            (Some(deadline), None) => unsafe { deadline(self.handle.as_ptr()) },
            _ => FREENA_SERVICE_NEVER,
        }
    }

    /// The deadline has passed.
    pub fn timer(&mut self, now: u64) {
        if let (Some(timer), None) = (self.library.service().timer, &self.fault) {
            // SAFETY: the handle is of this library.
            unsafe { timer(self.handle.as_ptr(), now) };
        }
    }

    /// Tells the flow's figures.
    pub fn statistics(&mut self, mut figure: impl FnMut(&str, u64)) {
        const MOST: usize = 32;
        let (Some(statistics), None) = (self.library.service().statistics, &self.fault) else { return };
        let mut list = [FreenaServiceStatistic { name: ptr::null(), value: 0 }; MOST];
        // SAFETY: the handle is of this library, and there is room for so many.
        let count = unsafe { statistics(self.handle.as_ptr(), list.as_mut_ptr(), MOST) };
        for it in list.iter().take(count).filter(|it| !it.name.is_null()) {
            // SAFETY: a string of the library that lives on.
            figure(&unsafe { CStr::from_ptr(it.name) }.to_string_lossy(), it.value);
        }
    }

    fn pass(
        &mut self,
        direction: Direction,
        message: FreenaServiceMessage,
        allowed: Range<usize>,
    ) -> Result<Outcome, OpenError> {
        self.alive()?;
        let service = self.library.service();
        let function = match direction {
            Direction::Outbound => service.outbound,
            Direction::Inbound => service.inbound,
        };
        self.call(function.expect("checked when it was loaded"), message, allowed)
    }

    fn call(
        &mut self,
        function: unsafe extern "C" fn(*mut c_void, *mut FreenaServiceMessage) -> u32,
        mut message: FreenaServiceMessage,
        allowed: Range<usize>,
    ) -> Result<Outcome, OpenError> {
        // SAFETY: the handle is of this library; the message's pointers are those of slices that live through the call.
        let status = unsafe { function(self.handle.as_ptr(), &raw mut message) };
        self.extra |= message.extra == 1;
        match status {
            FREENA_SERVICE_OK => {
                let end = message.start.checked_add(message.length);
                match end {
                    Some(end) if message.start >= allowed.start && end <= allowed.end => {
                        Ok(Outcome::On(message.start..end))
                    }
                    _ => {
                        let (start, length) = (message.start, message.length);
                        Err(self.broken(format!(
                            "it returns {length} bytes at {start}, expected them within {}..{} as promised",
                            allowed.start, allowed.end
                        )))
                    }
                }
            }
            FREENA_SERVICE_NOTHING => Ok(Outcome::Nothing),
            FREENA_SERVICE_FORGED | FREENA_SERVICE_REPLAYED | FREENA_SERVICE_MALFORMED => {
                let trouble = Trouble::of(status);
                Err(self.error(trouble, trouble.words().to_owned()))
            }
            FREENA_SERVICE_FAULT => Err(self.broken("it has failed".to_owned())),
            other => Err(self.refused(other, &Why::default())),
        }
    }

    fn alive(&self) -> Result<(), OpenError> {
        match &self.fault {
            Some(fault) => Err(self.error(Trouble::Fault, fault.clone())),
            None => Ok(()),
        }
    }

    fn broken(&mut self, why: String) -> OpenError {
        self.fault = Some(why.clone());
        self.error(Trouble::Fault, why)
    }

    fn refused(&mut self, status: u32, why: &Why) -> OpenError {
        let trouble = Trouble::of(status);
        let why = why.words(trouble);
        if trouble == Trouble::Fault { self.broken(why) } else { self.error(trouble, why) }
    }

    fn error(&self, trouble: Trouble, why: String) -> OpenError {
        OpenError { service: self.library.name().to_owned(), trouble, why }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(close) = self.library.service().close {
            // SAFETY: the handle is of this library, and not used again.
            unsafe { close(self.handle.as_ptr()) };
        }
    }
}

fn message(context: Context, input: &[u8], memory: &mut [u8], at: Range<usize>) -> FreenaServiceMessage {
    FreenaServiceMessage {
        kind: context.kind,
        extra: 0,
        now: context.now,
        input: input.as_ptr(),
        input_length: input.len(),
        memory: if memory.is_empty() { ptr::null_mut() } else { memory.as_mut_ptr() },
        capacity: memory.len(),
        start: at.start,
        length: at.len(),
    }
}

/// Room for a reason.
struct Why {
    bytes: [u8; MAX_WHY],
    raw: FreenaServiceText,
}

impl Default for Why {
    fn default() -> Self {
        let raw = FreenaServiceText { text: ptr::null_mut(), capacity: MAX_WHY, length: 0 };
        Self { bytes: [0; MAX_WHY], raw }
    }
}

impl Why {
    fn text(&mut self) -> &mut FreenaServiceText {
        self.raw.text = self.bytes.as_mut_ptr().cast();
        &mut self.raw
    }

    fn words(&self, trouble: Trouble) -> String {
        let said = &self.bytes[..self.raw.length.min(MAX_WHY)];
        if said.is_empty() {
            return trouble.words().to_owned();
        }
        String::from_utf8_lossy(said).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}
