//! From a configuration to the plan that programs get: libraries found, parameters checked, rules in the order in which they
//! are asked.

use freena_config::{AddressPrefix, Configuration, PortRange, Role, Rule, Selection, Service};
use freena_service_chain as chain;
use freena_service_chain::{Plan, PlanRule, PlanService};
use freena_service_host::{Checked, Library};
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The plan of a configuration that was read from `file`.
///
/// # Errors
/// With file, line and column: a library that is missing or refused, a parameter that is none or out of bounds, a rule that
/// can never decide.
pub(crate) fn plan(configuration: &Configuration, file: &Path, folders: &[PathBuf]) -> miette::Result<Plan> {
    let mut services = Vec::new();
    let mut asked: Vec<(Vec<&Rule>, Vec<PlanRule>)> = Vec::new();
    for service in configuration.services() {
        let at = |origin: &freena_config::Origin, what: &dyn Display| match origin.position() {
            Some(position) => miette::miette!("{}:{position}: {what}", file.display()),
            None => miette::miette!("{}: {what}", file.display()),
        };
        let named = service.library.as_ref().map(|it| it.as_str());
        let path = Library::find(folders, service.name.as_str(), named)
            .map_err(|error| at(&service.origin, &error))?;
        // SAFETY: it is in a service folder, and root's or this user's.
        let library = unsafe { Library::open(&path) }.map_err(|error| at(&service.origin, &error))?;
        let parameters: Vec<(String, String)> = service
            .parameters
            .iter()
            .map(|it| (it.name.as_str().to_owned(), it.value.as_str().to_owned()))
            .collect();
        Checked::new(service.name.as_str(), library.parameters(), &parameters).map_err(|error| {
            let origin = error.index.map_or(&service.origin, |index| &service.parameters[index].origin);
            at(origin, &error)
        })?;
        let rules = rules_about(configuration, service);
        let made: Vec<PlanRule> = rules.iter().map(|rule| plan_rule(rule)).collect();
        services.push(PlanService {
            name: service.name.as_str().to_owned(),
            library: path,
            parameters,
            rules: made.clone(),
        });
        asked.push((rules, made));
    }
    if let Some((rule, earlier)) = never_decides(configuration, &asked) {
        let position = |rule: &Rule| rule.origin.position().map_or("?".to_owned(), |it| it.to_string());
        return Err(miette::miette!(
            "{}:{}: found a rule that never decides, expected each to decide for some flow: the rule at {} comes first for all flows that meet its conditions",
            file.display(),
            position(rule),
            position(earlier),
        ));
    }
    Ok(Plan { source: file.display().to_string(), services })
}

/// The rules that may decide for a service, in the order in which they are asked.
fn rules_about<'a>(configuration: &'a Configuration, service: &'a Service) -> Vec<&'a Rule> {
    let is_service = |name: &str| configuration.services().iter().any(|it| it.name.as_str() == name);
    let about = |rule: &&Rule| {
        let names = rule.services.items().unwrap_or_default();
        let restricted = names.iter().any(|name| is_service(name.as_str()));
        !restricted || names.contains(&service.name)
    };
    service.rules.iter().chain(configuration.rules().iter().filter(about)).collect()
}

fn plan_rule(rule: &Rule) -> PlanRule {
    fn list<T, U>(selection: &Selection<T>, item: impl Fn(&T) -> U) -> Option<Vec<U>> {
        selection.items().map(|items| items.iter().map(item).collect())
    }
    let prefix = |it: &AddressPrefix| -> (IpAddr, u8) { (it.address(), it.length()) };
    let has = |role| rule.roles.selects(|it| *it == role);
    PlanRule {
        used: rule.used,
        allow_plain: rule.plain,
        line: rule.origin.position().map_or(0, |it| it.line),
        ports: list(&rule.ports, |it: &PortRange| (it.first(), it.last())),
        transports: list(&rule.transports, ToString::to_string),
        role: match (has(Role::Client), has(Role::Server)) {
            (true, false) => Some(chain::Role::Client),
            (false, true) => Some(chain::Role::Server),
            _ => None,
        },
        local: list(&rule.local, prefix),
        peer: list(&rule.peer, prefix),
    }
}

/// The first rule that, for every service that it is about, comes behind one that all its flows meet; and that one.
fn never_decides<'a>(
    configuration: &'a Configuration,
    asked: &[(Vec<&'a Rule>, Vec<PlanRule>)],
) -> Option<(&'a Rule, &'a Rule)> {
    let all = configuration.services().iter().flat_map(|it| &it.rules).chain(configuration.rules());
    all.filter_map(|rule| {
        let mut earlier = None;
        for (rules, made) in asked {
            let Some(at) = rules.iter().position(|it| std::ptr::eq(*it, rule)) else { continue };
            let before = (0..at).find(|before| made[*before].covers(&made[at]))?;
            earlier = Some(rules[before]);
        }
        earlier.map(|earlier| (rule, earlier))
    })
    .next()
}

#[cfg(test)]
mod tests;
