//! Places one graph and prints, as JSON, how much CPU time that took and how much memory:
//! `cargo run --release -p fed-place --example measure SHAPE TASKS POOLS`.

use fed_place::{Links, Options, place};

#[path = "../benches/shapes/mod.rs"]
mod shapes;

#[expect(clippy::print_stdout, reason = "what it measures is read from there")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, tasks, pools] = &arguments[..] else {
        return Err("give the shape, and the numbers of tasks and pools".into());
    };
    let known = shapes::ALL.iter().find(|(name, _)| name == shape);
    let (_, make) = known.ok_or_else(|| format!("there is no shape {shape}"))?;
    let pools = pools.parse()?;
    let made = make(tasks.parse()?, pools);
    let (tasks, dependencies) = made.size();
    let links = Links::uniform(pools)?;
    let start = cpu_seconds()?;
    let placement = place(&made.graph(), &links, &Options::default())?;
    let seconds = cpu_seconds()? - start;
    let cost = placement.crossing.cost;
    let (plain_cost, lower_bound) = (placement.plain_cost, placement.lower_bound);
    let peak_bytes = peak_bytes()?;
    println!(
        "{{\"shape\": \"{shape}\", \"pools\": {pools}, \"tasks\": {tasks}, \
         \"dependencies\": {dependencies}, \"seconds\": {seconds}, \"peak_bytes\": {peak_bytes}, \
         \"cost\": {cost}, \"plain_cost\": {plain_cost}, \"lower_bound\": {lower_bound}}}"
    );
    Ok(())
}

/// The time that this process, of one thread, has run so far.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let times = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = times
        .split_whitespace()
        .next()
        .ok_or("/proc/self/schedstat is empty")?;
    Ok(nanoseconds.parse::<f64>()? * 1e-9)
}

/// The most memory that this process has had, the graph included.
fn peak_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("/proc/self/status has no VmHWM")?
        .trim()
        .parse()?;
    Ok(kilobytes * 1024)
}
