//! The ports at which agents are awaited that dial: one for all commands of the operator.
//!
//! Whichever command comes first listens, and hands the others of this user, over a socket in the
//! state folder, the connections that are for them: the sockets themselves, so that it has no part in
//! what is said there, and nothing breaks when it ends. Then another one listens.

mod handing;
mod port;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fed_core::SiteName;
use fed_rpc::reverse::Caller;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep};

use self::port::{Ask, Port};
use super::state::OperatorState;
use crate::control;

/// How long whoever has the port may take to open its socket, after which it is another program.
const NEIGHBOURLY: Duration = Duration::from_secs(3);
/// How often it is looked whether the port is free.
const POLL: Duration = Duration::from_millis(100);

/// The id of this host's kernel since it started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// So many of its 32 digits stand in the name of a socket.
const BOOT_ID_DIGITS: usize = 12;

/// What one command listens at. Clones share it; the last one closes the ports.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    folder: PathBuf,
    ports: Arc<Mutex<BTreeMap<String, Port>>>,
}

impl Inbound {
    pub(super) fn of(state: &OperatorState) -> Self {
        Self {
            folder: state.path().to_owned(),
            ports: Arc::default(),
        }
    }

    /// Waits for the next connection at `listen` of somebody who says that he is of this site.
    ///
    /// # Errors
    /// If the port cannot be listened on, such as one that another program has, or a command that is
    /// stopped.
    pub(super) async fn caller(&self, listen: &str, site: &SiteName) -> io::Result<Caller> {
        let socket = socket(&self.folder, listen, &boot_id()?);
        let mut alone_since = Instant::now();
        loop {
            let taken = match self.own(listen, &socket, site).await {
                Ok(Some(caller)) => return Ok(caller),
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
                Err(error) => return Err(error),
            };
            match ask_neighbour(&socket, site).await {
                Ok(Some(caller)) => return Ok(caller),
                // It has ended, and this command is to listen now.
                Ok(None) => alone_since = Instant::now(),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(_) if alone_since.elapsed() < NEIGHBOURLY => {}
                Err(_) => return Err(taken),
            }
            sleep(POLL).await;
        }
    }

    /// Waits at a port of this command, which is opened if need be. Nothing if it was closed.
    async fn own(
        &self,
        listen: &str,
        socket: &Path,
        site: &SiteName,
    ) -> io::Result<Option<Caller>> {
        let asking = {
            let mut ports = self.ports.lock().await;
            match ports.get(listen) {
                Some(port) if !port.asking.is_closed() => port.asking.clone(),
                _ => {
                    let port = Port::open(listen, socket).await?;
                    let asking = port.asking.clone();
                    ports.insert(listen.to_owned(), port);
                    asking
                }
            }
        };
        let (answer, caller) = oneshot::channel();
        let site = site.clone();
        // It fails only when the port is closed, and then there is no answer.
        let _ = asking.send(Ask { site, answer }).await;
        Ok(caller.await.ok())
    }
}

/// The socket of the command that listens there, on the host that has this boot id: others may share
/// the folder.
fn socket(folder: &Path, listen: &str, boot_id: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = listen.chars().map(plain).collect();
    // Enough of it to tell hosts apart, and short, since names of sockets have to be.
    let digits = boot_id.chars().filter(char::is_ascii_hexdigit);
    let host: String = digits.take(BOOT_ID_DIGITS).collect();
    folder.join(format!("listen-{host}-{name}.sock"))
}

fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string(BOOT_ID);
    text.map_err(|error| io::Error::new(error.kind(), format!("cannot read {BOOT_ID}: {error}")))
}

/// Waits for a connection that the command with this socket hands over. Nothing if it ends first.
/// One that is stopped still has the port, and says nothing: that is an error of a port that is in
/// use.
async fn ask_neighbour(socket: &Path, site: &SiteName) -> io::Result<Option<Caller>> {
    let mut stream = control::open(socket).await?;
    stream.write_all(format!("{site}\n").as_bytes()).await?;
    taken(stream).await
}

async fn taken(mut stream: UnixStream) -> io::Result<Option<Caller>> {
    match handing::take(&mut stream).await {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(stopped(&stream)),
        // It has ended, or this command was stopped and has had its turn.
        Err(error) if is_over(error.kind()) => Ok(None),
        taken => taken,
    }
}

fn is_over(kind: io::ErrorKind) -> bool {
    kind == io::ErrorKind::BrokenPipe || kind == io::ErrorKind::ConnectionReset
}

/// Says who has the port and does not answer.
fn stopped(stream: &UnixStream) -> io::Error {
    let holder = stream.peer_cred().ok().and_then(|holder| holder.pid());
    let holder = holder.map_or_else(
        || "another fed".to_owned(),
        |pid| format!("fed, process {pid},"),
    );
    let message = format!(
        "{holder} has the port and has been silent for {} s, as when it is stopped: continue it \
         (`fg`, `kill -CONT`) or end it",
        handing::SILENCE.as_secs()
    );
    io::Error::new(io::ErrorKind::AddrInUse, message)
}

#[cfg(test)]
mod tests;
