//! A port that is listened on: who waits for which site, and connections that wait for somebody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fed_core::SiteName;
use fed_rpc::reverse::{self, Announced, Caller};
use fed_rpc::server::{HandshakeLimits, Incoming, IncomingFailure};
use futures::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::handing;
use crate::{control, descriptors};

/// How long a connection is kept for which nobody waits: an agent waits longer for the first word.
const KEPT: Duration = Duration::from_secs(45);
/// How often it is looked which are kept too long.
const ROUND: Duration = Duration::from_secs(5);
/// Questions that may wait.
const QUEUE: usize = 16;
/// Connections that are turned away, beside commands that wait, at a time.
const SERVED_MAX: usize = 128;
/// Longest line that a neighbour sends, in bytes.
const MAX_LINE: u64 = 256;

/// Somebody who waits for the next connection of a site.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) site: SiteName,
    pub(super) answer: oneshot::Sender<Caller>,
}

/// A port; dropping it closes it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) asking: mpsc::Sender<Ask>,
    _task: AbortOnDropHandle<()>,
}

impl Port {
    /// Listens at `listen` for agents, and at `socket` for other commands of this user.
    pub(super) async fn open(listen: &str, socket: &Path) -> io::Result<Self> {
        descriptors::raise();
        let listener = bind(listen).await?;
        let neighbours = control::bind(socket)?;
        info!(listen, "listening for agents that dial");
        let (asking, asks) = mpsc::channel(QUEUE);
        let (returning, returned) = mpsc::channel(QUEUE);
        let switchboard = Switchboard {
            neighbours,
            _socket: SocketFile::of(socket)?,
            callers: reverse::callers(listener, HandshakeLimits::default(), refused),
            asking: asking.downgrade(),
            asks,
            returning,
            returned,
            desk: Desk::default(),
            served: JoinSet::new(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(switchboard.work()));
        Ok(Self {
            asking,
            _task: task,
        })
    }
}

/// Listens; where all addresses are meant, on a host without IPv6 too.
async fn bind(listen: &str) -> io::Result<TcpListener> {
    match (TcpListener::bind(listen).await, listen.strip_prefix("[::]")) {
        (Err(error), Some(port)) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(format!("0.0.0.0{port}")).await
        }
        (bound, _) => bound,
    }
}

fn refused(failure: IncomingFailure) {
    warn!(%failure, "a connection that is no agent's");
}

/// Removes the socket, while the port is still held: the next one who has the port makes its own.
struct SocketFile {
    path: PathBuf,
    own: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            own: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that is left does no harm; one of somebody else's that has come in its place stays.
        if identity(&self.path).is_ok_and(|there| there == self.own) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Connects those who wait with those who call. Fields are dropped in this order.
struct Switchboard {
    neighbours: UnixListener,
    _socket: SocketFile,
    callers: Incoming<Announced>,
    asking: mpsc::WeakSender<Ask>,
    asks: mpsc::Receiver<Ask>,
    /// Connections that were for somebody who does not answer.
    returning: mpsc::Sender<Announced>,
    returned: mpsc::Receiver<Announced>,
    desk: Desk<Caller>,
    served: JoinSet<()>,
}

impl Switchboard {
    async fn work(mut self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let unwanted = tokio::select! {
                Some(Ask { site, answer }) = self.asks.recv() => {
                    self.desk.wait(site.as_str(), answer);
                    Vec::new()
                }
                Some(Ok(Announced { site, caller })) = self.callers.next() => {
                    self.desk.call(&site, caller, Instant::now()).into_iter().collect()
                }
                Some(Announced { site, caller }) = self.returned.recv() => {
                    self.desk.call(&site, caller, Instant::now()).into_iter().collect()
                }
                Ok((stream, _)) = self.neighbours.accept() => {
                    self.serve(stream);
                    Vec::new()
                }
                Some(_) = self.served.join_next() => Vec::new(),
                _ = rounds.tick() => self.desk.expired(Instant::now()),
                else => return,
            };
            for caller in unwanted {
                debug!(remote = %caller.remote, "nobody waits for it");
                // Of very many at a time some are dropped without a word.
                if self.served.len() < SERVED_MAX {
                    self.served.spawn(caller.turn_away());
                }
            }
        }
    }

    /// Serves another command of this user.
    fn serve(&mut self, stream: UnixStream) {
        let Some(asking) = self.asking.upgrade() else {
            return;
        };
        if !control::same_user(&stream) {
            return warn!("another user tried the socket of the port");
        }
        let returning = self.returning.clone();
        self.served.spawn(async move {
            if let Err(error) = hand_over(stream, asking, returning).await {
                warn!(%error, "a connection could not be handed to another command");
            }
        });
    }
}

