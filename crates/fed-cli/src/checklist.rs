//! The live checklist of `fed up` and `fed down`, on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use fed_service::operator::{Progress, Step, StepState};

use crate::console;

struct Line {
    member: String,
    step: Step,
    state: StepState,
}

/// Draws progress: redrawn in place on a terminal, a line for each finished step elsewhere.
pub(crate) struct Checklist {
    lines: Vec<Line>,
    drawn: usize,
    terminal: bool,
    /// A warning was shown since the federation began to end.
    warned: bool,
    began: Instant,
}

impl Checklist {
    pub(crate) fn new() -> Self {
        Self {
            lines: Vec::new(),
            drawn: 0,
            terminal: console::is_terminal(),
            warned: false,
            began: Instant::now(),
        }
    }

    /// Shows one piece of progress.
    pub(crate) fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Step {
                member,
                step,
                state,
            } => self.step(member, *step, *state),
            Progress::Versions { table } => {
                self.above(&format!(
                    "the Python environments differ, which usually works:\n{table}"
                ));
            }
            Progress::Warning { message } => {
                self.warned = true;
                self.above(&format!("warning: {message}"));
            }
            Progress::Ending { failure: Some(_) } => {
                self.warned = false;
                self.above("ending what was started");
            }
            Progress::Ended { untold } => {
                self.finish();
                if self.warned {
                    console::note("ended, but for what the warnings above say");
                } else if untold.is_empty() {
                    console::note("nothing is left");
                }
            }
            Progress::Ending { failure: None } => self.warned = false,
            Progress::Running { .. } | Progress::Failed { .. } => {}
        }
    }

    /// Leaves what is drawn as it is; what follows starts below.
    pub(crate) fn finish(&mut self) {
        self.lines.clear();
        self.drawn = 0;
    }

    fn step(&mut self, member: &str, step: Step, state: StepState) {
        let known = self
            .lines
            .iter_mut()
            .find(|line| line.member == member && line.step == step);
        match known {
            Some(line) => line.state = state,
            None => self.lines.push(Line {
                member: member.to_owned(),
                step,
                state,
            }),
        }
        if self.terminal {
            self.draw();
        } else if state != StepState::Begun {
            let seconds = self.began.elapsed().as_secs_f64();
            console::note(&format!("{seconds:6.2} s  {member}: {}", told(step, state)));
        }
    }

    fn above(&mut self, text: &str) {
        if self.terminal {
            self.erase();
            console::note(text);
            self.draw();
        } else {
            console::note(text);
        }
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to the first line drawn, and clear from there to the end of the screen.
            let _ = write!(std::io::stderr().lock(), "\x1b[{}F\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        self.erase();
        let mut text = String::new();
        let mut members: Vec<&str> = Vec::new();
        for line in &self.lines {
            if !members.contains(&line.member.as_str()) {
                members.push(&line.member);
            }
        }
        for member in &members {
            let mut latest = self.lines.iter().filter(|line| line.member == **member);
            let open: Vec<&str> = latest
                .clone()
                .filter(|line| line.state == StepState::Begun)
                .map(|line| told(line.step, StepState::Begun))
                .collect();
            let last = latest.next_back();
            let mark = match last {
                _ if !open.is_empty() => "…",
                Some(line) if line.state == StepState::Failed => "!",
                _ => "✓",
            };
            let what = match last {
                Some(line) if open.is_empty() => told(line.step, line.state).to_owned(),
                _ => open.join(", "),
            };
            writeln!(text, "  {mark} {member:<16} {what}").expect("a String takes what is written");
        }
        self.drawn = members.len();
        let _ = write!(std::io::stderr().lock(), "{text}");
    }
}

/// What a step is called while it goes on, when it is done, and when it could not be.
fn told(step: Step, state: StepState) -> &'static str {
    let (begun, done) = words(step);
    match state {
        StepState::Begun => begun,
        StepState::Done => done,
        StepState::Failed if step == Step::Leave => "could not be told; its lease will end it",
        StepState::Failed => "failed",
    }
}

fn words(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Describe => ("asking what it offers", "answered"),
        Step::Prepare => ("starting its node", "node started"),
        Step::Scheduler => ("starting the scheduler", "scheduler started"),
        Step::Connect => ("exchanging keys", "keys exchanged"),
        Step::Probe => ("building tunnels", "tunnels stand"),
        Step::Workers => ("starting workers", "workers started"),
        Step::Register => ("waiting for the workers", "all workers registered"),
        Step::Publish => ("opening the gateway", "gateway open"),
        Step::Leave => ("leaving", "left"),
    }
}
