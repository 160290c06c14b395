//! The document.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use super::{
    run::Verdict,
    suites::{Place, Suite},
};

/// How many tests of a suite had which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All of them.
    pub(super) tests: usize,
    pub(super) passed: usize,
    pub(super) skipped: usize,
    /// The others: failed, hung, crashed.
    pub(super) failed: usize,
}

impl Counts {
    pub(super) fn of(verdicts: &BTreeMap<String, Verdict>) -> Self {
        let mut counts = Counts { tests: verdicts.len(), ..Counts::default() };
        for verdict in verdicts.values() {
            *match verdict {
                Verdict::Passed => &mut counts.passed,
                Verdict::Skipped(_) => &mut counts.skipped,
                Verdict::Failed(_) | Verdict::Hung | Verdict::Crashed => &mut counts.failed,
            } += 1;
        }
        counts
    }
}

/// A test that has one verdict without freena and another one with it.
pub(super) struct Difference {
    pub(super) test: String,
    /// `None` if it did not run.
    pub(super) without: Option<Verdict>,
    /// `None` if it did not run.
    pub(super) with: Option<Verdict>,
    pub(super) explanation: Option<String>,
}

impl Difference {
    /// Whether the verdicts are of different kinds; their reasons may have changing addresses in them.
    pub(super) fn is_one(&self) -> bool {
        self.without.as_ref().map(Verdict::kind) != self.with.as_ref().map(Verdict::kind)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |verdict: &Option<Verdict>| verdict.as_ref().map_or("absent", Verdict::kind);
        write!(f, "{}: {} without freena, {} with it", self.test, kind(&self.without), kind(&self.with))
    }
}

/// What a suite gave.
pub(super) struct Entry {
    pub(super) suite: &'static Suite,
    pub(super) without: Counts,
    pub(super) with: Counts,
    /// Tests that fail with freena and without.
    pub(super) failed_alike: Vec<String>,
    pub(super) differences: Vec<Difference>,
}

impl Entry {
    /// One line for the terminal.
    pub(super) fn summary(&self) -> String {
        let Counts { tests, passed, skipped, failed } = self.with;
        let differences = self.differences.len();
        format!(
            "{tests} tests: {passed} passed, {skipped} skipped, {failed} failed; {differences} differences"
        )
    }
}

const HEAD: &str = "\
# Differences ledger

CPython's own tests of sockets, and of what waits for sockets, run twice: with the kernel's sockets alone, and under
`freena run --protocol PROTOCOLS` beside a `freena-stack`. Whatever passes without freena has to pass with it; each test that does
not is listed below with the reason.

Written by `COMMAND`; `COMMAND --check` compares. Do not edit. A test whose verdicts differ is run up
to twice more: a difference is one that stays, and one that does not stay makes the command fail. The counts are here so
that no test can vanish unseen.
";

/// Writes all down. `version` is that of the Debian package with the tests; `unstable` are differences that did not stay.
pub(super) fn document(set: &super::Set, version: &str, entries: &[Entry], unstable: &[String]) -> String {
    let mut text = HEAD.replace("PROTOCOLS", set.protocols).replace("COMMAND", set.command);
    let mut line = |what: fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what}");
    };
    line(format_args!("\nTests: Debian package libpython3.11-testsuite {version}.\n"));
    line(format_args!(
        "| suite | module | tests | passed | skipped | failed | with freena: tests | passed | skipped | failed |"
    ));
    line(format_args!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"));
    for Entry { suite, without: a, with: b, .. } in entries {
        line(format_args!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            suite.name,
            suite.module,
            a.tests,
            a.passed,
            a.skipped,
            a.failed,
            b.tests,
            b.passed,
            b.skipped,
            b.failed
        ));
    }
    line(format_args!("\n## Which way the packets go\n"));
    for Entry { suite, .. } in entries {
        let way = match suite.place {
            Place::Loopback => continue,
            Place::Interface => {
                "both ends on one host, on the address of its interface instead of the loopback one: as there"
            }
            Place::Receiving => {
                "each test's server on the host with freena, its client (the second thread of the same process) in the network \
                 namespace of the other host: received by the fast path, which the run has checked by the server's counters"
            }
            Place::Sending => {
                "the same with the two exchanged: sent by the fast path, which the run has checked by the server's counters"
            }
        };
        line(format_args!("- {}: {way}.", suite.name));
    }
    line(format_args!(
        "- All others: as CPython has them, on the loopback addresses: datagrams from ring to ring, streams by one memory for both ends."
    ));
    line(format_args!("\n## Left out\n"));
    line(format_args!(
        "- `*VSOCK*`: AF_VSOCK knows no network namespaces; on a virtual machine the tests talk to its host, and wait for ever\n  \
         if that does not answer, with freena and without."
    ));
    line(format_args!("- `*UDPLITE*` across the cable: another protocol. On one host they run."));
    if set.protocols != "udp" {
        line(format_args!(
            "- `TCPCloserTest` where the client is near: its main thread waits for and reads from a socket while the connect(2)\n  \
             of another thread still runs, and may meet the kernel's unconnected socket: readable, `ENOTCONN`."
        ));
    }
    line(format_args!("\n## Failing with freena and without\n"));
    let mut alike =
        entries.iter().flat_map(|e| e.failed_alike.iter().map(|test| (e.suite.name, test))).peekable();
    if alike.peek().is_none() {
        line(format_args!("None."));
    }
    for (suite, test) in alike {
        line(format_args!("- {suite}: {test}"));
    }
    line(format_args!("\n## Differences\n"));
    let mut differences = entries
        .iter()
        .flat_map(|entry| entry.differences.iter().map(move |d| (entry.suite.name, d)))
        .peekable();
    if differences.peek().is_none() {
        line(format_args!("None."));
    }
    for (suite, difference) in differences {
        let why = difference.explanation.as_deref().unwrap_or("NOT EXPLAINED");
        line(format_args!("- {suite}: {difference}. {why}"));
    }
    if !unstable.is_empty() {
        line(format_args!("\n## Differing now and then\n"));
        unstable.iter().for_each(|difference| line(format_args!("- {difference}")));
    }
    text
}
