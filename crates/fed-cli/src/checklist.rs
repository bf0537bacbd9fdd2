//! The live checklist of `fed up` and `fed down`, on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use fed_service::operator::{Progress, Step, StepState};

use crate::console;

struct Line {
    member: String,
    step: Step,
    done: bool,
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
            Progress::Ended => {
                self.finish();
                console::note(if self.warned {
                    "ended, but for what the warnings above say"
                } else {
                    "nothing is left"
                });
            }
            Progress::Ending { failure: None } => self.warned = false,
            Progress::Running { .. } => {}
        }
    }

    /// Leaves what is drawn as it is; what follows starts below.
    pub(crate) fn finish(&mut self) {
        self.lines.clear();
        self.drawn = 0;
    }

    fn step(&mut self, member: &str, step: Step, state: StepState) {
        let done = state == StepState::Done;
        let known = self
            .lines
            .iter_mut()
            .find(|line| line.member == member && line.step == step);
        match known {
            Some(line) => line.done = done,
            None => self.lines.push(Line {
                member: member.to_owned(),
                step,
                done,
            }),
        }
        if self.terminal {
            self.draw();
        } else if done {
            let seconds = self.began.elapsed().as_secs_f64();
            console::note(&format!("{seconds:6.2} s  {member}: {}", words(step).1));
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
                .filter(|line| !line.done)
                .map(|line| words(line.step).0)
                .collect();
            let last = latest.next_back().map_or("", |line| words(line.step).1);
            let (mark, what) = if open.is_empty() {
                ("✓", last.to_owned())
            } else {
                ("…", open.join(", "))
            };
            writeln!(text, "  {mark} {member:<16} {what}").expect("a String takes what is written");
        }
        self.drawn = members.len();
        let _ = write!(std::io::stderr().lock(), "{text}");
    }
}

/// What a step is called while it goes on, and when it is done.
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
