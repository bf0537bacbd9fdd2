use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::limits::Allowance;
use crate::spec::{IpFamily, ProcessId, ProcessSpec, ProcessStep};
use crate::wire::{self, EncodeError, MAX_MESSAGE, Numbered, Refusal, Request};

/// Connections that may wait to be accepted from a listener inside.
const BACKLOG: u32 = 1024;

/// PID 1's answer: a descriptor where a socket was asked for.
pub(crate) type Answer = Result<Option<OwnedFd>, Refusal>;

/// What the driver of a sandbox is told.
pub(crate) enum Command {
    Call(Call),
    Close,
}

/// A process to be started, as far as the driver keeps it.
pub(crate) struct Newcomer {
    pub(crate) name: String,
    pub(crate) allowance: Option<Allowance>,
}

/// A request on its way.
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) bytes: Vec<u8>,
    /// Of a process to be started.
    pub(crate) newcomer: Option<Newcomer>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The sandbox has ended.
    #[error("cannot run {name}: its sandbox is gone; make a new one")]
    Closed {
        /// The process's name.
        name: String,
    },
    /// The specification is longer than a message may be.
    #[error(
        "cannot run {name}: its specification takes {bytes} bytes and may take {limit}; \
             shorten its environment or its arguments"
    )]
    Long {
        /// The process's name.
        name: String,
        /// Its length in bytes.
        bytes: usize,
        /// The greatest length, in bytes.
        limit: usize,
    },
    /// The specification cannot be written down.
    #[error("cannot run {name}: {source}; use paths of UTF-8 text")]
    Text {
        /// The process's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A step of starting it failed.
    #[error("cannot run {name}: cannot {step} {}: {source}; check that it can be seen inside \
             the sandbox, with its interpreter and the targets of its links", subject.display())]
    Step {
        /// The process's name.
        name: String,
        /// What was to be done.
        step: ProcessStep,
        /// The path, or the program's name, that it was to be done to.
        subject: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Why a process could not be signalled.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The sandbox has ended, and the process with it.
    #[error("cannot signal process {process}: its sandbox is gone, and all its processes with it")]
    Closed {
        /// The process.
        process: ProcessId,
    },
    /// The process has ended; its event says how.
    #[error("cannot signal process {process}: it has ended")]
    Ended {
        /// The process.
        process: ProcessId,
    },
    /// The system refused.
    #[error(
        "cannot send signal {signal} to process {process}: {source}; use a signal from 1 to 31"
    )]
    Refused {
        /// The process.
        process: ProcessId,
        /// The signal's number.
        signal: i32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Why a socket of the sandbox's network could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The sandbox has ended.
    #[error("cannot make a socket in the sandbox: it is gone; make a new one")]
    Closed,
    /// The system refused.
    #[error(
        "cannot make a socket in the sandbox: {source}; check the limit on open files and \
             whether IPv6 is switched off (`sysctl net.ipv6.conf.all.disable_ipv6`)"
    )]
    Refused {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Asks PID 1 to do things. Clones ask the same one; when the last is dropped, the sandbox ends.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    numbers: Arc<AtomicU64>,
}

/// A [`Handle`] that does not keep the sandbox in being.
#[derive(Clone, Debug)]
pub(crate) struct WeakHandle {
    commands: mpsc::WeakSender<Command>,
    numbers: Arc<AtomicU64>,
}

impl WeakHandle {
    /// The handle; nothing where the last one has been dropped.
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        Some(Handle {
            commands: self.commands.upgrade()?,
            numbers: Arc::clone(&self.numbers),
        })
    }
}

impl Handle {
    pub(crate) fn new(commands: mpsc::Sender<Command>, numbers: Arc<AtomicU64>) -> Self {
        Self { commands, numbers }
    }

    /// Starts a process, in a session and a process group of its own, without capabilities, and
    /// returns once its program is executing. Its end is an [`Event`](crate::Event), and takes the
    /// rest of its group with it. A cancelled call may have started it all the same.
    ///
    /// # Errors
    /// See [`RunError`]; the process is not running then.
    pub async fn run(&self, spec: ProcessSpec) -> Result<ProcessId, RunError> {
        let request = Request::Run { spec: spec.clone() };
        let name = || spec.name.clone();
        let newcomer = Newcomer {
            name: name(),
            allowance: spec.allowance,
        };
        match self.call(request, Some(newcomer)).await {
            Ok((number, _)) => Ok(ProcessId(number)),
            Err(CallError::Closed) => Err(RunError::Closed { name: name() }),
            Err(CallError::Encode(EncodeError::Long(bytes))) => Err(RunError::Long {
                name: name(),
                bytes,
                limit: MAX_MESSAGE,
            }),
            Err(CallError::Encode(EncodeError::Json(source))) => Err(RunError::Text {
                name: name(),
                source,
            }),
            Err(CallError::Refused(refusal)) => Err(refused_start(spec, &refusal)),
        }
    }

