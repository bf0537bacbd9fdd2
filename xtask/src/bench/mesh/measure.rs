//! One run of one test through one tunnel.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::implementation::{End, Tunnel};

/// Clock ticks per second in `/proc/PID/stat` (`getconf CLK_TCK`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// How long a run may take beyond what it should.
const PATIENCE: u16 = 20;

/// Pings per second.
const PINGS: u16 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Test {
    /// One TCP connection, frames of 1500 bytes.
    Tcp1,
    /// Four TCP connections.
    Tcp4,
    /// Datagrams of 64 bytes, as many as can be.
    Udp64,
    /// Round-trip time while nothing else is sent, average.
    Rtt,
    /// One TCP connection, frames of 9000 bytes.
    Jumbo,
    /// One TCP connection, over devices without offloads.
    NoOffload,
    /// A chunk of 200 MB between Dask workers over 1 Gbit/s, 80 ms away, beside plain TCP.
    Dask,
}

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// In the unit of the test.
    pub(super) value: f64,
    /// The largest of what `value` is the average of.
    pub(super) max: Option<f64>,
    /// CPU seconds of both ends for each 10^9 bytes that the application received.
    pub(super) cpu_s_per_gb: Option<f64>,
}

impl Measured {
    /// A figure with nothing beside it.
    pub(super) fn rate(value: f64) -> Self {
        Self {
            value,
            max: None,
            cpu_s_per_gb: None,
        }
    }
}

impl Test {
    pub(super) const ALL: [Self; 7] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Udp64,
        Self::Rtt,
        Self::Jumbo,
        Self::NoOffload,
        Self::Dask,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Udp64 => "udp64",
            Self::Rtt => "rtt",
            Self::Jumbo => "jumbo",
            Self::NoOffload => "no_offload",
            Self::Dask => "dask",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Jumbo | Self::NoOffload | Self::Dask => "Gbit/s",
            Self::Udp64 => "10^3 packets/s",
            Self::Rtt => "ms",
        }
    }

    /// The ground it runs on.
    pub(super) fn ground(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Udp64 | Self::Rtt => "standard",
            Self::Jumbo => "jumbo",
            Self::NoOffload => "plain",
            Self::Dask => "wan",
        }
    }
}

/// Runs a test for some seconds.
pub(super) fn run(test: Test, tunnel: &Tunnel, seconds: u16) -> Result<Measured> {
    match test {
        Test::Tcp1 | Test::Jumbo | Test::NoOffload => tcp(tunnel, seconds, "1"),
        Test::Tcp4 => tcp(tunnel, seconds, "4"),
        Test::Udp64 => udp(tunnel, seconds),
        Test::Rtt => rtt(tunnel, seconds),
        Test::Dask => bail!("it needs a ground of its own"),
    }
}

/// The part of iperf3's report that counts.
#[derive(Deserialize)]
struct Iperf {
    end: IperfEnd,
    error: Option<String>,
}

#[derive(Deserialize)]
struct IperfEnd {
    sum_received: Option<Received>,
    sum: Option<Datagrams>,
}

/// How often a run is tried: a flood may drown the connection by which iperf3 steers it.
const TRIES: usize = 3;

#[derive(Deserialize)]
struct Received {
    bits_per_second: f64,
    bytes: f64,
}

#[derive(Deserialize)]
struct Datagrams {
    packets: f64,
    lost_packets: f64,
    seconds: f64,
}

fn tcp(tunnel: &Tunnel, seconds: u16, streams: &str) -> Result<Measured> {
    let options = ["--parallel", streams];
    let (received, cpu) = iperf(tunnel, seconds, &options, |end| end.sum_received)?;
    Ok(Measured {
        value: received.bits_per_second / 1e9,
        max: None,
        cpu_s_per_gb: Some(cpu / (received.bytes / 1e9)),
    })
}

fn udp(tunnel: &Tunnel, seconds: u16) -> Result<Measured> {
    let options = ["--udp", "--bitrate", "0", "--length", "64"];
    let (sum, _) = iperf(tunnel, seconds, &options, |end| end.sum)?;
    Ok(Measured {
        value: (sum.packets - sum.lost_packets) / sum.seconds / 1e3,
        max: None,
        cpu_s_per_gb: None,
    })
}

/// Ends a server when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends for some seconds; returns what `find` finds in the report, and the CPU seconds used.
fn iperf<T>(
    tunnel: &Tunnel,
    seconds: u16,
    options: &[&str],
    find: impl Fn(IperfEnd) -> Option<T>,
) -> Result<(T, f64)> {
    let mut said = String::new();
    for _ in 0..TRIES {
        let before = cpu_seconds(tunnel)?;
        let report = iperf_once(tunnel, seconds, options)?;
        let cpu = cpu_seconds(tunnel)? - before;
        said = report.error.unwrap_or_default();
        if let (true, Some(found)) = (said.is_empty(), find(report.end)) {
            return Ok((found, cpu));
        }
    }
    bail!("iperf3 failed {TRIES} times, lastly with {said:?}")
}

fn iperf_once(tunnel: &Tunnel, seconds: u16, options: &[&str]) -> Result<Iperf> {
    let [client, server] = tunnel.ends();
    let listening = server
        .command("iperf3")
        .args(["--server", "--one-off", "--bind", &server.address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _listening = Server(listening);
    let mut command = limited(client, seconds);
    command
        .args(["iperf3", "--json", "--client", &server.address])
        .args(["--time", &seconds.to_string()])
        .args(options);
    // The server takes a moment to listen.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let refused = said.contains("Connection refused");
        if output.status.success() && !refused {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        if !refused || Instant::now() > deadline {
            bail!("iperf3 failed ({}): {}", output.status, said.trim());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn rtt(tunnel: &Tunnel, seconds: u16) -> Result<Measured> {
    let [client, server] = tunnel.ends();
    let interval = (1.0 / f64::from(PINGS)).to_string();
    let count = (PINGS * seconds).to_string();
    let ping = |count: &str| -> Result<Output> {
        let output = limited(client, seconds)
            .args(["ping", "-q", "-i", &interval, "-c", count, &server.address])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "ping failed: {}", said.trim());
        Ok(output)
    };
    // The first ones would wait for the handshake.
    ping("10")?;
    let said = String::from_utf8(ping(&count)?.stdout)?;
    let figures = said
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))
        .with_context(|| format!("ping said no times: {said}"))?;
    let figures: Vec<f64> = figures
        .split(['/', ' '])
        .map_while(|figure| figure.parse().ok())
        .collect();
    let &[_, average, max, _] = &figures[..] else {
        bail!("ping said {figures:?}");
    };
    Ok(Measured {
        value: average,
        max: Some(max),
        cpu_s_per_gb: None,
    })
}

/// A command beside an end that is killed when it takes too long.
fn limited(end: &End, seconds: u16) -> Command {
    let mut command = end.command("timeout");
    command.arg((seconds + PATIENCE).to_string());
    command
}

/// CPU seconds that both ends have used so far.
fn cpu_seconds(tunnel: &Tunnel) -> Result<f64> {
    let processes = tunnel.ends().iter().flat_map(|end| &end.processes);
    processes
        .map(|process| ticks(*process))
        .sum::<Result<f64>>()
        .map(|ticks| ticks / TICKS)
}

/// User and system time of a process, from `/proc/PID/stat`.
fn ticks(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // Counted after the name, which may hold anything.
    let fields = stat.rsplit_once(") ").context(path)?.1.split(' ');
    let times = fields.skip(11).take(2).map(str::parse::<f64>);
    times.sum::<Result<f64, _>>().map_err(Into::into)
}
