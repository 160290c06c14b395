//! How far a benchmark is: a bar on a terminal, a line for each run elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown.
pub(super) enum Progress {
    Silent,
    Bar(ProgressBar),
    Lines { runs: u64, done: u64 },
}

impl Progress {
    /// For so many runs.
    pub(super) fn new(shown: bool, runs: u64) -> Self {
        if !shown {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { runs, done: 0 };
        }
        let bar = ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr());
        let template = "{bar:24} {pos}/{len}  {elapsed_precise}, {eta} to go  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// What runs now, or how fast.
    pub(super) fn now(&self, what: &str) {
        if let Self::Bar(bar) = self {
            bar.set_message(what.to_owned());
        }
    }

    /// One more run is over, with this outcome.
    pub(super) fn done(&mut self, outcome: &str) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => bar.inc(1),
            Self::Lines { runs, done } => {
                *done += 1;
                eprintln!("[{done}/{runs}] {outcome}");
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
