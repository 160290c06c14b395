//! Runs a suite in a process of its own and follows it test by test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    PYTHON,
    lab::{HOSTS4, HOSTS6, Lab},
    suites::{Place, Suite},
};
use crate::{root, run::succeeds};

/// Longest time for one test. The slowest takes 11 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Processes that may hang or crash before the suite is given up.
const RESTARTS: usize = 20;

/// What became of a test, with its reason where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
    /// No end within [`LIMIT`].
    Hung,
    /// The process ended in the middle of it.
    Crashed,
}

impl Verdict {
    /// Whether it is neither passed nor skipped.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Verdict::Failed(_) | Verdict::Hung | Verdict::Crashed)
    }

    /// The verdict without its reason, which may have changing addresses and numbers in it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Skipped(_) => "skipped",
            Verdict::Failed(_) => "failed",
            Verdict::Hung => "hung",
            Verdict::Crashed => "crashed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Skipped(why) | Verdict::Failed(why) => write!(f, "{} ({why})", self.kind()),
            _ => f.write_str(self.kind()),
        }
    }
}

/// Runs `suite`, or those of its tests that are in `only`, and returns the verdicts. A process that hangs or crashes is
/// followed by another one for the rest.
///
/// # Errors
/// In words: the tests cannot be started or loaded, or did not go the way that the suite is for.
pub(super) fn suite(suite: &Suite, lab: &Lab, only: &[String]) -> Result<BTreeMap<String, Verdict>, String> {
    let before = lab.crossed()?;
    let mut verdicts = BTreeMap::new();
    let mut whole = false;
    for _ in 0..RESTARTS {
        let done: BTreeSet<&String> = verdicts.keys().collect();
        let orders = orders(suite, lab, only, &done);
        let mut command = lab.command(PYTHON);
        command.arg("-u").arg(root().join("xtask/ledger/runner.py")).arg(orders);
        let (new, end) = follow(&mut command)?;
        if new.is_empty() && !end {
            return Err(format!("{}: the tests could not be loaded", suite.name));
        }
        verdicts.extend(new);
        whole = end;
        if whole {
            break;
        }
    }
    if !whole {
        return Err(format!("{}: given up after {RESTARTS} processes that hung or crashed", suite.name));
    }
    if let (true, Some(before), Some(after)) = (suite.place.crosses(), before, lab.crossed()?)
        && after == before
    {
        return Err(format!("{}: nothing went by the fast path", suite.name));
    }
    Ok(verdicts)
}

/// The document for `runner.py`.
fn orders(suite: &Suite, lab: &Lab, only: &[String], done: &BTreeSet<&String>) -> String {
    let mut orders = json!({
        "module": suite.module, "classes": suite.classes, "without": suite.without,
        "threads": suite.threads, "only": only, "skip": done,
    });
    let (mut hosts4, mut hosts6, mut spaces) = (HOSTS4, HOSTS6, lab.spaces());
    if suite.place == Place::Sending {
        hosts4.reverse();
        hosts6.reverse();
        spaces.reverse();
    }
    if suite.place != Place::Loopback {
        orders["hosts"] = json!({"4": hosts4, "6": hosts6});
    }
    if suite.place.crosses() {
        orders["spaces"] = json!(spaces);
    }
    orders.to_string()
}

/// Runs one process; returns the verdicts, and whether it came to its end.
fn follow(command: &mut Command) -> Result<(BTreeMap<String, Verdict>, bool), String> {
    // A group of its own, so that the children of a test that hangs end with it.
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let printed = process.stdout.take().ok_or("a process without its standard output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(printed).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut verdicts = BTreeMap::new();
    let mut current: Option<String> = None;
    loop {
        let (stuck, end) = match lines.recv_timeout(LIMIT) {
            Ok(line) => match parse(&line) {
                None => continue,
                Some(Line::Start(test)) => {
                    current = Some(test);
                    continue;
                }
                Some(Line::Verdict(test, verdict)) => {
                    current = None;
                    verdicts.insert(test, verdict);
                    continue;
                }
                Some(Line::End) => (None, true),
            },
            Err(mpsc::RecvTimeoutError::Timeout) => (Some(Verdict::Hung), false),
            Err(mpsc::RecvTimeoutError::Disconnected) => (Some(Verdict::Crashed), false),
        };
        if let (Some(verdict), Some(test)) = (stuck, current) {
            verdicts.insert(test, verdict);
        }
        finish(&mut process);
        return Ok((verdicts, end));
    }
}

/// Ends a process and its group, of which it may be the last.
fn finish(process: &mut Child) {
    succeeds(Command::new("kill").args(["-KILL", "--", &format!("-{}", process.id())]));
    let _ = process.wait();
}

/// A line of `runner.py`.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Start(String),
    Verdict(String, Verdict),
    End,
}

/// `None` for what the tests themselves print.
fn parse(line: &str) -> Option<Line> {
    // A test may have printed something without a line end before.
    let (_, line) = line.split_once("ledger\t")?;
    let mut fields = line.splitn(3, '\t');
    let (word, test) = (fields.next()?, fields.next().unwrap_or_default().to_owned());
    let why = fields.next().unwrap_or_default().trim().to_owned();
    let verdict = match word {
        "start" => return Some(Line::Start(test)),
        "end" => return Some(Line::End),
        "passed" => Verdict::Passed,
        "skipped" => Verdict::Skipped(why),
        "failed" => Verdict::Failed(why),
        _ => return None,
    };
    Some(Line::Verdict(test, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_runner_are_told_from_those_of_the_tests() {
        assert_eq!(parse("ledger\tstart\ta.B.c\t"), Some(Line::Start("a.B.c".to_owned())));
        assert_eq!(
            parse("dots...ledger\tpassed\ta.B.c\t"),
            Some(Line::Verdict("a.B.c".to_owned(), Verdict::Passed))
        );
        let failed = Verdict::Failed("TimeoutError: timed\tout".to_owned());
        assert_eq!(
            parse("ledger\tfailed\ta.B.c\tTimeoutError: timed\tout"),
            Some(Line::Verdict("a.B.c".to_owned(), failed))
        );
        assert_eq!(parse("ledger\tend"), Some(Line::End));
        assert_eq!(parse("the ledger"), None);
        assert_eq!(parse("ledger\tsomething\telse"), None);
    }

    fn shell(script: &str) -> (BTreeMap<String, Verdict>, bool) {
        let mut command = Command::new("sh");
        follow(command.arg("-c").arg(script)).expect("a shell")
    }

    #[test]
    fn a_process_that_ends_in_a_test_has_crashed_in_it() {
        let (verdicts, end) =
            shell(r"printf 'ledger\tstart\ta\t\nledger\tpassed\ta\t\nledger\tstart\tb\t\n'");
        assert!(!end);
        assert_eq!(verdicts.get("a"), Some(&Verdict::Passed));
        assert_eq!(verdicts.get("b"), Some(&Verdict::Crashed));
    }

    #[test]
    fn an_end_is_an_end() {
        let (verdicts, end) = shell(r"printf 'ledger\tstart\ta\t\nledger\tskipped\ta\tno\nledger\tend\n'");
        assert!(end);
        assert_eq!(verdicts.get("a"), Some(&Verdict::Skipped("no".to_owned())));
    }
}
