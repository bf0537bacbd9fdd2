use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, sethostname, setsid};

use crate::failure::{At, Failure, Step};
use crate::identity::{Maps, drop_capabilities};
use crate::plan::Plan;
use crate::process::{Jail, Starting, exit, reset_signals};
use crate::root::{self, UserNamespace};
use crate::spec::{IpFamily, ProcessId, ProcessSpec, SandboxSpec};
use crate::wire::{self, Notice, Numbered, Refusal, Request};
use crate::{clone, device, limits, netlink};

/// The descriptor that PID 1 keeps its end of the socket pair at.
const CONTROL_FD: i32 = 3;

/// How many ended children are reaped before requests are served again: tasks can make them as fast
/// as they are reaped.
const REAPED_AT_ONCE: usize = 256;

/// What PID 1 starts from.
pub(crate) struct Birth<'a> {
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) plan: &'a Plan,
    pub(crate) maps: &'a Maps,
    pub(crate) users: UserNamespace,
    /// PID 1's end of the socket pair, blocking.
    pub(crate) control: OwnedFd,
}

/// PID 1 from its birth to its death, which is the sandbox's. Never returns, so that the frames
/// copied from the outer half never run here.
pub(crate) fn main(birth: Birth<'_>) -> ! {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(birth)));
    exit(match ended {
        Ok(()) => 0,
        Err(_) => 101,
    })
}

fn live(birth: Birth<'_>) {
    let (spec, plan, maps, users) = (birth.spec, birth.plan, birth.maps, birth.users);
    let control = match keep_only(birth.control) {
        Ok(control) => control,
        Err((control, errno)) => {
            let failure = Failure::new(Step::Init, "descriptors", errno);
            return send(control.as_fd(), &Notice::Failed(failure), None).unwrap_or(());
        }
    };
    match set_up(spec, plan, maps, users) {
        Ok((tun, children)) => {
            let sent = hand_out(control.as_fd(), tun);
            if sent.is_ok() {
                // Ends when the outer half does: nobody is left to be told anything.
                let jail = Jail {
                    scratch: plan.scratch.clone(),
                    quotas: spec.quotas,
                    users,
                };
                let _ = Init::new(control, children, jail).serve();
            }
        }
        Err(failure) => send(control.as_fd(), &Notice::Failed(failure), None).unwrap_or(()),
    }
}

fn set_up(
    spec: &SandboxSpec,
    plan: &Plan,
    maps: &Maps,
    users: UserNamespace,
) -> Result<(OwnedFd, SignalFd), Failure> {
    if users == UserNamespace::Own {
        maps.write()
            .map_err(|(path, errno)| Failure::new(Step::Map, path, errno))?;
    }
    setsid().at(Step::Init, "session")?;
    reset_signals().at(Step::Init, "signals")?;
    let children = watch_children().at(Step::Init, "signals")?;
    prctl::set_name(c"fed-init").at(Step::Init, "name")?;
    let tun = device::open_driver().at(Step::TunOpen, device::TUN_PATH)?;
    device::make_tun(&tun, &spec.tun.name).at(Step::TunMake, &spec.tun.name)?;
    netlink::set_up(spec)?;
    if spec.quotas.is_some() {
        limits::be_taken_first()?;
    }
    root::enter(plan, users, spec.quotas.as_ref())?;
    sethostname(&spec.hostname).at(Step::Hostname, &spec.hostname)?;
    drop_capabilities()?;
    // The end of the stream tells too that the outer half has ended, but not a process that is
    // stopped. The thread that dies is the outer half's first and only one, which forked this.
    prctl::set_pdeathsig(Signal::SIGKILL).at(Step::Init, "signals")?;
    Ok((tun, children))
}

/// Gives the outer half what it works with.
fn hand_out(control: BorrowedFd<'_>, tun: OwnedFd) -> std::io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc = open("/proc", flags, Mode::empty())?;
    send(control, &Notice::Processes, Some(proc.as_fd()))?;
    send(control, &Notice::Ready, Some(tun.as_fd()))
}

