//! Control sockets: JSON lines over a Unix socket in a private folder.
//!
//! A connection carries requests of one type, each answered by one reply, in order. A request that
//! subscribes turns the connection into a stream of replies. Only the socket's owner may connect.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::warn;

/// How long a process may take until it answers, or says that it is about to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often a process that needs time says so.
const SIGN: Duration = Duration::from_secs(2);
/// Longest line, in bytes, that either side reads.
const MAX_LINE: usize = 64 << 20;

/// Why a control socket could not be used.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nothing listens there.
    #[error("nothing answers at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke in the middle of a call.
    #[error("{path} closed the connection in the middle of a call, as when its process is killed")]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The other side neither answers nor says that it is about to.
    #[error("{}", silence(.path, *.process, *.patience))]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The process that listens there.
        process: Option<i32>,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The other side is another version of fed.
    #[error(
        "{path} answered something else than expected ({source}); is it another version of fed?"
    )]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
}

fn silence(path: &Path, process: Option<i32>, patience: Duration) -> String {
    let seconds = patience.as_secs();
    match process {
        Some(pid) => format!(
            "process {pid} has not answered in {seconds} s at {}: it may be stopped (`kill -CONT \
             {pid}` lets it go on), or the host is out of memory or time",
            path.display()
        ),
        None => format!("nothing has answered in {seconds} s at {}", path.display()),
    }
}

/// Binds a control socket that only this user may connect to, replacing a dead one.
///
/// # Errors
/// Whatever the system refuses.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = short_path(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Socket addresses end at 108 bytes, folders do not: the folder is named by an open descriptor.
fn short_path(path: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a socket needs a folder and a name",
        )
    };
    let folder = std::fs::File::open(path.parent().ok_or_else(wrong)?)?;
    let name = path.file_name().ok_or_else(wrong)?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    Ok((folder, short))
}

/// Connects to a socket.
///
/// # Errors
/// Whatever the system refuses.
pub(crate) async fn open(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short_path(path)?;
    UnixStream::connect(short).await
}

/// Serves one connection: calls `answer` for each request until the other side leaves.
///
/// `answer` gets the writer so that a subscription may send many replies.
pub async fn serve<Request, Answer, Done>(stream: UnixStream, mut answer: Answer)
where
    Request: DeserializeOwned,
    Answer: FnMut(Request, Writer) -> Done,
    Done: Future<Output = io::Result<Writer>>,
{
    let (read, write) = stream.into_split();
    let mut lines = Reader(BufReader::new(read));
    let mut writer = Writer(write);
    loop {
        let request = match lines.next::<Request>(None).await {
            Ok(Some(Ok(request))) => request,
            Ok(Some(Err(error))) => {
                warn!(%error, "control request is not understood");
                return;
            }
            Ok(None) | Err(_) => return,
        };
        match answer(request, writer).await {
            Ok(next) => writer = next,
            Err(_) => return,
        }
    }
}

/// True if the process at the other end runs as this user or as root.
pub fn same_user(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Sends replies.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

impl Writer {
    /// Sends one reply.
    ///
    /// # Errors
    /// If the other side has left.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }

    /// Says that an answer is being made: an empty line.
    ///
    /// # Errors
    /// If the other side has left.
    pub async fn sign(&mut self) -> io::Result<()> {
        self.0.write_all(b"\n").await
    }

    /// Waits for what is to be answered, and gives signs of life meanwhile, the first one at once.
    ///
    /// # Errors
    /// If the other side has left. What was waited for is dropped then.
    pub async fn wait<T>(&mut self, making: impl Future<Output = T>) -> io::Result<T> {
        tokio::pin!(making);
        loop {
            self.sign().await?;
            if let Ok(made) = timeout(SIGN, &mut making).await {
                return Ok(made);
            }
        }
    }
}

#[derive(Debug)]
struct Reader(BufReader<OwnedReadHalf>);

impl Reader {
    /// Reads the next message. Each line, signs of life too, may take as long as `patience`.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or what the system says.
    async fn next<T: DeserializeOwned>(
        &mut self,
        patience: Option<Duration>,
    ) -> io::Result<Option<serde_json::Result<T>>> {
        loop {
            let line = match patience {
                Some(patience) => timeout(patience, self.line()).await??,
                None => self.line().await?,
            };
            match line.as_slice() {
                [] => return Ok(None),
                b"\n" => {}
                line => return Ok(Some(serde_json::from_slice(line))),
            }
        }
    }

    /// Reads a line with its end; an empty one once the other side has left.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        use tokio::io::AsyncReadExt as _;
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        (&mut self.0)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await?;
        Ok(line)
    }
}

