//! A warm Python interpreter in a host, asked for one calculation after another.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::interrupt::Interrupt;
use super::program::Program;

/// Importing everything and warming up.
const WARM_UP: Duration = Duration::from_secs(120);
/// Ending an interpreter.
const END: Duration = Duration::from_secs(30);

/// A script that has said that it is ready, and answers each word with a line of JSON.
pub(super) struct Conversation {
    name: &'static str,
    program: Program,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    #[serde(rename = "ready")]
    _ready: bool,
}

impl Conversation {
    /// Starts the script and waits until it is warm.
    ///
    /// # Errors
    /// If it ends, or takes too long.
    pub(super) fn start(
        name: &'static str,
        command: &mut Command,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let program = Program::start(name, command, interrupt)?;
        let mut conversation = Self { name, program };
        let _ready: Ready = conversation.hear(WARM_UP)?;
        Ok(conversation)
    }

    /// Asks for a calculation.
    ///
    /// # Errors
    /// If the script ends, answers something else, or takes longer than `limit`.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, word: &str, limit: Duration) -> Result<T> {
        self.program.tell(word)?;
        self.hear(limit)
            .with_context(|| format!("the calculation {word} failed"))
    }

    /// Ends the script by the end of its input.
    ///
    /// # Errors
    /// If it fails meanwhile.
    pub(super) fn end(self) -> Result<()> {
        let status = self.program.finish(END)?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }

    /// Ends a script that reads no input.
    ///
    /// # Errors
    /// If it does not end.
    pub(super) fn stop(self) -> Result<()> {
        self.program.stop()
    }

    fn hear<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T> {
        let Some(line) = self.program.line(limit)? else {
            bail!("{} has ended; see target/demo/demo.log", self.name);
        };
        serde_json::from_str(&line)
            .with_context(|| format!("{} said {line:?}, which is not understood", self.name))
    }
}