/// Closes every inherited descriptor but PID 1's end of the socket pair: above all the outer
/// half's own end, whose last copy must close when the outer half dies.
fn keep_only(control: OwnedFd) -> Result<OwnedFd, (OwnedFd, Errno)> {
    if let Err(errno) = detach_standard_streams() {
        return Err((control, errno));
    }
    #[expect(unsafe_code, reason = "descriptors are closed wholesale")]
    // SAFETY: this process never returns to the frames that own the closed descriptors, and the
    // one at CONTROL_FD is owned by nobody else from here on.
    unsafe {
        if control.as_raw_fd() != CONTROL_FD {
            let moved = libc::dup3(control.as_raw_fd(), CONTROL_FD, libc::O_CLOEXEC);
            if let Err(errno) = Errno::result(moved) {
                return Err((control, errno));
            }
        }
        std::mem::forget(control);
        let control = OwnedFd::from_raw_fd(CONTROL_FD);
        let first = CONTROL_FD.cast_unsigned() + 1;
        match Errno::result(libc::syscall(libc::SYS_close_range, first, u32::MAX, 0)) {
            Ok(_) => Ok(control),
            Err(errno) => Err((control, errno)),
        }
    }
}

fn detach_standard_streams() -> nix::Result<()> {
    let nothing = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)
}

fn watch_children() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn send(
    control: BorrowedFd<'_>,
    notice: &Notice,
    descriptor: Option<BorrowedFd<'_>>,
) -> std::io::Result<()> {
    let bytes = wire::encode(notice).map_err(std::io::Error::other)?;
    wire::send(control, &bytes, descriptor)
}

/// The state of a running PID 1.
struct Init {
    control: OwnedFd,
    children: SignalFd,
    jail: Jail,
    /// Forked, but not yet known to run its program.
    starting: BTreeMap<ProcessId, Starting>,
    running: BTreeMap<ProcessId, Pid>,
    /// More had ended than are reaped in one turn.
    has_ended_children: bool,
}

/// The outer half is gone.
struct Closed;

impl From<std::io::Error> for Closed {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Init {
    fn new(control: OwnedFd, children: SignalFd, jail: Jail) -> Self {
        let (starting, running) = (BTreeMap::new(), BTreeMap::new());
        Self {
            control,
            children,
            jail,
            starting,
            running,
            has_ended_children: false,
        }
    }

    fn serve(&mut self) -> Result<(), Closed> {
        loop {
            let ready = self.wait()?;
            self.settle_all()?;
            self.reap()?;
            if ready {
                match wire::receive::<Numbered>(self.control.as_fd())? {
                    None => return Err(Closed),
                    Some((Numbered { number, request }, _)) => self.serve_one(number, request)?,
                }
            }
        }
    }

