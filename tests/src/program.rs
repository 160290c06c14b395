//! A running program whose output a test reads line by line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take for what a test awaits, unless the test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program, in a process group of its own, which is killed on drop.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Program {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Program {
        let name = describe(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let errors = Arc::new(Mutex::new(String::new()));
        let (kept, mut from) = (Arc::clone(&errors), child.stderr.take().expect("a pipe"));
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                kept.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        Program { name, input: child.stdin.take(), child, lines, errors, reader: Some(reader) }
    }

    /// Process number.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has written to the standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().expect("no panic").clone()
    }

    /// Waits until it has written `words` to the standard error: what it printed elsewhere may be seen before.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub fn expect_error(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.errors().contains(words) {
            assert!(Instant::now() < deadline, "{} does not say {words:?}: {}", self.name, self.errors());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next line of its output.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], with what it wrote to the standard error.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => {
                let state = self.child.try_wait();
                panic!("{} printed no line ({error}; {state:?}): {}", self.name, self.errors())
            }
        }
    }

    /// Reads lines up to one that starts with `start`, and returns what follows that.
    ///
    /// # Panics
    /// As [`Program::line`].
    pub fn expect(&mut self, start: &str) -> String {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// If it has closed that.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{} reads no more: {error}", self.name));
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: i32) {
        // SAFETY: takes integers only; the child has not been waited for, so the number is still its own.
        let result = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(result, 0, "{}: {}", self.name, std::io::Error::last_os_error());
    }

    /// Kills it and what it has started, and waits for its end.
    pub fn kill(&mut self) {
        // SAFETY: takes integers only. The group is its own; once it has been waited for, others of the group keep the
        // number from being given away, or there is none, which is an error without consequence.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        // Fails only where it has been waited for already.
        let _ = self.child.wait();
    }

    /// Whether it still runs, without waiting for it: one that has been killed is a zombie, which is dead.
    pub fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE)
    }

    /// As [`Program::wait`], with another limit.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        self.input = None;
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // All that it said is there then, unless a child of its own keeps the pipe open.
                    while self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
                        && Instant::now() < deadline
                    {
                        thread::sleep(Duration::from_millis(1));
                    }
                    self.reader = None;
                    return status;
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                other => panic!("{} does not end ({other:?}): {}", self.name, self.errors()),
            }
        }
    }

    /// Waits for its end, which must be a success; returns the rest of its output.
    ///
    /// # Panics
    /// If it fails or does not end, with what it said.
    pub fn succeed(&mut self) -> String {
        self.succeed_within(PATIENCE)
    }

    /// As [`Program::succeed`], with another limit.
    ///
    /// # Panics
    /// As [`Program::succeed`].
    pub fn succeed_within(&mut self, limit: Duration) -> String {
        let status = self.wait_within(limit);
        let rest: Vec<String> = self.lines.iter().collect();
        let rest = rest.join("\n");
        assert!(status.success(), "{} failed ({status}): {rest}\n{}", self.name, self.errors());
        rest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn output(mut command: Command) -> Output {
    let name = describe(&command);
    command.output().unwrap_or_else(|error| panic!("cannot start {name}: {error}"))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