    /// Sends a signal (1 to 31) to all of a process's group.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub async fn signal(&self, process: ProcessId, signal: i32) -> Result<(), SignalError> {
        match self.call(Request::Signal { process, signal }, None).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(refusal)) if refusal.errno == nix::libc::ESRCH => {
                Err(SignalError::Ended { process })
            }
            Err(CallError::Refused(refusal)) => Err(SignalError::Refused {
                process,
                signal,
                source: system_error(&refusal),
            }),
            Err(CallError::Closed | CallError::Encode(_)) => Err(SignalError::Closed { process }),
        }
    }

    /// Makes an unconnected, non-blocking TCP socket in the sandbox's network. It keeps that
    /// network in being, so drop it when the sandbox ends.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub async fn tcp_socket(&self, family: IpFamily) -> Result<OwnedFd, SocketError> {
        match self.call(Request::Socket { family }, None).await {
            Ok((_, Some(socket))) => Ok(socket),
            Err(CallError::Refused(refusal)) => Err(SocketError::Refused {
                source: system_error(&refusal),
            }),
            Ok((_, None)) | Err(CallError::Closed | CallError::Encode(_)) => {
                Err(SocketError::Closed)
            }
        }
    }

    /// Connects to an address of the sandbox's network. Not bounded in time.
    ///
    /// # Errors
    /// Those of a connection; a [`SocketError`] is the source of the error where there was no
    /// socket.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.socket_for(address).await?.connect(address).await
    }

    /// Listens on an address of the sandbox's network, on any port below 1024 too.
    ///
    /// # Errors
    /// Those of binding; a [`SocketError`] is the source of the error where there was no socket.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket_for(address).await?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Kills every process in the sandbox, all at once; PID 1 stays. Each end is an event.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn kill_all(&self) -> io::Result<()> {
        self.order(Request::KillAll).await
    }

    /// Stops every process in the sandbox, all at once, until [`Handle::continue_all`].
    pub(crate) async fn stop_all(&self) -> io::Result<()> {
        self.order(Request::StopAll).await
    }

    /// Kills these processes, by their numbers inside, except for those that were started by
    /// [`Handle::run`].
    pub(crate) async fn purge(&self, strays: Vec<i32>) -> io::Result<()> {
        self.order(Request::Purge { strays }).await
    }

    /// Lets all processes go on.
    pub(crate) async fn continue_all(&self) -> io::Result<()> {
        self.order(Request::ContinueAll).await
    }

    /// A handle that does not keep the sandbox in being.
    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle {
            commands: self.commands.downgrade(),
            numbers: Arc::clone(&self.numbers),
        }
    }

    async fn order(&self, request: Request) -> io::Result<()> {
        match self.call(request, None).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(refusal)) => Err(system_error(&refusal)),
            Err(CallError::Closed | CallError::Encode(_)) => {
                Err(io::Error::other("the sandbox is gone"))
            }
        }
    }

    /// Ends the sandbox, and returns when nothing runs in it any more.
    pub async fn close(&self) {
        // Fails where it has ended already.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    async fn socket_for(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = self
            .tcp_socket(address.ip().into())
            .await
            .map_err(io::Error::other)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    async fn call(
        &self,
        request: Request,
        newcomer: Option<Newcomer>,
    ) -> Result<(u64, Option<OwnedFd>), CallError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let bytes = wire::encode(&Numbered { number, request }).map_err(CallError::Encode)?;
        let (answer, answered) = oneshot::channel();
        let call = Command::Call(Call {
            number,
            bytes,
            newcomer,
            answer,
        });
        self.commands
            .send(call)
            .await
            .map_err(|_| CallError::Closed)?;
        match answered.await {
            Ok(Ok(descriptor)) => Ok((number, descriptor)),
            Ok(Err(refusal)) => Err(CallError::Refused(refusal)),
            Err(_) => Err(CallError::Closed),
        }
    }
}

/// Why a request got no good answer.
enum CallError {
    Closed,
    Encode(EncodeError),
    Refused(Refusal),
}

fn system_error(refusal: &Refusal) -> io::Error {
    io::Error::from_raw_os_error(refusal.errno)
}

fn refused_start(spec: ProcessSpec, refusal: &Refusal) -> RunError {
    let step = refusal.step.unwrap_or(ProcessStep::Fork);
    let program = || PathBuf::from(spec.argv.first().map_or("", String::as_str));
    let subject = match step {
        ProcessStep::Log => spec.log.clone(),
        ProcessStep::Folder => spec.cwd.clone(),
        ProcessStep::Arguments | ProcessStep::Fork | ProcessStep::Isolate | ProcessStep::Exec => {
            program()
        }
    };
    RunError::Step {
        step,
        subject,
        source: system_error(refusal),
        name: spec.name,
    }
}
