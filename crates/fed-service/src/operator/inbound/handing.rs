//! A connection is handed from one command to another, and each shows that it runs and is not stopped:
//! whoever has the port by a byte at once and one each second; the other by one when it is asked, just
//! before the connection is sent. That is its descriptor with one byte, and a line that says where it
//! came from and what has been read from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use fed_rpc::reverse::Caller;
use fed_sandbox::passing;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Longest line, in bytes: a first message has 18 KiB at most, and each byte is a number here.
const MAX_LINE: u64 = 128 * 1024;
/// The byte of somebody who is there.
const HERE: u8 = b'!';
/// The byte that is answered with that one.
const PING: u8 = b'?';
/// The byte that the descriptor comes with.
const MARK: u8 = b'#';

/// How often whoever has the port shows that it runs.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// After how long without a word it is stopped.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// How long a command that waits may take to say that it runs. One that is late loses nothing but its
/// turn: it asks again.
const ANSWER: Duration = Duration::from_secs(1);

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

/// Shows it again. Where that finds no room, nobody has listened for long.
pub(super) fn beat(to: &UnixStream) -> io::Result<()> {
    match to.try_write(&[HERE]) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Asks whether the other command runs.
pub(super) async fn answers(to: &mut UnixStream) -> bool {
    let answer = async {
        to.write_all(&[PING]).await?;
        to.read_exact(&mut [0]).await
    };
    matches!(timeout(ANSWER, answer).await, Ok(Ok(_)))
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
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if it is stopped.
pub(super) async fn take(from: &mut UnixStream) -> io::Result<Option<Caller>> {
    let descriptor = loop {
        let mut byte = [0];
        let receive = || passing::receive(from.as_fd(), &mut byte);
        let received = timeout(SILENCE, from.async_io(Interest::READABLE, receive)).await??;
        match (received, byte) {
            ((0, _), _) => return Ok(None),
            ((_, Some(descriptor)), _) => break descriptor,
            ((_, None), [PING]) => from.write_all(&[HERE]).await?,
            ((_, None), [HERE]) => {}
            ((_, None), _) => return Err(io::Error::other("no connection came with it")),
        }
    };
    let mut line = String::new();
    let mut from = BufReader::new(from.take(MAX_LINE));
    timeout(SILENCE, from.read_line(&mut line)).await??;
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
