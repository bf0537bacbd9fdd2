//! A chunk on its way from one Dask worker to another over a long link: through the mesh, and beside
//! it by plain TCP over the same link.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fed_testkit::wan::LinkSpec;
use fed_testkit::{Host, Lab};

use super::ground::{ADDRESSES, HOSTS, run};
use super::implementation::{Implementation, Tunnel};
use crate::environment::Venv;
use crate::{console, environment};

/// The link: one way, in bit/s of frames, and the part of the frames that is lost.
const DELAY: Duration = Duration::from_millis(40);
const RATE: u64 = 1_000_000_000;
const LOSS: f64 = 1e-5;

/// The chunk, in bytes; and the first ones, by which all connections are made, and the memory for a
/// chunk has been had once.
const CHUNK: u64 = 200_000_000;
const FIRST: [u64; 2] = [1_000_000, CHUNK];

/// Pairs of transfers for each repetition of the other tests: where a frame is lost, by chance, tells
/// more than all else.
const PAIRS: u16 = 3;

/// Buffers of TCP in all networks: least, first and most, in bytes. What the link holds in a round
/// trip, 10^7 bytes, fits with room to spare, as on hosts that are set up for such links.
const BUFFERS: &str = "4096 131072 67108864";

/// The largest inner packet over the link over IPv4, in bytes.
const INNER_MTU: u16 = 1440;

/// How long either side may take before it is killed, in seconds.
const PATIENCE: &str = "600";

/// Rates of one repetition, in Gbit/s of the chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) mesh: f64,
    pub(super) plain: f64,
}

/// Transfers chunks through `fed` and beside it, in turn.
pub(super) fn measure(root: &Path, fed: &Implementation, repetitions: u16) -> Result<Vec<Rates>> {
    let venv = environment::ensure(root)?;
    let link = LinkSpec::new(DELAY, RATE).with_loss(LOSS);
    let builder = HOSTS
        .iter()
        .fold(Lab::builder(), |lab, host| lab.host(host));
    let lab = builder.wan(link).start()?;
    let hosts = HOSTS.map(|name| lab.host(name));
    for (host, address) in hosts.into_iter().zip(ADDRESSES) {
        run(host, &format!("ip address add {address}/24 dev wan0"))?;
    }
    let tunnel = Tunnel::start(fed, 0, hosts, INNER_MTU)?;
    let start = |ends: [Place<'_>; 2]| Pair::start(root, &venv, ends);
    let mut mesh = start([0, 1].map(|end| {
        let end = &tunnel.ends()[end];
        Place::new(&end.address, |program| end.command(program))
    }))?;
    let mut plain =
        start([0, 1].map(|end| Place::new(ADDRESSES[end], |program| enter(hosts[end], program))))?;
    let pairs = repetitions.saturating_mul(PAIRS);
    (1..=pairs)
        .map(|repetition| {
            let mesh_is_first = repetition % 2 == 1;
            let first = mesh_is_first.then(|| mesh.rate()).transpose()?;
            let plain = plain.rate()?;
            let rates = Rates {
                mesh: first.map_or_else(|| mesh.rate(), Ok)?,
                plain,
            };
            console::progress(&format!(
                "{repetition}/{pairs}  dask        mesh {:.3}, plain TCP {:.3} Gbit/s",
                rates.mesh, rates.plain
            ));
            Ok(rates)
        })
        .collect()
}

/// A command in the network of a host, and in this process's files.
fn enter(host: &Host, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", host.pid()));
    command.arg(program);
    command
}

/// Where one side of a pair runs.
struct Place<'a> {
    address: &'a str,
    /// These programs, in the right network.
    timeout: Command,
    sysctl: Command,
}

impl<'a> Place<'a> {
    fn new(address: &'a str, command: impl Fn(&str) -> Command) -> Self {
        Self {
            address,
            timeout: command("timeout"),
            sysctl: command("sysctl"),
        }
    }

    /// Sets the buffers of TCP.
    fn prepare(&mut self) -> Result<()> {
        let settings = ["rmem", "wmem"].map(|name| format!("net.ipv4.tcp_{name}={BUFFERS}"));
        self.sysctl.arg("-qw").args(settings);
        ensure!(self.sysctl.status()?.success(), "{:?} failed", self.sysctl);
        Ok(())
    }
}

/// Two workers; see `tests/bench/transfer.py`.
struct Pair {
    near: Child,
    far: Child,
    /// `None` at the end.
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Without input the scheduler ends, and its workers with it: at the latest, `timeout` does.
        self.input = None;
        let _ = self.near.wait();
        let _ = self.far.wait();
    }
}

impl Pair {
    fn start(root: &Path, venv: &Venv, [mut near, mut far]: [Place<'_>; 2]) -> Result<Self> {
        near.prepare()?;
        far.prepare()?;
        let side = |mut timeout: Command, arguments: &[&str]| {
            timeout.arg(PATIENCE).arg(venv.python());
            timeout.args(["-m", "tests.bench.transfer"]).args(arguments);
            // An exception ends them, and is seen; what else they say is about their end.
            timeout.env("DASK_LOGGING__DISTRIBUTED", "critical");
            timeout.stdin(Stdio::piped()).stdout(Stdio::piped());
            timeout.current_dir(root).spawn()
        };
        let mut first = side(near.timeout, &["near", near.address])?;
        let input = first.stdin.take();
        let mut lines = BufReader::new(first.stdout.take().expect("piped")).lines();
        let scheduler = lines.next().context("the scheduler did not start")??;
        let second = side(far.timeout, &["far", far.address, &scheduler])?;
        let mut pair = Self {
            near: first,
            far: second,
            input,
            lines,
        };
        for bytes in FIRST {
            pair.seconds(bytes)?;
        }
        Ok(pair)
    }

    /// Gbit/s of a chunk.
    fn rate(&mut self) -> Result<f64> {
        let seconds = self.seconds(CHUNK)?;
        Ok(8e-9 * CHUNK as f64 / seconds)
    }

    fn seconds(&mut self, bytes: u64) -> Result<f64> {
        let input = self.input.as_mut().expect("open until the end");
        writeln!(input, "{bytes}").context("the client has ended")?;
        let line = self.lines.next().transpose()?;
        line.with_context(|| format!("the client has ended: {:?}", self.near.try_wait()))?
            .parse()
            .context("the client said no seconds")
    }
}
