//! The differences ledger: CPython's own tests of sockets and of what waits for them, with freena and without.
//!
//! Both run at the same time, each on two hosts of its own ([`lab`]), test by test ([`run`]); what came out is a document
//! ([`report`]) in which a test that vanished, or that passes only without freena, is a changed line.

mod lab;
mod report;
mod run;
mod suites;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    thread,
};

use crate::{root, run::output_of};
use lab::Lab;
use report::{Counts, Difference, Entry};
use run::Verdict;
use suites::{STREAM_SUITES, SUITES, Suite};

/// What one run of the command is about.
pub(super) struct Set {
    document: &'static str,
    protocols: &'static str,
    command: &'static str,
    suites: &'static [Suite],
}

const DATAGRAMS: Set =
    Set { document: "docs/ledger.md", protocols: "udp", command: "cargo xtask ledger", suites: SUITES };
const STREAMS: Set = Set {
    document: "docs/ledger-streams.md",
    protocols: "udp,tcp",
    command: "cargo xtask ledger --streams",
    suites: STREAM_SUITES,
};
const EXPLANATIONS: &str = "xtask/ledger/explanations.tsv";
/// Debian's, to which the package libpython3.11-testsuite belongs.
pub(crate) const PYTHON: &str = "/usr/bin/python3.11";
const TESTS: &str = "/usr/lib/python3.11/test/test_socket.py";
/// How often tests that differ are run, to tell those that always differ from those that do now and then.
const ROUNDS: usize = 3;

/// Runs the suites both ways and writes the document; with `check`, compares instead; with `streams`, those of streams.
pub(crate) fn run(check: bool, streams: bool) -> Result<String, String> {
    let set = if streams { &STREAMS } else { &DATAGRAMS };
    let document_name = set.document;
    require()?;
    let explanations = Explanations::read(&root().join(EXPLANATIONS))?;
    let (bare, served) = (Lab::bare()?, Lab::served(set.protocols)?);
    let mut entries = Vec::new();
    let mut unstable = Vec::new();
    for suite in set.suites {
        let entry = compare(suite, &bare, &served, &mut unstable)?;
        println!("{}: {}", suite.name, entry.summary());
        entries.push(entry);
    }
    let unexplained = explanations.apply(&mut entries)?;
    let document = report::document(set, &version()?, &entries, &unstable);
    let path = root().join(set.document);
    if !check {
        fs::write(&path, &document).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if !unexplained.is_empty() {
        return Err(format!(
            "no reason in {EXPLANATIONS} for these differences:\n{}",
            unexplained.join("\n")
        ));
    }
    if !unstable.is_empty() {
        return Err(format!("these differ now and then:\n{}", unstable.join("\n")));
    }
    if !check {
        return Ok(format!("{document_name}: {} suites", entries.len()));
    }
    let committed = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match committed == document {
        true => Ok(format!("{document_name} is what the tests give")),
        false => Err(format!(
            "{document_name} is not what the tests give:\n{}run `{}`",
            changed_lines(&committed, &document),
            set.command
        )),
    }
}

/// Says what is missing before anything is started.
fn require() -> Result<(), String> {
    if output_of(Command::new("id").arg("-u"))?.trim() != "0" {
        return Err("the ledger needs root: it makes network namespaces and starts freena-stack".to_owned());
    }
    if !Path::new(TESTS).is_file() || !Path::new(PYTHON).is_file() {
        return Err(format!(
            "there is no {TESTS} with {PYTHON}: install the Debian package libpython3.11-testsuite"
        ));
    }
    Ok(())
}

/// Version of the package with the tests: another one has other tests.
fn version() -> Result<String, String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Version}", "libpython3.11-testsuite"]);
    output_of(&mut query)
}

