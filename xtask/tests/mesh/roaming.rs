//! Nodes whose hosts get other addresses under a stream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fed_testkit::{Host, Lab};

use crate::families::Client;
use crate::{Node, Server};

/// First one host moves, then the other, then the first again.
pub(crate) fn a_stream_follows_its_hosts() {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let hosts = ["a", "b"].map(|name| lab.host(name));
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut nodes =
        [(0, 1), (1, 2)].map(|(at, number)| Node::start_at(anywhere, hosts[at], number, 1280, &[]));
    let lines = [(0, 1), (1, 2)].map(|(at, number)| nodes[at].line(hosts[at], number));
    nodes[0].tell(&lines[1]);
    nodes[1].tell(&lines[0]);
    let _server = Server::start(&nodes[1], hosts[1]);
    let mut client = Client::start(&nodes[0], hosts[0]);
    client.send();
    client.await_right();
    for (mover, last) in [(0, 110), (1, 111), (0, 112)] {
        let to = Ipv4Addr::new(192, 0, 2, last);
        client.send();
        move_to(hosts[mover], to);
        client.await_right();
        let seen = SocketAddr::new(IpAddr::V4(to), nodes[mover].ready.port);
        nodes[1 - mover].await_line(&format!("{{\"path\":\"{seen}\"}}\n"));
        client.send();
        client.await_right();
    }
    client.end();
}

/// Gives a host this address instead of that which it has.
fn move_to(host: &Host, address: Ipv4Addr) {
    for words in [
        "-4 address flush dev wan0".to_owned(),
        format!("address add {address}/24 dev wan0"),
    ] {
        let status = host.command("ip").args(words.split(' ')).status().unwrap();
        assert!(status.success(), "ip {words}");
    }
}
