//! The plan that `freena run` hands over, and what it says of a flow.

use freena_preload_control::{log, sys};
use freena_service_chain::{DatagramFlow, Flow, Plan, PlanRule, Resolved, Role, StreamFlow};
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

/// The plan with its libraries.
struct Loaded {
    plan: Plan,
    services: Vec<Resolved>,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();

/// What a flow gets.
pub struct Chosen {
    /// The services, from the program downwards.
    pub services: Vec<Resolved>,
    /// The flow.
    pub flow: Flow,
    /// Services and rules in words.
    pub words: String,
}

/// Reads `FREENA_SERVICES` and loads the libraries. Whether there is a plan. A plan that cannot be kept ends the program: it
/// would send in the clear what the file asks to have encrypted.
///
/// # Safety
/// Only for the constructor: nobody changes the environment, and the libraries' code may run.
pub(crate) unsafe fn load() -> bool {
    // SAFETY: the name ends with NUL; nobody changes the environment (contract).
    let text = unsafe {
        let value = libc::getenv(c"FREENA_SERVICES".as_ptr());
        if value.is_null() {
            return false;
        }
        CStr::from_ptr(value)
    };
    let decoded = text.to_str().map_err(|error| error.to_string()).and_then(|text| {
        let plan = Plan::decode(text).map_err(|error| error.to_string())?;
        // SAFETY: `freena run` names libraries from its service folders.
        let services: Result<Vec<_>, String> =
            plan.services.iter().map(|it| unsafe { it.resolve() }).collect();
        Ok(Loaded { services: services?, plan })
    });
    match decoded {
        Ok(loaded) => {
            let any = !loaded.services.is_empty();
            warm(&loaded.services);
            let _ = LOADED.set(loaded);
            any
        }
        Err(why) => {
            log::always(format_args!("the services cannot be inserted: {why}; the program is not started"));
            // SAFETY: it has no preconditions.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Has services read their keys now: a program may give up the right to later.
fn warm(services: &[Resolved]) {
    let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    for service in services {
        let flow =
            Flow { transport: 6, role: Role::Client, local: nowhere, peer: nowhere, allow_plain: false };
        let (services, now) = (std::slice::from_ref(service), sys::monotonic());
        let begun = if service.library.takes_streams() {
            StreamFlow::new(services, flow, now).map(drop)
        } else {
            DatagramFlow::new(services, flow, now).map(drop)
        };
        if let Err(error) = begun {
            log::decision(format_args!("service {}: {error}", service.library.name()));
        }
    }
}

/// Whether any flow of datagrams may get a service.
pub(crate) fn has_datagrams() -> bool {
    let meets = |rule: &PlanRule| {
        rule.used && rule.transports.as_ref().is_none_or(|list| list.iter().any(|it| it == "UDP"))
    };
    LOADED.get().is_some_and(|it| it.plan.services.iter().any(|service| service.rules.iter().any(meets)))
}

/// Whether a rule asks for a flow's own address.
pub(crate) fn asks_own_address() -> bool {
    let asks = |rule: &PlanRule| rule.local.is_some();
    LOADED.get().is_some_and(|it| it.plan.services.iter().any(|service| service.rules.iter().any(asks)))
}

/// What the plan says of a flow; `None` if no service is used. `transport` is an IP protocol number, 6 or 17.
pub fn choose(transport: u8, role: Role, local: SocketAddr, peer: SocketAddr) -> Option<Chosen> {
    let loaded = LOADED.get()?;
    let name = if transport == libc::IPPROTO_TCP as u8 { "TCP" } else { "UDP" };
    let (mut services, mut words, mut allow_plain) = (Vec::new(), String::new(), true);
    for (decision, service) in loaded.plan.decide(name, role, local, Some(peer)).zip(&loaded.services) {
        if let Some(rule) = decision.rule.filter(|rule| rule.used) {
            let comma = if words.is_empty() { "" } else { ", " };
            words.push_str(&format!("{comma}{} (rule in line {})", decision.service.name, rule.line));
            services.push(service.clone());
            allow_plain &= rule.allow_plain;
        }
    }
    let flow = Flow { transport, role, local, peer, allow_plain };
    (!services.is_empty()).then_some(Chosen { services, flow, words })
}
