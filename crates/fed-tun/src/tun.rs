//! A TUN device, with whatever offloads it and its kernel have.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use fed_mesh::Output;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::uio::writev;

use crate::header::{NOTE, Note, Upper};
use crate::join::{Joinable, Joiner};
use crate::losses::Counters;
use crate::split::split;

/// The largest packet or piece, in bytes.
pub(crate) const PACKET_MAX: usize = 65_535;

nix::ioctl_read_bad!(tun_get_interface, libc::TUNGETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD as libc::Ioctl);

/// What the device may do for us.
const CHECKSUM: u32 = libc::TUN_F_CSUM;
const TCP: u32 = libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// Since Linux 6.2, both or none.
const UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TUN device, non-blocking.
pub(crate) struct Tun {
    fd: OwnedFd,
    /// Whether a note stands before each packet.
    notes: bool,
    /// What the kernel takes in one piece. Whatever it refuses once is not tried again.
    tcp: AtomicBool,
    udp: AtomicBool,
}

impl Tun {
    /// Takes a device over, and switches on those of the wanted offloads that it has: for TCP and
    /// checksums, and `udp` beyond them.
    pub(crate) fn new(fd: OwnedFd, tcp: bool, udp: bool) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let notes = has_notes(&fd);
        let tiers = [
            (tcp && udp, CHECKSUM | TCP | UDP),
            (tcp, CHECKSUM | TCP),
            (true, 0),
        ];
        let mut wanted = tiers.iter().filter(|(wanted, _)| notes && *wanted);
        let granted = wanted.find(|(_, flags)| set_offload(&fd, *flags).is_ok());
        let granted = granted.map_or(0, |(_, flags)| *flags);
        tracing::debug!(notes, granted, "TUN device opened");
        Ok(Self {
            fd,
            notes,
            tcp: AtomicBool::new(granted & TCP != 0),
            udp: AtomicBool::new(granted & UDP != 0),
        })
    }

    /// How much room [`Self::read`] needs, in bytes.
    pub(crate) const ROOM: usize = NOTE + PACKET_MAX;

    /// Reads what comes next into `room`; `None` when nothing waits.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn read(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match nix::unistd::read(&self.fd, room) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => Ok(Some(length)),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Ok(None),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Hands the packets in what was read to `take`.
    pub(crate) fn packets(&self, read: &mut [u8], mut take: impl FnMut(&[u8])) {
        if !self.notes {
            return take(read);
        }
        match read.split_first_chunk_mut::<NOTE>() {
            Some((note, packet)) => split(Note::parse(note), packet, take),
            None => take(&[]),
        }
    }

    /// Writes all packets of `output`, or loses them.
    pub(crate) fn write(&self, output: &Output, joiner: &mut Joiner, losses: &Counters) {
        if !self.notes {
            for packet in output.packets() {
                count(self.write_one(&[IoSlice::new(packet)]), 1, losses);
            }
            return;
        }
        let packet = |index| output.packet(index);
        joiner.join(output.packets().len(), packet, self.joinable());
        for piece in joiner.pieces() {
            let result = joiner.assembled(piece, packet, |slices| self.write_one(slices));
            match (result, piece.joined()) {
                (Err(Errno::EINVAL), Some(kind)) => {
                    self.give_up(kind);
                    for index in joiner.packets(piece) {
                        let slices = [IoSlice::new(&Note::PLAIN), IoSlice::new(packet(index))];
                        count(self.write_one(&slices), 1, losses);
                    }
                }
                _ => count(result, joiner.packets(piece).count(), losses),
            }
        }
    }

    /// What the device takes in one piece now.
    pub(crate) fn joinable(&self) -> Joinable {
        Joinable {
            tcp: self.tcp.load(Ordering::Relaxed),
            udp: self.udp.load(Ordering::Relaxed),
        }
    }

    fn write_one(&self, slices: &[IoSlice<'_>]) -> nix::Result<()> {
        loop {
            match writev(&self.fd, slices) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop),
            }
        }
    }

    fn give_up(&self, kind: Upper) {
        tracing::info!(?kind, "the TUN takes no joined packets; they go one by one");
        match kind {
            Upper::Tcp => self.tcp.store(false, Ordering::Relaxed),
            Upper::Udp => self.udp.store(false, Ordering::Relaxed),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn count(result: nix::Result<()>, packets: usize, losses: &Counters) {
    match result {
        Ok(()) => {}
        Err(Errno::EAGAIN | Errno::ENOBUFS) => losses.tun_full.add(packets),
        Err(error) => {
            tracing::debug!(%error, "the TUN refused a packet");
            losses.tun_refused.add(packets);
        }
    }
}

/// Whether the device was made with `IFF_VNET_HDR`. What is no TUN device is not.
fn has_notes(fd: &OwnedFd) -> bool {
    #[expect(
        unsafe_code,
        reason = "ifreq has no constructor, and its union no safe view"
    )]
    // SAFETY: ifreq is plain data, for which all zeros is valid; the call writes a whole one,
    // flags included, into a variable that outlives it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        tun_get_interface(fd.as_raw_fd(), &raw mut request).is_ok()
            && i32::from(request.ifr_ifru.ifru_flags) & libc::IFF_VNET_HDR != 0
    }
}

fn set_offload(fd: &OwnedFd, flags: u32) -> nix::Result<()> {
    let flags = flags.cast_signed();
    #[expect(unsafe_code, reason = "an ioctl")]
    // SAFETY: the request takes a number and touches no memory of ours.
    unsafe { tun_set_offload(fd.as_raw_fd(), flags) }.map(drop)
}
