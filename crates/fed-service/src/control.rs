//! Control sockets: JSON lines over a Unix socket in a private folder.
//!
//! A connection carries requests of one type, each answered by one reply, in order. A request that
//! subscribes turns the connection into a stream of replies. Only the socket's owner may connect.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

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
        let request = match lines.next::<Request>().await {
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
}

#[derive(Debug)]
struct Reader(BufReader<OwnedReadHalf>);

impl Reader {
    async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<serde_json::Result<T>>> {
        use tokio::io::AsyncReadExt as _;
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        (&mut self.0)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)))
    }
}

/// A client's end of a control socket.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
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
        let (read, write) = stream.into_split();
        let reader = Reader(BufReader::new(read));
        Ok(Self {
            path: path.to_owned(),
            reader,
            writer: Writer(write),
        })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// [`ControlError::Closed`] and [`ControlError::Garbled`].
    pub async fn call<Request, Reply>(&mut self, request: &Request) -> Result<Reply, ControlError>
    where
        Request: Serialize,
        Reply: DeserializeOwned,
    {
        let closed = || ControlError::Closed {
            path: self.path.clone(),
        };
        self.writer.send(request).await.map_err(|_| closed())?;
        self.next().await?.ok_or_else(|| ControlError::Closed {
            path: self.path.clone(),
        })
    }

    /// Reads the next message of a subscription; nothing once the other side has left.
    ///
    /// # Errors
    /// [`ControlError::Garbled`].
    pub async fn next<Reply: DeserializeOwned>(&mut self) -> Result<Option<Reply>, ControlError> {
        match self.reader.next().await {
            Ok(Some(Ok(reply))) => Ok(Some(reply)),
            Ok(Some(Err(source))) => Err(ControlError::Garbled {
                path: self.path.clone(),
                source,
            }),
            Ok(None) | Err(_) => Ok(None),
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
                connection.call::<_, u32>(&number).await.unwrap(),
                number + 1
            );
        }
        drop(connection);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn says_where_nothing_listens() {
        let error = Connection::open(Path::new("/nonexistent/x.sock"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.sock"), "{error}");
    }
}