/// Runs a suite both ways; a difference is one that stays in [`ROUNDS`] rounds. Those that do not stay are added to
/// `unstable`: a datagram that is lost now and then is no less lost.
fn compare(
    suite: &'static Suite,
    bare: &Lab,
    served: &Lab,
    unstable: &mut Vec<String>,
) -> Result<Entry, String> {
    let (mut without, mut with) = both(suite, bare, served, &[])?;
    if without.is_empty() {
        return Err(format!("{}: no tests ran without freena", suite.name));
    }
    let first = differences(&without, &with);
    for _ in 1..ROUNDS {
        let again = differences(&without, &with);
        if again.is_empty() {
            break;
        }
        for difference in &again {
            let reasons = [&difference.without, &difference.with].into_iter().flatten();
            let reasons: Vec<String> = reasons.map(Verdict::to_string).collect();
            println!("  {difference}: {}", reasons.join(", "));
        }
        let tests: Vec<String> = again.into_iter().map(|difference| difference.test).collect();
        let (again_without, again_with) = both(suite, bare, served, &tests)?;
        without.extend(again_without);
        with.extend(again_with);
    }
    let differences = differences(&without, &with);
    let stays = |difference: &Difference| differences.iter().any(|other| other.test == difference.test);
    unstable.extend(first.iter().filter(|&d| !stays(d)).map(|d| format!("{}: {d}", suite.name)));
    let fails =
        |test: &&String| [&without, &with].iter().all(|v| v.get(*test).is_some_and(Verdict::is_failure));
    let failed_alike = without.keys().filter(fails).cloned().collect();
    Ok(Entry { suite, without: Counts::of(&without), with: Counts::of(&with), failed_alike, differences })
}

type Verdicts = BTreeMap<String, Verdict>;

fn both(suite: &Suite, bare: &Lab, served: &Lab, only: &[String]) -> Result<(Verdicts, Verdicts), String> {
    thread::scope(|scope| {
        let without = scope.spawn(|| run::suite(suite, bare, only));
        let with = run::suite(suite, served, only)?;
        let without = without.join().map_err(|_| "the thread of the run without freena panicked")??;
        Ok((without, with))
    })
}

fn differences(without: &Verdicts, with: &Verdicts) -> Vec<Difference> {
    let tests: BTreeSet<&String> = without.keys().chain(with.keys()).collect();
    let difference = |test: &String| Difference {
        test: test.clone(),
        without: without.get(test).cloned(),
        with: with.get(test).cloned(),
        explanation: None,
    };
    tests.into_iter().map(difference).filter(Difference::is_one).collect()
}

/// The lines that only one of the two documents has.
fn changed_lines(committed: &str, document: &str) -> String {
    let only = |sign: char, these: &str, those: &str| -> String {
        these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect()
    };
    only('-', committed, document) + &only('+', document, committed)
}

/// The table of reasons, by suite and test.
struct Explanations(BTreeMap<(String, String), String>);

impl Explanations {
    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut reasons = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let [suite, test, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
                return Err(format!(
                    "{EXPLANATIONS}:{}: expected suite, test and reason, separated by tabs; found {line:?}",
                    index + 1
                ));
            };
            reasons.insert((suite.to_owned(), test.to_owned()), reason.to_owned());
        }
        Ok(Explanations(reasons))
    }

    /// Gives each difference its reason; returns those that have none.
    ///
    /// # Errors
    /// In words, where a reason is given for what is no difference.
    fn apply(mut self, entries: &mut [Entry]) -> Result<Vec<String>, String> {
        let mut unexplained = Vec::new();
        for entry in entries {
            for difference in &mut entry.differences {
                let key = (entry.suite.name.to_owned(), difference.test.clone());
                difference.explanation = self.0.remove(&key);
                if difference.explanation.is_none() {
                    unexplained.push(format!("{}\t{}", key.0, difference));
                }
            }
        }
        match self.0.keys().next() {
            None => Ok(unexplained),
            Some((suite, test)) => Err(format!(
                "{EXPLANATIONS} explains {test} of {suite:?}, which is no difference: remove the line"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
