use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::census::Census;
use crate::group::Leader;
use crate::handle::{Answer, Call, Command, Handle, Newcomer};
use crate::limits::Excess;
use crate::scratch::Scratch;
use crate::spawn::Child;
use crate::spec::{ExitStatus, ProcessId};
use crate::watch::{Desk, Leaders};
use crate::wire::{self, Notice};

/// Requests that may wait for the driver; more make their callers wait.
const QUEUE: usize = 64;

/// Something that happened in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process that [`Handle::run`] started ended; what was left of its group was killed.
    Exited {
        /// Its id.
        id: ProcessId,
        /// The name it was given.
        name: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Too much was used. The processes whose it was are being killed, and their ends are told
    /// after this; where it is nobody's, that is for the outer half to do.
    Exceeded(Excess),
    /// PID 1 is gone, and all in the sandbox with it. Nothing comes after this.
    Closed,
}

/// The events of a sandbox, in their order.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl Events {
    /// Waits for the next event; `None` after [`Event::Closed`]. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// The outer half's end of a sandbox, not yet in use. Dropping it ends the sandbox.
#[derive(Debug)]
pub struct Inner {
    control: OwnedFd,
    child: Child,
    census: Census,
    scratch: Option<Scratch>,
}

impl Inner {
    pub(crate) fn new(
        control: OwnedFd,
        child: Child,
        census: Census,
        scratch: Option<Scratch>,
    ) -> Self {
        Self {
            control,
            child,
            census,
            scratch,
        }
    }

    /// The process id of the sandbox's PID 1, as the outer half sees it.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Starts the client of PID 1 as a task of the current tokio runtime. The sandbox lives until
    /// [`Handle::close`], until the last handle is dropped, or as long as the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the descriptors.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO enabled.
    pub fn start(self) -> io::Result<(Handle, Events)> {
        let (commands, requests) = mpsc::channel(QUEUE);
        // Not bounded, because a slow reader must not hold up replies; there are never more
        // events than processes were started, and one.
        let (events, receiver) = mpsc::unbounded_channel();
        #[expect(unsafe_code, reason = "tokio wants the descriptors' life promised")]
        // SAFETY: both own their descriptor and keep the same one until they are dropped.
        let (control, child) = unsafe {
            (
                AsyncFd::register(self.control)?,
                AsyncFd::register(self.child)?,
            )
        };
        let handle = Handle::new(commands, Arc::new(AtomicU64::new(0)));
        let (leaders, desk) = watch::channel(Leaders::new());
        let desk = Desk {
            leaders: desk,
            events: events.clone(),
            sandbox: handle.downgrade(),
        };
        let census = Arc::new(self.census);
        if let Some(scratch) = self.scratch {
            let watching = crate::watch::files(Arc::clone(&census), scratch, desk.clone());
            tokio::spawn(watching);
            tokio::spawn(crate::watch::processes(census, desk));
        }
        let driver = Driver {
            control,
            child,
            commands: requests,
            state: State::new(events, leaders),
        };
        tokio::spawn(driver.run());
        Ok((handle, Events { receiver }))
    }
}

/// Owns the socket pair's outer end. The fields are dropped in this order: PID 1 first gets the
/// end of the stream, and is killed only if it does not heed it.
struct Driver {
    control: AsyncFd<OwnedFd>,
    child: AsyncFd<Child>,
    commands: mpsc::Receiver<Command>,
    state: State,
}

struct State {
    outgoing: VecDeque<Vec<u8>>,
    waiting: BTreeMap<u64, Waiting>,
    names: BTreeMap<ProcessId, String>,
    /// For the watch, which ends when this is dropped.
    leaders: watch::Sender<Leaders>,
    events: mpsc::UnboundedSender<Event>,
}

struct Waiting {
    answer: oneshot::Sender<Answer>,
    /// Of a process to be started.
    newcomer: Option<Newcomer>,
}

impl Driver {
    async fn run(self) {
        let Self {
            control,
            child,
            mut commands,
            mut state,
        } = self;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Call(call)) => state.call(call),
                    Some(Command::Close) | None => break,
                },
                notice = receive(&control) => match notice {
                    Ok(Some((notice, descriptor))) => state.take(notice, descriptor),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, pid = child.get_ref().pid(), "lost the sandbox");
                        break;
                    }
                },
                sent = send(&control, state.outgoing.front()), if !state.outgoing.is_empty() => {
                    match sent {
                        Ok(()) => drop(state.outgoing.pop_front()),
                        // PID 1 is gone; what it said before is still to be read.
                        Err(_) => state.outgoing.clear(),
                    }
                }
            }
        }
        drop(control);
        // One that is stopped does not see the end of the stream.
        child.get_ref().kill();
        state.waiting.clear();
        if let Err(error) = child.readable().await {
            tracing::warn!(%error, "cannot watch the sandbox's end");
        }
        child.get_ref().reap();
        // Nobody may be listening any more.
        let _ = state.events.send(Event::Closed);
    }
}

async fn receive(control: &AsyncFd<OwnedFd>) -> io::Result<Option<(Notice, Option<OwnedFd>)>> {
    loop {
        let mut guard = control.readable().await?;
        if let Ok(received) = guard.try_io(|control| wire::receive(control.as_fd())) {
            return received;
        }
    }
}

async fn send(control: &AsyncFd<OwnedFd>, bytes: Option<&Vec<u8>>) -> io::Result<()> {
    let Some(bytes) = bytes else { return Ok(()) };
    loop {
        let mut guard = control.writable().await?;
        if let Ok(sent) = guard.try_io(|control| wire::send(control.as_fd(), bytes, None)) {
            return sent;
        }
    }
}

impl State {
    fn new(events: mpsc::UnboundedSender<Event>, leaders: watch::Sender<Leaders>) -> Self {
        Self {
            outgoing: VecDeque::new(),
            waiting: BTreeMap::new(),
            names: BTreeMap::new(),
            leaders,
            events,
        }
    }

    fn call(&mut self, call: Call) {
        let Call {
            number,
            bytes,
            newcomer,
            answer,
        } = call;
        self.waiting.insert(number, Waiting { answer, newcomer });
        self.outgoing.push_back(bytes);
    }

    fn take(&mut self, notice: Notice, descriptor: Option<OwnedFd>) {
        match notice {
            Notice::Reply { number, result } => {
                let Some(Waiting { answer, newcomer }) = self.waiting.remove(&number) else {
                    return;
                };
                if let (Some(newcomer), Ok(Some(pid))) = (newcomer, &result) {
                    let (process, allowance) = (ProcessId(number), newcomer.allowance);
                    let leader = Leader {
                        pid: *pid,
                        allowance,
                    };
                    self.names.insert(process, newcomer.name);
                    self.leaders
                        .send_modify(|leaders| leaders.extend([(process, leader)]));
                }
                // A caller that went away loses its answer only.
                let _ = answer.send(result.map(|_| descriptor));
            }
            Notice::Exited { process, status } => {
                let name = self.names.remove(&process).unwrap_or_default();
                self.leaders
                    .send_modify(|leaders| leaders.retain(|leader, _| *leader != process));
                let _ = self.events.send(Event::Exited {
                    id: process,
                    name,
                    status,
                });
            }
            Notice::Processes | Notice::Ready | Notice::Failed(_) => {
                tracing::warn!("the sandbox reported its set-up twice");
            }
        }
    }
}