/// A client's end of a control socket.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
    process: Option<i32>,
    reader: Reader,
    writer: Writer,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`].
    pub async fn open(path: &Path) -> Result<Self, ControlError> {
        let unreachable = |source| ControlError::Unreachable {
            path: path.to_owned(),
            source,
        };
        let stream = open(path).await.map_err(unreachable)?;
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (read, write) = stream.into_split();
        let reader = Reader(BufReader::new(read));
        Ok(Self {
            path: path.to_owned(),
            process,
            reader,
            writer: Writer(write),
        })
    }

    /// Makes one call. The answer, or a sign that it is being made, may take as long as `patience`.
    ///
    /// # Errors
    /// [`ControlError::Closed`], [`ControlError::Silent`] and [`ControlError::Garbled`].
    pub async fn call<Request, Reply>(
        &mut self,
        request: &Request,
        patience: Duration,
    ) -> Result<Reply, ControlError>
    where
        Request: Serialize,
        Reply: DeserializeOwned,
    {
        let sent = timeout(patience, self.writer.send(request)).await;
        sent.map_err(|_| self.silent(patience))?
            .map_err(|_| self.closed())?;
        self.next(Some(patience))
            .await?
            .ok_or_else(|| self.closed())
    }

    /// Reads the next message of a subscription; nothing once the other side has left. It may take as
    /// long as `patience`, or for ever.
    ///
    /// # Errors
    /// [`ControlError::Silent`] and [`ControlError::Garbled`].
    pub async fn next<Reply: DeserializeOwned>(
        &mut self,
        patience: Option<Duration>,
    ) -> Result<Option<Reply>, ControlError> {
        match (self.reader.next(patience).await, patience) {
            (Ok(Some(Ok(reply))), _) => Ok(Some(reply)),
            (Ok(Some(Err(source))), _) => Err(ControlError::Garbled {
                path: self.path.clone(),
                source,
            }),
            (Err(error), Some(patience)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(self.silent(patience))
            }
            (Ok(None) | Err(_), _) => Ok(None),
        }
    }

    fn silent(&self, patience: Duration) -> ControlError {
        ControlError::Silent {
            path: self.path.clone(),
            process: self.process,
            patience,
        }
    }

    fn closed(&self) -> ControlError {
        ControlError::Closed {
            path: self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_in_order_through_a_long_path() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("control.sock");
        let listener = bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(same_user(&stream));
            serve(stream, |number: u32, mut writer| async move {
                writer.send(&(number + 1)).await?;
                Ok(writer)
            })
            .await;
        });
        let mut connection = Connection::open(&path).await.unwrap();
        for number in 0..3u32 {
            assert_eq!(
                connection.call::<_, u32>(&number, PATIENCE).await.unwrap(),
                number + 1
            );
        }
        drop(connection);
        server.await.unwrap();
    }

    /// A server that is stopped: the system takes connections and requests all the same.
    #[tokio::test]
    async fn a_process_that_is_silent_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _listener = bind(&path).unwrap();
        let mut connection = Connection::open(&path).await.unwrap();
        let patience = Duration::from_secs(1);
        let error = connection.call::<_, u32>(&1, patience).await.unwrap_err();
        let named = format!("process {0} has not answered in 1 s", std::process::id());
        assert!(error.to_string().starts_with(&named), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_takes_long_is_waited_for_and_dropped_when_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = bind(&path).unwrap();
        let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let began = began.clone();
                let answer = move |seconds: u64, mut writer: Writer| {
                    let began = began.clone();
                    async move {
                        let making = async {
                            // Whoever looks on may have seen enough.
                            let _ = began.send(seconds);
                            tokio::time::sleep(Duration::from_secs(seconds)).await;
                        };
                        writer.wait(making).await?;
                        writer.send(&seconds).await?;
                        Ok(writer)
                    }
                };
                serve(stream, answer).await;
            }
        });
        let mut leaver = Connection::open(&path).await.unwrap();
        leaver.writer.send(&7).await.unwrap();
        drop(leaver);
        let mut connection = Connection::open(&path).await.unwrap();
        let answer = connection.call::<u64, u64>(&5, 2 * SIGN).await;
        assert_eq!(answer.unwrap(), 5);
        // The other one was gone before its request was looked at.
        assert_eq!(begun.recv().await, Some(5));
        assert!(begun.try_recv().is_err());
    }

    #[tokio::test]
    async fn says_where_nothing_listens() {
        let error = Connection::open(Path::new("/nonexistent/x.sock"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.sock"), "{error}");
    }
}
