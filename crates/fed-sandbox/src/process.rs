use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, read,
    setsid, write,
};

use crate::limits::{Quotas, limit_process};
use crate::root::UserNamespace;
use crate::spec::{ProcessSpec, ProcessStep};
use crate::wire::Refusal;

const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What all processes of a sandbox share.
#[derive(Debug)]
pub(crate) struct Jail {
    pub(crate) scratch: PathBuf,
    pub(crate) quotas: Option<Quotas>,
    pub(crate) users: UserNamespace,
}

/// A child on its way to its program: its pipe closes when it gets there, and otherwise tells why
/// it did not.
pub(crate) struct Starting {
    pub(crate) pid: Pid,
    pipe: OwnedFd,
}

impl Starting {
    /// Forks the child. PID 1 has one thread, so the child may do what it likes.
    pub(crate) fn fork(spec: &ProcessSpec, jail: &Jail) -> Result<Self, Refusal> {
        let image = Image::new(spec, &jail.scratch)
            .ok_or(refusal(ProcessStep::Arguments, Errno::EINVAL))?;
        let failed = |errno| refusal(ProcessStep::Fork, errno);
        let (pipe, tell) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed)?;
        #[expect(unsafe_code, reason = "PID 1 makes its children by fork")]
        // SAFETY: this process has a single thread.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Parent { child } => Ok(Self { pid: child, pipe }),
            ForkResult::Child => {
                let Err(refusal) = image.become_it(spec, jail);
                // A parent that is gone needs no answer, and the process ends either way.
                let _ = write(&tell, &refusal_bytes(&refusal));
                exit(127)
            }
        }
    }

    /// The descriptor that becomes readable when [`Starting::outcome`] is known.
    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Whether the program runs, or why it does not; `None` while that is open.
    pub(crate) fn outcome(&self) -> Option<Result<(), Refusal>> {
        let mut bytes = [0; 5];
        match read(&self.pipe, &mut bytes) {
            Ok(0) => Some(Ok(())),
            Ok(_) => Some(Err(refusal_from(bytes))),
            Err(_) => None,
        }
    }
}

/// Ends this process without running what the outer half has registered for its own exit.
pub(crate) fn exit(code: i32) -> ! {
    #[expect(unsafe_code, reason = "the exit of a forked process")]
    // SAFETY: _exit has no preconditions.
    unsafe {
        libc::_exit(code)
    }
}

fn refusal(step: ProcessStep, errno: Errno) -> Refusal {
    Refusal {
        step: Some(step),
        errno: errno as i32,
    }
}

const STEPS: [ProcessStep; 4] = [
    ProcessStep::Isolate,
    ProcessStep::Log,
    ProcessStep::Folder,
    ProcessStep::Exec,
];

fn refusal_bytes(refusal: &Refusal) -> [u8; 5] {
    let step = STEPS
        .iter()
        .position(|step| Some(*step) == refusal.step)
        .unwrap_or(0);
    let [a, b, c, d] = refusal.errno.to_ne_bytes();
    [
        u8::try_from(step).expect("there are four steps"),
        a,
        b,
        c,
        d,
    ]
}

fn refusal_from([step, a, b, c, d]: [u8; 5]) -> Refusal {
    let step = STEPS.get(usize::from(step)).copied();
    Refusal {
        step,
        errno: i32::from_ne_bytes([a, b, c, d]),
    }
}

/// A process specification in the form that the kernel takes.
struct Image {
    programs: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// `None` where something holds a NUL byte or there is no program.
    fn new(spec: &ProcessSpec, scratch: &Path) -> Option<Self> {
        let program = spec.argv.first().filter(|program| !program.is_empty())?;
        let arguments = spec
            .argv
            .iter()
            .map(|arg| c_string(arg.as_str()))
            .collect::<Option<_>>()?;
        let programs = candidates(program, &spec.env).into_iter();
        let programs = programs.map(c_string).collect::<Option<_>>()?;
        let mut environment = Vec::new();
        if !spec.env.contains_key("TMPDIR") {
            environment.push(c_string(format!("TMPDIR={}", scratch.display()))?);
        }
        for (name, value) in &spec.env {
            environment.push(c_string(format!("{name}={value}"))?);
        }
        Some(Self {
            programs,
            arguments,
            environment,
        })
    }

    /// Turns this process, just forked, into the program.
    fn become_it(&self, spec: &ProcessSpec, jail: &Jail) -> Result<Infallible, Refusal> {
        isolate(jail).map_err(|errno| refusal(ProcessStep::Isolate, errno))?;
        redirect(&spec.log).map_err(|errno| refusal(ProcessStep::Log, errno))?;
        chdir(&spec.cwd).map_err(|errno| refusal(ProcessStep::Folder, errno))?;
        let mut reason = Errno::ENOENT;
        for program in &self.programs {
            let Err(errno) = execve(program, &self.arguments, &self.environment);
            if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
                reason = errno;
            }
        }
        Err(refusal(ProcessStep::Exec, reason))
    }
}

/// The files that a program's name may mean, in the order of `PATH`.
fn candidates(program: &str, env: &BTreeMap<String, String>) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| format!("{dir}/{program}"))
        .collect()
}

fn c_string(text: impl Into<Vec<u8>>) -> Option<CString> {
    CString::new(text).ok()
}

/// Own session and group, default signals, no core dumps, and the sandbox's limits.
fn isolate(jail: &Jail) -> nix::Result<()> {
    setsid()?;
    if let Some(quotas) = &jail.quotas {
        limit_process(quotas, jail.users)?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    reset_signals()
}

/// Gives every signal its default disposition, and blocks none.
pub(crate) fn reset_signals() -> nix::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        #[expect(unsafe_code, reason = "the real-time signals have no name in nix")]
        // SAFETY: no handler is installed, so none can be wrong. A signal that cannot be set
        // (SIGKILL, SIGSTOP, the two of the C library) has its default disposition anyway.
        unsafe {
            libc::signal(signal, libc::SIG_DFL)
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

fn redirect(log: &Path) -> nix::Result<()> {
    let nothing = open(
        "/dev/null",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let log = open(log, flags, Mode::from_bits_truncate(0o600))?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)
}
