//! A [`Service`] as functions of the C ABI. A panic does not pass the boundary: it is a fault of the flow.

use crate::abi::*;
use crate::service::Passed;
use crate::{Agreement, Flow, Info, Message, Mode, Promise, Refusal, Service, Setup, Step, Verdict};
use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

/// The description of a service for [`crate::export_service!`].
pub const fn describe<S: Service>() -> FreenaService {
    let Info { name, about, version, kinds, parameters } = S::INFO;
    FreenaService {
        abi: FREENA_SERVICE_ABI,
        size: size_of::<FreenaService>() as u32,
        name: name.as_ptr(),
        about: about.as_ptr(),
        version,
        kinds,
        parameters: parameters.as_ptr(),
        parameter_count: parameters.len() as u32,
        pad: 0,
        open: Some(open::<S>),
        close: Some(close::<S>),
        announce: Some(announce::<S>),
        agree: Some(agree::<S>),
        handshake: if S::HAS_HANDSHAKE { Some(handshake::<S>) } else { None },
        outbound: Some(outbound::<S>),
        inbound: Some(inbound::<S>),
        admit: if S::HOLDS_BACK { Some(admit::<S>) } else { None },
        extra_outbound: Some(extra_outbound::<S>),
        extra_inbound: if S::RESTORES { Some(extra_inbound::<S>) } else { None },
        deadline: Some(deadline::<S>),
        timer: Some(timer::<S>),
        statistics: Some(statistics::<S>),
    }
}

/// An instance: the service, or nothing after a panic, which may have left it half changed.
struct Held<S>(Option<S>);

/// Calls `call` with the service. A panic, now or before, is `fault`.
///
/// # Safety
/// `instance` is what `open` has made for this `S`, and nobody else uses it meanwhile.
unsafe fn with<S: Service, R>(instance: *mut c_void, fault: R, call: impl FnOnce(&mut S) -> R) -> R {
    // SAFETY: as the caller promises.
    let held = unsafe { &mut *instance.cast::<Held<S>>() };
    let Some(service) = &mut held.0 else { return fault };
    match catch_unwind(AssertUnwindSafe(|| call(service))) {
        Ok(result) => result,
        Err(_) => {
            // Its destructor might panic again: it is left where it is.
            std::mem::forget(held.0.take());
            fault
        }
    }
}

/// # Safety
/// `why` is null or has room for what it says.
unsafe fn refuse(refusal: &Refusal, why: *mut FreenaServiceText) -> u32 {
    // SAFETY: as the caller promises.
    if let Some(why) = unsafe { why.as_mut() }
        && !why.text.is_null()
    {
        why.length = refusal.why.floor_char_boundary(why.capacity.min(refusal.why.len()));
        // SAFETY: there is room for `capacity` bytes, and `length` is no more.
        unsafe { why.text.copy_from_nonoverlapping(refusal.why.as_ptr().cast(), why.length) };
    }
    refusal.trouble as u32
}

fn panicked() -> Refusal {
    Refusal::new(crate::Trouble::Fault, "the service has panicked")
}

/// # Safety
/// The pointers lead to what the C ABI says.
unsafe extern "C" fn open<S: Service>(
    setup: *mut FreenaServiceSetup,
    instance: *mut *mut c_void,
    why: *mut FreenaServiceText,
) -> u32 {
    // SAFETY: as the caller promises.
    let raw = unsafe { &mut *setup };
    let values = if raw.value_count == 0 {
        &[]
    } else {
        // SAFETY: as the caller promises.
        unsafe { slice::from_raw_parts(raw.values, raw.value_count as usize) }
    };
    let text = |pointer| {
        // SAFETY: a string that ends with 0, valid during the call.
        unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or_default()
    };
    let setup = Setup {
        values: values.iter().map(|it| (text(it.name), text(it.value))).collect(),
        flow: Flow(raw.flow),
        now: raw.now,
        wall: raw.wall,
    };
    let opened = catch_unwind(AssertUnwindSafe(|| S::open(&setup))).unwrap_or_else(|_| Err(panicked()));
    match opened {
        Ok((service, promise)) => {
            raw.promise = promised(promise);
            let held = Box::new(Held(Some(service)));
            // SAFETY: as the caller promises.
            unsafe { *instance = Box::into_raw(held).cast() };
            FREENA_SERVICE_OK
        }
        // SAFETY: as the caller promises.
        Err(refusal) => unsafe { refuse(&refusal, why) },
    }
}

fn promised(it: Promise) -> FreenaServicePromise {
    let mode = |mode| match mode {
        Mode::Look => FREENA_SERVICE_LOOK,
        Mode::InPlace => FREENA_SERVICE_IN_PLACE,
        Mode::Rewrite => FREENA_SERVICE_REWRITE,
    };
    FreenaServicePromise {
        outbound: mode(it.outbound),
        inbound: mode(it.inbound),
        head: it.head,
        tail: it.tail,
        inflated: it.inflated,
        dscp: it.dscp.map_or(u32::MAX, u32::from),
        priority: it.priority.map_or(u32::MAX, u32::from),
        pacing: it.pacing.unwrap_or(0),
    }
}