    /// Waits until something is to be done; tells whether it is on the socket pair.
    fn wait(&self) -> Result<bool, Closed> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = vec![
            readable(self.control.as_fd()),
            readable(self.children.as_fd()),
        ];
        watched.extend(self.starting.values().map(|child| readable(child.pipe())));
        let patience = match self.has_ended_children {
            true => PollTimeout::ZERO,
            false => PollTimeout::NONE,
        };
        match poll(&mut watched, patience) {
            Ok(_) => Ok(watched[0].any().unwrap_or(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(_) => Err(Closed),
        }
    }

    fn serve_one(&mut self, number: u64, request: Request) -> Result<(), Closed> {
        match request {
            Request::Run { spec } => self.run(ProcessId(number), &spec),
            Request::Signal { process, signal } => {
                let result = self.signal(process, signal).map_err(Refusal::from);
                self.reply(number, result.map(|()| None), None)
            }
            Request::Socket { family } => match tcp_socket(family) {
                Ok(socket) => self.reply(number, Ok(None), Some(&socket)),
                Err(errno) => self.reply(number, Err(errno.into()), None),
            },
            Request::KillAll => self.reply(number, signal_all(Signal::SIGKILL), None),
            Request::StopAll => self.reply(number, signal_all(Signal::SIGSTOP), None),
            Request::Purge { strays } => {
                for stray in strays.into_iter().map(Pid::from_raw) {
                    if !self.is_own(stray) {
                        // It may have ended.
                        let _ = kill(stray, Signal::SIGKILL);
                    }
                }
                self.reply(number, Ok(None), None)
            }
            Request::ContinueAll => self.reply(number, signal_all(Signal::SIGCONT), None),
        }
    }

    fn run(&mut self, process: ProcessId, spec: &ProcessSpec) -> Result<(), Closed> {
        match Starting::fork(spec, &self.jail) {
            Ok(child) => {
                self.starting.insert(process, child);
                Ok(())
            }
            Err(refusal) => self.reply(process.0, Err(refusal), None),
        }
    }

    /// Tells whether a process is one that the outer half asked for.
    fn is_own(&self, pid: Pid) -> bool {
        let starting = self.starting.values().map(|child| child.pid);
        starting
            .chain(self.running.values().copied())
            .any(|own| own == pid)
    }

    fn signal(&self, process: ProcessId, signal: i32) -> nix::Result<()> {
        let pid = self.running.get(&process).ok_or(Errno::ESRCH)?;
        let signal = Signal::try_from(signal)?;
        kill(Pid::from_raw(-pid.as_raw()), signal)
    }

    fn reply(
        &self,
        number: u64,
        result: Result<Option<i32>, Refusal>,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(), Closed> {
        let notice = Notice::Reply { number, result };
        Ok(send(
            self.control.as_fd(),
            &notice,
            descriptor.map(AsFd::as_fd),
        )?)
    }

    fn settle_all(&mut self) -> Result<(), Closed> {
        let waiting: Vec<ProcessId> = self.starting.keys().copied().collect();
        waiting
            .into_iter()
            .try_for_each(|process| self.settle(process))
    }

    /// Reports a started process, once it is known whether it runs.
    fn settle(&mut self, process: ProcessId) -> Result<(), Closed> {
        let Some(result) = self.starting.get(&process).and_then(Starting::outcome) else {
            return Ok(());
        };
        let child = self
            .starting
            .remove(&process)
            .expect("it was found just now");
        if result.is_ok() {
            self.running.insert(process, child.pid);
        }
        let pid = child.pid.as_raw();
        self.reply(process.0, result.map(|()| Some(pid)), None)
    }

    /// Reaps all that has ended, orphans included.
    fn reap(&mut self) -> Result<(), Closed> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        // Reaped last: until then the number cannot be used again.
        for _ in 0..REAPED_AT_ONCE {
            let Some(pid) = clone::ended_child() else {
                self.has_ended_children = false;
                return Ok(());
            };
            self.settle_all()?;
            let process = self.running.iter().find(|(_, running)| **running == pid);
            let process = process.map(|(process, _)| *process);
            if process.is_some() {
                // A process's group ends with it: its children would hold its ports and memory.
                // An empty group is no error.
                let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
            }
            let status = clone::reap(pid);
            if let (Some(process), Some(status)) = (process, status) {
                self.running.remove(&process);
                send(
                    self.control.as_fd(),
                    &Notice::Exited { process, status },
                    None,
                )?;
            }
        }
        self.has_ended_children = true;
        Ok(())
    }
}

/// Signals every process of the sandbox but this one, all at once.
fn signal_all(signal: Signal) -> Result<Option<i32>, Refusal> {
    match kill(Pid::from_raw(-1), signal) {
        // There was nobody.
        Ok(()) | Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn tcp_socket(family: IpFamily) -> nix::Result<OwnedFd> {
    let family = match family {
        IpFamily::V4 => AddressFamily::Inet,
        IpFamily::V6 => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(socket)
}