/// Waits on behalf of another command, and hands it what comes; or has it returned for the next, if
/// that command is stopped.
pub(super) async fn hand_over(
    mut stream: UnixStream,
    asking: mpsc::Sender<Ask>,
    returning: mpsc::Sender<Announced>,
) -> io::Result<()> {
    handing::greet(&mut stream).await?;
    let mut reader = BufReader::new((&mut stream).take(MAX_LINE));
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let Some(name) = line.strip_suffix('\n') else {
        return Ok(());
    };
    let site = name.parse().map_err(io::Error::other)?;
    let (answer, mut caller) = oneshot::channel();
    // It fails only when the port is closed, and then there is no answer.
    let _ = asking.send(Ask { site, answer }).await;
    drop(asking);
    let mut beats = interval(handing::BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut more = [0];
    let caller = loop {
        tokio::select! {
            caller = &mut caller => break caller,
            _ = beats.tick() => handing::beat(&stream)?,
            // It has nothing to say before it is asked, so that it has left.
            _ = stream.read(&mut more) => return Ok(()),
        }
    };
    let Ok(caller) = caller else {
        return Ok(());
    };
    if handing::answers(&mut stream).await {
        return handing::give(stream, caller).await;
    }
    let site = name.to_owned();
    info!(
        site,
        "a command that waits does not answer, as when it is stopped; the next is served"
    );
    // It fails only when the port is closed.
    let _ = returning.send(Announced { site, caller }).await;
    Ok(())
}

/// Who waits, and which connections of theirs, `C`, have come; knows neither sockets nor the clock.
#[derive(Debug)]
struct Desk<C> {
    waiting: BTreeMap<String, VecDeque<oneshot::Sender<C>>>,
    /// Sites that somebody has waited for: one connection of each is kept for the next.
    known: BTreeSet<String>,
    kept: BTreeMap<String, (C, Instant)>,
}

impl<C> Default for Desk<C> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            known: BTreeSet::new(),
            kept: BTreeMap::new(),
        }
    }
}

impl<C> Desk<C> {
    /// Answers with the connection that is kept, or with the next.
    fn wait(&mut self, site: &str, answer: oneshot::Sender<C>) {
        self.known.insert(site.to_owned());
        let Some((caller, since)) = self.kept.remove(site) else {
            let waiting = self.waiting.entry(site.to_owned()).or_default();
            waiting.retain(|answer| !answer.is_closed());
            return waiting.push_back(answer);
        };
        if let Err(caller) = answer.send(caller) {
            self.kept.insert(site.to_owned(), (caller, since));
        }
    }

    /// Takes a connection; returns the one that nobody wants, if there is one now.
    fn call(&mut self, site: &str, mut caller: C, now: Instant) -> Option<C> {
        let mut waiting = self.waiting.get_mut(site);
        while let Some(answer) = waiting.as_mut().and_then(|waiting| waiting.pop_front()) {
            match answer.send(caller) {
                Ok(()) => return None,
                Err(back) => caller = back,
            }
        }
        if !self.known.contains(site) {
            return Some(caller);
        }
        let earlier = self.kept.insert(site.to_owned(), (caller, now));
        earlier.map(|(caller, _)| caller)
    }

    /// Lets go of connections that nobody has wanted for long.
    fn expired(&mut self, now: Instant) -> Vec<C> {
        let late = |(_, since): &mut (C, Instant)| now.duration_since(*since) >= KEPT;
        let late = self.kept.extract_if(.., |_, kept| late(kept));
        late.map(|(_, (caller, _))| caller).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_answered_in_order_and_with_his_own_site() {
        let mut desk = Desk::default();
        let now = Instant::now();
        let [first, second, other] = ["a", "a", "b"].map(|site| {
            let (answer, waiting) = oneshot::channel();
            desk.wait(site, answer);
            waiting
        });
        // Who has left is passed over.
        drop(first);
        assert!(desk.call("a", 1, now).is_none());
        assert_eq!(second.blocking_recv().ok(), Some(1));
        assert!(desk.call("b", 2, now).is_none());
        assert_eq!(other.blocking_recv().ok(), Some(2));
    }

    #[test]
    fn one_connection_of_a_known_site_is_kept_and_none_of_a_strange_one() {
        let mut desk = Desk::default();
        let now = Instant::now();
        assert_eq!(desk.call("a", 1, now), Some(1));
        let (answer, waiting) = oneshot::channel();
        desk.wait("a", answer);
        assert!(desk.call("a", 2, now).is_none());
        assert_eq!(waiting.blocking_recv().ok(), Some(2));
        assert!(desk.call("a", 3, now).is_none());
        assert_eq!(desk.call("a", 4, now), Some(3));
        assert!(desk.expired(now + KEPT / 2).is_empty());
        // Who has left does not get it.
        let (answer, gone) = oneshot::channel();
        drop(gone);
        desk.wait("a", answer);
        let (answer, waiting) = oneshot::channel();
        desk.wait("a", answer);
        assert_eq!(waiting.blocking_recv().ok(), Some(4));
        assert!(desk.call("a", 5, now).is_none());
        let expired = desk.expired(now + KEPT);
        assert_eq!(expired.len(), 1);
    }
}
