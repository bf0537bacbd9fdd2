//! Where the time of a node goes: a table, and a flame graph.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::implementation::{Tunnel, install};
use super::measure::{self, Test};
use crate::console;

/// Samples per second: a prime, so that nothing periodic is met always or never.
const FREQUENCY: &str = "997";

/// What samples are counted as: the first of these of which a word is in a stack. Stacks of the
/// kernel are whole, those of ours end where frame pointers do.
const GROUPS: [(&str, &[&str]); 8] = [
    ("cipher (ring)", &["chacha20_poly1305"]),
    ("sending UDP, and the way to the other host", &["sendmsg"]),
    ("receiving UDP", &["recvmmsg"]),
    (
        "writing to the TUN, and the TCP behind it",
        &["tun_chr_write_iter", "writev"],
    ),
    ("reading the TUN", &["tun_chr_read_iter", "ksys_read"]),
    (
        "sleeping and being woken",
        &["poll", "sched_yield", "schedule", "epoll", "futex"],
    ),
    ("checksums of segments", &["checksum::Sum"]),
    ("interrupts, and the rest of the kernel", &["_[k]"]),
];

/// What is narrower in a drawing, in percent, is left out: nobody could read it.
const NARROW: &str = "0.3";

/// All else.
const OURS: &str = "all else of ours and of boringtun";

/// Samples of both ends of a tunnel under a test.
pub(super) struct Profile {
    test: Test,
    data: PathBuf,
}

/// Samples both ends of a tunnel while a test runs.
pub(super) fn record(root: &Path, tunnel: &Tunnel, test: Test, seconds: u16) -> Result<Profile> {
    let folder = root.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let data = folder.join(format!("mesh-{}.perf", test.name()));
    let ends = tunnel.ends().iter().flat_map(|end| &end.processes);
    let processes: Vec<_> = ends.map(ToString::to_string).collect();
    // It samples by the clock: not every machine has counters of cycles.
    let mut sampling = Command::new("perf")
        .args(["record", "--quiet", "--event=cpu-clock", "-g"])
        .args(["--freq", FREQUENCY, "--pid", &processes.join(",")])
        .arg("--output")
        .arg(&data)
        .args(["--", "sleep", &seconds.to_string()])
        .spawn()
        .context("perf is missing: apt-get install linux-perf")?;
    measure::run(test, tunnel, seconds)?;
    ensure!(sampling.wait()?.success(), "perf could not sample");
    Ok(Profile { test, data })
}

/// Prints where the time went, and draws `target/bench/mesh-TEST.svg`. The nodes must have ended: perf
/// would look for the program in the files that they see.
pub(super) fn draw(root: &Path, profile: &Profile) -> Result<()> {
    let Profile { test, data } = profile;
    let tools = install(root, "inferno", "0.12.3")?;
    let stacks = collapse(&tools, data)?;
    console::result("");
    console::result(&format!("{:<46}{:>6}", test.name(), "%"));
    for (group, share) in shares(&stacks) {
        console::result(&format!("{group:<46}{share:>6.1}"));
    }
    let drawing = data.with_extension("svg");
    let title = format!("both ends of a mesh, {}", test.name());
    let mut draw = Command::new(tools.join("inferno-flamegraph"))
        .args(["--title", &title, "--minwidth", NARROW])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&drawing)?)
        .spawn()?;
    let mut input = draw.stdin.take().expect("piped");
    input.write_all(stacks.as_bytes())?;
    drop(input);
    ensure!(draw.wait()?.success(), "the flame graph cannot be drawn");
    console::progress(&format!("drew {}", drawing.display()));
    Ok(())
}

/// One line for each stack: its frames, outermost first, and how often it was met.
fn collapse(tools: &Path, data: &Path) -> Result<String> {
    let mut script = Command::new("perf")
        .arg("script")
        .arg("--input")
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let collapsed = Command::new(tools.join("inferno-collapse-perf"))
        .arg("--kernel")
        .stdin(script.stdout.take().expect("piped"))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        script.wait()?.success() && collapsed.status.success(),
        "the samples cannot be read"
    );
    String::from_utf8(collapsed.stdout).context("a function has no readable name")
}

/// The share of each group in all samples, in percent.
fn shares(stacks: &str) -> Vec<(&'static str, f64)> {
    let mut counts = [0.0; GROUPS.len() + 1];
    for (stack, count) in stacks.lines().filter_map(|line| line.rsplit_once(' ')) {
        let holds = |words: &[&str]| words.iter().any(|word| stack.contains(word));
        let group = GROUPS.iter().position(|(_, words)| holds(words));
        counts[group.unwrap_or(GROUPS.len())] += count.parse().unwrap_or(0.0);
    }
    let all: f64 = counts.iter().sum();
    let names = GROUPS.iter().map(|(name, _)| *name).chain([OURS]);
    names
        .zip(counts.map(|count| 100.0 * count / all.max(1.0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_counted_once_and_for_what_called() {
        let stacks = "mesh;__libc_sendmsg;do_syscall_64_[k];schedule_[k] 3\n\
                      mesh;ring_core_chacha20_poly1305_open_avx2 5\n\
                      mesh;asm_sysvec_apic_timer_interrupt_[k] 1\n\
                      mesh;fed_tun::split::split 1\n";
        let found: Vec<_> = shares(stacks)
            .into_iter()
            .filter(|(_, share)| *share > 0.0)
            .collect();
        let expected = [
            ("cipher (ring)", 50.0),
            ("sending UDP, and the way to the other host", 30.0),
            ("interrupts, and the rest of the kernel", 10.0),
            (OURS, 10.0),
        ];
        assert_eq!(found, expected);
    }
}
