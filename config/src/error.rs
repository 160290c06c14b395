//! What is wrong with a file, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use crate::MAX_PROBLEMS;
use crate::origin::{Locator, Position};
use crate::value::InvalidValue;

/// Why there is no configuration. Its `Display` is one line, `file:line:column: found X, expected Y`; as a
/// [`miette::Diagnostic`] it shows every problem in its place in the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: found {source}, expected a file that can be read")]
    Read {
        /// The path of the file.
        file: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a valid configuration.
    #[error(transparent)]
    Invalid(Box<Report>),
}

impl ConfigError {
    pub(crate) fn invalid(file: &str, text: &str, problems: Vec<Problem>) -> Self {
        let source = NamedSource::new(file, Arc::from(text)).with_language("XML");
        Self::Invalid(Box::new(Report { file: file.to_owned(), source, problems }))
    }

    /// The problems in the file, in its order; none when it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid(report) => &report.problems,
        }
    }
}

impl Diagnostic for ConfigError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("freena::config"))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        // Every problem's hint is in its label; this names the text that explains them all.
        Some(Box::new("the format is described in docs/configuration.md"))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::Read { .. } => None,
            Self::Invalid(report) => Some(&report.source),
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = |problem: &Problem| {
            LabeledSpan::new(Some(problem.invalid.to_string()), problem.span.start, problem.span.len())
        };
        match self {
            Self::Read { .. } => None,
            Self::Invalid(report) => Some(Box::new(report.problems.iter().map(label))),
        }
    }
}

/// Everything that is wrong with a file: at least one problem and at most [`MAX_PROBLEMS`].
#[derive(Debug)]
pub struct Report {
    file: String,
    source: NamedSource<Arc<str>>,
    problems: Vec<Problem>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(first) = self.problems.first() {
            first.fmt(f)?;
        }
        match self.problems.len() {
            0 | 1 => Ok(()),
            MAX_PROBLEMS => write!(f, " (and at least {} more)", MAX_PROBLEMS - 1),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

impl std::error::Error for Report {}

/// One thing that is wrong with a file. Its `Display` is `line:column: found X, expected Y`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    position: Position,
    span: Range<usize>,
    invalid: InvalidValue,
}

impl Problem {
    /// Where it starts.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What was found there, and what was expected.
    pub fn invalid(&self) -> &InvalidValue {
        &self.invalid
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.invalid)
    }
}

/// Collects the problems of one text.
pub(crate) struct Problems<'a> {
    pub(crate) locator: Locator<'a>,
    list: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { locator: Locator::new(text), list: Vec::new() }
    }

    /// Adds the problem that `invalid` stands at the bytes `span`. Beyond [`MAX_PROBLEMS`] it is dropped.
    pub(crate) fn report(&mut self, span: Range<usize>, invalid: InvalidValue) {
        if !self.is_full() {
            let position = self.locator.position(span.start);
            self.list.push(Problem { position, span, invalid });
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems in the order of the text.
    pub(crate) fn into_list(mut self) -> Vec<Problem> {
        self.list.sort_by_key(|problem| problem.span.start);
        self.list
    }
}
