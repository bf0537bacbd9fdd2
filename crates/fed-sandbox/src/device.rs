use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

pub(crate) const TUN_PATH: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(tun_set_interface, libc::TUNSETIFF, libc::ifreq);

/// Opens the TUN driver. The descriptor belongs to the network namespace of this moment, so open
/// it inside the sandbox's.
pub(crate) fn open_driver() -> nix::Result<OwnedFd> {
    open(
        TUN_PATH,
        OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    )
}

/// Makes the device `name` (1 to 15 bytes, no NUL) behind an open driver. Reads and writes then
/// move one IP packet each, with a `struct virtio_net_hdr` of 10 bytes before it, by which the
/// owner may let the kernel cut and join packets (`TUNSETOFFLOAD`); without, none is asked for.
pub(crate) fn make_tun(driver: &OwnedFd, name: &str) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "ifreq has no constructor")]
    // SAFETY: ifreq is plain data, for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("all flags are below 2^15");
    #[expect(unsafe_code, reason = "an ioctl")]
    // SAFETY: the request is a whole ifreq and outlives the call.
    unsafe { tun_set_interface(driver.as_raw_fd(), &raw const request) }.map(drop)
}
