//! Flows with services on a terminal.

use super::{Flow, Programs, seconds_since};
use std::fmt::Write;

/// Prints them.
pub(crate) fn print(all: &[Programs]) {
    print!("{}", words(all));
}

/// A paragraph for each configuration, and a few lines for each flow.
pub(super) fn words(all: &[Programs]) -> String {
    let mut text = String::new();
    if !all.is_empty() {
        text.push_str("\nflows with services:\n");
    }
    for programs in all {
        let pids: Vec<String> = programs.processes.iter().map(u32::to_string).collect();
        let pids = if pids.is_empty() { "ended".to_owned() } else { pids.join(", ") };
        let _ = writeln!(text, "  {} (processes: {pids})", programs.source);
        programs.flows.iter().for_each(|it| flow(&mut text, it));
        if programs.lost > 0 {
            let _ = writeln!(text, "    {} flows more had no room here", programs.lost);
        }
    }
    text
}

fn flow(text: &mut String, flow: &Flow) {
    let told = &flow.told;
    let gone = if flow.lives { "" } else { ", ended" };
    let _ = writeln!(
        text,
        "    {} {} -> {} {} (pid {}{gone}): {}",
        flow.transport(),
        flow.local(),
        flow.peer(),
        flow.role(),
        flow.pid,
        flow.program()
    );
    let _ = writeln!(text, "      services: {}", flow.services());
    let _ = match told.ended {
        0 => writeln!(
            text,
            "      {}, for {} s; {} messages refused",
            flow.state(),
            seconds_since(told.begun),
            told.refused
        ),
        ended => writeln!(
            text,
            "      {} {} s ago by {}; {} messages refused",
            flow.state(),
            seconds_since(ended),
            name(told.errno),
            told.refused
        ),
    };
    for (what, words) in [("refused last", flow.reason()), ("counted", flow.figures())] {
        let what = if told.ended != 0 && what == "refused last" { "why" } else { what };
        if !words.is_empty() {
            let _ = writeln!(text, "      {what}: {words}");
        }
    }
}

/// The name of an errno that flows end with.
fn name(errno: u32) -> String {
    let known = match errno as i32 {
        libc::EPROTO => "EPROTO",
        libc::EPERM => "EPERM",
        libc::EBADMSG => "EBADMSG",
        libc::ECONNRESET => "ECONNRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EIO => "EIO",
        libc::EINVAL => "EINVAL",
        other => return format!("errno {other}"),
    };
    known.to_owned()
}
