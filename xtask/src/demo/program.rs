//! A program that runs for the demonstration: its lines as they come, its end, all within limits.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt::Interrupt;

/// How often a wait looks for an interrupt.
const TICK: Duration = Duration::from_millis(20);
/// How long a program may take to end when asked to.
const STOP: Duration = Duration::from_secs(15);

/// A running program; dropping it kills it.
pub(super) struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    interrupt: Interrupt,
}

impl Program {
    /// Starts a program whose standard output is read line by line.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(name: &str, command: &mut Command, interrupt: &Interrupt) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().expect("standard output is piped");
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            interrupt: interrupt.clone(),
        })
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// If it does not read any more.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().expect("standard input is piped");
        writeln!(input, "{line}").with_context(|| format!("{} does not listen", self.name))
    }

    /// The next line of its standard output; `None` when it has closed it.
    ///
    /// # Errors
    /// On an interrupt, or when `limit` has passed.
    pub(super) fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(TICK) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.is_in_time(deadline, limit)?,
            }
        }
    }

    /// Closes its standard input and waits until it ends by itself.
    ///
    /// # Errors
    /// On an interrupt, or when `limit` has passed.
    pub(super) fn finish(mut self, limit: Duration) -> Result<ExitStatus> {
        drop(self.child.stdin.take());
        self.wait(limit)
    }

    /// Asks it to end by SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// If it does not end.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop {}", self.name))?;
        self.wait(STOP).map(drop)
    }

    fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.is_in_time(deadline, limit)?;
            std::thread::sleep(TICK);
        }
    }

    fn is_in_time(&self, deadline: Instant, limit: Duration) -> Result<()> {
        self.interrupt.check()?;
        if Instant::now() >= deadline {
            bail!("{} did not answer within {} s", self.name, limit.as_secs());
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, and gives its standard output.
///
/// # Errors
/// If it fails, on an interrupt, or when `limit` has passed.
pub(super) fn output(
    name: &str,
    command: &mut Command,
    input: Option<&str>,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String> {
    let mut program = Program::start(name, command, interrupt)?;
    if let Some(line) = input {
        program.tell(line)?;
    }
    drop(program.child.stdin.take());
    let mut text = String::new();
    let deadline = Instant::now() + limit;
    while let Some(line) = program.line(deadline.saturating_duration_since(Instant::now()))? {
        text.push_str(&line);
        text.push('\n');
    }
    let status = program.wait(limit)?;
    if !status.success() {
        bail!("{name} failed: {status}; see above, or target/demo/demo.log");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_asked_and_answers() {
        let interrupt = Interrupt::default();
        let script = "while read word; do echo heard $word; done; exit 3";
        let mut program = Program::start("echo", &mut shell(script), &interrupt).unwrap();
        program.tell("one").unwrap();
        assert_eq!(program.line(LIMIT).unwrap().unwrap(), "heard one");
        assert_eq!(program.finish(LIMIT).unwrap().code(), Some(3));
    }

    #[test]
    fn a_failure_names_the_program() {
        let interrupt = Interrupt::default();
        let given = output("cat", &mut shell("cat"), Some("line"), LIMIT, &interrupt);
        assert_eq!(given.unwrap(), "line\n");
        let error = output("the shell", &mut shell("exit 4"), None, LIMIT, &interrupt);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("the shell failed: exit status: 4"),
            "{error}"
        );
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_at_an_interrupt() {
        let interrupt = Interrupt::default();
        let mut program = Program::start("cat", &mut shell("cat"), &interrupt).unwrap();
        let error = program.line(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("cat did not answer within 0 s"), "{error}");
        interrupt.raise();
        let error = program.line(LIMIT).unwrap_err().to_string();
        assert!(error.contains("stopped by a signal"), "{error}");
    }
}
