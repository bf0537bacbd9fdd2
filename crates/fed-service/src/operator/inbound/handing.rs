//! A connection is handed from one command to another: a byte at once, which shows that somebody is
//! there to wait for it; then its descriptor with one byte, and a line that says where it came from
//! and what has been read from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use fed_rpc::reverse::Caller;
use fed_sandbox::passing;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{TcpStream, UnixStream};

/// Longest line, in bytes: a first message has 18 KiB at most, and each byte is a number here.
const MAX_LINE: u64 = 128 * 1024;
/// The byte of somebody who is there.
const HERE: u8 = b'!';
/// The byte that the descriptor comes with.
const MARK: u8 = b'#';

/// What is said of a connection.
#[derive(Serialize, Deserialize)]
struct Said {
    remote: SocketAddr,
    read: Vec<u8>,
}

/// Shows another command that this one runs, and is not stopped.
pub(super) async fn greet(to: &mut UnixStream) -> io::Result<()> {
    to.write_all(&[HERE]).await
}

/// Waits until the other command shows that it runs; it has not if it ends first.
pub(super) async fn is_greeted(from: &mut UnixStream) -> io::Result<bool> {
    Ok(from.read(&mut [0]).await? > 0)
}

/// Hands a connection over. It is closed here in any case.
pub(super) async fn give(mut to: UnixStream, caller: Caller) -> io::Result<()> {
    let Caller {
        remote,
        stream,
        read,
    } = caller;
    let descriptor = OwnedFd::from(stream.into_std()?);
    let send = || passing::send(to.as_fd(), &[MARK], Some(descriptor.as_fd()));
    to.async_io(Interest::WRITABLE, send).await?;
    let mut line = serde_json::to_vec(&Said { remote, read })?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Takes a connection over. Nothing if the other command ends first.
pub(super) async fn take(from: UnixStream) -> io::Result<Option<Caller>> {
    let receive = || passing::receive(from.as_fd(), &mut [0]);
    let (count, descriptor) = from.async_io(Interest::READABLE, receive).await?;
    if count == 0 {
        return Ok(None);
    }
    let descriptor = descriptor.ok_or_else(|| io::Error::other("no connection came with it"))?;
    let mut line = String::new();
    let mut from = BufReader::new(from.take(MAX_LINE));
    from.read_line(&mut line).await?;
    let Some(text) = line.strip_suffix('\n') else {
        return Ok(None);
    };
    let Said { remote, read } = serde_json::from_str(text)?;
    Ok(Some(Caller {
        remote,
        stream: TcpStream::from_std(descriptor.into())?,
        read,
    }))
}
