//! What a library may call in the middle of a packet.
//!
//! Each function is called by the library with the context that it was given, on the thread and during the call it was given
//! for. What it says is checked before it is believed; the first lie is noted, and the engine sees to the rest.

use crate::abi::{FREENA_NONE, FreenaFlow, FreenaHost, FreenaOptions, FreenaPath};
use crate::connection::{Connection, Connections};
use crate::convert;
use crate::guard::Hosted;
use freena_stack_api::Listeners;
use freena_stack_api::stream::{Driver, Handle, Source};
use std::ffi::c_void;
use std::sync::atomic::AtomicU64;

/// The engine's surroundings during a call.
pub(crate) struct Context<'a> {
    pub(crate) hosted: &'a AtomicU64,
    pub(crate) connections: &'a mut Connections,
    pub(crate) listeners: &'a Listeners,
    pub(crate) ifindex: u32,
    pub(crate) driver: Option<&'a mut (dyn Driver + 'a)>,
    pub(crate) source: Option<&'a mut (dyn Source + 'a)>,
    pub(crate) accepted: u64,
    pub(crate) fault: Option<String>,
}

impl Context<'_> {
    /// What the library gets.
    pub(crate) fn lend(&mut self) -> FreenaHost {
        FreenaHost {
            size: size_of::<FreenaHost>() as u32,
            pad: 0,
            context: std::ptr::from_mut(self).cast(),
            listener: Some(listener),
            path: Some(path),
            accept: Some(accept),
            store: Some(store),
            load: Some(load),
        }
    }

    fn blame(&mut self, words: impl FnOnce() -> String) {
        self.fault.get_or_insert_with(words);
    }
}

/// # Safety
/// `context` is what [`Context::lend`] gave, and the call it was given for is under way.
unsafe fn enter<'a>(context: *mut c_void) -> (&'a mut Context<'a>, Hosted<'a>) {
    // SAFETY: as the caller promises; the engine does not use it while the library runs.
    let context = unsafe { &mut *context.cast::<Context<'a>>() };
    let hosted = Hosted::new(context.hosted);
    (context, hosted)
}

unsafe extern "C" fn listener(context: *mut c_void, flow: *const FreenaFlow) -> u32 {
    // SAFETY: the library hands through what it was given, and points to a flow.
    let ((context, _hosted), flow) = unsafe { (enter(context), flow.read_unaligned()) };
    let Some(flow) = convert::flow(&flow) else { return FREENA_NONE };
    let hash = || u64::from(flow.peer_port).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    context.listeners.lookup(&flow, context.ifindex, hash).map_or(FREENA_NONE, |(key, _)| key)
}

unsafe extern "C" fn path(context: *mut c_void, flow: *const FreenaFlow, path: *mut FreenaPath) -> u32 {
    // SAFETY: as in `listener`.
    let ((context, _hosted), flow) = unsafe { (enter(context), flow.read_unaligned()) };
    let Some(flow) = convert::flow(&flow) else { return 0 };
    let Some(driver) = &mut context.driver else { return 0 };
    let Some(found) = driver.path(&flow) else { return 0 };
    // SAFETY: the library points to a path of its own.
    unsafe { path.write_unaligned(convert::path(&found, flow.peer.is_ipv4())) };
    1
}

unsafe extern "C" fn accept(
    context: *mut c_void,
    listener: u32,
    flow: *const FreenaFlow,
    receive_buffer: *mut u64,
    options: *mut FreenaOptions,
) -> u32 {
    // SAFETY: as in `listener`.
    let ((context, _hosted), flow) = unsafe { (enter(context), flow.read_unaligned()) };
    let Some(flow) = convert::flow(&flow) else { return FREENA_NONE };
    let Some(listening) = context.listeners.get(listener) else { return FREENA_NONE };
    let Some(driver) = &mut context.driver else { return FREENA_NONE };
    let Some(path) = driver.path(&flow) else { return FREENA_NONE };
    let Some(number) = context.connections.reserve() else { return FREENA_NONE };
    let Some(buffer) = driver.accept(listener, Handle(number), &flow) else {
        context.connections.remove(number);
        return FREENA_NONE;
    };
    context.connections.fill(number, Connection::new(flow, path, buffer, true));
    context.accepted += 1;
    // SAFETY: the library points to a number of its own, and to options or nowhere.
    unsafe {
        receive_buffer.write_unaligned(buffer);
        if !options.is_null() {
            options.write_unaligned(FreenaOptions::from(&listening.options));
        }
    }
    number
}

unsafe extern "C" fn store(
    context: *mut c_void,
    connection: u32,
    position: u64,
    bytes: *const u8,
    length: u32,
) -> u32 {
    // SAFETY: as in `listener`.
    let (context, _hosted) = unsafe { enter(context) };
    let Some(driver) = &mut context.driver else { return 0 };
    let Some(it) = context.connections.get_mut(connection) else {
        context.blame(|| format!("stored bytes for connection {connection}, which there is not"));
        return 0;
    };
    let end = position.checked_add(length.into()).filter(|end| *end <= it.read + it.buffer);
    let (Some(end), true) = (end, length <= 65_535) else {
        let most = it.read + it.buffer;
        context.blame(|| {
            format!(
                "stored {length} bytes at position {position} of connection {connection}, whose buffer ends at {most}"
            )
        });
        return 0;
    };
    if it.over || it.closed || length == 0 || end <= it.received {
        return 1;
    }
    // What is published is the program's to read: it is not written again.
    let known = it.received.saturating_sub(position);
    // SAFETY: the library has `length` bytes there, of which some are left out.
    let bytes =
        unsafe { std::slice::from_raw_parts(bytes.add(known as usize), length as usize - known as usize) };
    it.stored = it.stored.max(end);
    driver.store(Handle(connection), position + known, bytes);
    1
}

unsafe extern "C" fn load(
    context: *mut c_void,
    connection: u32,
    position: u64,
    bytes: *mut u8,
    length: u32,
) -> u32 {
    // SAFETY: as in `listener`.
    let (context, _hosted) = unsafe { enter(context) };
    let Some(source) = &mut context.source else { return 0 };
    let Some(it) = context.connections.get(connection) else {
        context.blame(|| format!("loaded bytes of connection {connection}, which there is not"));
        return 0;
    };
    let end = position.checked_add(length.into());
    if position < it.acknowledged || end.is_none_or(|end| end > it.written) || length > 65_535 {
        return 0;
    }
    if length == 0 {
        return 1;
    }
    // SAFETY: the library has room for `length` bytes there, which nobody else uses.
    let to = unsafe { std::slice::from_raw_parts_mut(bytes, length as usize) };
    source.load(Handle(connection), position, to).into()
}
