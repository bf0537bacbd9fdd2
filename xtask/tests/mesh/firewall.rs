//! What a host's nftables do with its datagrams.

use std::io::Write as _;
use std::process::Stdio;

use fed_testkit::Host;

const NFT: &str = "/usr/sbin/nft";

/// Puts counters and chains at a host, instead of those that it had.
pub(crate) fn put(host: &Host, chains: &str) {
    let rules =
        format!("table inet edge\ndelete table inet edge\ntable inet edge {{\n{chains}\n}}\n");
    let mut nft = host.command(NFT);
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = nft.stdin.take().unwrap();
    input.write_all(rules.as_bytes()).unwrap();
    drop(input);
    assert!(nft.wait().unwrap().success(), "nft refuses {rules}");
}

/// What a counter has counted.
pub(crate) fn packets(host: &Host, counter: &str) -> u64 {
    let mut nft = host.command(NFT);
    let list = ["list", "counter", "inet", "edge", counter];
    let listed = nft.args(list).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").unwrap();
    words.next().unwrap().parse().unwrap()
}
