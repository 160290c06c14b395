//! The text format itself.

use std::fmt::{Display, Write};
use std::time::Duration;

/// What a value does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes up only; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A document that is being written: families, each with its samples behind it.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    /// Name of the current family.
    name: String,
}

impl Text {
    /// Begins a family. What is known at compile time is not escaped: `help` is one line without backslashes.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        name.clone_into(&mut self.name);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Adds a sample to the current family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.put(labels, value);
    }

    /// Adds a sample in seconds.
    pub(super) fn sample_seconds(&mut self, labels: &[(&str, &str)], value: Duration) {
        self.put(labels, value.as_secs_f64());
    }

    fn put(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(&self.name);
        for (index, (label, words)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(words));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// A label's value: backslash, quote and line feed have to be escaped. Names of interfaces may have any of them.
fn escaped(words: &str) -> String {
    words.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document() {
        let mut text = Text::default();
        text.family("freena_a_total", Kind::Counter, "Some.");
        text.sample(&[("interface", "e\"t\\h\n0"), ("queue", "3")], 7);
        text.sample(&[], u64::MAX);
        text.family("freena_b", Kind::Gauge, "Other.");
        text.sample_seconds(&[], Duration::from_millis(1500));
        let expected = "# HELP freena_a_total Some.\n# TYPE freena_a_total counter\n\
             freena_a_total{interface=\"e\\\"t\\\\h\\n0\",queue=\"3\"} 7\nfreena_a_total 18446744073709551615\n\
             # HELP freena_b Other.\n# TYPE freena_b gauge\nfreena_b 1.5\n";
        assert_eq!(text.finish(), expected);
    }
}
