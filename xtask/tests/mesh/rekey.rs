//! Streams while keys are renewed.

use std::time::{Duration, Instant};

use fed_testkit::Lab;

use crate::families::Client;
use crate::{ECHO_BY_LINE, SERVER, Server, nodes};

/// Keys are renewed after 120 s (WireGuard paper, section 6.1): twice in this time.
const BUSY: Duration = Duration::from_secs(250);

/// Both directions are busy all the time, and not a packet is dropped for want of a key.
pub(crate) fn a_stream_outlives_its_keys() {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let (first, second) = nodes(&lab, 1420, &[]);
    let most = 2 * BUSY;
    let _server = Server::run(second.python_for(most, b, SERVER));
    let mut client = Client::run(first.python_for(most, a, ECHO_BY_LINE));
    let begun = Instant::now();
    while begun.elapsed() < BUSY {
        client.send();
        client.await_right();
    }
    client.end();
    for end in [first, second].map(crate::Node::end) {
        // The first, and two to renew it; twice as many where both ends have called at once.
        assert!((3..=6).contains(&end.handshakes), "{end:?}");
        assert!(end.drops.is_empty(), "{end:?}");
    }
}
