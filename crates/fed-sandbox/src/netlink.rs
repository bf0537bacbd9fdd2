use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::net::if_::if_nametoindex;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::failure::{At, Failure, Step};
use crate::spec::{SandboxSpec, TunSpec};

/// Segments that a TCP connection through the mesh may send before the first acknowledgement.
///
/// Linux starts with 10 (RFC 6928), for strangers on the open Internet. Here a few workers of one
/// federation exchange chunks over long round trips, each doubling of the window costs one, and 64
/// segments (about 90 kB over Ethernet) save three.
const INITIAL_WINDOW: u32 = 64;

/// Keeps a connection's window while it is idle: workers exchange chunks now and then, over
/// connections that they keep.
const SLOW_START_AFTER_IDLE: &str = "/proc/sys/net/ipv4/tcp_slow_start_after_idle";

/// For how long, in seconds, the kernel believes a Packet Too Big that the router answers with
/// (RFC 8201, section 4). A path that has become wider is used by then; each expiry costs one batch
/// of packets, which is sent again at once.
const PATH_MTU_EXPIRES: (&str, &str) = ("/proc/sys/net/ipv6/route/mtu_expires", "60");

/// Brings up the loopback and the TUN of the current network namespace.
pub(crate) fn set_up(spec: &SandboxSpec) -> Result<(), Failure> {
    let tun = &spec.tun;
    let mut netlink = Netlink::open().at(Step::Network, "netlink")?;
    let loopback = index("lo").at(Step::Network, "lo")?;
    netlink.set_link(up(loopback)).at(Step::Network, "lo")?;
    for own in &spec.own_addresses {
        netlink
            .add_address(own_address(loopback, *own))
            .at(Step::Network, own.to_string())?;
    }
    let device = index(&tun.name).at(Step::Network, &tun.name)?;
    for message in [without_own_address(device), up_with_mtu(device, tun.mtu)] {
        netlink.set_link(message).at(Step::Network, &tun.name)?;
    }
    netlink
        .add_address(address(device, tun))
        .at(Step::Network, &tun.name)?;
    netlink
        .add_route(route(device, tun))
        .at(Step::Network, &tun.name)?;
    // Only speed depends on these: where a setting is not there, or not ours, all works without.
    for (setting, value) in [(SLOW_START_AFTER_IDLE, "0"), PATH_MTU_EXPIRES] {
        let _ = std::fs::write(setting, value);
    }
    Ok(())
}

fn index(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Switches a link on.
fn up(index: u32) -> LinkMessage {
    let mut message = link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn up_with_mtu(index: u32, mtu: u32) -> LinkMessage {
    let mut message = up(index);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message
}

/// Keeps the kernel from adding a link-local address: nobody answers its solicitations, and its
/// packets would only disturb the router.
fn without_own_address(index: u32) -> LinkMessage {
    let mut message = link(index);
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message
        .attributes
        .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![mode],
        )]));
    message
}

/// The address, without a route of the kernel's own. Without duplicate address detection it is
/// usable at once.
fn address(index: u32, tun: &TunSpec) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = tun.prefix_len;
    message.header.index = index;
    message
        .attributes
        .push(AddressAttribute::Address(IpAddr::V6(tun.address)));
    message.attributes.push(AddressAttribute::Flags(
        AddressFlags::Nodad | AddressFlags::Noprefixroute,
    ));
    message
}

/// An address of the sandbox alone.
fn own_address(index: u32, own: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = match own {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(own));
    message.attributes.push(AddressAttribute::Address(own));
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Nodad));
    message
}

/// The route of the federation's prefix into the device.
fn route(index: u32, tun: &TunSpec) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = tun.prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let bits = u128::MAX
        .checked_shl(128 - u32::from(tun.prefix_len))
        .unwrap_or(0);
    let prefix = Ipv6Addr::from_bits(tun.address.to_bits() & bits);
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(prefix)),
        RouteAttribute::Oif(index),
        RouteAttribute::Metrics(vec![RouteMetric::InitCwnd(INITIAL_WINDOW)]),
    ];
    message
}

/// A blocking netlink socket: PID 1 has no runtime.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn set_link(&mut self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn add_address(&mut self, message: AddressMessage) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewAddress(message), flags)
    }

    fn add_route(&mut self, message: RouteMessage) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewRoute(message), flags)
    }

    /// Sends one change and waits until the kernel has made it.
    fn request(&mut self, payload: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(payload);
        self.sequence += 1;
        message.header.sequence_number = self.sequence;
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (reply, _) = self.socket.recv_from_full()?;
        let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // An acknowledgement is an error message without an error.
        if let NetlinkPayload::Error(error) = reply.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
        Ok(())
    }
}
