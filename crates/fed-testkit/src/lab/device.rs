//! The network devices of a host: `lo` up, and the TAP device `wan0` with its addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec};

/// The name of each host's device towards the WAN.
pub(super) const NAME: &str = "wan0";
/// Frames that may wait for the emulator: 0.6 s at 100 Mbit/s, so that a busy machine loses none.
const QUEUE_FRAMES: u32 = 5000;

/// Why a host has no network devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The network namespace could not be entered.
    #[error("cannot enter the host's network namespace")]
    Enter(#[source] io::Error),
    /// The TAP device could not be made.
    #[error(
        "cannot make a TAP device from /dev/net/tun; it must exist and be readable and writable"
    )]
    Tap(#[source] io::Error),
    /// Netlink could not be used.
    #[error("cannot talk netlink in the host")]
    Socket(#[source] io::Error),
    /// Netlink refused a change.
    #[error("cannot {what}")]
    Netlink {
        /// What was to be changed.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<rtnetlink::Error>,
    },
}

/// Makes the devices of the host whose init is `pidfd`. Returns the TAP device, non-blocking.
pub(super) fn create(
    pidfd: &OwnedFd,
    mac: [u8; 6],
    v4: Ipv4Addr,
    v6: Ipv6Addr,
) -> Result<OwnedFd, DeviceError> {
    // Network namespaces belong to threads: one that ends here leaves the caller's own alone.
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| create_in_this_thread(pidfd, mac, v4, v6))
            .join()
    });
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn create_in_this_thread(
    pidfd: &OwnedFd,
    mac: [u8; 6],
    v4: Ipv4Addr,
    v6: Ipv6Addr,
) -> Result<OwnedFd, DeviceError> {
    setns(pidfd.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| DeviceError::Enter(e.into()))?;
    let tap = open_tap(NAME).map_err(|errno| DeviceError::Tap(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(DeviceError::Socket)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(DeviceError::Socket)?;
        tokio::spawn(connection);
        configure(&handle, mac, v4, v6).await
    })?;
    Ok(tap)
}

async fn configure(
    handle: &Handle,
    mac: [u8; 6],
    v4: Ipv4Addr,
    v6: Ipv6Addr,
) -> Result<(), DeviceError> {
    let failed = |what| {
        move |e| DeviceError::Netlink {
            what,
            source: Box::new(e),
        }
    };
    let loopback = LinkUnspec::new_with_name("lo").up().build();
    handle
        .link()
        .set(loopback)
        .execute()
        .await
        .map_err(failed("bring lo up"))?;
    // Neither link-local addresses nor router solicitations: an idle WAN carries nothing.
    let silent = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    let quiet = LinkUnspec::new_with_name(NAME)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            silent,
        )]))
        .address(mac.to_vec())
        .txqueuelen(QUEUE_FRAMES)
        .build();
    handle
        .link()
        .set(quiet)
        .execute()
        .await
        .map_err(failed("set up wan0"))?;
    let up = LinkUnspec::new_with_name(NAME).up().build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .map_err(failed("bring wan0 up"))?;
    let index =
        nix::net::if_::if_nametoindex(NAME).map_err(|errno| DeviceError::Socket(errno.into()))?;
    let add_v4 = handle.address().add(index, IpAddr::V4(v4), 24);
    add_v4
        .execute()
        .await
        .map_err(failed("give wan0 its IPv4 address"))?;
    let mut add_v6 = handle.address().add(index, IpAddr::V6(v6), 64);
    add_v6.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    add_v6
        .execute()
        .await
        .map_err(failed("give wan0 its IPv6 address"))
}

nix::ioctl_write_ptr_bad!(
    /// Attaches a descriptor of /dev/net/tun to a device.
    tun_set_iff,
    libc::TUNSETIFF,
    libc::ifreq
);

/// Makes a TAP device in the calling thread's network namespace, gone with the descriptor.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn open_tap(name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let tap = open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: all fields of the structure are integers or arrays of them: zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from.cast_signed();
    }
    let kind = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = kind.try_into().expect("both flags fit 16 bits");
    // SAFETY: the descriptor is one of /dev/net/tun, and the request lives until the call returns.
    unsafe { tun_set_iff(tap.as_raw_fd(), &raw const request) }?;
    Ok(tap)
}
