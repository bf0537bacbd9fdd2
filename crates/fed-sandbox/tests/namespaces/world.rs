//! What a case works with: its folder, a specification, a sandbox in use.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use fed_sandbox::{
    Event, Events, Excess, ExitStatus, Handle, ProcessId, ProcessSpec, SandboxSpec, TunSpec, spawn,
};

use crate::caller::Caller;

pub(crate) const TUN: &str = "fedtest0";
pub(crate) const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 1, 0, 0, 0, 1);
pub(crate) const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
pub(crate) const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 2, 0, 0, 0, 1);

/// What a case that is to be killed says when it is time.
pub(crate) const READY: &str = "ready";

pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) case: String,
    pub(crate) caller: Caller,
}

impl World {
    pub(crate) fn new(folder: PathBuf, case: &str, caller: Caller) -> Self {
        Self {
            folder,
            case: case.to_owned(),
            caller,
        }
    }

    pub(crate) fn to_env(&self, command: &mut Command) {
        command.env("FED_SANDBOX_FOLDER", &self.folder);
        command.env("FED_SANDBOX_CASE", &self.case);
        command.env("FED_SANDBOX_CALLER", self.caller.name());
    }

    pub(crate) fn from_env() -> Option<Self> {
        let folder = std::env::var_os("FED_SANDBOX_FOLDER")?;
        let case = std::env::var("FED_SANDBOX_CASE").unwrap();
        let caller = Caller::named(&std::env::var("FED_SANDBOX_CALLER").unwrap());
        Some(Self::new(folder.into(), &case, caller))
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the files that cases look at.
    pub(crate) fn lay_out(&self) {
        for folder in ["scratch", "data/nested", "secret"] {
            fs::create_dir_all(self.folder.join(folder)).unwrap();
        }
        for file in ["data/file", "secret/key", "secret/shown"] {
            fs::write(self.folder.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("data", self.folder.join("link")).unwrap();
    }

    /// The system, the data through a link, and one file of a folder that is not shown.
    pub(crate) fn spec(&self) -> SandboxSpec {
        let system = ["/usr", "/bin", "/lib", "/lib64", "/etc"].map(PathBuf::from);
        let mut read_only: Vec<PathBuf> = system.into_iter().filter(|path| path.exists()).collect();
        read_only.push(self.folder.join("link"));
        read_only.push(self.folder.join("secret/shown"));
        SandboxSpec {
            hostname: "inside".into(),
            tun: TunSpec {
                name: TUN.into(),
                address: ADDRESS,
                prefix_len: 48,
                mtu: 1380,
            },
            read_only,
            scratch: self.scratch(),
            quotas: None,
            own_addresses: vec!["10.11.12.13".parse().unwrap(), OUTSIDE.into()],
            hosts: vec![(ELSEWHERE.into(), "elsewhere".into())],
        }
    }

    /// Makes a sandbox and lets an asynchronous case use it.
    pub(crate) fn live(&self, case: impl AsyncFnOnce(&mut Live)) {
        self.live_with(&self.spec(), case);
    }

    /// Makes this sandbox and lets an asynchronous case use it.
    pub(crate) fn live_with(&self, spec: &SandboxSpec, case: impl AsyncFnOnce(&mut Live)) {
        let (tun, inner) = spawn(spec).unwrap().into_parts();
        let pid = inner.pid();
        runtime().block_on(async {
            let (handle, events) = inner.start().unwrap();
            let mut live = Live {
                handle,
                events,
                tun,
                pid,
                scratch: self.scratch(),
                ended: BTreeMap::new(),
                excesses: Vec::new(),
            };
            case(&mut live).await;
            live.handle.close().await;
        });
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A sandbox in use.
pub(crate) struct Live {
    pub(crate) handle: Handle,
    pub(crate) events: Events,
    pub(crate) tun: OwnedFd,
    /// Of PID 1, in the outer half's PID namespace.
    pub(crate) pid: u32,
    scratch: PathBuf,
    ended: BTreeMap<ProcessId, ExitStatus>,
    /// What was too much so far.
    pub(crate) excesses: Vec<Excess>,
}

impl Live {
    pub(crate) fn process(&self, name: &str, argv: &[&str]) -> ProcessSpec {
        ProcessSpec {
            name: name.into(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: BTreeMap::from([("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]),
            cwd: "/".into(),
            log: self.log(name),
            allowance: None,
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.log"))
    }

    pub(crate) fn output(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap()
    }

    pub(crate) async fn start(&self, name: &str, argv: &[&str]) -> ProcessId {
        self.handle.run(self.process(name, argv)).await.unwrap()
    }

    /// Waits for a process's end.
    pub(crate) async fn end_of(&mut self, process: ProcessId) -> ExitStatus {
        loop {
            if let Some(status) = self.ended.remove(&process) {
                return status;
            }
            match self.events.recv().await {
                Some(Event::Exited { id, status, .. }) => drop(self.ended.insert(id, status)),
                Some(Event::Exceeded(excess)) => self.excesses.push(excess),
                Some(Event::Closed) | None => panic!("the sandbox ended"),
            }
        }
    }

    /// Runs a Python script to its good end, and returns what it wrote.
    pub(crate) async fn python(&mut self, name: &str, script: &str) -> String {
        let process = self.start(name, &["python3", "-c", script]).await;
        let status = self.end_of(process).await;
        let output = self.output(name);
        assert_eq!(status, ExitStatus::Code(0), "{output}");
        output
    }

    /// Waits until a process has written to its log, and returns the whole line.
    pub(crate) async fn first_line(&self, name: &str) -> String {
        loop {
            let output = fs::read_to_string(self.log(name)).unwrap_or_default();
            if let Some((line, _)) = output.split_once('\n') {
                return line.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

/// A path as a Python literal.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}
