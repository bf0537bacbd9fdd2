//! `fed up`: brings a federation up, and keeps it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use fed_core::{FederationName, Leases, SiteName, WorkerCount};
use fed_service::operator::{
    self, DownError, OperatorState, Progress, Running, Status, UpError, UpRequest,
};
use fed_service::python::Interpreter;
use tokio::sync::mpsc;

use crate::checklist::Checklist;
use crate::console::{self, Output};
use crate::time::duration;
use crate::{Global, exit, paths};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Sites, as `fed site list` names them
    #[arg(required = true, value_name = "SITE")]
    sites: Vec<SiteName>,
    /// Name of the federation
    #[arg(long, default_value = "fed")]
    name: FederationName,
    /// Workers of a pool, or of each pool of a site; may be repeated
    #[arg(long, value_name = "SITE=N", value_parser = worker_count)]
    workers: Vec<WorkerCount>,
    /// Come up, then go on in the background until `fed down`
    #[arg(short, long)]
    detach: bool,
    /// How long a site keeps the federation when the operator is gone (3 s to 1 day)
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = lease)]
    lease: Duration,
    /// How long tasks wait for a pool that has lost its workers, before they fail
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pool_timeout: Duration,
    /// Interpreter of the scheduler [default: beside fed, else the active environment, else python3]
    #[arg(long, value_name = "INTERPRETER")]
    python: Option<String>,
    /// Shell commands to run before the interpreter, such as `module load`
    #[arg(
        long,
        value_name = "COMMANDS",
        default_value = "",
        hide_default_value = true
    )]
    prologue: String,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Set in the background process itself
    #[arg(long, hide = true)]
    supervised: bool,
}

fn worker_count(text: &str) -> Result<WorkerCount, String> {
    let (place, workers) = text
        .split_once('=')
        .ok_or("write SITE=N, such as ecmwf=4")?;
    let workers = workers
        .parse()
        .map_err(|_| format!("{workers:?} is not a number of workers"))?;
    Ok(WorkerCount {
        place: place.to_owned(),
        workers,
    })
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (Leases::MIN..=Leases::MAX).contains(&lease) {
        Ok(lease)
    } else {
        Err(format!(
            "{text} is not between {:?} and {:?}",
            Leases::MIN,
            Leases::MAX
        ))
    }
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    if arguments.supervised {
        // Away from the terminal and its signals.
        nix::unistd::setsid().context("cannot leave the terminal's session")?;
        console::log("info");
        return keep(global, arguments, Front::Lines);
    }
    if arguments.detach {
        return detach(global, &arguments);
    }
    // Warnings come as progress; a log line would tear the checklist.
    console::log("error");
    let front = Front::Checklist(Checklist::new(), arguments.output);
    keep(global, arguments, front)
}

/// Who is shown the progress.
enum Front {
    /// A person.
    Checklist(Checklist, Output),
    /// The `fed up -d` that started this process.
    Lines,
    /// Nobody any more: it has seen the federation run.
    Nobody,
}

impl Front {
    fn show(&mut self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Lines => {
                console::json(progress)?;
                if let Progress::Running { .. } = progress {
                    *self = Self::Nobody;
                }
                Ok(())
            }
            Self::Nobody => {
                if let Progress::Warning { message } = progress {
                    tracing::warn!("{message}");
                }
                Ok(())
            }
            Self::Checklist(checklist, output) => {
                checklist.show(progress);
                if let Progress::Running { status } = progress {
                    checklist.finish();
                    summary(status, *output, "Ctrl-C ends it")?;
                }
                Ok(())
            }
        }
    }
}

impl Front {
    /// Tells why there will be no federation. Its log may not take it: the disk may be full.
    fn give_up(&mut self, error: &anyhow::Error) -> anyhow::Result<()> {
        match self {
            Self::Lines => self.show(&Progress::Failed {
                message: console::sentence(error),
            }),
            Self::Checklist(..) | Self::Nobody => Ok(()),
        }
    }
}

fn keep(global: &Global, arguments: Arguments, mut front: Front) -> anyhow::Result<()> {
    let state = paths::state(global)?;
    let request = UpRequest {
        name: arguments.name,
        sites: arguments.sites,
        workers: arguments.workers,
        leases: Leases::new(arguments.lease).with_pool(arguments.pool_timeout),
        interpreter: Interpreter {
            python: arguments.python.unwrap_or_else(paths::python),
            prologue: arguments.prologue,
        },
        program: std::env::current_exe().context("cannot find this program's own path")?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (told, mut progress) = mpsc::unbounded_channel();
        let up = operator::up(&state, request, told);
        tokio::pin!(up);
        loop {
            tokio::select! {
                biased;
                Some(told) = progress.recv() => if let Err(error) = front.show(&told) {
                    // Who asked for the federation has left.
                    drop(progress);
                    up.await?;
                    return Err(error);
                },
                ended = &mut up => {
                    while let Ok(told) = progress.try_recv() {
                        front.show(&told)?;
                    }
                    let Err(error) = ended else { return Ok(()) };
                    let error = error.into();
                    front.give_up(&error)?;
                    return Err(error);
                }
            }
        }
    })
}

/// Starts this command again in the background, and shows its progress until it runs.
fn detach(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let state = paths::state(global)?;
    // The log of one that runs must not be cut off.
    if is_running(&state, &arguments.name)? {
        return Err(UpError::taken(&state, &arguments.name).into());
    }
    let log = state.log_of(&arguments.name);
    // Another that starts at this moment may write there too.
    let stderr = File::options().append(true).create(true).open(&log);
    let stderr = stderr.with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--supervised")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("cannot start the background process")?;
    let lines = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let mut checklist = Checklist::new();
    let mut why = None;
    for line in lines.lines() {
        let line = line.context("the background process cannot be read")?;
        let told =
            serde_json::from_str(&line).context("the background process is another version")?;
        if let Progress::Running { status } = &told {
            checklist.finish();
            let hint = format!("`fed down {}` ends it", status.name);
            return summary(status, arguments.output, &hint);
        }
        if let Progress::Failed { message } = &told {
            why = Some(message.clone());
        }
        checklist.show(&told);
    }
    let status = child
        .wait()
        .context("cannot wait for the background process")?;
    let message =
        why.unwrap_or_else(|| format!("the background process ended; {} says more", log.display()));
    Err(exit::Elsewhere::new(message, status).into())
}

fn is_running(state: &OperatorState, name: &FederationName) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(Running::find(state, name)) {
        Ok(running) => Ok(running.is_some()),
        Err(DownError::Unknown { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn summary(status: &Status, output: Output, end: &str) -> anyhow::Result<()> {
    if output == Output::Json {
        return console::json(status);
    }
    let pools: Vec<String> = status
        .members
        .iter()
        .flat_map(|member| &member.pools)
        .map(|(pool, workers)| format!("{pool} ({})", console::count(workers.len(), "worker")))
        .collect();
    let seconds = status.up_seconds.unwrap_or_default();
    console::data(&format!(
        "federation {} is up after {seconds:.1} s: {}",
        status.name,
        pools.join(", ")
    ))?;
    if let Some(gateway) = &status.gateway {
        console::data(&format!("dashboard  {}", gateway.dashboard))?;
    }
    console::data("in Python  import fed; client = fed.connect()")?;
    console::note(end);
    Ok(())
}