/// # Safety
/// `instance` is of `open::<S>`, and not used again.
unsafe extern "C" fn close<S: Service>(instance: *mut c_void) {
    // SAFETY: `open` has made it by `into_raw`, and the caller gives it up.
    let held = unsafe { Box::from_raw(instance.cast::<Held<S>>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
}

/// # Safety
/// `instance` is of `open::<S>`, `out` has room for `capacity` bytes.
unsafe extern "C" fn announce<S: Service>(instance: *mut c_void, out: *mut u8, capacity: usize) -> usize {
    // SAFETY: as the caller promises.
    let out = unsafe { slice::from_raw_parts_mut(out, capacity) };
    // SAFETY: as the caller promises.
    unsafe { with(instance, usize::MAX, |service: &mut S| service.announce(out)) }
}

/// # Safety
/// `instance` is of `open::<S>`, the pointers lead to what the C ABI says.
unsafe extern "C" fn agree<S: Service>(
    instance: *mut c_void,
    agreement: *const FreenaServiceAgreement,
    why: *mut FreenaServiceText,
) -> u32 {
    // SAFETY: as the caller promises.
    let raw = unsafe { &*agreement };
    let agreement = Agreement {
        // SAFETY: as the caller promises.
        announcement: unsafe { bytes(raw.announcement, raw.announcement_length as usize) },
        own_nonce: &raw.own_nonce,
        peer_nonce: &raw.peer_nonce,
        transcript: &raw.transcript,
    };
    // SAFETY: as the caller promises.
    let result = unsafe { with(instance, Err(panicked()), |service: &mut S| service.agree(&agreement)) };
    match result {
        Ok(()) => FREENA_SERVICE_OK,
        // SAFETY: as the caller promises.
        Err(refusal) => unsafe { refuse(&refusal, why) },
    }
}

/// # Safety
/// Null with any length, or so many readable bytes.
unsafe fn bytes<'a>(pointer: *const u8, length: usize) -> &'a [u8] {
    if pointer.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { slice::from_raw_parts(pointer, length) }
}

/// # Safety
/// `instance` is of `open::<S>`, the pointers lead to what the C ABI says.
unsafe extern "C" fn handshake<S: Service>(
    instance: *mut c_void,
    input: *const u8,
    input_length: usize,
    out: *mut u8,
    capacity: usize,
    length: *mut usize,
    why: *mut FreenaServiceText,
) -> u32 {
    // SAFETY: as the caller promises.
    let (input, out) = unsafe { (bytes(input, input_length), slice::from_raw_parts_mut(out, capacity)) };
    // SAFETY: as the caller promises.
    let step = unsafe { with(instance, Err(panicked()), |service: &mut S| service.handshake(input, out)) };
    let (written, status) = match step {
        Ok(Step::More(written)) => (written, FREENA_SERVICE_MORE),
        Ok(Step::Done(written)) => (written, FREENA_SERVICE_OK),
        // SAFETY: as the caller promises.
        Err(refusal) => (0, unsafe { refuse(&refusal, why) }),
    };
    // SAFETY: as the caller promises.
    unsafe { *length = written };
    status
}

/// # Safety
/// `instance` is of `open::<S>`, `message` keeps to what [`Message::new`] asks for.
unsafe fn pass<S: Service>(
    instance: *mut c_void,
    message: *mut FreenaServiceMessage,
    call: impl FnOnce(&mut S, &mut Message<'_>) -> Verdict,
) -> u32 {
    // SAFETY: as the caller promises.
    let mut message = unsafe { Message::new(&mut *message) };
    let verdict = |service: &mut S| match call(service, &mut message) {
        Ok(Passed::On) => FREENA_SERVICE_OK,
        Ok(Passed::Nothing) => FREENA_SERVICE_NOTHING,
        Err(trouble) => trouble as u32,
    };
    // SAFETY: as the caller promises.
    unsafe { with(instance, FREENA_SERVICE_FAULT, verdict) }
}

/// # Safety
/// As [`pass`].
unsafe extern "C" fn outbound<S: Service>(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { pass(instance, message, S::outbound) }
}

/// # Safety
/// As [`pass`].
unsafe extern "C" fn inbound<S: Service>(instance: *mut c_void, message: *mut FreenaServiceMessage) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { pass(instance, message, S::inbound) }
}

/// # Safety
/// As [`pass`].
unsafe extern "C" fn extra_outbound<S: Service>(
    instance: *mut c_void,
    message: *mut FreenaServiceMessage,
) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { pass(instance, message, S::extra_outbound) }
}

/// # Safety
/// As [`pass`].
unsafe extern "C" fn extra_inbound<S: Service>(
    instance: *mut c_void,
    message: *mut FreenaServiceMessage,
) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { pass(instance, message, S::extra_inbound) }
}

/// # Safety
/// `instance` is of `open::<S>`.
unsafe extern "C" fn admit<S: Service>(instance: *mut c_void, now: u64, length: usize) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { with(instance, 0, |service: &mut S| service.admit(now, length)) }
}

/// # Safety
/// `instance` is of `open::<S>`.
unsafe extern "C" fn deadline<S: Service>(instance: *mut c_void) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { with(instance, FREENA_SERVICE_NEVER, |service: &mut S| service.deadline()) }
}

/// # Safety
/// `instance` is of `open::<S>`.
unsafe extern "C" fn timer<S: Service>(instance: *mut c_void, now: u64) {
    // SAFETY: as the caller promises.
    unsafe { with(instance, (), |service: &mut S| service.timer(now)) }
}

/// # Safety
/// `instance` is of `open::<S>`, `out` has room for `capacity` figures.
unsafe extern "C" fn statistics<S: Service>(
    instance: *mut c_void,
    out: *mut FreenaServiceStatistic,
    capacity: usize,
) -> usize {
    let mut count = 0;
    let mut figure = |name: &'static CStr, value| {
        if count < capacity {
            let entry = FreenaServiceStatistic { name: name.as_ptr(), value };
            // SAFETY: there is room for `capacity` of them.
            unsafe { out.add(count).write(entry) };
            count += 1;
        }
    };
    // SAFETY: as the caller promises.
    unsafe { with(instance, (), |service: &mut S| service.statistics(&mut figure)) };
    count
}
