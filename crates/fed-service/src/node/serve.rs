//! The life of a node: one owner task over mesh, sandbox, lease and control socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use fed_core::Leases;
use fed_sandbox::{Event, Events, Excess, Handle, Inner, Resources};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::{info, warn};

use super::failure::RunError;
use super::gate;
use super::mesh::{self, Mesh};
use super::protocol::{NodeEvent, Ready, Reply, Report, Request};
use super::reach::Reach;
use super::scratch;
use super::spec::{NodeFolder, NodeSpec};
use super::tasks::Tasks;
use crate::control::{self, PATIENCE, Writer};
use crate::deadline::until;
use crate::descriptors;
use crate::gateway::Gateway;
use crate::state;

/// Requests that may wait for the owner; more make their callers wait.
const QUEUE: usize = 32;
/// Events that a slow watcher may lag behind.
const EVENTS: usize = 256;
/// How long a port inside may take to open.
pub(super) const PORT_PATIENCE: Duration = Duration::from_secs(60);
/// How often the mesh is looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How often a port inside is tried.
const PORT_RETRY: Duration = Duration::from_millis(25);

/// Runs a node in its folder until it ends; then removes the folder.
///
/// `ready` is called once, when the node answers. It must be called while the process has a single
/// thread, because the sandbox is forked off first.
///
/// # Errors
/// See [`RunError`].
pub fn run(folder: &NodeFolder, ready: impl FnOnce(&Ready)) -> Result<(), RunError> {
    let spec: NodeSpec =
        state::read_json(&folder.spec())?.ok_or_else(|| RunError::NoSpec(folder.spec()))?;
    // For both halves, and for the workers.
    let files = descriptors::raise();
    state::private_folder(&folder.logs())?;
    state::private_folder(&folder.scratch().join("tmp"))?;
    let udp = mesh::open_udp().map_err(RunError::Udp)?;
    let parent = match spec.lease {
        Some(_) => None,
        None => Some(
            io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(RunError::System)?,
        ),
    };
    let (tun, inner) = fed_sandbox::spawn(&spec.sandbox(folder))?.into_parts();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::System)?;
    let ended = runtime.block_on(async {
        let mesh = Mesh::start(spec.federation, &spec.members, tun, udp)
            .await
            .map_err(RunError::System)?;
        let node = Node::start(spec, folder.clone(), mesh, inner, files).await?;
        ready(node.mesh.ready());
        node.live(parent).await
    });
    // Kills the sandbox if it is still there, before its files go.
    runtime.shutdown_timeout(Leases::GRACE);
    // Whoever started the node removes the folder too, unless it has died.
    if let Err(error) = state::remove(folder.path()) {
        warn!(%error, "the node's folder stays");
    }
    ended
}

type Question = (Request, oneshot::Sender<Reply>);

struct Node {
    spec: NodeSpec,
    folder: NodeFolder,
    mesh: Mesh,
    sandbox: Handle,
    sandbox_events: Events,
    tasks: Tasks,
    gateway: Option<Gateway>,
    reach: Reach,
    events: broadcast::Sender<NodeEvent>,
    questions: mpsc::Receiver<Question>,
    deadline: Option<Instant>,
}

impl Node {
    async fn start(
        spec: NodeSpec,
        folder: NodeFolder,
        mesh: Mesh,
        inner: Inner,
        files: u64,
    ) -> Result<Self, RunError> {
        let (sandbox, sandbox_events) = inner.start().map_err(RunError::System)?;
        let reach = Reach::open(&sandbox, &spec.reach, files).await?;
        let listener = control::bind(&folder.socket()).map_err(|source| RunError::Control {
            path: folder.socket(),
            source,
        })?;
        let (asking, questions) = mpsc::channel(QUEUE);
        let (events, _) = broadcast::channel(EVENTS);
        tokio::spawn(listen(listener, asking, events.clone(), sandbox.clone()));
        let deadline = spec.lease.map(|lease| Instant::now() + lease);
        let tasks = Tasks::new(folder.clone(), sandbox.clone());
        Ok(Self {
            spec,
            folder,
            mesh,
            sandbox,
            sandbox_events,
            tasks,
            gateway: None,
            reach,
            events,
            questions,
            deadline,
        })
    }

