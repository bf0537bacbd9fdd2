//! A way to one peer that passes no datagrams many at a time.

use fed_testkit::Lab;

use crate::{CLIENT, Node, Server, firewall};

/// The largest inner packet. With all around it, it is shorter than [`TOGETHER`].
const MTU: u16 = 1280;

/// What is longer on its way through the kernel is many, in bytes.
const TOGETHER: usize = 2000;

/// Everything arrives by both ways, and by the other one many at a time.
pub(crate) fn costs_nobody_else() {
    let lab = Lab::builder()
        .host("a")
        .host("b")
        .host("c")
        .start()
        .unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    let chains = format!(
        "counter refused {{}}\ncounter together {{}}\nchain only {{\n\
         type filter hook output priority filter; policy accept;\n\
         ip daddr {} meta length > {TOGETHER} counter name refused drop\n\
         ip daddr {} meta length > {TOGETHER} counter name together\n}}",
        b.addr4(),
        c.addr4()
    );
    firewall::put(a, &chains);
    let mut one = Node::start(a, 1, MTU, &[]);
    let places = [(b, 2), (c, 3)];
    let mut others = places.map(|(host, number)| Node::start(host, number, MTU, &[]));
    let lines = places.iter().zip(&others);
    let lines: Vec<_> = lines
        .map(|((host, number), node)| node.line(host, *number))
        .collect();
    one.tell(&lines.join("\n"));
    for other in &mut others {
        other.tell(&one.line(a, 1));
    }
    for (node, (host, number)) in others.iter().zip(places) {
        let _server = Server::start(node, host);
        let client = CLIENT.replace("fd00:0:0:2::1", &format!("fd00:0:0:{number}::1"));
        let client = one.python(a, &client).status().unwrap();
        assert!(client.success(), "to {number}: {client}");
    }
    // One each of the two threads that may both have had one under way.
    let refused = firewall::packets(a, "refused");
    assert!((1..=2).contains(&refused), "{refused} trains refused");
    let together = firewall::packets(a, "together");
    assert!(together > 10, "{together} trains to the other");
    let end = one.end();
    assert!(end.offloads["udp-send"], "{end:?}");
    assert_eq!(end.losses["udp-refused"], 0, "{end:?}");
}
