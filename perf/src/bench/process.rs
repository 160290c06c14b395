//! A program that runs in the lab and reports line by line.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::programs::report::Line;

/// Of what a program writes to standard error, so much is kept, from the end, in bytes.
const MESSAGES_KEPT: usize = 1024;
/// Between two looks at a program that is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why one run failed.
#[derive(Debug, Error)]
pub(super) enum RunError {
    #[error("{0}")]
    Missing(String),
    #[error("cannot start {name}: {source}")]
    Start { name: String, source: std::io::Error },
    #[error("{name} ended ({status}){said}")]
    Ended { name: String, status: String, said: String },
    #[error("{name} printed nothing of what was awaited ({awaited}) in time")]
    Timeout { name: String, awaited: &'static str },
    #[error("{name} printed {line:?}, expected a report line: {source}")]
    Line { name: String, line: String, source: serde_json::Error },
    #[error("{sent} datagrams were sent, none arrived")]
    NothingArrived { sent: u64 },
    #[error("{sent} datagrams were sent, only {received} arrived: too few for a rate")]
    TooFew { sent: u64, received: u64 },
    #[error("freena-stack's counters: {0}")]
    Counters(String),
    #[error(
        "not from ring to ring: the server carried {local} datagrams that way and {other} otherwise, the programs received {received}"
    )]
    NotLocal { local: u64, other: u64, received: u64 },
    #[error("a connection carries a steady stream, no bursts")]
    NoBurst,
    #[error("the connection was not joined: the server says that it has joined none")]
    NotJoined,
    #[error("{sent} bytes were sent, {received} arrived, {corrupt} pieces with other bytes")]
    NotWhole { sent: u64, received: u64, corrupt: u64 },
    #[error("no request was answered, {lost} were lost")]
    NoAnswer { lost: u64 },
    #[error("{0}")]
    Setup(String),
    #[error("{listener} has no connection by {expected} with {peer}: freena status tells {got}")]
    OtherProtocol { listener: &'static str, expected: &'static str, peer: String, got: String },
}

/// A running program, in a process group of its own, which is killed on drop.
pub(super) struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    messages: Option<JoinHandle<String>>,
}

impl Program {
    pub(super) fn start(name: &str, mut command: Command) -> Result<Self, RunError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().map_err(|source| RunError::Start { name: name.to_owned(), source })?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            // Ends with the program's standard output.
            thread::spawn(move || {
                let mut output = BufReader::new(output).lines().map_while(Result::ok);
                output.try_for_each(|line| sender.send(line))
            });
        }
        let messages = child.stderr.take().map(|messages| thread::spawn(move || keep_end(messages)));
        Ok(Self { name: name.to_owned(), input: child.stdin.take(), child, lines, messages })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets a program that was started with `--hold` begin.
    pub(super) fn go(&mut self) {
        if let Some(mut input) = self.input.take() {
            // A program that is gone is noticed by what it does not print.
            let _ = input.write_all(b"\n");
        }
    }

    /// The next line of its output, whatever it says.
    pub(super) fn line(&mut self, awaited: &'static str, deadline: Instant) -> Result<String, RunError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => Err(RunError::Timeout { name: self.name.clone(), awaited }),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// Reads report lines until `pick` takes one.
    pub(super) fn report<T>(
        &mut self,
        awaited: &'static str,
        deadline: Instant,
        mut pick: impl FnMut(Line) -> Option<T>,
    ) -> Result<T, RunError> {
        loop {
            let line = self.line(awaited, deadline)?;
            match serde_json::from_str(&line) {
                Ok(report) => {
                    if let Some(picked) = pick(report) {
                        return Ok(picked);
                    }
                }
                Err(source) => return Err(RunError::Line { name: self.name.clone(), line, source }),
            }
        }
    }

    /// Reads report lines until it is ready.
    pub(super) fn ready(&mut self, deadline: Instant) -> Result<(), RunError> {
        self.report("that it is ready", deadline, |line| matches!(line, Line::Ready { .. }).then_some(()))
    }

    /// Asks it to end (`SIGTERM`) and waits for that. Whether it did so in time.
    pub(super) fn terminate(&mut self, within: Duration) -> bool {
        self.signal(libc::SIGTERM);
        self.wait(Instant::now() + within).is_some()
    }

    fn ended(&mut self) -> RunError {
        let status = match self.wait(Instant::now() + Duration::from_secs(1)) {
            Some(status) => status.to_string(),
            None => "its output closed, but running".to_owned(),
        };
        self.kill();
        let said = self.messages.take().and_then(|messages| messages.join().ok()).unwrap_or_default();
        let said = said.trim().replace('\n', "; ");
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        RunError::Ended { name: self.name.clone(), status, said }
    }

    fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                _ => return None,
            }
        }
    }

    /// To the process and what it may have started; nothing once it has been waited for, as its number may be another's.
    fn signal(&mut self, signal: i32) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: takes integers only. The child has not been waited for, so its number, which is also its
            // group's, is still its own.
            unsafe { libc::kill(-self.child.id().cast_signed(), signal) };
        }
    }

    fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        // Fails only when it has been waited for before.
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end and returns the last part.
fn keep_end(mut from: impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        let excess = kept.len().saturating_sub(MESSAGES_KEPT);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::start("sh", command).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let error = shell("echo oh >&2; echo dear >&2; exit 3").ready(soon()).unwrap_err();
        assert_eq!(error.to_string(), "sh ended (exit status: 3): oh; dear");
    }

    #[test]
    fn a_program_that_hangs_is_given_up_and_killed() {
        let mut program = shell("sleep 60 & wait");
        let error = program.ready(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.to_string(), "sh printed nothing of what was awaited (that it is ready) in time");
        let started = Instant::now();
        drop(program);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_held_program_is_let_go() {
        let mut program = shell(r#"read line; echo '{"event":"ready","port":1}'; sleep 60"#);
        program.go();
        program.ready(soon()).unwrap();
        assert!(program.terminate(Duration::from_secs(5)));
    }

    #[test]
    fn garbage_is_shown() {
        let error = shell("echo '{\"event\":1}'").ready(soon()).unwrap_err().to_string();
        assert!(error.starts_with(r#"sh printed "{\"event\":1}", expected a report line"#), "{error}");
    }

    #[test]
    fn only_the_end_of_much_is_kept() {
        let much = "x".repeat(3 * MESSAGES_KEPT) + "end";
        let kept = keep_end(much.as_bytes());
        assert_eq!((kept.len(), kept.ends_with("xend")), (MESSAGES_KEPT, true));
    }
}
