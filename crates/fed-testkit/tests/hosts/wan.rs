//! Packets between hosts.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fed_testkit::wan::{Cut, LinkSpec};
use fed_testkit::{Host, Lab};

const MEGABYTE: u64 = 1_000_000;

pub(crate) fn three_hosts() -> Lab {
    let builder = Lab::builder()
        .host("operator")
        .host("ecmwf")
        .host("eumetsat");
    builder.start().unwrap()
}

/// A command that plays a role in a host.
pub(crate) fn role(host: &Host, role: &[&str]) -> Command {
    let mut command = host.command(std::env::current_exe().unwrap());
    command.arg("--role").args(role);
    command
}

/// Starts a role and waits for its first line.
pub(crate) fn start(mut command: Command, line: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(read_line(&mut output), line);
    (child, output)
}

pub(crate) fn read_line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(crate) fn output_of(mut command: Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

pub(crate) fn tcp_is_counted() {
    let lab = three_hosts();
    for address in [
        lab.host("ecmwf").addr4().to_string(),
        lab.host("ecmwf").addr6().to_string(),
    ] {
        let (mut receiver, mut received) =
            start(role(lab.host("ecmwf"), &["receive"]), "listening");
        lab.wan().reset().unwrap();
        let bytes = MEGABYTE.to_string();
        assert_eq!(
            output_of(role(lab.host("operator"), &["send", &address, &bytes])),
            ""
        );
        assert_eq!(read_line(&mut received), bytes);
        assert!(receiver.wait().unwrap().success());

        let counters = lab.wan().counters().unwrap();
        let there = counters.between("operator", "ecmwf").unwrap();
        // Headers are 66 or 86 bytes in 1514; some segments are not full.
        let expected = MEGABYTE..MEGABYTE * 115 / 100;
        assert!(expected.contains(&there.bytes), "{there:?}");
        // A group report of the kernel may be under way at the reset, or now.
        assert!(
            there.bytes.abs_diff(there.delivered_bytes) < 1000,
            "{there:?}"
        );
        assert!(there.utilisation(counters.elapsed) > 0.0);
        let back = counters.between("ecmwf", "operator").unwrap();
        assert!((1000..MEGABYTE / 10).contains(&back.bytes), "{back:?}");
        let others = counters.total_bytes() - there.bytes - back.bytes;
        // The question for an address goes to everybody.
        assert!(others < 2000, "{counters:?}");
    }
}

pub(crate) fn round_trip() {
    let delay = Duration::from_millis(30);
    let builder = Lab::builder().host("a").host("b").host("c");
    let builder = builder.wan(LinkSpec::new(delay, 100_000_000));
    let lab = builder
        .link("a", "c", LinkSpec::new(delay * 3, 100_000_000))
        .start()
        .unwrap();
    for (host, factor) in [("b", 2), ("c", 6)] {
        let (mut receiver, _output) = start(role(lab.host(host), &["receive"]), "listening");
        let took = output_of(role(lab.host("a"), &["connect", host, "30000"]));
        let took = Duration::from_micros(took.parse().unwrap());
        assert!(took >= delay * factor, "{took:?}");
        assert!(receiver.wait().unwrap().success());
    }
}

pub(crate) fn cuts() {
    let lab = three_hosts();
    let (mut receiver, _output) = start(role(lab.host("ecmwf"), &["receive"]), "listening");
    let connect = |patience| output_of(role(lab.host("operator"), &["connect", "ecmwf", patience]));
    // TCP first: it takes a second until an address is asked for again that nobody answered for.
    for cut in [Cut::Tcp, Cut::Everything] {
        lab.wan().cut("operator", "ecmwf", cut).unwrap();
        lab.wan().reset().unwrap();
        assert_eq!(connect("200"), "no", "{cut:?}");
        let counters = lab.wan().counters().unwrap();
        let there = counters.between("operator", "ecmwf").unwrap();
        assert!(there.dropped_cut > 0, "{cut:?}");
        let is_silent = there.delivered_frames == 0;
        assert_eq!(is_silent, cut == Cut::Everything, "addresses are resolved");
    }
    lab.wan().cut("operator", "ecmwf", Cut::Udp).unwrap();
    assert_ne!(connect("30000"), "no");
    assert!(receiver.wait().unwrap().success());
    let error = lab.wan().cut("operator", "mars", Cut::Udp).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the WAN has no host \"mars\"; it joins operator, ecmwf, eumetsat"
    );
}