    async fn live(mut self, parent: Option<OwnedFd>) -> Result<(), RunError> {
        let mut terminated = signal(SignalKind::terminate()).map_err(RunError::System)?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(RunError::System)?;
        let orphaned = orphaned(parent);
        tokio::pin!(orphaned);
        let broken = self.mesh.broken();
        tokio::pin!(broken);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.deadline;
            tokio::select! {
                question = self.questions.recv() => {
                    let Some((request, reply)) = question else { break };
                    match request {
                        Request::Stop => {
                            self.end("told to stop").await;
                            // The supervisor may have left without waiting.
                            let _ = reply.send(Reply::Done);
                            return Ok(());
                        }
                        Request::Run(process) => self.tasks.start(process, reply),
                        other @ (Request::Report
                        | Request::Connect(_)
                        | Request::Terminate(_)
                        | Request::AwaitPort(_)
                        | Request::OpenGateway { .. }
                        | Request::Renew
                        | Request::Watch) => {
                            let answered = timeout(PATIENCE, self.answer(other)).await;
                            let late = |_| Reply::Failed(format!(
                                "the node has not done it in {} s", PATIENCE.as_secs()
                            ));
                            let _ = reply.send(answered.unwrap_or_else(late));
                        }
                    }
                }
                Some(started) = self.tasks.next_started() => self.tasks.started(started),
                event = self.sandbox_events.recv() => match event {
                    Some(Event::Exited { id, name, status }) => {
                        let event = self.tasks.ended(id, name, status);
                        // Nobody need be watching.
                        let _ = self.events.send(event);
                    }
                    Some(Event::Exceeded(excess)) => self.end_excess(excess).await,
                    Some(Event::Closed) | None => {
                        self.mesh.stop().await;
                        return Err(RunError::SandboxDied);
                    }
                },
                () = until(deadline) => {
                    warn!("the lease has lapsed: nobody renewed it");
                    break;
                }
                _ = looks.tick() => self.mesh.tend().await,
                () = &mut orphaned => break,
                reason = &mut broken => {
                    warn!(reason, "the mesh has ended");
                    break;
                }
                _ = terminated.recv() => break,
                // Ctrl-C reaches the whole terminal group; the operator ends its node in order.
                _ = interrupted.recv() => {}
            }
        }
        self.end("ending").await;
        Ok(())
    }

    /// Sees to it that an excess ends. Processes that used too much are being killed already; who
    /// filled the scratch folder is not known, so all end, and what they wrote goes.
    async fn end_excess(&mut self, excess: Excess) {
        match &excess.resource {
            Resources::Memory | Resources::Processes if excess.process.is_none() => {
                warn!(limit = %excess, "processes that no worker owns are killed");
            }
            Resources::Memory | Resources::Processes => self.tasks.condemn(&excess),
            Resources::Scratch { .. } | Resources::Files | Resources::Hidden { .. } => {
                self.tasks.condemn(&excess);
                // One that is stopped does it when it goes on.
                match timeout(Leases::GRACE, self.sandbox.kill_all()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(%error, "the processes inside could not be killed"),
                    Err(_) => warn!("the sandbox does not answer, so what runs inside goes on"),
                }
                let (folder, shown) = (self.folder.clone(), self.spec.read_only.clone());
                let emptying = move || scratch::empty(&folder, &shown);
                let emptied = tokio::task::spawn_blocking(emptying).await;
                match emptied.expect("emptying a folder does not panic") {
                    Ok(()) => info!("the scratch folder is empty again"),
                    Err(error) => warn!(%error, "the scratch folder could not be emptied"),
                }
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Report => Reply::Report(Report {
                ready: self.mesh.ready().clone(),
                mesh: self.mesh.report().await,
                processes: self.tasks.names(),
            }),
            Request::Connect(peers) => done(self.mesh.connect(peers).await),
            Request::Terminate(names) => {
                self.tasks.terminate(&names);
                Reply::Done
            }
            Request::OpenGateway {
                folder,
                scheduler,
                dashboard,
            } => self.open_gateway(&folder, scheduler, dashboard).await,
            Request::Renew => {
                self.deadline = self.spec.lease.map(|lease| Instant::now() + lease);
                Reply::Done
            }
            Request::Run(_) | Request::AwaitPort(_) | Request::Watch | Request::Stop => {
                Reply::Failed("answered elsewhere".to_owned())
            }
        }
    }

    async fn open_gateway(
        &mut self,
        folder: &std::path::Path,
        scheduler: SocketAddr,
        dashboard: SocketAddr,
    ) -> Reply {
        if let Some(old) = self.gateway.take() {
            old.close().await;
        }
        let sandbox = self.sandbox.clone();
        match gate::open(self.spec.federation, sandbox, folder, scheduler, dashboard).await {
            Ok((gateway, info)) => {
                self.gateway = Some(gateway);
                Reply::Gateway(info)
            }
            Err(message) => Reply::Failed(message),
        }
    }

    /// Ends everything, in order if it lets itself be ended so: what does not answer ends when this
    /// process drops its end of the sandbox.
    async fn end(&mut self, why: &str) {
        info!(why, processes = self.tasks.names().len(), "node ends");
        if timeout(2 * Leases::GRACE, self.end_in_order())
            .await
            .is_err()
        {
            warn!(folder = %self.folder.path().display(), "what does not end in order is killed");
        }
    }

    /// Ends the processes, then the sandbox, then the mesh.
    async fn end_in_order(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.close().await;
        }
        self.tasks.terminate(&[]);
        let all_ended = async {
            while !self.tasks.names().is_empty() {
                match self.sandbox_events.recv().await {
                    Some(Event::Exited { id, name, status }) => {
                        self.tasks.ended(id, name, status);
                    }
                    Some(Event::Exceeded(_)) => {}
                    Some(Event::Closed) | None => break,
                }
            }
        };
        if timeout(Tasks::PATIENCE, all_ended).await.is_err() {
            warn!(folder = %self.folder.path().display(), "processes that did not end are killed");
        }
        // Its sockets would keep the sandbox's network in being.
        self.reach.close().await;
        self.sandbox.close().await;
    }
}

