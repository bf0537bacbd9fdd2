//! Sandboxes in real namespaces.
//!
//! A sandbox is made by a process with one thread, so every case runs in a process of its own:
//! this program, started again. As root each runs as several callers (see [`Caller`]). After
//! each, nothing may be left: no process that sees the case's folder, no device.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

mod caller;
mod cases;
mod ends;
mod limits;
mod network;
mod processes;
mod refusals;
mod runner;
mod views;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    match world::World::from_env() {
        Some(world) => {
            cases::run(&world);
            ExitCode::SUCCESS
        }
        None => runner::main(),
    }
}
