//! Nodes with addresses of IPv6 and IPv4 of which one kind is dead, from the start or since a moment
//! ago, or which one of the hosts does not have.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fed_testkit::{Host, Lab};

use crate::{ECHO_BY_LINE, Node, Server, firewall};

const MTU: u16 = 1280;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V6,
    V4,
}

impl Family {
    fn other(self) -> Self {
        match self {
            Self::V6 => Self::V4,
            Self::V4 => Self::V6,
        }
    }

    fn address(self, host: &Host) -> IpAddr {
        match self {
            Self::V6 => host.addr6().into(),
            Self::V4 => host.addr4().into(),
        }
    }

    /// As nftables names it.
    fn protocol(self) -> &'static str {
        match self {
            Self::V6 => "ipv6",
            Self::V4 => "ipv4",
        }
    }
}

/// In which way a family is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// What is sent vanishes.
    Vanishes,
    /// Only what the first host sends does.
    VanishesOneWay,
    /// The first host refuses to send it (`EPERM`).
    Refused,
    /// The first host has no address of it, and no route (`ENETUNREACH`).
    Missing,
    /// The first node's socket does not speak it (`EAFNOSUPPORT`, `EINVAL`).
    Unspoken,
}

const DEATHS: [Death; 5] = [
    Death::Vanishes,
    Death::VanishesOneWay,
    Death::Refused,
    Death::Missing,
    Death::Unspoken,
];

/// Whichever family is dead, which is to be tried first, and in whichever way.
pub(crate) fn one_that_lives_is_enough() {
    for death in DEATHS {
        for dead in [Family::V6, Family::V4] {
            get_through(dead, death);
        }
    }
}

fn get_through(dead: Family, death: Death) {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    match death {
        Death::Vanishes => [a, b]
            .into_iter()
            .for_each(|host| drop_incoming(host, dead)),
        Death::VanishesOneWay => drop_incoming(b, dead),
        Death::Refused => filter(a, "output", dead),
        Death::Missing => forget_addresses(a, dead),
        Death::Unspoken => {}
    }
    let spoken = match (death, dead) {
        (Death::Unspoken, Family::V6) => Ipv4Addr::UNSPECIFIED.into(),
        (Death::Unspoken, Family::V4) => a.addr6().into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut one, mut other) = nodes(a, b, spoken, dead);
    let _server = Server::start(&other, b);
    let mut client = Client::start(&one, a);
    client.send();
    client.await_right();
    let alive = dead.other();
    one.await_line(&path(alive, b, &other));
    other.await_line(&path(alive, a, &one));
    client.end();
}

/// The family that is in use dies, comes back, and then the other one dies.
pub(crate) fn a_stream_outlives_its_own() {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    for host in [a, b] {
        drop_incoming(host, Family::V4);
    }
    let (mut one, mut other) = nodes(a, b, Ipv6Addr::UNSPECIFIED.into(), Family::V6);
    let _server = Server::start(&other, b);
    let mut client = Client::start(&one, a);
    client.send();
    client.await_right();
    for taken in [Family::V6, Family::V4, Family::V6] {
        one.await_line(&path(taken, b, &other));
        other.await_line(&path(taken, a, &one));
        for host in [a, b] {
            drop_incoming(host, taken);
        }
        client.send();
        client.await_right();
    }
    client.end();
}

/// Two nodes that know both addresses of each other. The first one listens at `spoken`.
fn nodes(a: &Host, b: &Host, spoken: IpAddr, first: Family) -> (Node, Node) {
    let start = |host, number, ip| Node::start_at(SocketAddr::new(ip, 0), host, number, MTU, &[]);
    let mut one = start(a, 1, spoken);
    let mut other = start(b, 2, Ipv6Addr::UNSPECIFIED.into());
    let (to_one, to_other) = (line(&one, a, 1, first), line(&other, b, 2, first));
    one.tell(&to_other);
    other.tell(&to_one);
    (one, other)
}

/// How a node is told of this one.
fn line(node: &Node, host: &Host, number: u8, first: Family) -> String {
    let [first, second] = [first, first.other()].map(|family| endpoint(family, host, node));
    let key = &node.ready.public_key;
    format!("{key} {first},{second} fd00:0:0:{number}::/64")
}

fn endpoint(family: Family, host: &Host, node: &Node) -> SocketAddr {
    SocketAddr::new(family.address(host), node.ready.port)
}

/// What a node says that has taken this way to the other one.
fn path(family: Family, host: &Host, node: &Node) -> String {
    format!("{{\"path\":\"{}\"}}\n", endpoint(family, host, node))
}

/// From now on nothing of this family gets in at the host, and all of the other.
fn drop_incoming(host: &Host, family: Family) {
    filter(host, "input", family);
}

/// Has a hook of the host's drop the UDP of a family, and nothing else any longer.
fn filter(host: &Host, hook: &str, family: Family) {
    let protocol = family.protocol();
    let chain = format!(
        "chain only {{\ntype filter hook {hook} priority filter; policy accept;\n\
         meta nfproto {protocol} meta l4proto udp drop\n}}"
    );
    firewall::put(host, &chain);
}

/// Leaves a host without addresses and routes of a family.
fn forget_addresses(host: &Host, family: Family) {
    let option = match family {
        Family::V6 => "-6",
        Family::V4 => "-4",
    };
    let mut ip = host.command("ip");
    ip.args([option, "address", "flush", "dev", "wan0"]);
    assert!(ip.status().unwrap().success());
}

/// A stream that is compared.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn start(node: &Node, host: &Host) -> Self {
        Self::run(node.python(host, ECHO_BY_LINE))
    }

    pub(crate) fn run(mut command: Command) -> Self {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn send(&mut self) {
        writeln!(self.input, "now").unwrap();
    }

    pub(crate) fn await_right(&mut self) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line, "right\n");
    }

    pub(crate) fn end(self) {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        assert!(child.wait().unwrap().success());
    }
}