fn done(result: Result<(), String>) -> Reply {
    result.map_or_else(Reply::Failed, |()| Reply::Done)
}

/// Returns when the supervisor's end of the pipe on standard input is closed.
async fn orphaned(parent: Option<OwnedFd>) {
    let Some(parent) = parent else {
        return std::future::pending().await;
    };
    let reading = async {
        let pipe = pipe::Receiver::from_owned_fd(parent)?;
        let mut buffer = [0; 16];
        loop {
            pipe.readable().await?;
            match pipe.try_read(&mut buffer) {
                Ok(0) => return Ok::<(), io::Error>(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    match reading.await {
        Ok(()) => warn!("the operator is gone"),
        Err(error) => warn!(%error, "cannot watch the operator, so the node ends"),
    }
}

async fn listen(
    listener: UnixListener,
    asking: mpsc::Sender<Question>,
    events: broadcast::Sender<NodeEvent>,
    sandbox: Handle,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if control::same_user(&stream) => {
                let (asking, events, sandbox) = (asking.clone(), events.clone(), sandbox.clone());
                tokio::spawn(control::serve(stream, move |request, writer| {
                    converse(
                        request,
                        writer,
                        asking.clone(),
                        events.subscribe(),
                        sandbox.clone(),
                    )
                }));
            }
            Ok(_) => warn!("another user tried the control socket"),
            Err(error) => {
                warn!(%error, "control socket");
                tokio::time::sleep(PORT_RETRY).await;
            }
        }
    }
}

async fn converse(
    request: Request,
    mut writer: Writer,
    asking: mpsc::Sender<Question>,
    mut events: broadcast::Receiver<NodeEvent>,
    sandbox: Handle,
) -> io::Result<Writer> {
    match request {
        Request::Watch => {
            writer.send(&NodeEvent::Watching).await?;
            loop {
                match events.recv().await {
                    Ok(event) => writer.send(&event).await?,
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        warn!(missed, "a watcher was too slow");
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
            }
        }
        Request::AwaitPort(address) => writer.send(&await_port(&sandbox, address).await).await?,
        other @ (Request::Report
        | Request::Connect(_)
        | Request::Run(_)
        | Request::Terminate(_)
        | Request::OpenGateway { .. }
        | Request::Renew
        | Request::Stop) => {
            let (reply, answer) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            asking.send((other, reply)).await.map_err(|_| gone())?;
            writer.send(&answer.await.map_err(|_| gone())?).await?;
        }
    }
    Ok(writer)
}

async fn await_port(sandbox: &Handle, address: SocketAddr) -> Reply {
    let open = async {
        while sandbox.connect(address).await.is_err() {
            tokio::time::sleep(PORT_RETRY).await;
        }
    };
    match timeout(PORT_PATIENCE, open).await {
        Ok(()) => Reply::Done,
        Err(_) => Reply::Failed(format!(
            "nothing listens at {address} after {} s",
            PORT_PATIENCE.as_secs()
        )),
    }
}

/// The lease of a federation bounds its node's.
const _: () = assert!(Leases::MIN.as_secs() >= Leases::GRACE.as_secs());
