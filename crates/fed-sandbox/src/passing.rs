//! Bytes over a Unix socket, and a descriptor with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends bytes, with a descriptor if there is one, and returns how many were sent.
///
/// # Errors
/// Whatever the system refuses; one that may be tried again is not left to the caller.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { &rights[..] };
    let parts = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None) {
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Receives bytes, and the descriptor that came with them. No bytes mean the end of the stream.
///
/// # Errors
/// Whatever the system refuses; one that may be tried again is not left to the caller.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    loop {
        match receive_once(socket, bytes) {
            Err(Errno::EINTR) => {}
            received => return Ok(received?),
        }
    }
}

fn receive_once(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut control = cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let packet = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptor = None;
    for message in packet.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for fd in raw {
                #[expect(unsafe_code, reason = "received descriptors come as integers")]
                // SAFETY: the kernel has just made this descriptor for us alone.
                let owned = unsafe { OwnedFd::from_raw_fd(fd) };
                descriptor = Some(owned);
            }
        }
    }
    Ok((packet.bytes, descriptor))
}
