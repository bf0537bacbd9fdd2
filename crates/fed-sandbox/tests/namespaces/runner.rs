//! Starts each case in a process of its own, and looks at what it left.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::caller::{Caller, NOBODY};
use crate::cases::{self, Case, Kind};
use crate::world::{READY, TUN, World};

/// Far more than any case takes, so that one that hangs ends.
const CASE_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let chosen: Vec<(Case, Caller)> = cases::all()
        .into_iter()
        .flat_map(|case| case.callers().iter().map(move |caller| (case, *caller)))
        .filter(|(case, caller)| {
            let name = full_name(case, *caller);
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        })
        .collect();
    if arguments.iter().any(|arg| arg == "--list") {
        chosen
            .iter()
            .for_each(|(case, caller)| println!("{}: test", full_name(case, *caller)));
        return ExitCode::SUCCESS;
    }
    if let Err(refusal) = fed_sandbox::check() {
        return not_run(chosen.len(), &refusal.to_string());
    }
    let (possible, staged): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|(_, caller)| caller.is_possible());
    let code = run_all(&possible);
    if code == ExitCode::SUCCESS && !staged.is_empty() {
        return not_run(
            staged.len(),
            "only root can stage the machines that they need",
        );
    }
    code
}

/// Says loudly what was not tested; fails where everything must be.
fn not_run(count: usize, reason: &str) -> ExitCode {
    println!("\nNOT RUN: {count} tests of sandboxes: {reason}\n");
    let must = std::env::var_os("CI").is_some_and(|value| value == "true");
    ExitCode::from(u8::from(must))
}

fn run_all(chosen: &[(Case, Caller)]) -> ExitCode {
    println!("\nrunning {} tests", chosen.len());
    let started = Instant::now();
    let mut failed = 0;
    for (case, caller) in chosen {
        let name = full_name(case, *caller);
        match run(case, *caller) {
            Ok(()) => println!("test {name} ... ok"),
            Err(report) => {
                failed += 1;
                println!("test {name} ... FAILED\n{report}");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered \
         out; finished in {:.2}s\n",
        chosen.len() - failed,
        started.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0))
}

fn full_name(case: &Case, caller: Caller) -> String {
    format!("{}::{}", case.name, caller.name())
}

fn run(case: &Case, caller: Caller) -> Result<(), String> {
    // Usually below /tmp, which the sandbox has its own of; but there, what lies beside a path
    // that is shown can be written.
    let base = if case.name == "files" {
        "/var/tmp"
    } else {
        "/tmp"
    };
    let folder = tempfile::Builder::new()
        .prefix("fed-sandbox-")
        .tempdir_in(base)
        .unwrap();
    let world = World::new(folder.path().to_owned(), case.name, caller);
    world.lay_out();
    if caller.is_nobody() {
        for path in [folder.path(), &world.scratch()] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    world.to_env(&mut command);
    let output = folder.path().join("output");
    let stderr = fs::File::create(&output).unwrap();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let result = match case.kind {
        Kind::Ends(_) => wait(&mut child),
        Kind::Killed(_) => kill_when_ready(&mut child, &world),
    };
    let left = nothing_left(&world);
    result.and(left).map_err(|error| {
        let output = fs::read_to_string(&output).unwrap_or_default();
        format!("{error}\n{output}")
    })
}

fn wait(child: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + CASE_LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut said = String::new();
            child
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            return if status.success() {
                Ok(())
            } else {
                Err(format!("{status}\n{said}"))
            };
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("did not end within {CASE_LIMIT:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills the outer half in the middle of its life, with inner processes of all kinds alive.
fn kill_when_ready(child: &mut Child, world: &World) -> Result<(), String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let alive = witnesses(world);
    child.kill().unwrap();
    child.wait().unwrap();
    if line.trim() != READY {
        return Err(format!("was not ready, but said {line:?}"));
    }
    // At least the outer's three inner processes: an unprivileged runner cannot look at PID 1.
    if alive.len() < 3 {
        Err(format!("only {alive:?} were alive"))
    } else {
        Ok(())
    }
}

/// Waits until no process sees the case's folder and no device of it is left.
fn nothing_left(world: &World) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = witnesses(world);
        let devices = fs::read_to_string("/proc/net/dev").unwrap();
        if left.is_empty() && !devices.contains(TUN) {
            return Ok(());
        }
        if Instant::now() > deadline {
            left.iter().for_each(|process| process.kill());
            return Err(format!("left: processes {left:?}; devices {devices}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that has the case's folder among its mounts.
#[derive(Debug)]
struct Witness {
    pid: i32,
    #[expect(dead_code, reason = "for reports")]
    name: String,
}

impl Witness {
    fn kill(&self) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// All processes in the case's sandboxes.
fn witnesses(world: &World) -> Vec<Witness> {
    let needle = world.folder.file_name().unwrap().to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if mounts.contains(needle) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let pid = entry.file_name().to_str().unwrap().parse().unwrap();
            found.push(Witness {
                pid,
                name: name.trim().to_owned(),
            });
        }
    }
    found
}
