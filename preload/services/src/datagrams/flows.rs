//! The flows of a socket, one for each peer.

use crate::below::{self, Address};
use crate::board::Shown;
use crate::plan;
use core::ffi::c_int;
use freena_preload_control::{log, sys};
use freena_service_chain::{DatagramFlow, Role};
use freena_shm_abi::flows::state;
use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;

/// Most flows of a socket. Anybody can send from any address: of more, those go first that have never proved anything and
/// that the program has never sent to, and of these the longest unused. One that goes on begins anew.
pub(crate) const MAX_FLOWS: usize = 1024;

/// A flow.
pub(super) struct Entry {
    /// `None`: the rules choose no services for it.
    pub(super) flow: Option<Box<DatagramFlow>>,
    pub(super) address: Address,
    /// For messages: the two ends, and what was inserted.
    pub(super) words: String,
    /// The peer's services have been seen to agree.
    pub(super) proven: bool,
    /// The peer has no freena, and the rule allows that.
    pub(super) plain: bool,
    /// As `freena status` has it.
    shown: Option<Shown>,
    sent: bool,
    used: u64,
}

impl Entry {
    /// The program sends to it.
    pub(super) fn wanted(&mut self) {
        self.sent = true;
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, now: u64) {
        let state = match (self.plain, self.proven) {
            (true, _) => state::PLAIN,
            (_, true) => state::OPEN,
            _ => state::WAITING,
        };
        if let (Some(shown), Some(flow)) = (&mut self.shown, &mut self.flow) {
            shown.show(state, now, || flow.figures());
        }
    }

    /// A datagram of it was refused.
    pub(super) fn refuse(&mut self, why: &dyn Display, now: u64) {
        if let Some(shown) = &mut self.shown {
            shown.refuse(why, now);
        }
    }
}

#[derive(Default)]
pub(super) struct Flows {
    entries: HashMap<SocketAddr, Entry>,
    /// Counts uses.
    clock: u64,
}

impl Flows {
    /// The flow with a peer, begun if there is none: `role` is this end's then.
    ///
    /// # Errors
    /// A service refuses it.
    pub(super) fn entry(&mut self, fd: c_int, role: Role, peer: &Address) -> Result<&mut Entry, Refused> {
        let nowhere =
            || Refused { errno: libc::EAFNOSUPPORT, words: String::new(), why: "no address of IP".into() };
        let key = peer.ip().ok_or_else(nowhere)?;
        self.clock += 1;
        if !self.entries.contains_key(&key) {
            let entry = begin(fd, role, key, peer)?;
            if self.entries.len() >= MAX_FLOWS {
                self.make_room();
            }
            self.entries.insert(key, entry);
        }
        let entry = self.entries.get_mut(&key).ok_or_else(nowhere)?;
        entry.used = self.clock;
        Ok(entry)
    }

    fn make_room(&mut self) {
        let least = self.entries.iter().min_by_key(|(_, it)| (it.sent || it.proven, it.used));
        if let Some(key) = least.map(|(key, _)| *key)
            && let Some(mut entry) = self.entries.remove(&key)
        {
            tell_figures(&mut entry);
            entry.shown.iter_mut().for_each(|it| it.withdraw(true));
        }
    }

    /// The flow with a peer, if there is one.
    pub(super) fn find(&mut self, peer: &Address) -> Option<&mut Entry> {
        self.entries.get_mut(&peer.ip()?)
    }

    /// Flows that have services.
    pub(super) fn timed(&mut self) -> impl Iterator<Item = (&Address, &mut DatagramFlow)> {
        self.entries.values_mut().filter_map(|it| Some((&it.address, it.flow.as_deref_mut()?)))
    }

    /// They are gone from this process; `own`: they were this process's.
    pub(super) fn withdraw(&mut self, own: bool) {
        self.entries.values_mut().filter_map(|it| it.shown.as_mut()).for_each(|it| it.withdraw(own));
    }

    /// What services have counted, for the log.
    pub(super) fn tell_figures(&mut self, dropped: u64) {
        self.entries.values_mut().for_each(tell_figures);
        if dropped > 0 {
            log::decision(format_args!("{dropped} datagrams were dropped by services"));
        }
    }
}

/// A flow that there is not.
pub(super) struct Refused {
    pub(super) errno: c_int,
    pub(super) words: String,
    pub(super) why: String,
}

fn begin(fd: c_int, role: Role, peer: SocketAddr, address: &Address) -> Result<Entry, Refused> {
    let local = own_address(fd, peer, address);
    let none = Entry {
        flow: None,
        address: *address,
        words: String::new(),
        proven: false,
        plain: false,
        shown: None,
        sent: false,
        used: 0,
    };
    let Some(chosen) = plan::choose(libc::IPPROTO_UDP as u8, role, local, peer) else { return Ok(none) };
    let words = format!("{local} -> {peer}: {}", chosen.words);
    let now = sys::monotonic();
    let mut shown = Shown::new(chosen.flow.transport, role, [local, peer], &chosen.words, now);
    match DatagramFlow::new(&chosen.services, chosen.flow, now) {
        Ok(flow) => {
            log::decision(format_args!("{words}"));
            below::apply(fd, &flow.wishes(), peer.is_ipv6());
            Ok(Entry { flow: Some(Box::new(flow)), words, shown: Some(shown), ..none })
        }
        Err(error) => {
            shown.fail(&error, &[], now);
            shown.withdraw(true);
            Err(Refused { errno: error.errno(), words, why: error.to_string() })
        }
    }
}

/// Own address for rules. A socket that has no port yet gets one, as it would by sending.
fn own_address(fd: c_int, peer: SocketAddr, address: &Address) -> SocketAddr {
    let ask = || {
        below::own_address(fd).unwrap_or_else(|| {
            if peer.is_ipv6() { SocketAddr::from(([0u16; 8], 0)) } else { SocketAddr::from(([0u8; 4], 0)) }
        })
    };
    let mut own = ask();
    if own.port() == 0 && below::bind_to_any(fd, address).is_ok() {
        own = ask();
    }
    if own.ip().is_unspecified()
        && plan::asks_own_address()
        && let Some(source) = below::source_to(address)
    {
        own.set_ip(source.ip());
    }
    own
}

fn tell_figures(entry: &mut Entry) {
    let Some(flow) = &mut entry.flow else { return };
    let figures: Vec<String> =
        flow.figures().iter().map(|it| format!("{}.{}={}", it.service, it.name, it.value)).collect();
    log::decision(format_args!("{}: closed: {}", entry.words, figures.join(" ")));
}
